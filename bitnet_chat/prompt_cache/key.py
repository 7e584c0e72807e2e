"""The key of a saved state: the model and options that it depends on, and the messages that it covers. Pure.

All digests are BLAKE2b in hexadecimal digits. Each field is preceded by its type and length, so that different values
have different encodings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b

from bitnet_chat.conversation import Message, Tool

FORMAT = 1
"""Version of the names, the records and the encoding of digests. It is a part of the identity."""
_IDENTITY_BYTES = 8
_PREFIX_BYTES = 20
"""Clients of a server choose the messages. A collision takes 2**80 attempts."""

_Value = str | int | tuple["_Value", ...]


@dataclass(frozen=True, slots=True)
class StateIdentity:
    """The properties that must be equal for a saved state to be usable."""

    model: str
    """See :mod:`bitnet_chat.prompt_cache.model_hash`."""
    engine: str
    engine_version: str
    sequences: int
    """Number of sequences of the engine process."""
    context: int
    """Tokens of the context window."""
    cache_type_k: str
    cache_type_v: str
    template: str
    """Digest of the chat template, see :func:`text_digest`."""
    flags: tuple[str, ...] = ()
    """Further options that change the cache or the prompt: adapters, RoPE, overrides, in a fixed order."""
    format: int = FORMAT

    @property
    def digest(self) -> str:
        """16 digits for file names. :meth:`StateStore.find` compares all fields."""
        values = tuple(getattr(self, each.name) for each in fields(self))
        return blake2b(_encoded(values), digest_size=_IDENTITY_BYTES).hexdigest()


def prefix_digests(system: str, tools: Sequence[Tool], messages: Sequence[Message]) -> tuple[str, ...]:
    """One digest of 40 digits for each boundary of a conversation. Digest ``n`` covers the system prompt, the tools and
    the first ``n`` messages, so there is one digest more than messages.

    ``messages``: as they are sent, without the system prompt; ``thinking`` is empty in a message that is sent without
    it. The finish reason is not covered.
    """
    offered = tuple((tool.name, tool.description, _json(tool.parameters)) for tool in tools)
    last = blake2b(_encoded((FORMAT, system, offered)), digest_size=_PREFIX_BYTES)
    digests = [last.hexdigest()]
    for message in messages:
        last = blake2b(last.digest() + _encoded(_fields(message)), digest_size=_PREFIX_BYTES)
        digests.append(last.hexdigest())
    return tuple(digests)


def text_digest(text: str) -> str:
    """16 digits for a text, which may contain lone surrogates."""
    return blake2b(_encoded(text), digest_size=_IDENTITY_BYTES).hexdigest()


def _fields(message: Message) -> _Value:
    calls = tuple((call.id, call.name, call.arguments) for call in message.tool_calls)
    return message.role, message.content, message.thinking, calls, message.call_id, message.tool_name


def _json(value: Mapping[str, object]) -> str:
    # In the order of the keys, in which a template renders them.
    return json.dumps(value, default=dict)


def _encoded(value: _Value) -> bytes:
    match value:
        case str():
            kind, content = b"s", value.encode("utf-8", "surrogatepass")
        case int():
            kind, content = b"i", str(value).encode()
        case _:
            kind, content = b"t", b"".join(map(_encoded, value))
    return kind + len(content).to_bytes(8, "big") + content
