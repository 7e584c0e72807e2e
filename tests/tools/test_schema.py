"""Type hints as JSON schemas, JSON values as Python values, and what a docstring tells of parameters."""

from __future__ import annotations

import dataclasses
import enum
import math
import typing as t

import pytest
from records import check_immutable

from bitnet_chat.tools.schema import Field, TypeSchema, described, kind_of, object_kind, shown


class Unit(enum.Enum):
    C = "celsius"
    F = "fahrenheit"


class Level(enum.Enum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Place:
    name: str
    height: float = 0.0
    tags: list[str] = dataclasses.field(default_factory=list)
    key: str = dataclasses.field(default="k", init=False)


class Trip(t.TypedDict, total=False):
    to: t.Required[Place]
    days: int


class Stay(t.TypedDict):
    days: int
    note: t.NotRequired[str]


class Tree(t.TypedDict):
    child: Tree


class Unknown(t.TypedDict):
    a: Missing  # type: ignore[name-defined]  # noqa: F821


class Wrong(t.TypedDict):
    a: complex


PLACE = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "height": {"type": "number"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name"],
}


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, {"type": "string"}),
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (None, {"type": "null"}),
        (type(None), {"type": "null"}),
        (t.Any, {}),
        (object, {}),
        (list, {"type": "array"}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (list[t.Any], {"type": "array"}),
        (dict, {"type": "object"}),
        (dict[str, bool], {"type": "object", "additionalProperties": {"type": "boolean"}}),
        (dict[str, t.Any], {"type": "object"}),
        (t.Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (t.Literal["a", 1], {"enum": ["a", 1]}),
        (t.Literal[True], {"type": "boolean", "enum": [True]}),
        (t.Optional[str], {"type": ["string", "null"]}),  # noqa: UP045
        (int | None, {"type": ["integer", "null"]}),
        (list[int] | str, {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "string"}]}),
        (t.Literal["a"] | int, {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "integer"}]}),
        (t.Annotated[str, 5, "a name", "no"], {"type": "string", "description": "a name"}),
        (t.Annotated[str, "a name", "no"], {"type": "string", "description": "a name"}),
        (t.Annotated[str, 5], {"type": "string"}),
        (Unit, {"type": "string", "enum": ["celsius", "fahrenheit"]}),
        (Level, {"type": "integer", "enum": [1, 2]}),
        (Place, PLACE),
        (Trip, {"type": "object", "properties": {"to": PLACE, "days": {"type": "integer"}}, "required": ["to"]}),
        (
            Stay,
            {
                "type": "object",
                "properties": {"days": {"type": "integer"}, "note": {"type": "string"}},
                "required": ["days"],
            },
        ),
    ],
    ids=str,
)
def test_a_hint_is_a_schema(hint: object, schema: dict[str, object]) -> None:
    assert kind_of(hint).schema == schema


@pytest.mark.parametrize(
    ("hint", "why"),
    [
        (complex, "the type complex cannot be expressed in JSON"),
        (set[int], r"the type set\[int\] cannot be expressed in JSON"),
        (dict[int, str], "the keys of an object of JSON are texts"),
        (t.Literal[b"x"], "the value b'x' cannot be expressed in JSON"),
        (list[complex], "the type complex cannot be expressed in JSON"),
        (Tree, "in the field child: the type Tree contains itself"),
        (Wrong, "in the field a: the type complex cannot be expressed in JSON"),
        (Unknown, "the type Unknown cannot be read: name 'Missing' is not defined"),
    ],
    ids=str,
)
def test_a_hint_without_a_form_in_json_is_refused(hint: object, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        kind_of(hint)
    assert kind_of(Place).schema == PLACE, "a refused type leaves no trace"


@pytest.mark.parametrize(
    ("hint", "value", "read"),
    [
        (str, "a", "a"),
        (int, 3, 3),
        (int, 3.0, 3),
        (float, 2, 2.0),
        (float, 2.5, 2.5),
        (bool, False, False),
        (None, None, None),
        (t.Any, [1], [1]),
        (list, [1, "a"], [1, "a"]),
        (list[int], [1, 2.0], [1, 2]),
        (list[int], [], []),
        (dict[str, int], {"a": 1.0}, {"a": 1}),
        (int | str, "a", "a"),
        (float | int, 1, 1.0),
        (int | None, None, None),
        (t.Literal[1, "a"], "a", "a"),
        (t.Literal[True, "a"], True, True),
        (t.Annotated[int, "n"], 4.0, 4),
        (Unit, "fahrenheit", Unit.F),
        (Level, 2, Level.HIGH),
        (Place, {"name": "A"}, Place("A")),
        (Place, {"name": "A", "height": 3, "tags": ["x"]}, Place("A", 3.0, ["x"])),
        (Trip, {"to": {"name": "A"}}, {"to": Place("A")}),
        (Stay, {"note": "n", "days": 1}, {"note": "n", "days": 1}),
    ],
    ids=str,
)
def test_values_become_those_of_python(hint: object, value: object, read: object) -> None:
    found = kind_of(hint).read(value, "x")
    assert found == read and type(found) is type(read)


@pytest.mark.parametrize(
    ("hint", "value", "why"),
    [
        (str, 1, "x is 1, not a text"),
        (str, True, "x is true, not a text"),
        (int, 2.5, "x is 2.5, not a whole number"),
        (int, True, "x is true, not a whole number"),
        (int, "3", 'x is "3", not a whole number'),
        (float, False, "x is false, not a number"),
        (float, 10**400, "x is too large a number"),
        (bool, 1, "x is 1, not true or false"),
        (None, 0, "x is 0, not null"),
        (list[int], {}, "x is {}, not a list"),
        (list[int], [1, "a"], 'x[1] is "a", not a whole number'),
        (dict[str, int], [], "x is [], not an object"),
        (dict[str, int], {"a": "b"}, 'x.a is "b", not a whole number'),
        (int | None, "a", 'x is "a", not a whole number; x is "a", not null'),
        (t.Literal["a", 2], 1, 'x is 1, not one of "a", 2'),
        (t.Literal[1], True, "x is true, not one of 1"),
        (t.Literal[True], 1, "x is 1, not one of true"),
        (Unit, "kelvin", 'x is "kelvin", not one of "celsius", "fahrenheit"'),
        (Place, [], "x is [], not an object"),
        (Place, {}, "x.name is missing"),
        (Place, {"name": "A", "key": "b"}, 'unknown field "x.key"; known are: name, height, tags'),
        (Trip, {"to": {"name": 1}}, "x.to.name is 1, not a text"),
    ],
    ids=str,
)
def test_the_error_of_a_value_names_its_place(hint: object, value: object, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        kind_of(hint).read(value, "x")
    assert str(caught.value) == why


def test_the_same_complaint_is_made_once() -> None:
    with pytest.raises(ValueError) as caught:
        kind_of(int | t.Annotated[int, "n"]).read("a", "x")
    assert str(caught.value) == 'x is "a", not a whole number'


def test_arguments_are_an_object_without_a_name() -> None:
    whole = object_kind(
        {"a": Field(kind_of(int), is_required=True), "b": Field(kind_of(str), is_required=False)}, "argument"
    )
    assert whole.read({"a": 1}, "") == {"a": 1}
    for value, why in (
        ([], "what was given is [], not an object"),
        ({}, "a is missing"),
        ({"a": "x"}, 'a is "x", not a whole number'),
        ({"a": 1, "c": 1}, 'unknown argument "c"; known are: a, b'),
    ):
        with pytest.raises(ValueError) as caught:
            whole.read(value, "")
        assert str(caught.value) == why
    with pytest.raises(ValueError, match="known are: none"):
        object_kind({}).read({"a": 1}, "")


def test_a_value_in_an_error_is_shortened() -> None:
    assert shown("é" * 58) == '"' + "é" * 58 + '"'
    assert shown("é" * 59) == '"' + "é" * 58 + "…"
    assert shown(math.inf) == "Infinity" and shown({1}) == '"{1}"'


def test_records_are_immutable() -> None:
    check_immutable(TypeSchema({}, lambda value, place: value))
    check_immutable(Field(kind_of(int), is_required=True))


GOOGLE = """Does
  it.

More of it.

Args:
    *a: the a

    b (list[int], optional): the b: more
        and more
    **c:
        the c
Raises:
    ValueError: no
"""
NUMPY = """Does it.

Parameters
----------
a : int
    the a
b
    the b,
    too

*c : str
    the c

Returns
-------
d : int
    no
"""
SPHINX = """Does it.
:param a: the a
  goes on
:param int b: the b
:param list[int] c:
:returns: no
"""


@pytest.mark.parametrize(
    ("docstring", "words"),
    [
        (GOOGLE, {"a": "the a", "b": "the b: more and more", "c": "the c"}),
        (NUMPY, {"a": "the a", "b": "the b, too", "c": "the c"}),
        (SPHINX, {"a": "the a goes on", "b": "the b"}),
        ("Does it.", {}),
        ("Does it.\nArgs:\nno: item\n", {}),
        ("Does it.\nArguments:\n  a: b\n c: d\n", {"a": "b"}),
        ("Does it.\nParameters:\n  a: b\nOther text: c\n", {"a": "b"}),
        ("Does it.\n\nOther Parameters\n---\na\n  b\n", {"a": "b"}),
        ("Does it.\n\nParameters\nno line\n  below\n", {}),
        ("Does it.\n\nParameters", {}),
        ("Does it.\n\nParameters\n----\na\n  b\nNotes\n-----\nc\n  d", {"a": "b"}),
        ("Does it.\nArgs:\n  a: b\n\n  some words that are no item\n  c: d", {"a": "b"}),
        ("Does it.\n\n:param a: b\n:param a: c\n", {"a": "b c"}),
        ("Does it.\nArgs:\n  a: b\n:param c: d\n", {"a": "b", "c": "d"}),
        ("Does it.\nArgs:\n  a: b", {"a": "b"}),
        ("Does it.\n\nParameters\n---\na\n    the a\n\n    more\nb\n    the b", {"a": "the a", "b": "the b"}),
    ],
)
def test_docstrings(docstring: str, words: dict[str, str]) -> None:
    assert described(docstring) == ("Does it.", words)


@pytest.mark.parametrize(
    ("docstring", "summary"),
    [
        ("", ""),
        ("One.", "One."),
        ("One\n  two\n three.\n\nFour.", "One two three."),
        ("One.\nReturns:\n  x", "One."),
        ("One.\n:rtype: x", "One."),
        ("One.\nNotes\n-----\nx", "One."),
        ("One.\n--\ntwo", "One. -- two"),
        ("One.\nNotes\n-----", "One."),
        ("One.\nNotes\n\n-----", "One. Notes"),
        ("One.\nNote that: x", "One. Note that: x"),
    ],
)
def test_the_summary_is_the_first_paragraph(docstring: str, summary: str) -> None:
    assert described(docstring)[0] == summary


def test_a_docstring_may_begin_with_a_parameter() -> None:
    assert described(":param a: the a") == ("", {"a": "the a"})
