"""Backends that are reached over HTTP: one way of asking, and a wire format and a service for each of them.

``backend`` asks and passes on, ``chat`` and ``ollama`` know the two wire formats, ``connection`` does the I/O,
``refusal`` reads what a server says no with, ``fit`` keeps a conversation within the window, ``mending`` tells a model
of calls that cannot be made, ``ending`` says how a reply ended.
"""
