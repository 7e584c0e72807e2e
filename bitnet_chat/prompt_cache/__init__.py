"""Saved engine states: the KV caches of conversations on disk, so that a conversation is not read twice.

An engine writes and reads the files; this package names, finds and removes them. A state that is missing or damaged
costs a reading and is never an error. :func:`~bitnet_chat.prompt_cache.store.open_state_store` is the way in.
"""
