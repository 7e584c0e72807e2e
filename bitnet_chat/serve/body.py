"""The JSON body of a request: read within limits, and taken apart field by field.

What was never asked for by name is refused by name at the end: a parameter that would be ignored makes the answer one
to another question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from bitnet_chat.serve.problems import Refused
from bitnet_chat.stream.decoder import well_formed

if TYPE_CHECKING:
    from starlette.requests import Request

T = TypeVar("T")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_SHOWN = 60
"""Characters of a wrong value that are quoted."""


async def read_object(request: Request, limit: int) -> Fields:
    """The object that a request brings; ``limit`` in bytes.

    Raises Refused (400 or 413), or ClientGone when the client goes away before all of it is here.
    """
    from starlette.requests import ClientDisconnect

    from bitnet_chat.serve.connection import ClientGone

    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise _too_large(limit)
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            parts.append(part)
    except ClientDisconnect:
        raise ClientGone from None
    return object_of(b"".join(parts))


def _too_large(limit: int) -> Refused:
    return Refused(
        f"the request is larger than {limit:,} bytes",
        status=413,
        code="request_too_large",
        remedy="send less, or begin another conversation",
    )


def object_of(data: bytes) -> Fields:
    """The object in a body. Raises Refused."""
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise Refused(f"the body is not UTF-8: byte {error.start} is wrong", code="invalid_json") from None
    except RecursionError:
        raise Refused("the body is nested too deeply", code="invalid_json") from None
    except ValueError as error:
        raise Refused(f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise Refused("the body is not a JSON object", code="invalid_json")
    if _HALF.search(text):  # as a program writes it that has cut a text between the two halves of a character
        value = _whole(value)
    return Fields(value)


def _no_number(word: str) -> object:
    raise ValueError(f"{word} is no number of JSON")


def _whole(value: object) -> object:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list):
        return [_whole(each) for each in value]
    if isinstance(value, dict):
        return {well_formed(key): _whole(each) for key, each in value.items()}
    return value


class Fields:
    """An object of a request. ``null`` is the same as nothing. Every method raises Refused, which names the field."""

    def __init__(self, values: Mapping[str, object], place: str = "") -> None:
        """``place``: what the object is called in messages, such as ``messages[2]``; empty: the body."""
        self.values = values
        self.place = place
        self._asked: set[str] = set()

    def name(self, field: str) -> str:
        return f"{self.place}.{field}" if self.place else field

    def get(self, field: str) -> object:
        """Whatever it is."""
        self._asked.add(field)
        return self.values.get(field)

    def wrong(self, field: str, why: str, *, code: str = "invalid_value", remedy: str = "") -> Refused:
        name = self.name(field)
        return Refused(f"{name} {why}", param=name, code=code, remedy=remedy)

    def _typed(self, field: str, kinds: type[T], wants: str) -> T | None:
        value = self.get(field)
        if value is None:
            return None
        if not isinstance(value, kinds):
            raise self.wrong(field, f"has to be {wants}, not {_shown(value)}", code="invalid_type")
        return value

    def _needed(self, field: str, value: T | None) -> T:
        if value is None:
            raise self.wrong(field, "is missing", code="missing_required_parameter")
        return value

    def text(self, field: str) -> str | None:
        return self._typed(field, str, "a text")

    def needed_text(self, field: str) -> str:
        return self._needed(field, self.text(field))

    def flag(self, field: str) -> bool | None:
        return self._typed(field, bool, "true or false")

    def number(self, field: str, least: float, most: float) -> float | None:
        value = self.get(field)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(field, f"has to be a number, not {_shown(value)}", code="invalid_type")
        if not least <= value <= most:
            raise self.wrong(field, f"has to be between {least} and {most}, not {_shown(value)}")
        return float(value)

    def whole(self, field: str, least: int, most: int) -> int | None:
        value = self.get(field)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(field, f"has to be a whole number, not {_shown(value)}", code="invalid_type")
        if not least <= value <= most:
            raise self.wrong(field, f"has to be between {least} and {most}, not {_shown(value)}")
        return value

    def choice(self, field: str, words: Iterable[str]) -> str | None:
        value, words = self.text(field), list(words)
        if value is not None and value not in words:
            raise self.wrong(field, f"is {_shown(value)}", remedy=f"use one of: {', '.join(words)}")
        return value

    def inner(self, field: str) -> Fields | None:
        value: dict[str, object] | None = self._typed(field, dict, "an object")
        return None if value is None else Fields(value, self.name(field))

    def needed_inner(self, field: str) -> Fields:
        return self._needed(field, self.inner(field))

    def objects(self, field: str) -> list[Fields] | None:
        return self._each(field, "object", lambda value, place: Fields(_as_object(value, place), place))

    def needed_objects(self, field: str) -> list[Fields]:
        return self._needed(field, self.objects(field))

    def texts(self, field: str) -> list[str] | None:
        return self._each(field, "text", _as_text)

    def _each(self, field: str, noun: str, make: Callable[[object, str], T]) -> list[T] | None:
        values: list[object] | None = self._typed(field, list, f"a list of {noun}s")
        if values is None:
            return None
        return [make(value, f"{self.name(field)}[{index}]") for index, value in enumerate(values)]

    def accept(self, *fields: str) -> None:
        """Fields that change nothing in the answer, whatever they hold."""
        self._asked.update(fields)

    def refuse(self, field: str, *harmless: object, why: str = "is not supported here") -> None:
        """A field of the API that nothing here can do, unless it asks for what is done anyway."""
        value = self.get(field)
        if value is None or any(value is each or (type(value) is type(each) and value == each) for each in harmless):
            return
        raise self.wrong(field, why, code="unsupported_parameter")

    def finish(self) -> None:
        """All that there is to ask was asked: refuses the first field that nobody knows."""
        for field in self.values:
            if field not in self._asked:
                name = self.name(field if len(field) <= _SHOWN else field[:_SHOWN] + "…")
                raise Refused(f"{name} is not known here", param=name, code="unknown_parameter")


def _as_object(value: object, place: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise Refused(f"{place} has to be an object, not {_shown(value)}", param=place, code="invalid_type")
    return value


def _as_text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise Refused(f"{place} has to be a text, not {_shown(value)}", param=place, code="invalid_type")
    return value


def _shown(value: object) -> str:
    """A wrong value, as short as it can be told."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return "so large a number"  # too many digits may not even be written out
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
