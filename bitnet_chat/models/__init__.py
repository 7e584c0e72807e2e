"""Models: their files, where they come from, what they need and which one to take."""
