"""Models: files, sources, requirements and selection."""
