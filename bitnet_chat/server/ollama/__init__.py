"""The API of Ollama, compatible with its clients."""
