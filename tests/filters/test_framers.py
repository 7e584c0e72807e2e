"""Decoder and framers against recordings of real engines, whole, byte by byte and at random cuts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import recordings
from hypothesis import given
from hypothesis import strategies as st
from recordings import Recording, Step

from bitnet_chat.engine.protocols.classic import ClassicFramer
from bitnet_chat.engine.protocols.modern import PROMPT, ModernFramer
from bitnet_chat.engine_output import (
    ERROR,
    INFO,
    REASONING,
    RESET,
    USER_INPUT,
    EngineError,
    Frame,
    Framer,
    Ready,
    ReplyText,
    ThinkingText,
    TurnEnd,
    UnexpectedOutput,
    held_length,
)
from bitnet_chat.text.utf8 import Utf8Decoder, encode

Cutter = Callable[[bytes], Iterator[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def bytewise(data: bytes) -> Iterator[bytes]:
    yield from (data[at : at + 1] for at in range(len(data)))


def random_cuts(seed: int) -> Cutter:
    def cut(data: bytes) -> Iterator[bytes]:
        chance = random.Random(seed)
        cuts = sorted(chance.sample(range(1, len(data)), len(data) // 5))
        yield from (data[a:b] for a, b in pairwise([0, *cuts, len(data)]))

    return cut


def play(recording: Recording, cut: Cutter) -> list[Frame]:
    framer, decoder = recording.framer(), Utf8Decoder()
    frames: list[Frame] = []
    for step in recording.steps:
        if step.kind == "out":
            for chunk in cut(step.data):
                frames += framer.feed(decoder.decode(chunk))
        elif step.kind == "in":
            framer.sent()
        elif step.kind == "signal":
            framer.interrupted()
        elif step.kind == "exit":
            frames += framer.feed(decoder.flush())
            frames += framer.eof(clean=step.code == 0)
    return recordings.joined(frames)


@pytest.mark.parametrize("name", recordings.NAMES)
@pytest.mark.parametrize("cut", [bytewise, *map(random_cuts, range(20))], ids=["bytewise", *map(str, range(20))])
def test_a_recording_gives_the_same_frames_however_it_is_cut(name: str, cut: Cutter) -> None:
    recording = recordings.load(name)
    assert play(recording, cut) == play(recording, whole)


@pytest.mark.parametrize("name", ["completion-classic", "bitnet-2024-classic"])
def test_a_classic_conversation_gives_its_replies_and_nothing_else(name: str) -> None:
    recording = recordings.load(name)
    frames = play(recording, whole)
    assert frames[0] == Ready()
    assert not any(isinstance(frame, UnexpectedOutput | EngineError | ThinkingText) for frame in frames)
    ends = [frame for frame in frames if isinstance(frame, TurnEnd)]
    sent = [step for step in recording.steps if step.kind == "in"]
    assert len(ends) == len(sent)
    # The fourth of five turns was interrupted; the others came to their own end.
    assert [end.natural for end in ends] == [True, True, True, False, True][: len(ends)]
    replies = [encode(frame.text) for frame in frames if isinstance(frame, ReplyText)]
    assert len(replies) == len(sent)
    assert replies == list(_classic_replies(recording))
    marks = (recording.option("--in-prefix"), recording.option("--in-suffix"), USER_INPUT)
    assert not any(mark.encode() in reply for reply in replies for mark in marks)


def _classic_replies(recording: Recording) -> Iterator[bytes]:
    """What stands between the echoed in-suffix and the in-prefix, cut out with no knowledge of the framer."""
    prefix, suffix = recording.option("--in-prefix").encode(), recording.option("--in-suffix").encode()
    outputs: list[bytes] = [b""]
    interrupted: list[bool] = [False]
    for step in recording.steps:
        if step.kind == "out":
            outputs[-1] += step.data
        elif step.kind == "signal":
            interrupted[-1] = True
        elif step.kind == "in":
            outputs.append(b"")
            interrupted.append(False)
    for output, was_interrupted in list(zip(outputs, interrupted, strict=True))[1:]:
        body = output.replace(b"\x1b[1m\x1b[32m", b"").removeprefix(b"\x1b[0m" + suffix).removesuffix(prefix)
        yield body if was_interrupted else body.removesuffix(b"\n")


def test_the_bitnet_recording_has_the_colour_before_the_in_prefix() -> None:
    # Otherwise the recording would not test what it is there for.
    joined_output = b"".join(step.data for step in recordings.load("bitnet-2024-classic").steps if step.kind == "out")
    assert b"\x1b[1m\x1b[32m\n<|im_start|>user\n" in joined_output


def test_a_full_context_ends_the_reply_without_the_two_newlines_of_the_exit() -> None:
    recording = recordings.load("completion-context-full")
    output = recording.steps[-2].data
    assert output.endswith(b"\n\n") and recording.steps[-1] == Step("exit", code=0)
    *_, last = play(recording, whole)
    assert isinstance(last, ReplyText)
    assert output.endswith(encode(last.text) + b"\n\n")


def test_a_message_that_is_too_long_gives_no_reply() -> None:
    assert play(recordings.load("completion-input-too-long"), whole) == [Ready()]


@pytest.mark.parametrize("name", ["completion-idle-sigint", "bitnet-2024-idle-sigint"])
def test_an_interrupt_while_idle_is_unexpected_output(name: str) -> None:
    frames = play(recordings.load(name), whole)
    assert isinstance(frames[-1], UnexpectedOutput) and "Interrupted by user" in frames[-1].text
    assert isinstance(frames[-2], TurnEnd)


def test_a_modern_conversation() -> None:
    recording = recordings.load("cli-modern")
    frames = play(recording, whole)
    assert frames[0] == Ready()
    text = "".join(frame.text for frame in frames if isinstance(frame, ReplyText))
    assert "B" in text
    assert not any(word in text for word in ("Prompt:", "Generation:", "available commands", "\n> ", USER_INPUT, INFO))
    sent = sum(step.kind == "in" for step in recording.steps)
    assert sum(isinstance(frame, TurnEnd) for frame in frames) == sent


def test_a_modern_interrupt() -> None:
    frames = play(recordings.load("cli-modern-interrupt"), whole)
    assert [frame.natural for frame in frames if isinstance(frame, TurnEnd)] == [False, False]
    assert isinstance(frames[-1], UnexpectedOutput) and "Exiting" in frames[-1].text


def test_a_modern_banner_names_its_commands() -> None:
    recording = recordings.load("cli-modern")
    framer = ModernFramer()
    framer.feed(recording.steps[0].data.decode())
    assert framer.commands == {"/exit", "/regen", "/clear", "/read", "/glob"}


# Any reply at all

_PREFIX, _SUFFIX = "\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
_PIECES = [b"\n", b"\x1b", USER_INPUT.encode(), _PREFIX.encode(), b"\n> ", INFO.encode(), b"\xe2\x98", RESET.encode()]
replies = st.lists(st.one_of(st.binary(max_size=12), st.sampled_from(_PIECES)), max_size=12).map(b"".join)
cuts = st.lists(st.integers(1, 7), max_size=60)


def feed(framer: Framer, data: bytes, sizes: list[int]) -> list[Frame]:
    decoder = Utf8Decoder()
    frames: list[Frame] = []
    at = 0
    for size in [*sizes, len(data)]:
        if at >= len(data):
            break
        frames += framer.feed(decoder.decode(data[at : at + size]))
        at += size
    return frames + framer.feed(decoder.flush())


@given(replies, cuts, st.booleans())
def test_an_ordered_classic_reply_arrives_byte_for_byte(reply: bytes, sizes: list[int], natural: bool) -> None:
    ending = (b"\n" if natural else b"") + (_PREFIX + USER_INPUT).encode()
    if (reply + ending).find((_PREFIX + USER_INPUT).encode()) < len(reply + ending) - len(_PREFIX + USER_INPUT):
        return  # the engine's own words, in full, are the one thing that cannot be told from the engine
    framer = ClassicFramer(_PREFIX, _SUFFIX, ordered=True)
    assert framer.feed(_PREFIX + USER_INPUT) == [Ready()]
    framer.sent()
    if not natural:
        framer.interrupted()
    frames = recordings.joined(feed(framer, (RESET + _SUFFIX).encode() + reply + ending, sizes))
    assert frames[-1] == TurnEnd(natural)
    if reply == (ERROR + RESET).encode() or reply.startswith((ERROR + RESET).encode()):
        return
    assert b"".join(encode(frame.text) for frame in frames[:-1]) == reply


@given(replies, cuts, st.sampled_from(["before newline", "before prefix", "after"]))
def test_an_unordered_classic_reply_arrives_byte_for_byte(reply: bytes, sizes: list[int], place: str) -> None:
    if USER_INPUT.encode() in reply or _PREFIX.encode() in reply + b"\n" + _PREFIX.encode()[:-1]:
        return
    colour, prefix = USER_INPUT.encode(), _PREFIX.encode()
    ending = {
        "before newline": colour + b"\n" + prefix,
        "before prefix": b"\n" + colour + prefix,
        "after": b"\n" + prefix + colour,
    }[place]
    framer = ClassicFramer(_PREFIX, _SUFFIX, ordered=False)
    assert framer.feed(USER_INPUT + _PREFIX) == [Ready()]
    framer.sent()
    frames = recordings.joined(feed(framer, (RESET + _SUFFIX).encode() + reply + ending, sizes))
    assert frames[-1] == TurnEnd(True)
    assert b"".join(encode(frame.text) for frame in frames[:-1]) == reply


@given(replies, cuts)
def test_a_modern_reply_arrives_byte_for_byte(reply: bytes, sizes: list[int]) -> None:
    if PROMPT.encode() in reply + PROMPT.encode()[:-1] or (ERROR + "Error: ").encode() in reply:
        return
    newline = b"" if reply.endswith(b"\n") else b"\n"
    timings = f"{INFO}\n[ Prompt: 5104.3 t/s | Generation: 3378.4 t/s ]\n{RESET}".encode()
    framer = ModernFramer()
    assert framer.feed("\n\nLoading model... " + PROMPT) == [Ready()]
    framer.sent()
    frames = recordings.joined(feed(framer, RESET.encode() + reply + newline + timings + PROMPT.encode(), sizes))
    assert frames[-1] == TurnEnd(True)
    assert b"".join(encode(frame.text) for frame in frames[:-1]) == reply.removesuffix(b"\n")


@given(st.lists(st.one_of(st.binary(max_size=30), st.sampled_from(_PIECES)), max_size=20), st.booleans())
def test_no_bytes_at_all_make_a_framer_raise(chunks: list[bytes], ordered: bool) -> None:
    for framer in (ClassicFramer(_PREFIX, _SUFFIX, ordered=ordered), ModernFramer()):
        decoder = Utf8Decoder()
        for number, chunk in enumerate(chunks):
            framer.feed(decoder.decode(chunk))
            if number % 5 == 2:
                framer.sent()
            framer.settle()
        framer.eof(clean=ordered)


@given(st.binary(), cuts)
def test_the_decoder_loses_no_byte(data: bytes, sizes: list[int]) -> None:
    decoder = Utf8Decoder()
    text, at = "", 0
    for size in sizes:
        text += decoder.decode(data[at : at + size])
        at += size
    text += decoder.decode(data[at:]) + decoder.flush()
    assert encode(text) == data
    assert text == data.decode("utf-8", "surrogateescape")


def test_a_character_is_shown_with_its_last_byte() -> None:
    framer, decoder = ClassicFramer(_PREFIX, _SUFFIX, ordered=True), Utf8Decoder()
    framer.feed(_PREFIX + USER_INPUT)
    framer.sent()
    framer.feed(RESET + _SUFFIX)
    for character in "aé漢👍 .":
        *first, last = character.encode()
        for byte in first:
            assert framer.feed(decoder.decode(bytes([byte]))) == []
        assert framer.feed(decoder.decode(bytes([last]))) == [ReplyText(character)]
    # Only what may begin the end of a turn waits, and not longer than until it cannot be one any more.
    assert framer.feed("\n") == framer.feed("<") == []
    assert framer.feed("b") == [ReplyText("\n<b")]


def test_thinking_is_told_apart() -> None:
    framer = ModernFramer()
    framer.feed(PROMPT)
    framer.sent()
    text = f"{RESET}{REASONING}\n[Start thinking]\n\nhmm[End thinking]\n\n{RESET}42\n{INFO}\n[ Prompt: 1 t/s ]\n{RESET}"
    for size in (1, 3, 1000):
        data = (text + PROMPT).encode()
        frames = recordings.joined(feed(framer, data, [size] * len(data)))
        assert frames == [ThinkingText("hmm"), ReplyText("42"), TurnEnd(True)]
        framer.sent()


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("reset", ["", RESET])
def test_an_interrupt_while_it_thinks(size: int, reset: str) -> None:
    framer = ModernFramer()
    framer.feed(PROMPT)
    framer.sent()
    framer.interrupted()
    timings = f"{INFO}\n[ Prompt: 1.0 t/s | Generation: 2.0 t/s ]\n{RESET}"
    data = f"{RESET}{REASONING}\n[Start thinking]\n\nhmm{reset}\n{timings}{PROMPT}".encode()
    assert recordings.joined(feed(framer, data, [size] * len(data))) == [ThinkingText("hmm"), TurnEnd(False)]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_what_stands_behind_a_forged_prompt_is_a_part_of_a_modern_reply(size: int) -> None:
    timings = f"{INFO}\n[ Prompt: 1.0 t/s | Generation: 2.0 t/s ]\n{RESET}"
    framer = ModernFramer()
    framer.logged("srv  update_slots: all slots are idle")
    framer.feed(PROMPT)
    long = f"so\n{PROMPT}" + "and on " * 1000
    for reply in ("so", f"so\n{timings}{PROMPT}/read x", f"{PROMPT}", long):
        framer.sent()
        data = f"{RESET}{reply}\n{timings}{PROMPT}".encode()
        frames = feed(framer, data, [size] * len(data))
        assert not any(isinstance(frame, TurnEnd) for frame in frames)
        assert framer.logged("slot      release: id  0 | task 0 | stop processing: n_tokens = 25, truncated = 0")
        frames = recordings.joined([*frames, *framer.waiting()])
        assert frames == [ReplyText(reply), TurnEnd(True)]
    framer.sent()
    frames = framer.feed(f"{RESET}late{PROMPT}")  # a log that was switched off behind our back
    assert recordings.joined([*frames, *framer.settle()]) == [ReplyText("late"), TurnEnd(True)]


def test_an_error_in_the_middle_of_a_modern_reply() -> None:
    framer = ModernFramer()
    framer.feed(PROMPT)
    framer.sent()
    frames = recordings.joined(framer.feed(f"{RESET}so{ERROR}Error: the context is full\n{RESET}\n{PROMPT}"))
    assert frames == [ReplyText("so"), EngineError("the context is full"), TurnEnd(True)]


def test_an_error_before_the_first_prompt_is_kept_for_the_log() -> None:
    framer = ModernFramer()
    framer.feed(f"Loading model... {ERROR}Error: server start failed\n{RESET}")
    assert framer.eof(clean=False) == [EngineError("server start failed")]


def test_a_build_taken_for_an_ordered_one_ends_its_turn_after_silence() -> None:
    framer = ClassicFramer(_PREFIX, _SUFFIX, ordered=True)
    framer.feed(_PREFIX + USER_INPUT)
    framer.sent()
    frames = framer.feed(f"{RESET}{_SUFFIX}hello{USER_INPUT}\n{_PREFIX}")
    assert not any(isinstance(frame, TurnEnd) for frame in frames)
    assert framer.settle()[-1] == TurnEnd(True)


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize("ending", ["", "\n", "\n" + _PREFIX, _PREFIX, "\n" + _PREFIX + RESET])
@pytest.mark.parametrize("words", ["\nInterrupted by user\n", "\n", ""])
def test_an_interrupt_that_kills_leaves_no_trace_in_the_reply(ending: str, words: str, size: int) -> None:
    if words != "\nInterrupted by user\n" and _PREFIX not in ending:
        return  # nothing that the engine wrote, then
    framer = ClassicFramer(_PREFIX, _SUFFIX, ordered=True)
    framer.feed(_PREFIX + USER_INPUT)
    framer.sent()
    framer.interrupted()
    data = f"{RESET}{_SUFFIX}all\nwas said{ending}{words}".encode()
    frames = feed(framer, data, [size] * len(data)) + framer.eof(clean=False)
    assert recordings.joined(frames) == [ReplyText("all\nwas said")]


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize("said", ["", "all\nwas said\n", "I said:\n\nExiting...\n, and left"])
def test_an_interrupt_before_the_message_is_read_ends_a_modern_engine(said: str, size: int) -> None:
    framer = ModernFramer()
    framer.feed(PROMPT)
    framer.sent()
    framer.interrupted()
    data = f"{RESET}{said}\n\nExiting...\n".encode()
    frames = feed(framer, data, [size] * len(data)) + framer.eof(clean=True)
    assert recordings.joined(frames) == ([ReplyText(said)] if said else [])


def test_silence_alone_ends_nothing() -> None:
    framer = ClassicFramer(_PREFIX, _SUFFIX, ordered=True)
    framer.feed(_PREFIX + USER_INPUT)
    framer.sent()
    framer.feed(f"{RESET}{_SUFFIX}a model may write this:\n{_PREFIX}")
    assert framer.settle() == []


@given(st.text("ab\n\x1b", max_size=12), st.text("ab\n\x1b", min_size=1, max_size=5))
def test_held_length_is_the_longest_suffix_that_begins_an_ending(text: str, ending: str) -> None:
    expected = max(length for length in range(len(ending)) if text.endswith(ending[:length]) or length == 0)
    assert held_length(text, [ending]) == min(expected, len(text))
