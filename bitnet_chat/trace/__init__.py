"""Traces: the raw bytes exchanged with the engines of recent sessions, with times, for bug reports.

``recorder`` writes them while a session runs, and finds and reads them later. ``format`` defines the binary form on
disk and the text form of bug reports. ``conversation_masking`` and ``secret_redaction`` remove private data.
``playback`` feeds a trace to the decoder and the framers of the program. The size on disk is limited, and nothing is
written with ``--no-journal``.
"""
