"""A JSON object from a client, checked field by field. Pure.

Unknown fields are handled at the end: noted, so that the reply can report them as ignored, or refused by name if the
reply cannot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from bitnet_chat.errors import InvalidFieldError

T = TypeVar("T")
_SHOWN = 60
"""Maximum number of quoted characters of an invalid value."""
_NAMED = 20
"""Maximum number of fields in one notice."""
_INDEX = re.compile(r"\[\d+\]")


class IgnoredFields:
    """Fields of a request without effect, to be reported with its reply. The items of a list count as one."""

    def __init__(self) -> None:
        self._ignored: dict[str, None] = {}
        self._changed: dict[str, None] = {}

    def ignored(self, name: str) -> None:
        """A field without effect here."""
        self._ignored[_INDEX.sub("[]", name)] = None

    def changed(self, name: str, why: str) -> None:
        """A value that is used in a changed form."""
        self._changed[f"{_INDEX.sub('[]', name)} {why}"] = None

    @property
    def lines(self) -> list[str]:
        lines = list(self._changed)
        if names := list(self._ignored):
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            lines.append(f"without effect here: {', '.join(names[:_NAMED])}{more}")
        return lines


class Fields:
    """An object of a request. ``null`` means the same as absence. Every method raises InvalidFieldError, which names
    the field.
    """

    __slots__ = ("_asked", "notes", "place", "values")

    def __init__(self, values: Mapping[str, object], place: str = "", notes: IgnoredFields | None = None) -> None:
        """``place``: the name of the object in messages, such as ``messages[2]``; empty: the body. ``notes``: receives
        ignored fields for the reply; None: they are refused.
        """
        self.values = values
        self.place = place
        self.notes = notes
        self._asked: set[str] = set()

    def name(self, field: str) -> str:
        return f"{self.place}.{field}" if self.place else field

    def get(self, field: str) -> object:
        """Any value."""
        self._asked.add(field)
        return self.values.get(field)

    def wrong(self, field: str, why: str, *, code: str = "invalid_value", remedy: str = "") -> InvalidFieldError:
        name = self.name(field)
        return InvalidFieldError(f"{name} {why}", param=name, code=code, remedy=remedy)

    def _typed(self, field: str, kinds: type[T], wants: str) -> T | None:
        value = self.get(field)
        if value is None:
            return None
        if not isinstance(value, kinds):
            raise self.wrong(field, f"must be {wants}, not {_shown(value)}", code="invalid_type")
        return value

    def _needed(self, field: str, value: T | None) -> T:
        if value is None:
            raise self.wrong(field, "is missing", code="missing_required_parameter")
        return value

    def text(self, field: str) -> str | None:
        return self._typed(field, str, "a string")

    def needed_text(self, field: str) -> str:
        return self._needed(field, self.text(field))

    def flag(self, field: str) -> bool | None:
        return self._typed(field, bool, "true or false")

    def number(self, field: str, least: float, most: float) -> float | None:
        value = self.get(field)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(field, f"must be a number, not {_shown(value)}", code="invalid_type")
        if not least <= value <= most:
            raise self.wrong(field, f"must be between {least} and {most}, not {_shown(value)}")
        return float(value)

    def whole(self, field: str, least: int, most: int) -> int | None:
        value = self.get(field)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(field, f"must be a whole number, not {_shown(value)}", code="invalid_type")
        if not least <= value <= most:
            raise self.wrong(field, f"must be between {least} and {most}, not {_shown(value)}")
        return value

    def choice(self, field: str, words: Iterable[str]) -> str | None:
        value, words = self.text(field), list(words)
        if value is not None and value not in words:
            raise self.wrong(field, f"is {_shown(value)}", remedy=f"use one of: {', '.join(words)}")
        return value

    def inner(self, field: str) -> Fields | None:
        value: dict[str, object] | None = self._typed(field, dict, "an object")
        return None if value is None else Fields(value, self.name(field), self.notes)

    def needed_inner(self, field: str) -> Fields:
        return self._needed(field, self.inner(field))

    def objects(self, field: str) -> list[Fields] | None:
        return self._each(field, "object", lambda value, place: Fields(_as_object(value, place), place, self.notes))

    def needed_objects(self, field: str) -> list[Fields]:
        return self._needed(field, self.objects(field))

    def texts(self, field: str) -> list[str] | None:
        return self._each(field, "string", _as_text)

    def wholes(self, field: str, least: int, most: int) -> list[int] | None:
        return self._each(field, "number", lambda value, place: Fields({place: value}).needed_whole(place, least, most))

    def needed_whole(self, field: str, least: int, most: int) -> int:
        return self._needed(field, self.whole(field, least, most))

    def _each(self, field: str, noun: str, make: Callable[[object, str], T]) -> list[T] | None:
        values: list[object] | None = self._typed(field, list, f"a list of {noun}s")
        if values is None:
            return None
        return [make(value, f"{self.name(field)}[{index}]") for index, value in enumerate(values)]

    def accept(self, *fields: str) -> None:
        """Fields that never change a reply, whatever their value."""
        self._asked.update(fields)

    def ignore(self, field: str, *harmless: object, why: str = "is not supported here") -> None:
        """A field that may be ignored with a notice."""
        if self.notes is None:
            self.refuse(field, *harmless, why=why)
        elif not self._is(field, harmless):
            self.notes.ignored(self.name(field))

    def change(self, field: str, why: str) -> None:
        """Note that the value is used in a changed form."""
        if self.notes is None:
            raise self.wrong(field, why)
        self.notes.changed(self.name(field), why)

    def refuse(self, field: str, *harmless: object, why: str = "is not supported here") -> None:
        """A field of the API that is not supported here, unless it has the value of the default behaviour."""
        if not self._is(field, harmless):
            raise self.wrong(field, why, code="unsupported_parameter")

    def _is(self, field: str, harmless: tuple[object, ...]) -> bool:
        """Whether it is absent, or one of these."""
        value = self.get(field)
        return value is None or any(value is each or (type(value) is type(each) and value == each) for each in harmless)

    def finish(self) -> None:
        """Handle the remaining fields: note them, or refuse the first of them."""
        for field, value in self.values.items():
            if field in self._asked:
                continue
            name = self.name(field if len(field) <= _SHOWN else field[:_SHOWN] + "…")
            if self.notes is None:
                raise InvalidFieldError(f"{name} is unknown", param=name, code="unknown_parameter")
            if value is not None:
                self.notes.ignored(name)


def _as_object(value: object, place: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise InvalidFieldError(f"{place} must be an object, not {_shown(value)}", param=place, code="invalid_type")
    return value


def _as_text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise InvalidFieldError(f"{place} must be a string, not {_shown(value)}", param=place, code="invalid_type")
    return value


def _shown(value: object) -> str:
    """An invalid value, shortened."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return "so large a number"  # too many digits may not even be written out
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
