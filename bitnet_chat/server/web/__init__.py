"""The web page: what it is made of (``files``), and replies as safe HTML (``rendering``, ``code``)."""
