"""Backends around another backend: limits, recording, tools."""
