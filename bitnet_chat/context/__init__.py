"""The context window: tokens counted, and the oldest turns dropped or summarised. Pure."""
