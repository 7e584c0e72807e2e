"""Play a recording back through the program's decoder and framers. Pure: the caller keeps the time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bitnet_chat.engine.log import EngineLog, strip_level
from bitnet_chat.engine.protocols import native
from bitnet_chat.engine.protocols.classic import ClassicFramer, LoggedClassicFramer
from bitnet_chat.engine.protocols.modern import PROMPT, ModernFramer
from bitnet_chat.engine.protocols.native import NativeFramer
from bitnet_chat.engine_frames import RESET, USER_INPUT, Frame, Framer
from bitnet_chat.errors import UsageError
from bitnet_chat.filters.thinking import ThinkingFramer, leaves_open
from bitnet_chat.text.utf8 import Utf8Decoder
from bitnet_chat.trace.format import TraceEntry, TraceEntryKind

_SETTLE_AFTER = 2.0  # as in engine/process.py: seconds of silence after which a likely end is taken for one


@dataclass(frozen=True, slots=True)
class PlaybackStep:
    """An entry, and the frames that the framer made of it."""

    entry: TraceEntry
    frames: tuple[Frame, ...] = ()


@dataclass(slots=True)
class _PlayedEngine:
    framer: Framer
    heard_at: float
    decoder: Utf8Decoder = field(default_factory=Utf8Decoder)
    waits: bool = False
    """Its log has said that it waits for input; what it printed before may still come."""
    log: EngineLog = field(init=False)

    def __post_init__(self) -> None:
        self.log = EngineLog(self._line)

    def _line(self, line: str) -> None:
        self.waits = self.framer.logged(strip_level(line)) or self.waits

    def settled(self) -> list[Frame]:
        waits, self.waits = self.waits, False
        return self.framer.waiting() if waits else []


def play(entries: Iterable[TraceEntry]) -> Iterator[PlaybackStep]:
    """Steps in order. Raises UsageError for bytes of an engine without a start, or of an unknown dialect."""
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
            yield PlaybackStep(TraceEntry(engine.heard_at, TraceEntryKind.OUT, process, b""), tuple(frames))


def _frames(engine: _PlayedEngine, entry: TraceEntry) -> list[Frame]:
    framer, frames = engine.framer, list[Frame]()
    if entry.kind is TraceEntryKind.ERR:
        engine.log.feed(entry.data)
        return frames
    if entry.kind is not TraceEntryKind.OUT:
        frames += engine.settled()
    if entry.at - engine.heard_at >= _SETTLE_AFTER:
        frames += framer.settle()
    if entry.kind is TraceEntryKind.OUT:
        engine.heard_at = entry.at
        frames += framer.feed(engine.decoder.decode(entry.data))
    elif entry.kind is TraceEntryKind.IN:
        engine.heard_at = entry.at
        (framer.continued if _goes_on(framer, entry.data) else framer.sent)(entry.data)
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


def _goes_on(framer: Framer, data: bytes) -> bool:
    """Whether an engine was instructed to continue its reply after its thoughts."""
    if not isinstance(framer, ThinkingFramer) or framer.kind != native.KIND:
        return data == b"\n"  # no message is empty
    return framer.is_open and not leaves_open(native.prompt_of(data), framer.tags)


def is_native(spawn: TraceEntry) -> bool:
    return spawn.facts.get("framer") == native.KIND


def is_modern(argv: tuple[str, ...]) -> bool:
    """Whether a command line, not of a native engine, is one for an engine of the modern dialect."""
    return "--in-prefix" not in argv


def _framer(spawn: TraceEntry, *, in_reply: bool) -> Framer:
    """Framer of a recording. ``in_reply``: the beginning was not kept, so the middle of a reply is most likely."""
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
    """Guess for a recording without this information. Builds whose flag takes a value flush their log before they
    change colour."""
    if option(argv, "--color") == "on":
        return "ordered"
    return "logged" if "--log-verbosity" in argv else "unordered"


def option(argv: tuple[str, ...], flag: str) -> str:
    """Value of a flag; empty without the flag."""
    at = argv.index(flag) if flag in argv else len(argv)
    return argv[at + 1] if at + 1 < len(argv) else ""
