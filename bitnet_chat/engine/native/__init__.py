"""The native engine: a resident child process around a prebuilt library, with one line of JSON for each message.

The child imports nothing of this package outside this folder; the parent imports :mod:`protocol` alone.
"""
