"""What a type hint means for a model: a JSON schema, and how a value of JSON becomes one of Python. Pure."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

Read = Callable[[Any, str], Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """``read(value, place)``: the value for Python. Raises ValueError, with a line for the model that names
    ``place``."""

    schema: dict[str, Any]
    read: Read


def kind_of(hint: Any) -> Kind:
    """Raises TypeError, with a few words, for a hint that JSON has nothing for."""
    if hint is Any or hint is object:
        return Kind({}, lambda value, place: value)
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return _annotated(arguments)
    if origin in (Union, types.UnionType):
        return _union(arguments)
    if origin is Literal:
        return _choice({each: each for each in arguments})
    if hint is list or origin is list:
        return _list(arguments)
    if hint is dict or origin is dict:
        return _dict(arguments)
    if inspect.isclass(hint):
        if issubclass(hint, Enum):
            return _choice({each.value: each for each in hint})
        if dataclasses.is_dataclass(hint):
            return _dataclass(hint)
        if typing.is_typeddict(hint):
            return _typed_dict(hint)
    raise TypeError(f"the type {_name(hint)} has no form in JSON")


def _expect(kind: type | tuple[type, ...], words: str) -> Read:
    def read(value: Any, place: str) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{place} is {shown(value)}, not {words}")
        return value

    return read


def _read_int(value: Any, place: str) -> int:
    if isinstance(value, float) and value.is_integer():  # 3.0, which is 3 in JSON
        return int(value)
    return int(_expect(int, "a whole number")(value, place))


def _read_float(value: Any, place: str) -> float:
    try:
        return float(_expect((int, float), "a number")(value, place))
    except OverflowError:
        raise ValueError(f"{place} is too large a number") from None


def _read_none(value: Any, place: str) -> None:
    if value is not None:
        raise ValueError(f"{place} is {shown(value)}, not null")


_SIMPLE: dict[Any, Kind] = {
    str: Kind({"type": "string"}, _expect(str, "a text")),
    int: Kind({"type": "integer"}, _read_int),
    float: Kind({"type": "number"}, _read_float),
    bool: Kind({"type": "boolean"}, _expect(bool, "true or false")),
    None: Kind({"type": "null"}, _read_none),
    type(None): Kind({"type": "null"}, _read_none),
}


def _annotated(arguments: tuple[Any, ...]) -> Kind:
    """A text beside the type says what it is for."""
    kind = kind_of(arguments[0])
    texts = [each for each in arguments[1:] if isinstance(each, str)]
    return Kind(kind.schema | ({"description": texts[0]} if texts else {}), kind.read)


def _union(hints: tuple[Any, ...]) -> Kind:
    kinds = [kind_of(each) for each in hints]

    def read(value: Any, place: str) -> Any:
        errors = []
        for kind in kinds:
            try:
                return kind.read(value, place)
            except ValueError as error:
                errors.append(str(error))
        raise ValueError("; ".join(dict.fromkeys(errors)))

    names = [kind.schema.get("type") for kind in kinds]
    if all(isinstance(name, str) and set(kind.schema) == {"type"} for name, kind in zip(names, kinds, strict=True)):
        return Kind({"type": names}, read)
    return Kind({"anyOf": [kind.schema for kind in kinds]}, read)


def _choice(values: Mapping[Any, Any]) -> Kind:
    for each in values:
        if not isinstance(each, str | int | float | bool | None):
            raise TypeError(f"the value {each!r} has no form in JSON")

    def read(value: Any, place: str) -> Any:
        for each, meant in values.items():
            if each == value and isinstance(each, bool) is isinstance(value, bool):
                return meant
        raise ValueError(f"{place} is {shown(value)}, not one of {', '.join(map(shown, values))}")

    kinds = {type(each) for each in values}
    one = _SIMPLE[kinds.pop()].schema if len(kinds) == 1 else {}
    return Kind(one | {"enum": list(values)}, read)


def _list(arguments: tuple[Any, ...]) -> Kind:
    item = kind_of(arguments[0] if arguments else Any)

    def read(value: Any, place: str) -> list[Any]:
        whole = _expect(list, "a list")(value, place)
        return [item.read(each, f"{place}[{number}]") for number, each in enumerate(whole)]

    return Kind({"type": "array"} | ({"items": item.schema} if item.schema else {}), read)


def _dict(arguments: tuple[Any, ...]) -> Kind:
    key, hint = arguments or (str, Any)
    if key is not str:
        raise TypeError("the keys of an object of JSON are texts")
    item = kind_of(hint)

    def read(value: Any, place: str) -> dict[str, Any]:
        whole = _expect(dict, "an object")(value, place)
        return {name: item.read(each, f"{place}.{name}") for name, each in whole.items()}

    return Kind({"type": "object"} | ({"additionalProperties": item.schema} if item.schema else {}), read)


@dataclass(frozen=True, slots=True)
class Field:
    """A parameter of a function, or a field of an object."""

    kind: Kind
    is_required: bool


def object_kind(fields: Mapping[str, Field], what: str = "") -> Kind:
    """Of an object with these fields and no others. ``what``: how its fields are called in errors."""

    def read(value: Any, place: str) -> dict[str, Any]:
        whole = _expect(dict, "an object")(value, place or "what was given")
        prefix = f"{place}." if place else ""
        for name in whole:
            if name not in fields:
                known = ", ".join(fields) or "none"
                raise ValueError(f"there is no {what or 'field'} {shown(prefix + name)}; there are: {known}")
        for name, field in fields.items():
            if field.is_required and name not in whole:
                raise ValueError(f"{prefix}{name} is missing")
        return {name: fields[name].kind.read(each, f"{prefix}{name}") for name, each in whole.items()}

    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: field.kind.schema for name, field in fields.items()},
        "required": [name for name, field in fields.items() if field.is_required],
    }
    return Kind(schema, read)


def _dataclass(hint: Any) -> Kind:
    hints = _hints(hint)
    missing = dataclasses.MISSING
    fields = {
        each.name: Field(
            _kind_of_field(hint, hints[each.name], each.name),
            each.default is missing and each.default_factory is missing,
        )
        for each in dataclasses.fields(hint)
        if each.init
    }
    whole = object_kind(fields)
    return Kind(whole.schema, lambda value, place: hint(**whole.read(value, place)))


def _typed_dict(hint: Any) -> Kind:
    required = hint.__required_keys__
    fields = _hints(hint).items()
    return object_kind({name: Field(_kind_of_field(hint, each, name), name in required) for name, each in fields})


def _hints(holder: Any) -> dict[str, Any]:
    try:
        return get_type_hints(holder, include_extras=True)
    except NameError as error:
        raise TypeError(f"the type {_name(holder)} cannot be read: {error}") from None


_holders: list[Any] = []
"""Whose fields are looked at."""


def _kind_of_field(holder: Any, hint: Any, name: str) -> Kind:
    if get_origin(hint) in (typing.Required, typing.NotRequired):
        hint = get_args(hint)[0]
    if holder in _holders:
        raise TypeError(f"the type {_name(holder)} holds itself")
    _holders.append(holder)
    try:
        return kind_of(hint)
    except TypeError as error:
        raise TypeError(f"in the field {name}: {error}") from None
    finally:
        _holders.pop()


def shown(value: Any) -> str:
    """A value of JSON for an error, not too long."""
    import json

    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _name(hint: Any) -> str:
    return hint.__name__ if inspect.isclass(hint) else str(hint)
