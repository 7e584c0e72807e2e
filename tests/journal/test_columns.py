"""Values of a row, each checked when it is read."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from bitnet_chat.journal.columns import LATEST, Columns, number


def read(method: Callable[[Columns], object], value: object) -> tuple[object, list[str]]:
    """What a column gives for a value, and the damage that is noted."""
    columns = Columns({"x": value})
    return method(columns), columns.damage


@pytest.mark.parametrize(
    ("value", "text", "damage"),
    [
        ("é", "é", []),
        (b"\xed\xa0\x80", "\ud800", []),
        (b"a\xff", "a\udcff", ["its x is not UTF-8"]),
        ("\udcff", "\udcff", ["its x is not UTF-8"]),
        (None, "", ["its x is not text"]),
        (5, "", ["its x is not text"]),
    ],
)
def test_texts(value: object, text: str, damage: list[str]) -> None:
    assert read(lambda columns: columns.text("x"), value) == (text, damage)
    expected = (None, []) if value is None else (text, damage)
    assert read(lambda columns: columns.optional("x"), value) == expected


@pytest.mark.parametrize("value", [0, 0.0, 1, 1.5, 253_402_041_600, LATEST])
def test_times(value: float) -> None:
    found, damage = read(lambda columns: columns.seconds("x"), value)
    assert (found, damage) == (value, []) and isinstance(found, float)


@pytest.mark.parametrize("value", [-1, -0.001, LATEST + 1, math.inf, math.nan, None, "1", b"1"])
def test_values_that_are_not_times(value: object) -> None:
    assert read(lambda columns: columns.seconds("x"), value) == (0.0, ["'x' is not a time"])


@pytest.mark.parametrize("value", [0, 1, 2**63 - 1])
def test_counts(value: int) -> None:
    assert read(lambda columns: columns.count("x"), value) == (value, [])


@pytest.mark.parametrize("value", [-1, None, 1.0, "1", b"1"])
def test_values_that_are_not_counts(value: object) -> None:
    assert read(lambda columns: columns.count("x"), value) == (0, ["its count of x is not a number"])


@pytest.mark.parametrize(
    ("value", "row", "damage"),
    [
        (5, 5, []),
        (0, 0, []),
        (-1, -1, []),
        (None, None, []),
        (1.0, None, ["'x' is not a row number"]),
        ("5", None, ["'x' is not a row number"]),
    ],
)
def test_rows(value: object, row: int | None, damage: list[str]) -> None:
    assert read(lambda columns: columns.row("x"), value) == (row, damage)
    assert number(value) == row


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        ("[]", ()),
        ("[5]", (5,)),
        ("[3, 1, 2]", (3, 1, 2)),
        ("[1, 9223372036854775807]", (1, 2**63 - 1)),
    ],
)
def test_lists_of_rows(value: str, rows: tuple[int, ...]) -> None:
    assert read(lambda columns: columns.rows("x", 3), value) == (rows, [])


@pytest.mark.parametrize(
    "value",
    ["", "{}", "5", "[1, 2, 3, 4]", "[1, 1]", "[0]", "[-1]", "[1.0]", "[true]", '["1"]', "[9223372036854775808]"],
)
def test_values_that_are_not_lists_of_rows(value: str) -> None:
    assert read(lambda columns: columns.rows("x", 3), value) == ((), ["its x are not row numbers"])


@pytest.mark.parametrize(("value", "facts"), [("{}", {}), ('{"a": 1, "b": [1e3]}', {"a": 1, "b": [1000.0]})])
def test_facts(value: str, facts: dict[str, object]) -> None:
    assert read(lambda columns: columns.facts("x"), value) == (facts, [])


@pytest.mark.parametrize("value", ["", "[]", "5", "{", '{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}', "[" * 9999])
def test_values_that_are_not_facts(value: str) -> None:
    assert read(lambda columns: columns.facts("x"), value) == ({}, ["its x are not a JSON object"])


def test_damage_is_noted_for_each_column() -> None:
    columns = Columns({"a": "x", "b": -1, "c": "fine"})
    columns.count("a")
    columns.text("c")
    columns.seconds("b")
    assert columns.damage == ["its count of a is not a number", "'b' is not a time"]
