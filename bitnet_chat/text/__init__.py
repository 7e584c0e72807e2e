"""Text between bytes and screens: decoding, sanitizing, measuring and wrapping. Pure."""
