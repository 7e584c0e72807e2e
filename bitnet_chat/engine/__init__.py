"""Engines: found, probed, built, and run."""
