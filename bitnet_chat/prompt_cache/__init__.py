"""Saved engine states: the KV caches of conversations on disk, so that a conversation is not evaluated twice.

An engine writes and reads the files; this package names, finds and removes them. With a missing or damaged state the
conversation is evaluated again; that is never an error. Entry point:
:func:`~bitnet_chat.prompt_cache.store.open_state_store`.
"""
