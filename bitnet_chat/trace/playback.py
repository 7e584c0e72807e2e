"""Playback of a trace through the decoder and the framers of the program. Pure: the caller handles the timing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bitnet_chat.engine.log import EngineLog, strip_level
from bitnet_chat.engine.protocols import native
from bitnet_chat.engine.protocols.classic import ClassicFramer, LoggedClassicFramer
from bitnet_chat.engine.protocols.modern import PROMPT, ModernFramer
from bitnet_chat.engine.protocols.native import NativeFramer
from bitnet_chat.engine_output import RESET, USER_INPUT, Frame, Framer
from bitnet_chat.errors import UsageError
from bitnet_chat.filters.thinking import ThinkingFramer, leaves_open
from bitnet_chat.text.utf8 import Utf8Decoder
from bitnet_chat.trace.format import TraceEntry, TraceEntryKind

_SETTLE_AFTER = 2.0  # as in engine/process.py: seconds of silence after which a probable end of a reply is accepted


@dataclass(frozen=True, slots=True)
class PlaybackStep:
    """An entry, and the frames that the framer made from it."""

    entry: TraceEntry
    frames: tuple[Frame, ...] = ()


@dataclass(slots=True)
class _PlayedEngine:
    """The state of one engine during playback."""

    framer: Framer
    last_output: float
    decoder: Utf8Decoder = field(default_factory=Utf8Decoder)
    waits: bool = False
    """Whether the log has reported that the engine waits for input. Its earlier output may follow later."""
    log: EngineLog = field(init=False)

    def __post_init__(self) -> None:
        self.log = EngineLog(self._line)

    def _line(self, line: str) -> None:
        self.waits = self.framer.logged(strip_level(line)) or self.waits

    def settled(self) -> list[Frame]:
        waits, self.waits = self.waits, False
        return self.framer.waiting() if waits else []


def play(entries: Iterable[TraceEntry]) -> Iterator[PlaybackStep]:
    """Yield a step for each entry in order.

    Raises UsageError for data of an engine before its start, and for an engine that was not started for a conversation.
    """
    engines: dict[int, _PlayedEngine] = {}
    for entry in entries:
        if entry.kind is TraceEntryKind.SPAWN:
            again = bool(entry.facts.get("again"))
            engines[entry.process] = _PlayedEngine(_framer(entry, in_reply=again), entry.at)
            yield PlaybackStep(entry)
        elif entry.kind in (TraceEntryKind.ABOUT, TraceEntryKind.GAP) or (
            entry.kind is TraceEntryKind.ERR and entry.process not in engines
        ):
            yield PlaybackStep(entry)
        else:
            engine = engines.get(entry.process)
            if engine is None:
                raise UsageError(
                    f"the recording has data of engine {entry.process} before it was started",
                    remedy="give the whole file, beginning with its spawn",
                )
            yield PlaybackStep(entry, tuple(_frames(engine, entry)))
    for process, engine in engines.items():
        if frames := engine.settled():
            yield PlaybackStep(TraceEntry(engine.last_output, TraceEntryKind.OUT, process, b""), tuple(frames))


def _frames(engine: _PlayedEngine, entry: TraceEntry) -> list[Frame]:
    framer, frames = engine.framer, list[Frame]()
    if entry.kind is TraceEntryKind.ERR:
        engine.log.feed(entry.data)
        return frames
    if entry.kind is not TraceEntryKind.OUT:
        frames += engine.settled()
    if entry.at - engine.last_output >= _SETTLE_AFTER:
        frames += framer.settle()
    if entry.kind is TraceEntryKind.OUT:
        engine.last_output = entry.at
        frames += framer.feed(engine.decoder.decode(entry.data))
    elif entry.kind is TraceEntryKind.IN:
        engine.last_output = entry.at
        (framer.continued if _is_continuation(framer, entry.data) else framer.sent)(entry.data)
    elif entry.kind is TraceEntryKind.COMMAND and native.is_stop(entry.data):
        framer.interrupted()
    elif entry.kind is TraceEntryKind.COMMAND:
        framer.commanded(entry.data)
    elif entry.kind is TraceEntryKind.SIGNAL and entry.text == "SIGINT":
        framer.interrupted()
    elif entry.kind is TraceEntryKind.EXIT:
        frames += framer.feed(engine.decoder.flush())
        frames += framer.eof(clean=entry.number == 0)
    return frames


def _is_continuation(framer: Framer, data: bytes) -> bool:
    """Whether ``data`` instructs the engine to continue its reply after the thinking."""
    if not isinstance(framer, ThinkingFramer) or framer.kind != native.KIND:
        return data == b"\n"  # a message is never empty
    return framer.is_open and not leaves_open(native.prompt_of(data), framer.tags)


def is_native(spawn: TraceEntry) -> bool:
    """Whether the started engine is a native one."""
    return spawn.facts.get("framer") == native.KIND


def is_modern(argv: tuple[str, ...]) -> bool:
    """Whether the command line, which is not of a native engine, is that of an engine with the modern protocol."""
    return "--in-prefix" not in argv


def _framer(spawn: TraceEntry, *, in_reply: bool) -> Framer:
    """Make the framer for an engine. ``in_reply``: its start was not kept, so a reply is assumed to be in progress."""
    argv = spawn.argv
    framer: Framer
    if is_native(spawn):
        framer, opening, echo = NativeFramer(within=in_reply), "", ""
    elif "--simple-io" not in argv:
        raise UsageError(
            "the recording has an engine that was not started for a conversation",
            remedy="give a file that bitnet-chat report wrote",
        )
    elif is_modern(argv):
        framer = ModernFramer()
        opening, echo = PROMPT, RESET
    else:
        prefix, suffix = option(argv, "--in-prefix"), option(argv, "--in-suffix")
        kind = spawn.facts.get("framer") or _kind(argv)
        if str(kind).startswith("logged"):
            framer = LoggedClassicFramer(prefix, suffix, ordered=kind == "logged, ordered")
        else:
            framer = ClassicFramer(prefix, suffix, ordered=kind == "ordered")
        opening, echo = prefix + USER_INPUT, RESET + suffix
    thinking = spawn.facts.get("thinking")
    if isinstance(thinking, list) and len(thinking) == 3 and all(isinstance(tag, str) and tag for tag in thinking[:2]):
        framer = ThinkingFramer(framer, (thinking[0], thinking[1]), is_open=bool(thinking[2]) and not in_reply)
    if in_reply and opening:
        framer.feed(opening)
        framer.sent()
        framer.feed(echo)
    return framer


def _kind(argv: tuple[str, ...]) -> str:
    """Guess the framer of a trace that does not name it.

    Builds whose ``--color`` takes a value flush their log before they change the colour.
    """
    if option(argv, "--color") == "on":
        return "ordered"
    return "logged" if "--log-verbosity" in argv else "unordered"


def option(argv: tuple[str, ...], flag: str) -> str:
    """Return the value of a flag; empty if the flag is missing."""
    at = argv.index(flag) if flag in argv else len(argv)
    return argv[at + 1] if at + 1 < len(argv) else ""
