"""Whether the fields of a request are of the types that the protocol names. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from bitnet_chat.engine.native.protocol import Request

SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
)
"""The names of :class:`bitnet_chat.backends.Sampling`, which a test compares."""
_WHOLE = ("top_k", "seed")


def problem(request: Request) -> str:
    """What is wrong with a request; empty if nothing is."""
    for each in fields(request):
        is_right, expected = _FIELDS[each.name]
        if not is_right(getattr(request, each.name)):
            return f"{each.name} of the request {request.kind!r} must be {expected}"
    return ""


def is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return is_id(value) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_prompt(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(piece, tuple) and len(piece) == 2 and _is_text(piece[0]) and isinstance(piece[1], bool)
        for piece in value
    )


def _are_tokens(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_is_count, value))


def _is_sampling(value: Any) -> bool:
    return isinstance(value, dict) and all(
        name in SAMPLING and _is_number(number) and (name not in _WHOLE or number == int(number))
        for name, number in value.items()
    )


def _are_stops(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_is_text, value))


def _is_file(value: Any) -> bool:
    return _is_text(value) and bool(value) and value.lstrip(".") == value and not set(value) & set('/\\:*?"<>|\0')


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "id": (is_id, "a whole number"),
    "prompt": (_is_prompt, "a list of [text, whether special tokens are read]"),
    "tokens": (_are_tokens, "a list of tokens"),
    "max_tokens": (lambda value: value is None or _is_count(value), "null or a whole number from 0 on"),
    "sampling": (_is_sampling, f"numbers by the names {', '.join(SAMPLING)}"),
    "stop": (_are_stops, "a list of texts"),
    "grammar": (_is_text, "a text in GBNF"),
    "schema": (lambda value: value is None or isinstance(value, dict), "null or a JSON schema"),
    "file": (_is_file, "the name of a file, without a folder"),
}
