"""Recordings of native engines: played back as they were lived, and shown to others without a word."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from bitnet_chat import engine_output
from bitnet_chat.cli.replay import _FramePrinter
from bitnet_chat.engine.native.protocol import (
    Complete,
    Loading,
    NativeFailed,
    NativeReady,
    NativeReplyEnded,
    Prefill,
    Stop,
    Token,
    encode,
)
from bitnet_chat.engine.protocols.native import NativeFramer
from bitnet_chat.engine_output import (
    EngineError,
    Frame,
    PrefillProgress,
    ReplyFigures,
    ReplyText,
    ThinkingText,
    TurnEnd,
    UnexpectedOutput,
    VariantFrame,
)
from bitnet_chat.errors import FinishReason
from bitnet_chat.trace import format
from bitnet_chat.trace.conversation_masking import mask_session
from bitnet_chat.trace.format import TraceEntry, TraceEntryKind, of_facts
from bitnet_chat.trace.playback import play
from bitnet_chat.trace.secret_redaction import Redactor

AROUND = ["<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"]
FACTS: dict[str, Any] = {"argv": ["python", "-c", "…"], "framer": "native", "around": AROUND}


def prompt(*texts: str, end: str = "assistant\n") -> tuple[tuple[str, bool], ...]:
    pieces: list[tuple[str, bool]] = []
    for text in texts:
        pieces += [("<|im_start|>", True), (f"user\n{text}", False), ("<|im_end|>", True), ("\n", False)]
    return (*pieces, ("<|im_start|>", True), (end, False))


def session(*messages: Any, facts: dict[str, Any] | None = None) -> list[TraceEntry]:
    """Requests and messages in their order. Messages come cut in the middle of a line."""
    entries = [of_facts(0.0, TraceEntryKind.SPAWN, 1, facts or FACTS)]
    for number, message in enumerate(messages):
        line = encode(message)
        ours = isinstance(message, Complete | Stop)
        is_message = isinstance(message, Complete) and message.max_tokens != 0
        kind = (TraceEntryKind.IN if is_message else TraceEntryKind.COMMAND) if ours else TraceEntryKind.OUT
        for part in (line,) if ours else (line[:9], line[9:]):
            entries.append(TraceEntry(number / 10, kind, 1, part))
    return entries


def played(entries: Sequence[TraceEntry]) -> list[Frame]:
    return [frame for happening in play(entries) for frame in happening.frames]


LIVED = (
    Loading(0.5),
    NativeReady("llama.cpp", "1", 512, 1, ("grammar",)),
    Complete(1, prompt("Zebulon", end="user\n"), max_tokens=0),
    Prefill(1, 9, 9, 0),
    NativeReplyEnded(1, "length", 9, 9),
    Complete(2, prompt("Who is Zebulon?"), stop=("Quagmire",)),
    Prefill(2, 0, 12, 0),
    Prefill(2, 12, 12, 0),
    Token(2, "Zebu", (11234,)),
    Token(2, "lon \udcff 世🙂", (5,)),
    Token(2, " Quag", (71, 8)),
    Stop(2),
    NativeReplyEnded(2, "interrupted", 12, 12, 4, 16),
)


def test_a_recording_is_played_as_it_was_lived() -> None:
    assert played(session(*LIVED)) == [
        ReplyFigures(context_size=512),
        engine_output.Ready(),
        engine_output.Ready(tokens=9),
        PrefillProgress(0, 12),
        PrefillProgress(12, 12),
        *(ReplyText(text) for text in ("Zebu", "lon \udcff 世🙂", " Quag")),
        ReplyFigures(context_used=16, prompt_tokens=12, prompt_size=12, tokens=4),
        TurnEnd(False, FinishReason.INTERRUPTED),
    ]
    written = list(format.to_lines(session(*LIVED)))
    assert played(list(format.of_lines(written, "it"))) == played(session(*LIVED))


@pytest.mark.parametrize("with_text", [False, True])
def test_nobody_learns_what_was_said(with_text: bool) -> None:
    entries = session(*LIVED)
    hidden = list(mask_session(entries, Redactor(users=["Zebulon"]), with_text=with_text))
    data = b"".join(entry.data for entry in hidden)
    assert b"Zebu" not in data and b"11234" not in data and (b"Who" in data) is with_text
    assert [len(entry.data) for entry in hidden[1:]] == [len(entry.data) for entry in entries[1:]]
    shown = played(hidden)
    assert [type(frame) for frame in shown] == [type(frame) for frame in played(entries)]
    said = "".join(frame.text for frame in shown if isinstance(frame, ReplyText))
    assert said == ("xxxxxxx \udcff 世🙂 Quag" if with_text else "Xxxxxxx \udcff 字🙂 Xxxx")
    shown = "".join(text for _, text in _FramePrinter().all(hidden))
    assert ("> Who is xxxxxxx?\n" if with_text else "> Xxx xx Xxxxxxx?\n") in shown
    assert "[interrupted]" in shown and "[conversation to be read before the next message]" in shown


def test_thoughts_in_a_recording() -> None:
    """Whether a reply begins with thoughts tells the end of its prompt."""
    facts = FACTS | {"thinking": ["<think>", "</think>", True]}
    asked = Complete(1, prompt("hello", end="assistant\n<think>\n"))
    more = Complete(2, prompt("hello", end="assistant\n<think>\n\n</think>\n\nSo"))
    lived = [
        NativeReady(),
        asked,
        Token(1, "hm</think>So", ()),
        NativeReplyEnded(1),
        more,
        Token(2, " be it", ()),
        NativeReplyEnded(2),
    ]
    said = [frame for frame in played(session(*lived, facts=facts)) if isinstance(frame, ReplyText | ThinkingText)]
    assert said == [ThinkingText("hm"), ReplyText("So"), ReplyText(" be it")]


def test_a_recording_that_begins_within_a_reply() -> None:
    spawn = of_facts(0.0, TraceEntryKind.SPAWN, 1, FACTS | {"again": True})
    rest = b"".join(map(encode, (Token(7, " words", ()), NativeReplyEnded(7, "stop", 1, 2, 3, 4))))
    entries = [spawn, TraceEntry(0.1, TraceEntryKind.OUT, 1, b'xt":"cut"}\n' + rest)]
    assert played(entries) == [
        ReplyText(" words"),
        ReplyFigures(context_used=6, prompt_tokens=1, prompt_size=2, tokens=3),
        TurnEnd(True, FinishReason.STOP),
    ]


@pytest.mark.parametrize(
    "line", ["hello", "[]", '{"kind":"no"}', '{"kind":"token","id":5}', '{"kind":"tokens","id":1}']
)
def test_a_line_that_was_not_expected_is_one(line: str) -> None:
    framer = NativeFramer()
    framer.sent(encode(Complete(1)))
    (frame,) = framer.feed(line + "\n")
    assert isinstance(frame, UnexpectedOutput)


def test_a_failure_ends_the_turn() -> None:
    framer = NativeFramer()
    framer.sent(encode(Complete(1)))
    assert framer.feed(encode(NativeFailed(1, "context_full", "too long")).decode()) == [
        EngineError("too long", "context_full"),
        TurnEnd(False),
    ]
    assert framer.feed(encode(NativeFailed(None, "failed", "gone")).decode()) == [EngineError("gone", "failed")]


def test_requests_that_are_cut_or_hold_a_schema_say_nothing_either() -> None:
    request = Complete(1, prompt("Zebulon"), schema={"title": "Zebulon"}, grammar='root ::= "Zebulon"')
    cut = TraceEntry(0.1, TraceEntryKind.IN, 1, encode(request)[:90])
    hidden = list(mask_session([*session(NativeReady(), request), cut], Redactor(), with_text=False))
    assert not any(b"Zebu" in entry.data for entry in hidden)
    assert json.loads(hidden[-2].data)["prompt"][1] == ["user\nXxxxxxx", False]


def test_several_replies_in_a_recording() -> None:
    lived = [
        NativeReady(),
        Complete(3, prompt("hello"), count=2),
        Prefill(3, 1, 2, 0),
        Token(4, "b"),
        Token(3, "a"),
        NativeReplyEnded(4, "length", tokens=1),
        NativeFailed(3, "failed", "gone"),
    ]
    frames = played(session(*lived))[2:]
    assert frames == [
        VariantFrame(0, PrefillProgress(1, 2)),
        VariantFrame(1, ReplyText("b")),
        VariantFrame(0, ReplyText("a")),
        VariantFrame(1, ReplyFigures(context_used=1, prompt_tokens=0, prompt_size=0, tokens=1)),
        VariantFrame(1, TurnEnd(False, FinishReason.LENGTH)),
        VariantFrame(0, EngineError("gone", "failed")),
        VariantFrame(0, TurnEnd(False)),
        TurnEnd(False),
    ]
    shown = "".join(text for _, text in _FramePrinter().all(session(*lived)))
    assert "[reply 2]\nb" in shown and "[reply 1]\na" in shown and "[error: gone]" in shown
