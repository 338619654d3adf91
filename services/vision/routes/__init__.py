"""HTTP of the vision service: images, words, and questions."""

from services.vision.routes import ask, images, words

ROUTERS = (images.router, words.router, ask.router)
