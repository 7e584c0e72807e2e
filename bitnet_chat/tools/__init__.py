"""Functions of a user's file as tools: their description for a model, and calls of them."""

from bitnet_chat.tools.toolbox import Function, Result, Toolbox

__all__ = ["Function", "Result", "Toolbox"]
