"""Models: GGUF files, sources, downloads, requirements and selection."""
