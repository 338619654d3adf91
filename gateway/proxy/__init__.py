"""The hot path: raw ASGI from the client's bytes to the upstream's and back."""
