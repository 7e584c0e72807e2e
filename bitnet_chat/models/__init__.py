"""Model files: what their headers say."""
