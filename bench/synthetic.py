"""Plain text as fast as it goes: the decoder and framer alone, and behind a child that does nothing but write."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from itertools import cycle

from bare import converse
from report import Figure, Goal, Section, ratios

from bitnet_chat.backend import ReplyOptions, Sampling
from bitnet_chat.context.token_count import Counter, TokenCount
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.process import EngineProcess, ProcessState
from bitnet_chat.engine.protocols import EncodedMessage, LaunchCommand
from bitnet_chat.engine.protocols.classic import ClassicFramer
from bitnet_chat.engine.protocols.modern import ModernFramer
from bitnet_chat.engine.session import Session
from bitnet_chat.engine_output import RESET, USER_INPUT, Framer, ReplyText, TurnEnd
from bitnet_chat.events import Completed, TextDelta
from bitnet_chat.text.utf8 import Utf8Decoder

_MB = 1e6
_GOAL = 50.0
_IN_PREFIX, _IN_SUFFIX = "\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
_LINE = "Plain text, nothing but plain text; seventy-two characters and a newline.\n"
_SIZE = 64 * 1000 * 1000  # bytes of one reply
_END = "\n" + _IN_PREFIX + USER_INPUT

# A classic engine that answers each line with SIZE bytes, written in blocks of 64 KiB.
_CHILD = f"""
import os, sys
block = memoryview(({_LINE!r} * 1000).encode()[:1 << 16])
os.write(1, {(_IN_PREFIX + USER_INPUT)!r}.encode())
for line in sys.stdin.buffer:
    os.write(1, {(RESET + _IN_SUFFIX)!r}.encode())
    left = {_SIZE}
    while left:
        left -= os.write(1, block[:left])
    os.write(1, {_END!r}.encode())
"""


class _Flood:
    """The dialect of that child."""

    closes_interrupted = True
    hears_while_reading = True
    carries_all = False
    max_tokens: int | None = None
    no_message: bytes | None = None
    context_size = 0
    go_on_message = ""
    argv = (sys.executable, "-I", "-S", "-c", _CHILD)

    def launch(
        self,
        history: Conversation,
        *,
        message: str = "",
        unfinished: bool = False,
        sampling: Sampling | None = None,
    ) -> LaunchCommand:
        return LaunchCommand(argv=self.argv, framer=ClassicFramer(_IN_PREFIX, _IN_SUFFIX, ordered=True))

    def use(self, arguments: Mapping[str, object]) -> str:
        return ""

    def preparation(self, history: Conversation) -> EncodedMessage | None:
        return None

    def input(
        self, launch: LaunchCommand, context: str, history: Conversation, text: str, options: ReplyOptions | None = None
    ) -> EncodedMessage | None:
        return EncodedMessage(text.encode() + b"\n")

    def variants(
        self, launch: LaunchCommand, history: Conversation, text: str, options: ReplyOptions, count: int
    ) -> EncodedMessage | None:
        return None

    def render_ahead(self, history: Conversation, text: str) -> None:
        pass

    def is_prepared(self, launch: LaunchCommand, context: str, history: Conversation) -> bool:
        return True

    def context_after(self, context: str, reply: str, *, natural: bool) -> str:
        return ""

    def clearing(self) -> bytes | None:
        return None

    def note_of(self, text: str) -> str:
        return ""

    def cost_of_history(self, history: Conversation, count: Counter) -> TokenCount:
        return TokenCount(0)

    def cost_of_message(self, text: str, count: Counter) -> TokenCount:
        return count(text)


def measure(runs: int) -> Section:
    section = Section("A child that does nothing but write")
    section.notes.append(f"{_SIZE / _MB:.0f} MB of plain text in one reply; in memory 16 MB; {runs} rounds in turn")
    results: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        results.setdefault(name, []).append(value)

    for number in range(runs + 1):
        rates = {
            "bare pty": _through_pty(),
            "pty, decoder, framer": asyncio.run(_through_process()),
            "the same and the session's events": asyncio.run(_through_session()),
            "in memory, classic, chunks of 4 KB": _in_memory(_classic(), 4096),
            "in memory, classic, chunks of 64 KB": _in_memory(_classic(), 1 << 16),
            "in memory, modern, chunks of 4 KB": _in_memory(_modern(), 4096),
            "in memory, modern, chunks of 64 KB": _in_memory(_modern(), 1 << 16),
        }
        if number:
            for name, rate in rates.items():
                note(name, rate)
    section.figures += [Figure.of(name, "MB/s", samples) for name, samples in results.items()]
    child = results["pty, decoder, framer"]
    section.figures.append(Figure.of("pty, decoder, framer against bare pty", "%", ratios(child, results["bare pty"])))
    for name in ("pty, decoder, framer", "the same and the session's events"):
        value = Figure.of(name, "MB/s", results[name]).median
        section.goals.append(Goal(f"synthetic child, {name}", value, "MB/s", _GOAL, at_least=True))
    return section


def measure_small(runs: int) -> Section:
    """What one token costs: pieces of 1 to 8 bytes."""
    section = Section("Decoder and framer, pieces of 1 to 8 bytes, in memory")
    classic, modern = [], []
    for _ in range(runs):
        classic.append(_per_piece(_classic))
        modern.append(_per_piece(_modern))
    section.figures += [Figure.of("classic", "µs/piece", classic), Figure.of("modern", "µs/piece", modern)]
    return section


def _classic() -> Framer:
    framer = ClassicFramer(_IN_PREFIX, _IN_SUFFIX, ordered=True)
    framer.feed(_IN_PREFIX + USER_INPUT)
    framer.sent()
    framer.feed(RESET + _IN_SUFFIX + "x")
    return framer


def _modern() -> Framer:
    framer = ModernFramer()
    framer.feed(USER_INPUT + "\n> ")
    framer.sent()
    framer.feed(RESET + "x")
    return framer


def _in_memory(framer: Framer, size: int) -> float:
    data = (_LINE * (16_000_000 // len(_LINE))).encode()
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    decoder = Utf8Decoder()
    got = 0
    begun = time.perf_counter()
    for chunk in chunks:
        for frame in framer.feed(decoder.decode(chunk)):
            if isinstance(frame, ReplyText):
                got += len(frame.text)
    seconds = time.perf_counter() - begun
    assert len(data) - got < 64, "bytes were lost"  # the end may be held back
    return len(data) / _MB / seconds


def _per_piece(new: Callable[[], Framer]) -> float:
    framer, decoder = new(), Utf8Decoder()
    data = (_LINE * 2000).encode()
    pieces = []
    at = 0
    for size in cycle((4, 1, 6, 3, 8, 5, 2, 7)):
        if at >= len(data):
            break
        pieces.append(data[at : at + size])
        at += size
    begun = time.perf_counter()
    for piece in pieces:
        framer.feed(decoder.decode(piece))
    return 1e6 * (time.perf_counter() - begun) / len(pieces)


def _through_pty() -> float:
    reply = converse(_Flood.argv, USER_INPUT.encode(), b"go\n", end=_END.encode())
    assert len(reply.data) >= _SIZE
    return _SIZE / _MB / reply.seconds


async def _through_process() -> float:
    flood = _Flood()
    process = EngineProcess(flood, flood.launch(Conversation()), "pty")
    try:
        await process.settled()
        begun = time.perf_counter()
        process.send(EncodedMessage(b"go\n"))
        got = 0
        over = False
        while not over and (frames := await process.frames()):
            for frame in frames:
                if isinstance(frame, ReplyText):
                    got += len(frame.text)
                else:
                    over = isinstance(frame, TurnEnd)
        seconds = time.perf_counter() - begun
        assert got == _SIZE, "bytes were lost"
        return _SIZE / _MB / seconds
    finally:
        process.kill()
        await process.gone()


async def _through_session() -> float:
    session = Session(_Flood)
    try:
        session.supervisor.prepare(Conversation())
        while session.state is not ProcessState.IDLE:  # noqa: ASYNC110 -- outside of what is measured
            await asyncio.sleep(0.01)
        begun = time.perf_counter()
        got = 0
        async for event in session.reply(Conversation().with_user("go"), ReplyOptions()):
            if isinstance(event, TextDelta):
                got += len(event.text)
            elif isinstance(event, Completed):
                assert got == len(event.text) == _SIZE, "bytes were lost"
        return _SIZE / _MB / (time.perf_counter() - begun)
    finally:
        await session.close()
