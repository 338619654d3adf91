"""How the suite is started: the local runner, the image and the compose file."""
