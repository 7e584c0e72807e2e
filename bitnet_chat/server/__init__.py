"""The HTTP front end: conversations for programs and browsers, each piece sent as soon as the engine has produced it.

A request becomes a :class:`~bitnet_chat.server.scheduler.ReplyRequest`; the scheduler selects the backend and makes a
:class:`~bitnet_chat.server.broadcast.ReplyBroadcast` of it; the APIs (``openai``, ``ollama``, ``chats``) encode its
events for their clients, and are independent of one another.
"""
