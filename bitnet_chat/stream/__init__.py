"""Bytes to text to events. Pure: nothing here does I/O or knows an engine process, a clock or a front end."""
