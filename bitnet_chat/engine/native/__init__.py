"""The native engine: a resident child of our own around a prebuilt library, that speaks one line of JSON each way.

The child imports nothing of this package outside this folder; the parent imports :mod:`protocol` alone.
"""
