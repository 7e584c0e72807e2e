"""Conversations, messages, tools and tool calls. Pure data without I/O."""

from bitnet_chat.conversation.message import Conversation, Message, Role, Tool, ToolCall

__all__ = ["Conversation", "Message", "Role", "Tool", "ToolCall"]
