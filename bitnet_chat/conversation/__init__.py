"""Messages and the conversations they make. Pure data: no I/O, no front end."""

from bitnet_chat.conversation.message import Conversation, Message, Role, Tool, ToolCall

__all__ = ["Conversation", "Message", "Role", "Tool", "ToolCall"]
