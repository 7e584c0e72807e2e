"""Text between bytes and screens: decoded, made safe, measured and wrapped. Pure."""
