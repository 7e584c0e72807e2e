"""What is recorded of a session, what bounds it, and what is taken out of it before anybody else sees it."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
import recordings
from hypothesis import given, settings
from hypothesis import strategies as st
from program import TIMEOUT, command, environment, fake_engine, run

from bitnet_chat.errors import UsageError
from bitnet_chat.trace import format, recorder
from bitnet_chat.trace.conversation_masking import chat_arguments, marks, mask, mask_log, mask_session
from bitnet_chat.trace.format import MAGIC, TraceEntry, TraceEntryKind, of_facts, pack, unpack
from bitnet_chat.trace.recorder import TraceRecorder
from bitnet_chat.trace.secret_redaction import Redactor

NOBODY = Redactor()
SURROGATES = "".join(map(chr, range(0xDC80, 0xDD00)))
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.text(
    st.sampled_from("aZ9é字😀\u0301 \n.<|" + SURROGATES)
)
BIT_BY_BIT = st.builds(
    TraceEntry,
    st.floats(0, 1e6),
    st.sampled_from(list(TraceEntryKind)),
    st.integers(0, 0xFFFF),
    st.binary(max_size=200),
)


def size(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


# The form on the disk


@settings(max_examples=50)
@given(st.lists(BIT_BY_BIT, max_size=20))
def test_what_was_packed_comes_back_as_far_as_the_file_is_whole(entries: list[TraceEntry]) -> None:
    whole = MAGIC + b"".join(map(pack, entries))
    assert list(unpack(whole)) == entries
    for cut in range(0, len(whole), 7):  # a death while it was written
        part = list(unpack(whole[:cut]))
        assert part == entries[: len(part)]


@given(st.binary(max_size=300))
def test_other_bytes_are_told_as_such(noise: bytes) -> None:
    for data in (noise, MAGIC + noise):
        try:
            list(unpack(data))
        except ValueError as error:
            assert str(error)


# The recorder


def read_back(made: TraceRecorder) -> list[TraceEntry]:
    made.close()
    return recorder.read(made.folder)


def test_a_session_is_kept_for_its_owner_only(tmp_path: Path) -> None:
    made = TraceRecorder(tmp_path / "deep" / "sessions")
    track = made.track({"argv": ["engine", "--color", "\udcff"]})
    track.output(b"hello")
    track.logged(b"a line\n")
    track.wrote(b"a message\n", command=False)
    track.wrote(b"/clear\n", command=True)
    track.signalled("SIGINT")
    track.exited(-9)
    entries = read_back(made)
    assert [entry.kind.name for entry in entries] == ["ABOUT", "SPAWN", "OUT", "ERR", "IN", "COMMAND", "SIGNAL", "EXIT"]
    assert entries[1].argv == ("engine", "--color", "\udcff") and entries[-1].number == -9
    assert all(a.at <= b.at for a, b in pairwise(entries[1:]))
    if sys.platform != "win32":
        assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700
        assert [stat.S_IMODE(file.stat().st_mode) for file in made.folder.iterdir()] == [0o600]


def test_nothing_is_written_for_a_session_without_an_engine(tmp_path: Path) -> None:
    made = TraceRecorder(tmp_path / "sessions")
    made.close()
    assert not (tmp_path / "sessions").exists()


def test_a_long_session_keeps_its_beginning_and_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_WRITE_INTERVAL", 0.0)
    made = TraceRecorder(tmp_path)
    track = made.track({"argv": ["engine"]})
    track.output(b"the beginning")
    for number in range(100):  # written in between, so that nothing is dropped before it comes to the disk
        track.output(b"%09d " % number * 10_000)
        made._write()
    track.output(b"the end")
    entries = read_back(made)
    assert sum(file.stat().st_size for file in made.folder.iterdir()) <= 4_100_000
    assert len(list(made.folder.iterdir())) == 3
    out = [entry.data for entry in entries if entry.kind is TraceEntryKind.OUT]
    assert out[0] == b"the beginning" and out[-1] == b"the end" and out[-2].startswith(b"000000099 ")
    gap = next(entry for entry in entries if entry.kind is TraceEntryKind.GAP)
    assert gap.number > 4_000_000
    assert any(entry.facts.get("again") for entry in entries if entry.kind is TraceEntryKind.SPAWN)


def test_a_flood_costs_no_more_memory_than_is_allowed(tmp_path: Path) -> None:
    made = TraceRecorder(tmp_path)
    track = made.track({"argv": ["engine"]})
    block = bytes(100_000)
    for _ in range(400):  # faster than the writing thread comes by
        track.output(block)
        assert made._size <= recorder._MAX_QUEUED
    track.wrote(b"x" * 1_000_000, command=False)
    track.exited(0)
    kinds = [entry.kind for entry in read_back(made)]
    assert (
        kinds[-1] is TraceEntryKind.EXIT
        and TraceEntryKind.IN in kinds
        and TraceEntryKind.GAP in kinds
        and TraceEntryKind.SPAWN in kinds
    )


def test_a_disk_that_cannot_be_written_disturbs_nobody(tmp_path: Path) -> None:
    (tmp_path / "sessions").write_text("no folder")
    made = TraceRecorder(tmp_path / "sessions")
    track = made.track({"argv": ["engine"]})
    track.output(b"hello")
    made.close()
    track.output(b"more")
    assert (tmp_path / "sessions").read_text() == "no folder"


def test_a_file_that_takes_no_more_ends_the_recording_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    made = TraceRecorder(tmp_path)
    monkeypatch.setattr(
        made, "_next_segment", lambda at: setattr(made, "_file", os.open(tmp_path / "file", os.O_RDONLY))
    )
    made.track({"argv": ["engine"]}).output(b"hello")
    made.close()
    assert made._broken


def test_the_last_few_are_kept(tmp_path: Path) -> None:
    folders = []
    for _ in range(recorder.KEPT + 3):
        made = TraceRecorder(tmp_path)
        made.track({"argv": ["engine"]})
        made.close()
        folders.append(made.folder)
    assert sorted(tmp_path.iterdir()) == folders[-recorder.KEPT :]


def test_a_damaged_or_missing_part_is_a_gap(tmp_path: Path) -> None:
    head = MAGIC + pack(of_facts(0, TraceEntryKind.ABOUT, 0, {})) + pack(TraceEntry(1, TraceEntryKind.OUT, 1, b"hello"))
    (tmp_path / "000000").write_bytes(head)
    (tmp_path / "000001").write_bytes(MAGIC + b"\xff" * 100)
    (tmp_path / "000004").write_bytes(MAGIC + pack(TraceEntry(9, TraceEntryKind.OUT, 1, b"bye")))
    assert [entry.kind.name for entry in recorder.read(tmp_path)] == ["ABOUT", "OUT", "GAP", "GAP", "OUT"]


# A session of the program


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return fake_engine(tmp_path)


def test_one_question_leaves_its_bytes_and_no_journal_leaves_nothing(engine: Path) -> None:
    assert run("--engine", str(engine), "say something else").returncode == 0
    entries = recorder.read(recorder.session(1))
    assert any(entry.kind is TraceEntryKind.IN and entry.data == b"user\\\nsay something else/\n" for entry in entries)
    assert b"something else" in b"".join(entry.data for entry in entries if entry.kind is TraceEntryKind.OUT)
    assert entries[-1].kind is TraceEntryKind.EXIT
    assert run("--engine", str(engine), "--no-journal", "say a secret").returncode == 0
    assert run("--engine", str(engine), "say another", BITNET_CHAT_JOURNAL="off").returncode == 0
    assert len(recorder.sessions()) == 1


def test_a_program_that_is_killed_leaves_what_was_written(engine: Path) -> None:
    child = subprocess.Popen(
        command("--engine", str(engine), "story of a long night"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert child.stdout is not None
    try:
        words = 0
        while not any(_words_of(folder) for folder in recorder.sessions()):  # they are written once a second
            words += len(child.stdout.read1(1 << 16).split())
            assert words < 1_000_000
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(TIMEOUT)
        child.stdout.close()
    assert _words_of(recorder.session(1)).startswith(b"word0 word1 ")


def _words_of(folder: Path) -> bytes:
    out = b"".join(entry.data for entry in recorder.read(folder) if entry.kind is TraceEntryKind.OUT)
    return out[out.find(b"word0") :] if b"word0" in out else b""


# Masks


@given(TEXTS, TEXTS)
def test_a_mask_keeps_bytes_and_does_not_depend_on_what_is_around(first: str, second: str) -> None:
    masked = mask(first)
    assert size(masked) == size(first) and len(masked) == len(first)
    plain = re.compile(r"(?!)")
    assert mask(first, plain) + mask(second, plain) == mask(first + second, plain)
    assert mask(masked, plain) == mask(mask(masked, plain), plain)


def test_nothing_that_says_something_comes_through_a_mask() -> None:
    """Every letter, digit and picture of Unicode; few stand for all of them."""
    left: set[str] = set()
    for code in range(0x110000):
        if not 0xD800 <= code < 0xE000 and unicodedata.category(chr(code))[0] in "LN":
            left.add(mask(chr(code)))
    assert len(left) < 20


def test_what_a_framer_looks_for_stays() -> None:
    text = "\x1b[1m\x1b[32m<|im_start|>user\nHello, Wörld 42!\n\t你好<|eot_id|>"
    assert mask(text) == "\x1b[1m\x1b[32m<|im_start|>xxxx\nXxxxx, Xäxxx 00!\n\t字字<|eot_id|>"
    assert mask(text, marks("<|im_start|>user\n")).startswith("\x1b[1m\x1b[32m<|im_start|>user\n")
    # A template with words of its own is no exception: the same letters everywhere.
    assert mask("Sherlock: hello", marks("Sherlock: ")) == "Xxxxxxxx: xxxxx"


@pytest.mark.parametrize("name", recordings.NAMES)
def test_a_masked_recording_has_as_many_bytes_at_each_moment(name: str) -> None:
    lines = (recordings.FOLDER / f"{name}.jsonl").read_text("utf-8").split("\n")
    entries = list(format.of_lines(lines, name))
    for with_text in (False, True):
        concealed = list(mask_session(entries, NOBODY, with_text=with_text))
        assert [(e.at, e.kind, e.process) for e in concealed] == [(e.at, e.kind, e.process) for e in entries]
        streams = (TraceEntryKind.OUT, TraceEntryKind.ERR, TraceEntryKind.IN)
        assert all(len(a.data) == len(b.data) for a, b in zip(entries, concealed, strict=True) if a.kind in streams)
        if with_text:
            assert [e.data for e in concealed if e.kind in streams] == [e.data for e in entries if e.kind in streams]


LOG = """\
I system_info: n_threads = 1 | CPU : AVX2 = 1 |
I llama_model_loader: - kv 22: tokenizer.ggml.tokens arr[str,3] = ["a", "zebra", "c"]
D prompt: "<|im_start|>system
You are Zebulon<|im_end|>"
D tokens: [ '<|im_start|>':1, 'zebra':669, '
':202, 'You':454 ]
I Input prefix: '
<|im_start|>user
'
D buffer: 'what is "it", zebra?'
D n_past = 44
W context: zebra does not fit
I slot print_timing: id  0 | task 0 |        eval time =       5.44 ms /    17 tokens
"""


def test_the_log_keeps_its_own_lines_and_no_word_that_was_said() -> None:
    told = mask_log(LOG, {"zebra"})
    assert size(told) == size(LOG)
    ours = [line for line in LOG.split("\n") if line.startswith(("I system", "I llama", "D n_past", "I slot"))]
    assert all(line in told for line in ours)
    assert "xxxxx does not fit" in told
    rest = "\n".join(line for line in told.split("\n") if line not in ours)
    assert not re.search("zebra|Zebulon|You|669|454|what", rest)


def test_an_old_log_without_marks_at_its_lines() -> None:
    log = "Input prefix: 'Holmes\nWatson'\n\nsampler seed: 7\nsystem_info: AVX = 1 | zebra\n"
    assert mask_log(log, set()) == "Input prefix: 'Xxxxxx\nXxxxxx'\n\nsampler seed: 7\nsystem_info: AVX = 1 | zebra\n"


def test_our_own_command_line_keeps_flags_and_no_question() -> None:
    argv = ["bitnet-chat", "-m", "m.gguf", "--system=Be kind", "--temp", "0", "why me?", "--", "-p", "words", "--mlock"]
    assert chat_arguments(argv) == [
        *("bitnet-chat", "-m", "m.gguf", "--system=Xx xxxx", "--temp", "0", "xxx xx?"),
        *("--", "-p", "xxxxx", "--mlock"),
    ]


# Redaction

SECRETS = [
    ("/home/ada/models/x.gguf", "/home/<user>/models/x.gguf"),
    ("C:\\Users\\Ada B\\x", "C:\\Users\\<user> B\\x"),
    ("/somewhere/lovelace/x and ~", "~/x and ~"),
    ("write to ada.l+x@example.org now", "write to <email> now"),
    ("HF_TOKEN=hf_abcdefghijklmnopqrstu", "HF_TOKEN=<secret>"),
    ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer <secret>"),
    ('{"api_key": "1a345"}', '{"api_key": "<secret>"}'),
    ("https://ada:pw@example.org/x", "https://<secret>@example.org/x"),
    ("key sk-abcdefghijklmnop1234", "key <secret>"),
    ("logged in as lovelace on Analytical-1.", "logged in as <user> on <host>."),
    ("commit 0c1e570aabbccddeeff00112233445566778899aa", "commit 0c1e570aabbccddeeff00112233445566778899aa"),
    ("tokens: 12, n_past = 44", "tokens: 12, n_past = 44"),
]


@pytest.mark.parametrize(("text", "expected"), SECRETS, ids=range(len(SECRETS)))
def test_names_places_and_secrets_leave(text: str, expected: str) -> None:
    redactor = Redactor(homes=["/somewhere/lovelace/"], users=["lovelace", "root", "al"], hosts=["analytical-1"])
    assert redactor.text(text) == expected
    assert size(redactor.same_length(text)) == size(text)


def test_what_stands_behind_a_secret_flag_leaves() -> None:
    argv = ["engine", "--api-key", "abc", "--hf-token", "def", "--key-file=/x", "--model", "m", "--token=ghi"]
    told = NOBODY.arguments(argv)
    assert told == [
        "engine",
        "--api-key",
        "<secret>",
        "--hf-token",
        "<secret>",
        "--key-file=/x",
        "--model",
        "m",
        "--token=<secret>",
    ]


# The text form


@settings(max_examples=50)
@given(
    st.lists(
        BIT_BY_BIT.filter(
            lambda entry: (
                entry.kind in (TraceEntryKind.OUT, TraceEntryKind.IN, TraceEntryKind.COMMAND, TraceEntryKind.ERR)
            )
        )
    )
)
def test_a_transcript_gives_the_same_streams(entries: list[TraceEntry]) -> None:
    def streams(them: list[TraceEntry]) -> dict[tuple[int, TraceEntryKind], bytes]:
        result: dict[tuple[int, TraceEntryKind], bytes] = {}
        for each in them:
            result[each.process, each.kind] = result.get((each.process, each.kind), b"") + each.data
        return {key: value for key, value in result.items() if value}

    assert streams(list(format.of_lines(format.to_lines(entries), "here"))) == streams(entries)


BROKEN_LINES = [
    *("nonsense", "[1]", '{"kind": 1}', '{"kind": "out", "t": 0, "b64": "?"}', '{"kind": "out", "t": 0}'),
    *('{"kind": "spawn", "t": 0}', '{"kind": "spawn", "t": 0, "argv": "x"}', '{"kind": "exit", "t": 0}'),
    *('{"kind": "out", "t": -1, "b64": ""}', '{"kind": "out", "t": NaN, "b64": ""}', "[" * 100_000),
    json.dumps({"kind": "out", "t": 0, "process": 1 << 70, "b64": ""}),
]


@pytest.mark.parametrize("line", BROKEN_LINES, ids=range(len(BROKEN_LINES)))
def test_a_line_that_cannot_be_used_is_named(line: str) -> None:
    with pytest.raises(UsageError, match="line 2 of here"):
        list(format.of_lines(['{"kind": "later", "t": 0}', line], "here"))
