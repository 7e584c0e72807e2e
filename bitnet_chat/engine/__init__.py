"""Engines: their search, identification, selection, installation and operation."""
