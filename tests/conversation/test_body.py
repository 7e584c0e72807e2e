"""JSON bodies, what their problems are called, and the Priority header."""

from __future__ import annotations

import json

import pytest

from bitnet_chat.conversation.json_fields import Fields
from bitnet_chat.errors import (
    BitnetChatError,
    BusyError,
    ContextOverflowError,
    EngineDiedError,
    EngineNotFoundError,
    FinishReason,
    InternalError,
    InvalidFieldError,
    ModelError,
    UnknownModelError,
    UnsupportedError,
    UsageError,
)
from bitnet_chat.events import Completed, Failed
from bitnet_chat.server.errors import failure_of, openai_form, to_api_error
from bitnet_chat.server.requests import is_urgent, object_of


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"a": 1} x', "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a": "\xff"}', "byte 7 is invalid"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
    ],
    ids=str,
)
def test_a_body_that_is_no_object_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(InvalidFieldError, match=why) as refused:
        object_of(data)
    assert refused.value.status == 400 and refused.value.code == "invalid_json"


def test_half_a_character_becomes_a_sign_for_it() -> None:
    """As a program sends it that cuts its texts by UTF-16 units. A lone surrogate would be a byte to an engine."""
    fields = object_of(rb'{"a": "x\ud83d", "b": ["\udc80", {"\ud800": "\ud83d\ude00"}]}')
    assert fields.values == {"a": "x\ufffd", "b": ["\ufffd", {"\ufffd": "😀"}]}
    assert object_of(b'\xef\xbb\xbf{"a": "\\\\ud800"}').values == {"a": "\\ud800"}, (
        "a BOM is no part, a \\\\ud800 is text"
    )


def refusal(call: object) -> tuple[str, str]:
    with pytest.raises(InvalidFieldError) as refused:
        call()  # type: ignore[operator]
    return refused.value.param, refused.value.what


def test_fields_are_asked_for_by_name_and_type() -> None:
    fields = Fields(
        {"t": "x", "n": 0.5, "w": 3.0, "f": True, "o": {"a": 1}, "l": [{"b": 2}], "s": ["x", "y"], "z": None}
    )
    assert (fields.text("t"), fields.number("n", 0, 1), fields.whole("w", 1, 9), fields.flag("f")) == (
        "x",
        0.5,
        3,
        True,
    )
    inner, listed = fields.inner("o"), fields.objects("l")
    assert inner is not None and inner.whole("a", 0, 5) == 1
    assert listed is not None and listed[0].whole("b", 0, 5) == 2
    assert fields.texts("s") == ["x", "y"]
    assert fields.text("z") is None and fields.text("absent") is None
    fields.finish()


@pytest.mark.parametrize(
    ("value", "ask", "what"),
    [
        (1, lambda f: f.text("v"), "p.v must be a string, not 1"),
        (True, lambda f: f.number("v", 0, 1), "p.v must be a number, not true"),
        (True, lambda f: f.whole("v", 0, 1), "p.v must be a whole number, not true"),
        (1.5, lambda f: f.whole("v", 0, 2), "p.v must be a whole number, not 1.5"),
        (1, lambda f: f.flag("v"), "p.v must be true or false, not 1"),
        (3, lambda f: f.number("v", 0, 2), "p.v must be between 0 and 2, not 3"),
        (float("inf"), lambda f: f.number("v", 0, 2), "p.v must be between 0 and 2, not Infinity"),
        (float("inf"), lambda f: f.whole("v", 0, 2), "p.v must be a whole number, not Infinity"),
        (10**4000, lambda f: f.number("v", 0, 2), "p.v must be between 0 and 2, not so large a number"),
        (10**4000, lambda f: f.text("v"), "p.v must be a string, not so large a number"),
        ([], lambda f: f.inner("v"), "p.v must be an object, not a list"),
        ({}, lambda f: f.objects("v"), "p.v must be a list of objects, not an object"),
        ([1], lambda f: f.objects("v"), "p.v[0] must be an object, not 1"),
        (["a", None], lambda f: f.texts("v"), "p.v[1] must be a string, not null"),
        ("x", lambda f: f.choice("v", ["a", "b"]), 'p.v is "x"'),
        (None, lambda f: f.needed_text("v"), "p.v is missing"),
        ("y" * 999, lambda f: f.flag("v"), 'p.v must be true or false, not "' + "y" * 59 + "…"),
        (2, lambda f: f.refuse("v", 1), "p.v is not supported here"),
        (True, lambda f: f.refuse("v", 1), "p.v is not supported here"),
    ],
)
def test_a_field_that_is_wrong_is_named(value: object, ask: object, what: str) -> None:
    fields = Fields({"v": value}, "p")
    param, said = refusal(lambda: ask(fields))  # type: ignore[operator]
    assert said == what
    assert param == what.split(" ")[0]


def test_what_nobody_asked_for_is_refused_by_name() -> None:
    fields = Fields({"known": 1, "harmless": 2, "done_anyway": [1], "tempreature": 0})
    fields.get("known")
    fields.accept("harmless")
    fields.refuse("done_anyway", [1])
    assert refusal(fields.finish) == ("tempreature", "tempreature is unknown")
    assert len(refusal(Fields({"x" * 10_000: 1}).finish)[1]) < 100


@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (InvalidFieldError("x", param="p"), 400, "invalid_value", "p"),
        (InvalidFieldError("x", status=413, code="request_too_large"), 413, "request_too_large", None),
        (UsageError("x"), 400, "invalid_value", None),
        (UnsupportedError("top_p", "no"), 400, "unsupported_parameter", "top_p"),
        (UnknownModelError("x"), 404, "model_not_found", "model"),
        (ContextOverflowError("x"), 400, "context_length_exceeded", "messages"),
        (BusyError("x", retry_after=5), 429, "rate_limit_exceeded", None),
        (EngineNotFoundError("x"), 503, "no_engine", None),
        (ModelError("x"), 503, "bad_model", None),
        (EngineDiedError("x", detail="/root/secret"), 503, "engine_died", None),
        (InternalError("x"), 500, "usage", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BitnetChatError) else None,
)
def test_each_error_has_its_status(error: BitnetChatError, status: int, code: str, param: str | None) -> None:
    problem = to_api_error(error)
    form = openai_form(problem)["error"]
    assert isinstance(form, dict)
    assert (problem.status, form["code"], form["param"]) == (status, code, param)
    assert set(form) == {"message", "type", "param", "code"}
    assert "secret" not in json.dumps(form), "an engine's log stays here"


def test_clients_are_told_when_to_try_again() -> None:
    assert to_api_error(BusyError("x", retry_after=5.0)).headers == {"Retry-After": "5"}
    assert to_api_error(BusyError("x", retry_after=0.1)).headers == {"Retry-After": "1"}
    assert to_api_error(EngineNotFoundError("x")).headers == {"x-should-retry": "false"}
    assert to_api_error(EngineDiedError("x")).headers == {}
    assert to_api_error(UsageError("half \udc80", remedy="do")).message == "half \ufffd; do"


def test_what_a_fault_cut_short_is_no_reply() -> None:
    def status(reason: FinishReason, text: str) -> int | None:
        error = failure_of(Completed(reason, text))
        return None if error is None else to_api_error(error).status

    assert isinstance(failure_of(Failed(EngineDiedError("x"), "half")), EngineDiedError)
    for reason in (FinishReason.ENGINE_DIED, FinishReason.STALLED, FinishReason.CUT_OFF):
        assert status(reason, "half") == status(reason, "") == 503
    for reason, code in {
        FinishReason.TIMEOUT: 504,
        FinishReason.INTERRUPTED: 503,
        FinishReason.CONTEXT_OVERFLOW: 400,
    }.items():
        assert (status(reason, "half"), status(reason, "")) == (None, code)
    for reason in (FinishReason.STOP, FinishReason.LENGTH, FinishReason.ROLE_MARKER, FinishReason.TOOL_CALLS):
        assert status(reason, "") is None, "an empty reply is one"


@pytest.mark.parametrize(
    ("header", "urgent"),
    [
        (None, True),
        ("", True),
        ("u=3", True),
        ("u=5, i", True),
        ("u=6", False),
        ("i, u=7", False),
        ("u=7;x=1", False),
        (" u=7 , i", False),
        ("u=1, u=7", False),
        ("u=7, u=1", True),
        ("u=70", True),
        ("u=-7", True),
        ("xu=7", True),
        ("u=9", True),
        ("\xff\xfe", True),
    ],
)
def test_batch_work_says_so_in_its_priority(header: str | None, urgent: bool) -> None:
    assert is_urgent(header) is urgent
