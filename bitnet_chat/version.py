"""The version, in a module without imports, so that ``--version`` is instant."""

__version__ = "0.1.0"
