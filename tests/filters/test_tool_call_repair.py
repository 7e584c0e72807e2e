"""What is invalid about a call, what the model is told, and how often."""

from __future__ import annotations

import json

import pytest

from bitnet_chat.conversation import Message, Tool, ToolCall
from bitnet_chat.events import Notice
from bitnet_chat.filters.tool_call_repair import CALL_LIMIT, CallProgress, InvalidToolCall, ToolCallRepair
from bitnet_chat.filters.tool_calls import arguments_of

TOOLS = (Tool("add"), Tool("now"))
GOOD = ToolCall("c1", "add", "{}")
BAD = InvalidToolCall.of("c2", "add", "it is no JSON")


def repair_of(*calls: ToolCall | InvalidToolCall) -> ToolCallRepair:
    repair = ToolCallRepair(TOOLS)
    for call in calls:
        repair.add(call)
    return repair


def test_an_invalid_call_in_a_form_that_every_server_accepts() -> None:
    assert InvalidToolCall.of("c", "é b\n" + "x" * 100, "why").call == ToolCall("c", "__b_" + "x" * 60, "{}")
    assert InvalidToolCall.of("c", "", "why", '{"a": 1}').call == ToolCall("c", "unnamed", '{"a": 1}')
    report = "error: this call cannot be read: it is no JSON. Write it again."
    assert BAD.result == Message("tool", report, call_id="c2", tool_name="add")


@pytest.mark.parametrize(
    ("calls", "is_needed"), [((), False), ((GOOD,), False), ((BAD,), True), ((GOOD, BAD), False), ((BAD, GOOD), False)]
)
def test_the_model_answers_again_where_no_call_is_valid(
    calls: tuple[ToolCall | InvalidToolCall, ...], is_needed: bool
) -> None:
    repair = repair_of(*calls)
    assert repair.is_needed is is_needed
    assert repair.calls == [each for each in calls if each is GOOD]
    assert repair.faults == [each for each in calls if each is BAD]


def test_a_call_of_an_unknown_tool_is_invalid() -> None:
    (fault,) = repair_of(ToolCall("c3", "sub" * 30, '{"a": 1}')).faults
    assert fault.call == ToolCall("c3", ("sub" * 30)[:64], '{"a": 1}')
    assert fault.why == f"there is no tool {('sub' * 30)[:64]!r}; there are: add, now"


def test_the_model_answers_again_once() -> None:
    repair = repair_of(BAD)
    assert repair.begin_answer() and repair.reported == [BAD]
    assert not repair.faults and not repair.calls and not repair.is_needed
    repair.add(ToolCall("c3", "sub", "{}"))
    assert repair.is_needed and not repair.begin_answer()
    assert repair.failure == Notice(
        "the model twice asked for a tool in a form that cannot be read: there is no tool 'sub'; there are: add, now"
    )
    assert repair.reported == [BAD]


def test_a_few_faults_are_reported() -> None:
    assert len(repair_of(*[BAD] * 9).faults) == 8
    assert len(repair_of(*[GOOD] * 9).calls) == 9


@pytest.mark.parametrize("value", [None, "", " ", "null", "{}", {}])
def test_no_arguments(value: object) -> None:
    assert arguments_of(value) == {}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("[1]", "its arguments are no JSON object"),
        ([1], "its arguments are no JSON object"),
        (0, "its arguments are no JSON object"),
        ('{"a": ', "its arguments are no JSON (Expecting value: line 1 column 7 (char 6))"),
        ('{"a": Infinity}', "its arguments are no JSON (Infinity is no number of JSON)"),
        ("[" * 100_000, "its arguments are no JSON ("),
    ],
)
def test_arguments_that_cannot_be_used(value: object, why: str) -> None:
    with pytest.raises(ValueError, match="its arguments") as refused:
        arguments_of(value)
    assert str(refused.value).startswith(why)


def test_line_breaks_in_strings() -> None:
    text = '{"a": "one\ntwo"}'
    assert arguments_of(text, strict=False) == {"a": "one\ntwo"}
    with pytest.raises(ValueError, match="no JSON"):
        arguments_of(text)
    assert arguments_of(json.dumps({"a": "one\ntwo"})) == {"a": "one\ntwo"}


# Long calls

LONG, TOO_LONG = (
    Notice("the model is generating a long tool call"),
    Notice(f"a tool call was stopped: it was longer than {CALL_LIMIT:,} characters"),
)


def test_a_long_call_is_reported_after_a_while() -> None:
    progress = CallProgress(20.0)
    assert progress.feed(0, 0.0, has_text=True) == []
    assert progress.feed(10, 20.0, has_text=False) == []
    assert progress.feed(20, 20.1, has_text=False) == [LONG]
    assert progress.feed(30, 40.0, has_text=False) == []
    assert progress.feed(40, 40.2, has_text=False) == [LONG]


def test_text_and_silence_are_not_a_long_call() -> None:
    progress = CallProgress(20.0)
    assert progress.feed(10, 100.0, has_text=False) == [], "the time before the first piece does not count"
    assert progress.feed(20, 130.0, has_text=True) == []
    assert progress.feed(20, 160.0, has_text=False) == [], "nothing of a call has come"
    assert progress.feed(0, 160.0, has_text=False) == []
    assert progress.feed(5, 160.0, has_text=False) == [LONG], "another call"


def test_a_call_that_is_too_long_is_reported_once() -> None:
    progress = CallProgress(20.0)
    assert progress.feed(CALL_LIMIT, 0.0, has_text=False) == [] and not progress.is_too_long
    assert progress.feed(CALL_LIMIT + 1, 0.0, has_text=False) == [TOO_LONG] and progress.is_too_long
    assert progress.feed(CALL_LIMIT + 2, 90.0, has_text=False) == []
