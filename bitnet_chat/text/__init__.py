"""Text between bytes and the screen: decoding, sanitizing, measuring and wrapping. Pure."""
