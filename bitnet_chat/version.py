"""The one place that knows the version; imported by nothing heavy, so that ``--version`` is instant."""

__version__ = "0.1.0"
