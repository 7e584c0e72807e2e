"""A Backend that plays a script: for tests of front ends, in this process or, run as a program, behind a real REPL.

As a program it waits for gates: it loads at once unless ``--gate`` is given, a message ``wait`` stops in the middle of
its reply, and every SIGUSR1 opens one gate. So a test decides when what happens, and nothing depends on time.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import zlib
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pages import PAGES

from bitnet_chat.backend import BackendState, BackendStatus, ReplyOptions
from bitnet_chat.backends.variants import JointReplies
from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import EngineDiedError, FinishReason, UsageError
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, Stats, TextDelta, ThinkingDelta, VariantEvent


@dataclass(frozen=True)
class Gate:
    """A step that waits until somebody calls ``open_gate``, or the reply is interrupted."""


Script = Callable[[Conversation], Iterable[Event | Gate]]
NO_LIMITS = ReplyOptions()
STATS = Stats(
    prompt_tokens=7, tokens=11, time_to_first_token=0.5, seconds=1.5, context_used=64, context_size=2048, exact=True
)


class ScriptedBackend:
    """Plays ``script``; a reply that was interrupted ends with a Completed of its own. Deaf: ignores interrupts."""

    def __init__(self, script: Script, *, gated: bool = False, name: str = "scripted.gguf", deaf: bool = False) -> None:
        self.script = script
        self.name = name
        self.deaf = deaf
        self.in_bursts = True
        self.asked: list[Conversation] = []
        self.options: list[ReplyOptions] = []
        self.prepared: list[Conversation] = []
        self.calls: list[str] = []
        self.used = 64
        self._state = BackendState.IDLE
        self.generating = asyncio.Event()
        self._gated = gated
        self._gates = asyncio.Semaphore(0)
        self._loaded = asyncio.Event()
        self._stop = asyncio.Event()
        self._loading: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.calls.append("start")
        self._state = BackendState.STARTING
        self._loading = asyncio.get_running_loop().create_task(self._load())

    async def _load(self) -> None:
        if self._gated:
            await self._gates.acquire()
        self._state = BackendState.IDLE
        self._loaded.set()

    def open_gate(self) -> None:
        self._gates.release()

    async def reply(self, conversation: Conversation, options: ReplyOptions = NO_LIMITS) -> AsyncGenerator[Event]:
        self.asked.append(conversation)
        self.options.append(options)
        self._stop.clear()
        text = ""
        try:
            if not await self._or_stopped(self._loaded.wait()):
                yield Completed(FinishReason.INTERRUPTED, "")
                return
            self._state = BackendState.GENERATING
            self.generating.set()
            for step in self.script(conversation):
                if isinstance(step, Gate):
                    await self._or_stopped(self._gates.acquire())
                if self._stop.is_set():
                    yield Completed(FinishReason.INTERRUPTED, text, STATS)
                    return
                if isinstance(step, Gate):
                    continue
                if isinstance(step, TextDelta):
                    text += step.text
                yield step
                await asyncio.sleep(0)
        finally:
            self._state = BackendState.IDLE
            self.calls.append("end of reply")

    async def _or_stopped(self, coroutine: object) -> bool:
        """True when ``coroutine`` was first."""
        work = asyncio.ensure_future(coroutine)  # type: ignore[call-overload]
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
            return work.done()
        finally:
            work.cancel()
            stop.cancel()

    def prepare(self, history: Conversation) -> None:
        self.prepared.append(history)
        if self._loading is None:
            self.start()

    def count(self, text: str) -> TokenCount | None:
        return TokenCount(len(text))

    def interrupt(self) -> None:
        self.calls.append("interrupt")
        if not self.deaf:
            self._stop.set()

    def status(self) -> BackendStatus:
        status = BackendStatus(self.name, "scripted-engine", self._state, self.used, 2048, 123_456_789, 98.6)
        return replace(status, in_bursts=self.in_bursts)

    async def close(self) -> None:
        self.calls.append("close")
        if self._loading is not None:
            self._loading.cancel()


class JointBackend(ScriptedBackend):
    """A backend that generates several replies together: :meth:`together`, by a subclass."""

    def together(self, conversation: Conversation, options: ReplyOptions, count: int) -> AsyncGenerator[VariantEvent]:
        raise NotImplementedError

    def joint(self, conversation: Conversation, options: ReplyOptions, count: int) -> JointReplies:
        return JointReplies(self.together, super().reply, lambda number: None, self.interrupt, count)

    def reply(self, conversation: Conversation, options: ReplyOptions = NO_LIMITS) -> AsyncGenerator[Event]:
        joined = options.joined
        return super().reply(conversation, options) if joined is None else joined.events(conversation, options)


def say(*parts: str, reason: FinishReason = FinishReason.STOP, stats: Stats = STATS) -> list[Event | Gate]:
    """The steps of a reply that comes in these parts."""
    return [Started(), *(TextDelta(part) for part in parts if part), Completed(reason, "".join(parts), stats)]


def paged(text: str) -> list[Event | Gate]:
    """The text in pieces of three characters, with a gate for each form feed."""
    first, *others = text.split("\f")
    steps: list[Event | Gate] = [TextDelta(first[at : at + 3]) for at in range(0, len(first), 3)]
    return [*steps, Gate(), *paged("\f".join(others))] if others else steps


def by_message(conversation: Conversation) -> list[Event | Gate]:
    """The script of the program: the first word of the message says what happens, any other message is quoted."""
    assert conversation.last is not None
    message = conversation.last.content
    word, _, rest = message.partition(" ")
    done = Completed(FinishReason.STOP, "done", STATS)
    match word:
        case "wait":
            return [Started(), TextDelta("Before the gate"), Gate(), TextDelta(", after the gate."), done]
        case "hang":
            return [Started(), Gate(), TextDelta("Open."), done]
        case "lines":
            return say(*(f"line {number} of {rest}\n" for number in range(1, int(rest) + 1)))
        case "gatedlines":
            first = [TextDelta(f"line {number:03}\n") for number in range(1, int(rest) + 1)]
            return [Started(), *first, Gate(), TextDelta("the last line\n"), done]
        case "escape":
            return say(
                "red \x1b[31m, clear \x1b[2J, title \x1b]0;x\x07, C1 \x9b2J, \u202e over, raw \udcf0, end.\r", "\n"
            )
        case "wide":
            return say("数据和模型", "👩‍💻e\u0301", " end")
        case "fail":
            return [
                Started(),
                Failed(EngineDiedError("The engine died", remedy="try again", detail="\x1b[31mlog tail")),
            ]
        case "notice":
            return [Notice("The engine was restarted\x1b[31m"), *say("Again.")]
        case "think":
            return [Started(), ThinkingDelta("Let me see."), *say("So it is.")[1:]]
        case "ponder":
            thoughts = [ThinkingDelta("Let me "), ThinkingDelta("see.\n"), Gate(), ThinkingDelta("Oh.")]
            return [Started(), *thoughts, *say("So it is.")[1:]]
        case "page":
            return [Started(), *paged(PAGES[rest]), done]
        case "count":
            return say(f"{len(conversation.turns)} messages, system {conversation.system!r}")
        case _ if len(message) > 200:
            return say(f"{len(message)} characters, checksum {zlib.crc32(message.encode()):08x}")
        case _:
            return say(f"You said {message!r}.")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gate", action="store_true", help="loading waits for SIGUSR1")
    parser.add_argument("--history", type=Path)
    parser.add_argument("--typing-speed", type=float)
    parser.add_argument("--context", type=int, default=64, help="tokens that are in use")
    parser.add_argument("--markdown", default="auto")
    parser.add_argument("--thinking", default="show")
    parser.add_argument("--without", default="", help="modules that cannot be imported, with commas")
    arguments = parser.parse_args()
    for name in filter(None, arguments.without.split(",")):
        sys.modules[name] = None  # type: ignore[assignment]
    from bitnet_chat import repl

    def switch(path: str) -> ScriptedBackend:
        if path == "missing.gguf":
            raise UsageError(f"There is no model {path}", remedy="look again")
        return ScriptedBackend(by_message, name=path)

    async def protocol() -> int:
        backend = ScriptedBackend(by_message, gated=arguments.gate)
        backend.used = arguments.context
        if hasattr(signal, "SIGUSR1"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, backend.open_gate)
        settings = repl.ReplSettings(
            model="scripted.gguf",
            history_file=arguments.history,
            typing_speed=arguments.typing_speed,
            markdown=arguments.markdown,
            thinking=arguments.thinking,
        )
        code = await repl.run(backend, settings, notices=["A first notice."], switch_model=switch)
        print("calls:", *backend.calls[-2:], flush=True)
        return code

    return asyncio.run(protocol())


if __name__ == "__main__":
    sys.exit(main())
