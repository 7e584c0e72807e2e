"""Functions of a Python file as tools: their description for a model, and their calls."""

from bitnet_chat.tools.toolbox import Function, Result, Toolbox

__all__ = ["Function", "Result", "Toolbox"]
