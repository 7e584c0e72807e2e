"""Figures out of the logs of real engines, whenever their lines are read, and estimates where they tell none."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import recordings
from recordings import FOLDER

from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.engine.log import EngineLog, LogStatsParser
from bitnet_chat.engine.reply import Estimate, ReplyAccumulator
from bitnet_chat.engine_output import Frame, Ready, ReplyText, TurnEnd
from bitnet_chat.repl.statistics import SessionStats
from bitnet_chat.text.utf8 import Utf8Decoder


def entries(name: str) -> Iterator[tuple[str, bytes]]:
    for line in (FOLDER / f"{name}.jsonl").read_text().splitlines():
        entry = json.loads(line)
        yield entry["kind"], base64.b64decode(entry.get("b64", ""))


def metered(name: str, *, size: int = 1 << 20, late: bool = False) -> LogStatsParser:
    """Fed with the log of a recording in pieces of at most ``size`` bytes. ``late``: what was logged before a message
    is read behind it, and what was logged during the reply at its end."""
    meter = LogStatsParser()
    log = EngineLog(meter.line)
    unread = b""
    for kind, data in entries(name):
        if kind == "err":
            unread += data
        elif kind == "in":
            meter.sent()
        if not late:
            for at in range(0, len(unread), size):
                log.feed(unread[at : at + size])
            unread = b""
    log.feed(unread)
    log.close()
    return meter


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("late", [False, True])
def test_bitnet_2024_tells_all_with_verbosity_1(size: int, late: bool) -> None:
    """``D`` comes in a write of its own; 20 tokens of system prompt, 13 of a message, 24 of text and one that ends."""
    meter = metered("bitnet-2024-verbosity-1", size=size, late=late)
    assert (meter.context_size, meter.prompt_size, meter.prompt_tokens) == (512, 33, 13)
    assert meter.tokens == 25
    meter.ended(0, natural=True)
    assert (meter.tokens, meter.context_used) == (24, 58)


def feed(meter: LogStatsParser, text: str) -> None:
    for line in text.splitlines():
        meter.line(line)


LOADED = "D embd_inp.size(): 2260, n_consumed: 0\nD n_past = 2048\nD embd_inp.size(): 2260, n_consumed: 2048"
ASKED = """D n_remain: -4
D n_past = 2260
D embd_inp.size(): 2276, n_consumed: 2260
D n_past = 2276
D n_remain: -5
D n_past = 2277
D n_remain: -6"""


@pytest.mark.parametrize("read", range(4))
@pytest.mark.parametrize("begun", [LOADED, LOADED.replace("2048", "212").replace("2260", "212")])
def test_a_history_is_no_part_of_the_message(begun: str, read: int) -> None:
    """The last of several batches is evaluated with the message: 228 tokens then, of which 16 are new. Whatever part of
    the log was ``read`` when the message was sent."""
    meter, lines = LogStatsParser(), begun.splitlines()
    feed(meter, "\n".join(lines[:read]))
    assert read < 3 or meter.context_used in (212, 2260), "what is taken is in the window"
    meter.sent()
    feed(meter, "\n".join(lines[read:]))
    feed(meter, ASKED if begun == LOADED else ASKED.replace("22", "2", 4).replace("260", "212").replace("276", "228"))
    assert (meter.prompt_tokens, meter.tokens) == (16, 2)


def test_a_message_of_several_batches_and_the_next_turn() -> None:
    meter = LogStatsParser()
    feed(meter, "embd_inp.size(): 20, n_consumed: 0\nn_past = 20\nembd_inp.size(): 20, n_consumed: 20")
    meter.sent()
    feed(meter, "n_remain: -4000\nembd_inp.size(): 4040, n_consumed: 20\nn_past = 2068")
    feed(meter, "embd_inp.size(): 4040, n_consumed: 2068\nn_past = 4040\nn_remain: -4001")
    feed(meter, "n_past = 4041\nn_remain: -4002")
    meter.ended(0, natural=True)
    assert (meter.prompt_tokens, meter.prompt_size, meter.tokens, meter.context_used) == (4020, 4040, 1, 4042)
    meter.sent()
    feed(meter, "n_remain: -4005\nn_past = 4042\nembd_inp.size(): 4053, n_consumed: 4040")
    feed(meter, "n_past = 4055\nn_remain: -4006")
    assert (meter.prompt_tokens, meter.prompt_size) == (13, 4055)


def test_an_engine_that_goes_on_adds_nothing() -> None:
    """The log of a message that the engine takes for an empty one has no figure for it either."""
    meter = LogStatsParser()
    feed(meter, "n_past = 20")
    meter.sent(silently=True)
    feed(meter, "D empty line, passing control back\nn_past = 21\nn_remain: -1\nn_past = 22\nn_remain: -2")
    assert (meter.prompt_tokens, meter.prompt_size, meter.tokens) == (0, 21, 2)
    meter.sent()
    feed(meter, "D empty line, passing control back\nn_past = 23\nn_remain: -3")
    assert meter.tokens == 1


@pytest.mark.parametrize("name", ["bitnet-2024-context-full", "ik-context-full-stop"])
def test_a_full_context_that_ends_the_process_is_told(name: str) -> None:
    """BitNet 2024 obeys --no-context-shift, ik_llama.cpp ends with ``-n -2``. The sums that they tell at their end are
    no figures of the last turn."""
    meter = metered(name)
    assert meter.overflowed and not meter.has_shifted and meter.context_size == 256
    assert (meter.tokens is None) == (name == "ik-context-full-stop")
    assert meter.tokens != 214 and (meter.context_used or 0) <= 256
    frames = list(framed(name))
    assert isinstance(frames[-1], ReplyText) and not frames[-1].text.endswith("\n\n")
    assert not any(isinstance(frame, TurnEnd) for frame in frames)


def test_a_shift_that_is_told_is_noticed() -> None:
    meter = metered("bitnet-2024-shift")
    assert meter.has_shifted and meter.overflowed


@pytest.mark.parametrize("name", ["ik-context-full", "bitnet-2024-context-full-n-2"])
def test_a_shift_that_nothing_tells(name: str) -> None:
    """ik_llama.cpp takes --no-context-shift and shifts; builds tell nothing below their level for it: only an account
    of our own sees it coming."""
    meter = metered(name)
    assert not meter.has_shifted and not meter.overflowed
    assert (meter.tokens, meter.prompt_tokens, meter.context_used) == (None, None, None)
    assert [type(frame) for frame in framed(name)][:2] == [Ready, ReplyText]


def framed(name: str) -> Iterator[Frame]:
    """Runs of text as one."""
    recording = recordings.load(name)
    framer, decoder = recording.framer(), Utf8Decoder()
    text = ""
    for step in recording.steps:
        frames: list[Frame] = []
        if step.kind == "out":
            frames = framer.feed(decoder.decode(step.data))
        elif step.kind == "in":
            framer.sent()
        elif step.kind == "signal":
            framer.interrupted()
        elif step.kind == "exit":
            frames = framer.eof(clean=step.code == 0)
        for frame in frames:
            if isinstance(frame, ReplyText):
                text += frame.text
            else:
                yield from [ReplyText(text)] if text else []
                text = ""
                yield frame
    yield from [ReplyText(text)] if text else []


def test_a_modern_engine_tells_whether_its_last_token_was_the_end() -> None:
    meter = LogStatsParser()
    for is_whole in (True, False):
        meter.sent()
        feed(meter, "I slot operator(): id  0 | task 0 | new prompt, n_ctx_slot = 2048, n_keep = 0, task.n_tokens = 14")
        feed(meter, "D slot process_toke: id  0 | task 0 | stopped by limit, n_gen = 12, n_predict = 12")
        if is_whole:
            feed(meter, "D slot process_toke: id  0 | task 0 | stopped by EOS")
        feed(meter, "I slot print_timing: id  0 | task 0 | eval time = 5.73 ms / 12 tokens (    0.52 ms per token)")
        assert (meter.tokens, meter.prompt_size, meter.is_whole) == (12, 14, is_whole)
        meter.ended(0, natural=is_whole)
        assert (meter.tokens, meter.context_used) == (12 - is_whole, 26)


# Turns


def words(text: str) -> TokenCount:
    return TokenCount(len(text.split()), 0.03)


def turn(meter: LogStatsParser) -> ReplyAccumulator:
    return ReplyAccumulator(meter, 0.0, estimate=Estimate(TokenCount(20), lambda: TokenCount(13, 0.1), words))


def test_a_rate_leaves_out_the_tokens_of_the_first_characters() -> None:
    """An emoji is three tokens, of which the first two tell nothing: their time is that until the first character."""
    meter = LogStatsParser()
    meter.sent()
    emoji = ReplyAccumulator(
        meter, 0.0, estimate=Estimate(None, lambda: TokenCount(9), lambda text: TokenCount(3 * len(text)))
    )
    for _ in range(4):
        emoji.said("🙂")
    stats = replace(emoji.stats(), time_to_first_token=1.0, seconds=1.0 + 9 / 75)
    assert (stats.tokens, stats.first_tokens) == (12, 3)
    assert stats.tokens_per_second == pytest.approx(75)
    assert SessionStats().plus(stats).tokens_per_second == pytest.approx(75)


def test_what_an_engine_does_not_tell_is_estimated_and_said_to_be() -> None:
    meter = LogStatsParser()
    meter.sent()
    silent = turn(meter)
    for piece in ("It is ", "a long st", "ory, of many pieces that ", "tell nothing"):
        silent.said(piece)
    silent.over(natural=True)
    stats = silent.stats()
    assert (stats.prompt_tokens, stats.prompt_size, stats.tokens, stats.context_used) == (13, 33, 11, 45)
    assert not stats.exact


@pytest.mark.parametrize("log", ["", "n_remain: -4\nn_past = 34\nn_remain: -5"])
def test_a_message_that_an_engine_was_started_with_is_counted(log: str) -> None:
    meter = LogStatsParser()
    feed(meter, "n_past = 33" if log else "")
    meter.sent(silently=True)
    started_with_it = turn(meter)
    feed(meter, log)
    started_with_it.said("one two")
    started_with_it.over(natural=True)
    stats = started_with_it.stats()
    assert (stats.prompt_tokens, stats.prompt_size) == (13, 33)
    assert not stats.exact, "the message alone is an estimate"


def test_a_reply_that_goes_on_adds_nothing_before_it() -> None:
    meter = LogStatsParser()
    meter.sent(silently=True)
    going_on = ReplyAccumulator(meter, 0.0, estimate=Estimate(TokenCount(20), lambda: TokenCount(0), words))
    going_on.said("more")
    going_on.over()
    assert (going_on.stats().prompt_tokens, going_on.stats().prompt_size) == (0, 20)


def test_thoughts_are_tokens_of_the_reply() -> None:
    silent = turn(LogStatsParser())
    silent.thought("hm hm")
    silent.said("fine")
    assert silent.stats().tokens == 3


def test_what_it_tells_is_exact() -> None:
    meter = LogStatsParser()
    meter.sent()
    told = turn(meter)
    feed(meter, "n_remain: -3\nembd_inp.size(): 40, n_consumed: 20\nn_past = 40\nn_remain: -4")
    feed(meter, "n_past = 41\nn_remain: -5")
    told.said("one")
    told.over(natural=True)
    meter.ended(told.tokens, natural=True)
    stats = told.stats()
    assert (stats.prompt_tokens, stats.prompt_size, stats.tokens, stats.context_used) == (20, 40, 1, 42)
    assert stats.exact
