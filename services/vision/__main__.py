"""`python -m services.vision`"""

from services.vision.app import create_app
from services.vision.settings import VisionSettings
from shared.app import main

if __name__ == "__main__":
    main(create_app, VisionSettings)
