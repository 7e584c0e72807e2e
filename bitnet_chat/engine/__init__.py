"""Search, identification, installation and operation of engines."""
