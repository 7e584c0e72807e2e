"""Backends: what generates replies, behind the protocol :class:`bitnet_chat.backend.Backend`."""
