"""The API of Ollama, so that its clients work unchanged."""
