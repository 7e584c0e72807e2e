"""A recording played back: the same frames as when it was made, and nothing that a terminal would obey."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
import recordings
from program import run

from bitnet_chat.cli import replay
from bitnet_chat.conversation.stdin_encoding import decode_lines
from bitnet_chat.engine_output import Frame, ReplyText, TurnEnd
from bitnet_chat.errors import UsageError
from bitnet_chat.text.utf8 import Utf8Decoder
from bitnet_chat.trace import format
from bitnet_chat.trace.conversation_masking import mask_session
from bitnet_chat.trace.format import TraceEntry, TraceEntryKind, of_facts
from bitnet_chat.trace.playback import play
from bitnet_chat.trace.secret_redaction import Redactor

ARGV = ["llama-completion", "--simple-io", "--color", "on", "--in-prefix", "USER:", "--in-suffix", "BOT:"]
ORDERED = of_facts(0.0, TraceEntryKind.SPAWN, 1, {"argv": ARGV})


def file_of(name: str) -> Path:
    return recordings.FOLDER / f"{name}.jsonl"


def entries_of(name: str) -> list[TraceEntry]:
    return list(format.of_lines(file_of(name).read_text("utf-8").split("\n"), name))


def frames_of(entries: list[TraceEntry]) -> list[Frame]:
    return recordings.joined([frame for happening in play(entries) for frame in happening.frames])


def frames_as_tested(name: str) -> list[Frame]:
    """As test_framers.py gets them."""
    recording = recordings.load(name)
    framer, decoder = recording.framer(), Utf8Decoder()
    frames: list[Frame] = []
    for step in recording.steps:
        if step.kind == "out":
            frames += framer.feed(decoder.decode(step.data))
        elif step.kind == "in":
            framer.sent()
        elif step.kind == "signal":
            framer.interrupted()
        elif step.kind == "exit":
            frames += framer.feed(decoder.flush()) + framer.eof(clean=step.code == 0)
    return recordings.joined(frames)


@pytest.mark.parametrize("name", recordings.NAMES)
def test_a_recording_gives_the_frames_that_it_gave(name: str) -> None:
    assert frames_of(entries_of(name)) == frames_as_tested(name)


@pytest.mark.parametrize("name", recordings.NAMES)
def test_a_masked_recording_has_the_same_shape(name: str) -> None:
    """Random bytes of every kind: what trips over one of them trips over its mask."""
    masked = frames_of(list(mask_session(entries_of(name), Redactor(), with_text=False)))
    real = frames_of(entries_of(name))
    assert [type(frame) for frame in masked] == [type(frame) for frame in real]
    for before, after in zip(real, masked, strict=True):
        if isinstance(before, TurnEnd):
            assert before == after
        elif isinstance(before, ReplyText) and isinstance(after, ReplyText):
            assert re.sub(r"[\w\udc80-\udcff]|[^\x00-\x7f]", "", before.text) == re.sub(
                r"[\w\udc80-\udcff]|[^\x00-\x7f]", "", after.text
            )


@pytest.mark.parametrize("name", recordings.NAMES)
def test_it_is_shown_safely_in_each_way(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for flag in ("", "--raw", "--json"):
        assert replay.run([str(file_of(name)), "--speed", "0", *filter(None, [flag])]) == 0
        shown[flag] = capsys.readouterr().out
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", shown[flag])
    lines = [json.loads(line) for line in shown["--json"].splitlines()]
    assert [line["frame"] for line in lines if "frame" in line]
    assert len(shown["--raw"].splitlines()) == len(entries_of(name))
    messages = [decode_lines(entry.data) for entry in entries_of(name) if entry.kind is TraceEntryKind.IN]
    assert all(f"> {message.split(chr(10))[0]}" in shown[""] for message in messages)


def test_time_passes_as_it_passed(capsys: pytest.CaptureFixture[str]) -> None:
    slept: list[float] = []
    lines = [(0.5, "a"), (0.6, "b"), (0.6, "c"), (100.0, "d")]
    replay._show(iter(lines), 2.0, slept.append)
    assert capsys.readouterr().out == "abcd"
    assert slept == pytest.approx([0.25, 0.05, 1.5])  # no pause is longer than three seconds of the original
    replay._show(iter(lines), 0.0, slept.append)
    assert len(slept) == 3


def test_the_part_behind_a_gap_is_read_as_the_middle_of_a_reply() -> None:
    again = of_facts(9.0, TraceEntryKind.SPAWN, 1, {"argv": ARGV, "again": True})
    entries = [
        *(
            ORDERED,
            TraceEntry(1, TraceEntryKind.OUT, 1, b"USER:\x1b[1m\x1b[32m"),
            TraceEntry(2, TraceEntryKind.IN, 1, b"hello\n"),
        ),
        *(
            TraceEntry(3, TraceEntryKind.OUT, 1, b"\x1b[0mBOT:the beg"),
            TraceEntry(4, TraceEntryKind.GAP, 0, b"1000000"),
            again,
        ),
        TraceEntry(10, TraceEntryKind.OUT, 1, b"the end\nUSER:\x1b[1m\x1b[32m"),
    ]
    *_, before, last, end = frames_of(entries)
    assert isinstance(last, ReplyText) and last.text.endswith("the end") and end == TurnEnd(natural=True)
    assert before != last


def test_a_likely_end_is_taken_for_one_after_the_same_silence_as_live() -> None:
    entries = [
        *(
            ORDERED,
            TraceEntry(1, TraceEntryKind.OUT, 1, b"USER:\x1b[1m\x1b[32m"),
            TraceEntry(2, TraceEntryKind.IN, 1, b"hello\n"),
        ),
        TraceEntry(3, TraceEntryKind.OUT, 1, b"\x1b[0mBOT:hi\x1b[1m\x1b[32m\nUSER:"),
        TraceEntry(6, TraceEntryKind.IN, 1, b"next\n"),
    ]
    assert any(isinstance(frame, TurnEnd) for frame in frames_of(entries))


def test_thoughts_and_a_reply_that_was_continued(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    entries = [
        of_facts(0.0, TraceEntryKind.SPAWN, 1, {"argv": ARGV, "thinking": ["<think>", "</think>", False]}),
        *(
            TraceEntry(1, TraceEntryKind.OUT, 1, b"USER:\x1b[1m\x1b[32m"),
            TraceEntry(2, TraceEntryKind.IN, 1, b"hello\n"),
        ),
        *(
            TraceEntry(3, TraceEntryKind.OUT, 1, b"\x1b[0mBOT:<think>Hm.</think>One,USER:\x1b[1m\x1b[32m"),
            TraceEntry(4, TraceEntryKind.IN, 1, b"\n"),
        ),
        TraceEntry(5, TraceEntryKind.OUT, 1, b"\x1b[0m two.\nUSER:\x1b[1m\x1b[32m"),
    ]
    for each in (entries, list(mask_session(entries, Redactor(), with_text=False))):
        kinds = [type(frame).__name__ for frame in frames_of(each)]
        assert kinds == ["Ready", "ThinkingText", "ReplyText", "TurnEnd", "ReplyText", "TurnEnd"]
    file = tmp_path / "file.jsonl"
    file.write_text("\n".join(format.to_lines(entries)))
    replay.run([str(file), "--speed", "0"])
    assert "[asked to continue]" in capsys.readouterr().out


BROKEN = {
    "empty": (b"", "is empty"),
    "binary": (b"GGUF\xff\xfe\x00", "not a text file"),
    "no json": (b"hello\n", "line 1 of"),
    "no start": (b'{"t": 0, "kind": "out", "b64": "aGk="}\n', "before it was started"),
    "no engine": (b'{"t": 0, "kind": "spawn", "argv": ["ls"]}\n', "not started for a conversation"),
    "half a line": (b'{"t": 0, "kind": "spawn", "argv": ["ls"', "line 1 of"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_played_back_is_told(name: str, tmp_path: Path) -> None:
    content, told = BROKEN[name]
    (tmp_path / "file.jsonl").write_bytes(content)
    with pytest.raises(UsageError, match=told):
        replay.run([str(tmp_path / "file.jsonl")])


def test_other_things_that_are_no_recording(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        replay.run([str(tmp_path / "missing")])
    with pytest.raises(UsageError, match="does not contain a recording"):
        replay.run([str(tmp_path)])
    with pytest.raises(UsageError, match="no session was recorded"):
        replay.run([])
    for speed in ("-1", "nan"):
        with pytest.raises(UsageError, match="--speed"):
            replay.run([str(file_of("cli-modern")), "--speed", speed])


def test_a_hostile_file_cannot_touch_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attack = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m"
    data = base64.b64encode(f"USER:\x1b[1m\x1b[32m{attack}".encode()).decode()
    lines = [
        {"t": 0, "kind": "about", "argv": [attack], "began": attack},
        {"t": 0, "kind": "spawn", "argv": [attack, *ARGV[1:]], "note": attack},
        {"t": 0, "kind": "out", "b64": data},
        {"t": 0, "kind": "err", "b64": base64.b64encode(attack.encode()).decode()},
        {"t": 0, "kind": "signal", "name": attack},
    ]
    file = tmp_path / "file.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    for flags in ([], ["--raw"], ["--json"]):
        replay.run([str(file), "--speed", "inf", *flags])
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", capsys.readouterr().out)


def test_as_a_command() -> None:
    done = run("replay", str(file_of("cli-modern")), "--speed", "0")
    assert done.returncode == 0 and b"> hello\nB\n" in done.stdout and done.stderr == b""
    done = run("replay", "/nowhere/at/all")
    assert done.returncode == 2 and b"does not exist" in done.stderr
