"""The raw bytes of the last sessions with their timings, for bug reports.

``recorder`` writes them while a session lasts, ``store`` finds and reads them, ``transcript`` is the text form that a
bug report has, ``masking`` and ``redaction`` take out of it what is private, ``playback`` plays it back through the
program's decoder and framers. What is on the disk is bounded, and nothing is written with ``--no-journal``.
"""
