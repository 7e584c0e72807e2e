"""The engine of a running server of ours, for a terminal: its chats are the conversations."""
