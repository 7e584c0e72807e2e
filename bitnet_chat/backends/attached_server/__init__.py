"""Attachment to a running ``bitnet-chat serve``: its engine replies, and its chats are the conversations."""
