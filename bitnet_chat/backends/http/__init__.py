"""Backends that are reached over HTTP: one request logic, with a wire format and an endpoint for each kind of server.

``backend`` is the backend, ``attempt`` one request and its response, ``retry`` the changes between two attempts.
``openai_format`` and ``ollama_format`` are the wire formats, ``client`` does the I/O, ``errors`` parses error
responses, ``context_window`` and ``fit_request`` keep a conversation within the context window, ``tool_errors`` reports
invalid tool calls in later requests.
"""
