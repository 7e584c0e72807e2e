"""Type hints for a model: a JSON schema, and the conversion of JSON values to Python. Pure."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

Read = Callable[[Any, str], Any]


@dataclass(frozen=True, slots=True)
class TypeSchema:
    """``read(value, place)``: converts a JSON value to Python. Raises ValueError with a line for the model that names
    ``place``."""

    schema: dict[str, Any]
    read: Read


def kind_of(hint: Any) -> TypeSchema:
    """The schema of a type hint. Raises TypeError for one without a JSON form."""
    if hint is Any or hint is object:
        return TypeSchema({}, lambda value, place: value)
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
    raise TypeError(f"the type {_name(hint)} cannot be expressed in JSON")


def _expect(kind: type | tuple[type, ...], words: str) -> Read:
    def read(value: Any, place: str) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{place} is {shown(value)}, not {words}")
        return value

    return read


def _read_int(value: Any, place: str) -> int:
    if isinstance(value, float) and value.is_integer():  # JSON has one type of numbers
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


_SIMPLE: dict[Any, TypeSchema] = {
    str: TypeSchema({"type": "string"}, _expect(str, "a text")),
    int: TypeSchema({"type": "integer"}, _read_int),
    float: TypeSchema({"type": "number"}, _read_float),
    bool: TypeSchema({"type": "boolean"}, _expect(bool, "true or false")),
    None: TypeSchema({"type": "null"}, _read_none),
    type(None): TypeSchema({"type": "null"}, _read_none),
}


def _annotated(arguments: tuple[Any, ...]) -> TypeSchema:
    """A text in the annotation is the description."""
    kind = kind_of(arguments[0])
    texts = [each for each in arguments[1:] if isinstance(each, str)]
    return TypeSchema(kind.schema | ({"description": texts[0]} if texts else {}), kind.read)


def _union(hints: tuple[Any, ...]) -> TypeSchema:
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
        return TypeSchema({"type": names}, read)
    return TypeSchema({"anyOf": [kind.schema for kind in kinds]}, read)


def _choice(values: Mapping[Any, Any]) -> TypeSchema:
    for each in values:
        if not isinstance(each, str | int | float | bool | None):
            raise TypeError(f"the value {each!r} cannot be expressed in JSON")

    def read(value: Any, place: str) -> Any:
        for each, meant in values.items():
            if each == value and isinstance(each, bool) is isinstance(value, bool):
                return meant
        raise ValueError(f"{place} is {shown(value)}, not one of {', '.join(map(shown, values))}")

    kinds = {type(each) for each in values}
    one = _SIMPLE[kinds.pop()].schema if len(kinds) == 1 else {}
    return TypeSchema(one | {"enum": list(values)}, read)


def _list(arguments: tuple[Any, ...]) -> TypeSchema:
    item = kind_of(arguments[0] if arguments else Any)

    def read(value: Any, place: str) -> list[Any]:
        whole = _expect(list, "a list")(value, place)
        return [item.read(each, f"{place}[{number}]") for number, each in enumerate(whole)]

    return TypeSchema({"type": "array"} | ({"items": item.schema} if item.schema else {}), read)


def _dict(arguments: tuple[Any, ...]) -> TypeSchema:
    key, hint = arguments or (str, Any)
    if key is not str:
        raise TypeError("the keys of an object of JSON are texts")
    item = kind_of(hint)

    def read(value: Any, place: str) -> dict[str, Any]:
        whole = _expect(dict, "an object")(value, place)
        return {name: item.read(each, f"{place}.{name}") for name, each in whole.items()}

    return TypeSchema({"type": "object"} | ({"additionalProperties": item.schema} if item.schema else {}), read)


@dataclass(frozen=True, slots=True)
class Field:
    """A parameter of a function, or a field of an object."""

    kind: TypeSchema
    is_required: bool


def object_kind(fields: Mapping[str, Field], what: str = "") -> TypeSchema:
    """An object with exactly these fields. ``what``: the noun for its fields in errors."""

    def read(value: Any, place: str) -> dict[str, Any]:
        whole = _expect(dict, "an object")(value, place or "what was given")
        prefix = f"{place}." if place else ""
        for name in whole:
            if name not in fields:
                known = ", ".join(fields) or "none"
                raise ValueError(f"unknown {what or 'field'} {shown(prefix + name)}; known are: {known}")
        for name, field in fields.items():
            if field.is_required and name not in whole:
                raise ValueError(f"{prefix}{name} is missing")
        return {name: fields[name].kind.read(each, f"{prefix}{name}") for name, each in whole.items()}

    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: field.kind.schema for name, field in fields.items()},
        "required": [name for name, field in fields.items() if field.is_required],
    }
    return TypeSchema(schema, read)


def _dataclass(hint: Any) -> TypeSchema:
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
    return TypeSchema(whole.schema, lambda value, place: hint(**whole.read(value, place)))


_REQUIRED: dict[Any, bool] = {typing.Required: True, typing.NotRequired: False}


def _typed_dict(hint: Any) -> TypeSchema:
    # __required_keys__ alone misses the marks in annotations that are strings.
    fields = {
        name: Field(_kind_of_field(hint, each, name), _REQUIRED.get(get_origin(each), name in hint.__required_keys__))
        for name, each in _hints(hint).items()
    }
    return object_kind(fields)


def _hints(holder: Any) -> dict[str, Any]:
    try:
        return get_type_hints(holder, include_extras=True)
    except NameError as error:
        raise TypeError(f"the type {_name(holder)} cannot be read: {error}") from None


_holders: list[Any] = []
"""The types with fields under examination."""


def _kind_of_field(holder: Any, hint: Any, name: str) -> TypeSchema:
    if get_origin(hint) in _REQUIRED:
        hint = get_args(hint)[0]
    if holder in _holders:
        raise TypeError(f"the type {_name(holder)} contains itself")
    _holders.append(holder)
    try:
        return kind_of(hint)
    except TypeError as error:
        raise TypeError(f"in the field {name}: {error}") from None
    finally:
        _holders.pop()


def shown(value: Any) -> str:
    """A JSON value for an error, shortened."""
    import json

    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _name(hint: Any) -> str:
    return hint.__name__ if inspect.isclass(hint) else str(hint)


# Descriptions of a function and its parameters in docstrings, in the styles of Google, Sphinx and NumPy.

_GOOGLE = re.compile(r"(?:Args|Arguments|Parameters):\s*$")
_GOOGLE_ITEM = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)")
_SPHINX_ITEM = re.compile(r":param\s+(?:[^:]*\s)?\*{0,2}(\w+):\s*(.*)")
_NUMPY = re.compile(r"(?:Parameters|Other Parameters)\s*$")
_NUMPY_ITEM = re.compile(r"\*{0,2}(\w+)\s*(?::.*)?$")
_SECTION = re.compile(
    r"(?:Args|Arguments|Parameters|Returns?|Raises|Yields?|Examples?|Notes?):\s*$|:\w[^:]*:|-{3,}\s*$"
)


def described(docstring: str) -> tuple[str, dict[str, str]]:
    """The first paragraph on one line, and the description of each parameter."""
    lines = inspect.cleandoc(docstring).splitlines()
    summary: list[str] = []
    for number, line in enumerate(lines):
        follows = lines[number + 1] if number + 1 < len(lines) else ""
        if not line.strip() or _SECTION.match(line) or re.match(r"-{3,}\s*$", follows):
            break
        summary.append(line.strip())
    return " ".join(summary), _parameters(lines)


def _parameters(lines: Sequence[str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    at = 0
    while at < len(lines):
        line = lines[at]
        if (match := _SPHINX_ITEM.match(line.strip())) is not None:
            at = _item(lines, at, match, found)
        elif _GOOGLE.match(line):
            at = _section(lines, at + 1, _GOOGLE_ITEM, found, indented=True)
        elif _NUMPY.match(line) and at + 1 < len(lines) and re.match(r"-{3,}\s*$", lines[at + 1]):
            at = _section(lines, at + 2, _NUMPY_ITEM, found, indented=False)
        else:
            at += 1
    return {name: " ".join(words) for name, words in found.items() if words}


def _section(
    lines: Sequence[str], at: int, item: re.Pattern[str], found: dict[str, list[str]], *, indented: bool
) -> int:
    """The items of one section, and its end."""
    depth = -1
    while at < len(lines):
        line = lines[at]
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            at += 1
            continue
        if depth < 0:
            depth = indent
        if indent < depth or (indented and not indent):
            return at
        underlined = at + 1 < len(lines) and re.match(r"-{3,}\s*$", lines[at + 1])
        match = item.match(line.strip())
        if match is None or underlined:
            return at
        at = _item(lines, at, match, found)
    return at


def _item(lines: Sequence[str], at: int, match: re.Match[str], found: dict[str, list[str]]) -> int:
    """One item with the indented lines below it, and the line after them."""
    indent = len(lines[at]) - len(lines[at].lstrip())
    words = found.setdefault(match[1], [])
    if match.re.groups > 1 and match[2]:
        words.append(match[2].strip())
    at += 1
    while at < len(lines) and lines[at].strip() and len(lines[at]) - len(lines[at].lstrip()) > indent:
        words.append(lines[at].strip())
        at += 1
    return at
