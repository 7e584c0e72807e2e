"""``/openapi.json``: the description of the three APIs."""
