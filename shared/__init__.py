"""What every service stands on: settings, application factory, problems, principals, storage.

Nothing here is visible to a user of the suite, and nothing here imports a service.
"""
