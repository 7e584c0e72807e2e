"""One engine process: its state, and the conversion of its bytes to frames.

The states and the transitions between them are one table. Output in a state that expects none means that engine
and program disagree about the turn, which cannot be repaired, so the process is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections import deque
from dataclasses import replace
from enum import Enum, StrEnum, auto
from pathlib import Path
from typing import Protocol

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.loading import LoadingWatch
from bitnet_chat.engine.log import EngineLog, LogStatsParser, strip_level
from bitnet_chat.engine.process_faults import EngineFault, closed_output, log_in_output
from bitnet_chat.engine.protocols import GO_ON, EncodedMessage, EngineProtocol, LaunchCommand
from bitnet_chat.engine.protocols.log_format import LogDetector, log_line
from bitnet_chat.engine.transport import Transport, TransportKind, spawn
from bitnet_chat.engine_output import EngineError, Frame, Ready, ReplyFigures, TurnEnd, UnexpectedOutput
from bitnet_chat.errors import EngineDiedError, InvalidTransitionError
from bitnet_chat.filters.thinking import ThinkingFramer
from bitnet_chat.text.utf8 import Utf8Decoder

_SETTLE_AFTER = 2.0  # seconds of silence after which a likely end is taken for one
_STOP_WITHIN = 2.0  # seconds that an engine has to react to an interrupt before it is replaced
_STOP_READING_WITHIN = 0.3  # the same for one that reads a prompt and would read all of it first
_MISSED = "showed no prompt"
_END_WITHIN = 0.5  # seconds between the end of its output and that of the process, which usually go together


class ProcessState(StrEnum):
    STARTING = "starting"
    IDLE = "idle"
    GENERATING = "generating"
    INTERRUPTING = "interrupting"
    DEAD = "dead"


class Signal(Enum):
    """Signals that change the state of a process."""

    READY = auto()
    SEND = auto()
    COMMAND = auto()
    STOP = auto()
    TURN_END = auto()
    STRAY = auto()
    EXIT = auto()


TRANSITIONS = {
    (ProcessState.STARTING, Signal.READY): ProcessState.IDLE,
    (ProcessState.STARTING, Signal.STRAY): ProcessState.DEAD,
    (ProcessState.STARTING, Signal.EXIT): ProcessState.DEAD,
    (ProcessState.IDLE, Signal.SEND): ProcessState.GENERATING,
    (ProcessState.IDLE, Signal.COMMAND): ProcessState.STARTING,
    (ProcessState.IDLE, Signal.STRAY): ProcessState.DEAD,
    (ProcessState.IDLE, Signal.EXIT): ProcessState.DEAD,
    (ProcessState.GENERATING, Signal.STOP): ProcessState.INTERRUPTING,
    (ProcessState.GENERATING, Signal.TURN_END): ProcessState.IDLE,
    (ProcessState.GENERATING, Signal.STRAY): ProcessState.DEAD,
    (ProcessState.GENERATING, Signal.EXIT): ProcessState.DEAD,
    (ProcessState.INTERRUPTING, Signal.STOP): ProcessState.INTERRUPTING,
    (ProcessState.INTERRUPTING, Signal.TURN_END): ProcessState.IDLE,
    (ProcessState.INTERRUPTING, Signal.STRAY): ProcessState.DEAD,
    (ProcessState.INTERRUPTING, Signal.EXIT): ProcessState.DEAD,
    (ProcessState.DEAD, Signal.EXIT): ProcessState.DEAD,
}


def next_state(state: ProcessState, signal: Signal) -> ProcessState:
    """Raises InvalidTransitionError for a signal that ``state`` does not accept."""
    try:
        return TRANSITIONS[state, signal]
    except KeyError:
        raise InvalidTransitionError("the engine process", state.value, signal.name.lower()) from None


class TraceListener(Protocol):
    """Receives all bytes from and to one engine. Fast, and never raises."""

    def output(self, data: bytes) -> None: ...

    def logged(self, data: bytes) -> None: ...

    def wrote(self, data: bytes, *, command: bool) -> None:
        """Input was written. ``command``: it is not a message."""

    def signalled(self, name: str) -> None: ...

    def exited(self, code: int) -> None: ...


class EngineProcess:
    """Starts at once; :meth:`frames` returns all that follows. Needs a running event loop."""

    def __init__(self, protocol: EngineProtocol, launch: LaunchCommand, transport: TransportKind) -> None:
        """Start the process. Raises EngineDiedError when it cannot be started."""
        self.state = ProcessState.STARTING
        self.meter = LogStatsParser()
        self.log = EngineLog(self._line)
        told = launch.prompt.partition("\0")[0]  # the log is written by C
        self.log.quotes("prompt", told.removesuffix("\n").count("\n"))
        self.launch = replace(launch, prompt="")  # which may be long, and is written once
        self.context = launch.context
        """What the engine has evaluated; see :class:`bitnet_chat.engine.protocols.LaunchCommand`."""
        self.exit_code: int | None = None
        self.was_stopped = False
        """True from an interrupt until the engine has survived it: its death is then expected."""
        self.out_of_step = False
        """True after output without a request."""
        self.fault: EngineFault | None = None
        """The fault for which the process was ended."""
        self.refusal: EngineError | None = None
        """The engine's own reason for an end before the first prompt."""
        self.command_error, self.command_tokens = "", 0
        """Of the last command: the reason for its failure, empty if it succeeded; tokens that it has read, saved or
        restored, if the engine reports them."""
        self.started_at = time.monotonic()
        self.ready_after: float | None = None
        """Seconds from start to the first prompt: load and prefill of the history."""
        self.trace_listener: TraceListener | None = None
        """Set it before the next turn of the event loop to miss nothing."""
        self._protocol, self._framer = protocol, launch.framer
        self._decoder = Utf8Decoder()
        self._frames: deque[Frame] = deque()
        self._stop_line = b""
        self._variant_stops: tuple[bytes, ...] = ()
        self._changed = asyncio.Event()
        self._gone = asyncio.Event()  # its own: a waiter for the end need not wake up for each token
        self._deadline: asyncio.TimerHandle | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._survival: asyncio.TimerHandle | None = None
        self._hung_up: asyncio.TimerHandle | None = None
        """Runs from the end of its output to the end of the process."""
        self._log_form = LogDetector()
        self._heard_at = self.started_at
        self._prompt_file: Path | None = None
        self._loop = asyncio.get_running_loop()
        try:
            self.argv = self._command(launch)
            self._child: Transport = spawn(self.argv, self, transport=transport)
        except (OSError, ValueError) as error:  # ValueError: a flag or a template with a NUL in it
            self._forget_prompt_file()
            raise EngineDiedError(
                f"the engine {launch.argv[0]} cannot be started: {error}",
                remedy="bitnet-chat engine list shows the others",
            ) from None
        self.pid = self._child.pid
        self._loading = LoadingWatch(self.pid, 0, _MISSED, self._blame)
        self._listen()

    def wait_at_most(self, seconds: float) -> None:
        """The limit of the wait for a prompt, now and after each command: see :mod:`bitnet_chat.engine.timeouts`. 0:
        none."""
        self._loading.end()
        self._loading = LoadingWatch(self.pid, seconds, _MISSED, self._blame)
        if self.state is ProcessState.STARTING:
            self._loading.begin()

    @property
    def facts(self) -> dict[str, object]:
        """Facts for a recording, so that it can be read with the same framer."""
        framer, facts = self._framer, dict[str, object](argv=self.argv, around=list(self.launch.around))
        facts["framer"] = framer.kind
        if isinstance(framer, ThinkingFramer):
            facts["thinking"] = [*framer.tags, framer.is_open]
        return facts

    @property
    def thinking_tags(self) -> tuple[str, str]:
        """Tags before and after thoughts, if they are separated here: empty before thoughts that the prompt opens."""
        framer = self._framer
        if not isinstance(framer, ThinkingFramer):
            return "", ""
        opening, closing = framer.tags
        return "" if framer.is_open else f"{opening}\n", f"\n{closing}\n\n"

    # What front code does

    def input_for(self, history: Conversation, text: str, options: ReplyOptions | None = None) -> EncodedMessage | None:
        """Input for a clean message; see :meth:`bitnet_chat.engine.protocols.EngineProtocol.input`."""
        return self._protocol.input(self.launch, self.context, history, text, options)

    def variants_for(
        self, history: Conversation, text: str, options: ReplyOptions, count: int
    ) -> EncodedMessage | None:
        """See :meth:`bitnet_chat.engine.protocols.EngineProtocol.variants`."""
        return self._protocol.variants(self.launch, history, text, options, count)

    def is_prepared_for(self, history: Conversation) -> bool:
        """See :meth:`bitnet_chat.engine.protocols.EngineProtocol.is_prepared`."""
        return self._protocol.is_prepared(self.launch, self.context, history)

    def send(self, message: EncodedMessage, *, watched: bool = False) -> None:
        """Hand over a message, or have it go on with a reply; the state must be idle. ``watched``: the limit of
        :meth:`wait_at_most` holds for the reply, which nothing else limits."""
        self._move(Signal.SEND)
        if watched:
            self._loading.begin()
        self._survived()
        self.context, self._stop_line = message.context, message.stop
        self._variant_stops = message.variant_stops
        self._frames.clear()  # of a reply that was abandoned
        self.meter.sent(silently=message.data == GO_ON)
        (self._framer.continued if message.goes_on else self._framer.sent)(message.data)
        self._listen()
        self.log.quotes("buffer", message.data.count(b"\n") - 1)
        self._write(message.data, command=False)

    def command(self, data: bytes, *, forgets: bool, stop: bytes = b"") -> None:
        """Write a command, which is not a message; the state is starting until the next prompt. ``stop``: what ends
        that before its time."""
        self._move(Signal.COMMAND)
        self._framer.commanded(data)
        self._stop_line = stop
        self._listen()
        self._loading.begin()
        if forgets:
            self.meter.forgot()
        self._write(data, command=True)

    def hurry(self) -> None:
        """Stop the command that was written by ``command``."""
        if self.state is ProcessState.STARTING and self._stop_line:
            self._write(self._stop_line, command=True)

    def stop(self) -> None:
        """Interrupt the reply; the process is ended if that has no effect in time."""
        if self.state is not ProcessState.GENERATING:
            return
        self._move(Signal.STOP)
        self.was_stopped = True
        self._framer.interrupted()
        if self._stop_line or self._child.can_interrupt:
            if self._stop_line:
                self._write(self._stop_line, command=True)
            else:
                self._signal("SIGINT")
                self._child.interrupt()
            is_deaf = not (self._protocol.hears_while_reading or self._framer.reply)
            self._deadline = self._loop.call_later(_STOP_READING_WITHIN if is_deaf else _STOP_WITHIN, self._end)
        else:
            self._end()

    def stop_variant(self, number: int) -> None:
        """Interrupt one of several replies."""
        if self.state is ProcessState.GENERATING:
            self._write(self._variant_stops[number], command=True)

    def kill(self) -> None:
        """Kill the process. Output that it has written is still delivered."""
        self.was_stopped = True
        self._end()

    async def frames(self) -> list[Frame]:
        """All frames since the last call; waits for the first. An empty list after the death and the last frame."""
        while not self._frames and self.state is not ProcessState.DEAD:
            self._changed.clear()
            await self._changed.wait()
        frames = list(self._frames)
        self._frames.clear()
        return frames

    async def settled(self) -> None:
        """Wait until it is idle or dead."""
        while self.state not in (ProcessState.IDLE, ProcessState.DEAD):
            self._changed.clear()
            await self._changed.wait()

    async def gone(self) -> int:
        """Wait for the end of the process; returns the exit code."""
        await self._gone.wait()
        assert self.exit_code is not None
        return self.exit_code

    async def log_is_level(self) -> None:
        """Wait until the log has caught up with the output, so that the figures of a turn are complete."""
        if self._child.log_lag:
            await asyncio.sleep(self._child.log_lag)
        else:
            self._child.drain_log()

    # What the child says

    def output(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        self._loading.heard()
        if self.trace_listener is not None:
            self.trace_listener.output(data)
        if self.state is ProcessState.DEAD or self.fault is not None:
            return
        text = self._decoder.decode(data)
        if self.state is ProcessState.STARTING and (line := self._log_form.feed(text)):
            self._blame(log_in_output(line), line)
        else:
            self._take(self._framer.feed(text))

    def logged(self, data: bytes) -> None:
        if self.trace_listener is not None:
            self.trace_listener.logged(data)
        self._loading.heard()
        self.log.feed(data)

    def closed(self) -> None:
        fault = closed_output(terminal=self._child.is_terminal)
        self._hung_up = self._hung_up or self._loop.call_later(_END_WITHIN, self._blame, fault)

    def exited(self, code: int) -> None:
        if self.trace_listener is not None:
            self.trace_listener.exited(code)
        self.log.close()
        if self.state is not ProcessState.DEAD:
            self._take(self._framer.feed(self._decoder.flush()))
            self._take(self._framer.eof(clean=code == 0))
        self.exit_code = code
        self._loading.end()
        if self._hung_up is not None:
            self._hung_up.cancel()
            if code >= 0 and os.name == "posix":  # it was ending by itself: memory of a graphics card takes its time
                self.fault = None
        self._cancel_timers()
        self._forget_prompt_file()
        self._move(Signal.EXIT)
        self._gone.set()

    # In between

    def _line(self, line: str) -> None:
        self.meter.line(line)
        if self._framer.logged(strip_level(line)):
            self._child.after_output(self._waiting)

    def _waiting(self) -> None:
        if self.state is not ProcessState.DEAD:
            self._take(self._framer.waiting())

    def _listen(self) -> None:
        self._heard_at = self._loop.time()
        if self._silence is not None:
            self._silence.cancel()
        self._silence = self._loop.call_later(_SETTLE_AFTER, self._settle)

    def _write(self, data: bytes, *, command: bool) -> None:
        if self.trace_listener is not None:
            self.trace_listener.wrote(data, command=command)
        self._child.write(data)

    def _end(self) -> None:
        if self.exit_code is None:
            self._signal("SIGKILL")
        self._child.kill()

    def _signal(self, name: str) -> None:
        if self.trace_listener is not None:
            self.trace_listener.signalled(name)

    def _blame(self, fault: EngineFault, evidence: str = "") -> None:
        """End the process for a fault."""
        if self.exit_code is None and not self.was_stopped:
            self.fault = self.fault or fault
            if evidence:
                self.log.note(f"unexpected output: {evidence!r}")
        self._end()

    def _take(self, frames: list[Frame]) -> None:
        for frame in frames:
            if isinstance(frame, Ready):
                self.command_error, self.command_tokens = frame.error, frame.tokens
                self._move(Signal.READY)
                self._loading.end()
                if self.ready_after is None:
                    self.ready_after = time.monotonic() - self.started_at
                self._forget_prompt_file()
            elif isinstance(frame, TurnEnd):
                self._loading.end()
                self._cancel_timers()
                if self.was_stopped:  # the signal may still be on its way
                    self._survival = self._loop.call_later(_STOP_WITHIN, self._survived)
                self._frames.append(frame)
                self.context = self._protocol.context_after(self.context, self._framer.reply, natural=frame.natural)
                self._move(Signal.TURN_END)
            elif isinstance(frame, UnexpectedOutput):
                self.log.note(f"unexpected output: {frame.text!r}")
                self.out_of_step = True
                if line := log_line(frame.text):
                    self.fault = log_in_output(line)
                self._move(Signal.STRAY)
                self._end()
                return
            elif isinstance(frame, ReplyFigures):
                self.meter.told(frame)
            else:
                if isinstance(frame, EngineError):
                    self.log.note(f"error: {frame.text}")
                    self.refusal = frame if frame.why and self.state is ProcessState.STARTING else None
                self._frames.append(frame)
                self._changed.set()

    def _move(self, signal: Signal) -> None:
        self.state = next_state(self.state, signal)
        self._changed.set()

    def _settle(self) -> None:
        """Runs every two seconds of a start and of a turn: after silence a likely end counts as one."""
        silent = self._loop.time() - self._heard_at
        if silent >= _SETTLE_AFTER:
            if self.state is not ProcessState.STARTING:
                self._take(self._framer.settle())
            if not self._child.has_output():
                self.closed()
            silent = 0.0
        if self.state in (ProcessState.STARTING, ProcessState.GENERATING, ProcessState.INTERRUPTING):
            self._silence = self._loop.call_later(_SETTLE_AFTER - silent, self._settle)

    def _cancel_timers(self) -> None:
        for timer in (self._deadline, self._silence, self._survival):
            if timer is not None:
                timer.cancel()
        self._deadline = self._silence = self._survival = None

    def _survived(self) -> None:
        if self._survival is not None:
            self._survival.cancel()
            self._survival = None
        self.was_stopped = False

    def _command(self, launch: LaunchCommand) -> list[str]:
        argv = list(launch.argv)
        if any("\0" in argument for argument in argv):
            raise ValueError("a flag or the chat template holds a NUL character")
        if launch.prompt and launch.prompt_flag:
            # A file and not an argument: those hold at most 128 KiB on Linux, and every user can read them.
            try:
                descriptor, name = tempfile.mkstemp(prefix="bitnet-chat-", suffix=".prompt")
                self._prompt_file = Path(name)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(launch.prompt.encode("utf-8", "surrogateescape"))
            except OSError as error:
                self._forget_prompt_file()
                raise EngineDiedError(
                    f"the prompt cannot be passed to the engine: no temporary file can be written ({error.strerror})",
                    remedy=f"make room in {tempfile.gettempdir()} or set TMPDIR",
                ) from None
            argv[1:1] = [launch.prompt_flag, name]
        return argv

    def _forget_prompt_file(self) -> None:
        if self._prompt_file is not None:
            with contextlib.suppress(OSError):
                self._prompt_file.unlink()
            self._prompt_file = None
