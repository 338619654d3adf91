"""`python -m services.model`: run the model service."""

from services.model.app import create_app
from services.model.settings import ModelSettings
from shared.app import main

if __name__ == "__main__":
    main(create_app, ModelSettings)
