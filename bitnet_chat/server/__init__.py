"""The HTTP front end: conversations for programs and browsers, each piece sent the moment that the engine has made it.

A request becomes a :class:`~bitnet_chat.server.scheduler.ReplyRequest`; the desk finds who answers and makes a
:class:`~bitnet_chat.server.broadcast.ReplyBroadcast` of it; the APIs (``openai``, ``ollama``, ``chats``) put what it
says into the words of their clients, and know nothing of one another.
"""
