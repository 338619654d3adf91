"""`python -m services.text2sql`: run the text2sql service."""

from services.text2sql.app import create_app
from services.text2sql.settings import Text2SqlSettings
from shared.app import main

if __name__ == "__main__":
    main(create_app, Text2SqlSettings)
