"""The web page: its files (``files``), and replies as safe HTML (``html_stream``, ``code_html``)."""
