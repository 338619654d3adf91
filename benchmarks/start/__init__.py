"""How long from `make run` to ready?"""
