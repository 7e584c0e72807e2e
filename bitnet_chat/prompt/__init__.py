"""Conversations to prompts: chat templates, and the encoding that brings a message to an engine unchanged. Pure."""
