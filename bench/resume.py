#!/usr/bin/env python3
"""Time to the first token of a conversation that is resumed, by kind of resume, with and without saved states.

``python bench/resume.py [--tokens 500,2000,7500] [--runs N] [--random-2b] [--engine PATH] [--model NAME]``. All kinds
take turns in each run. The conversation has turns of about 250 tokens; its first text is different in each run, so that
no state of an earlier run serves it, and each kind has a question of its own. A length is reduced to what the window
holds beside the eighth for a reply. ``--random-2b`` adds a model of BitNet 2B4T's shape with random weights, which is
made once, on the prebuilt engine ``bitnet``. In a run each conversation is read from its beginning four times, and a
system prompt of the same length once. "At once" includes the start of the engine. Quote figures of a computer that does
nothing else. The output is Markdown, and the progress is on stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import sys
import time
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from bitnet import random_model

from bitnet_chat import paths
from bitnet_chat.backend import ReplyOptions, Sampling
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine import conversion
from bitnet_chat.engine.install import packages
from bitnet_chat.engine.process import ProcessState
from bitnet_chat.engine.saved_states import SAVE_PAUSE
from bitnet_chat.events import Completed, Failed, TextDelta, ThinkingDelta
from bitnet_chat.prompt_cache.store import StateStore

_WORDS = "engine model token prompt journal terminal window message answer question table letter river garden".split()  # noqa: SIM905
_TURN = 170
"""Words of a message: about 250 tokens with SmolLM2."""
_REPLY = 12
"""Tokens of a reply."""
_ROOM = 450
"""Tokens that a conversation leaves free beside the reply: the rest of its last turn, and the measured questions."""
_PATIENCE = 900
"""Seconds for a history that is read in the background."""
_LIVE = "live follow-up"
_TODAY = "resumed at once, without a state"


@dataclass(slots=True)
class Samples:
    """Milliseconds to the first token, and tokens of the prompt that were evaluated."""

    times: list[float] = field(default_factory=list)
    evaluated: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Size:
    """What was measured with a conversation of one length."""

    wanted: int
    tokens: list[int] = field(default_factory=list)
    """In the context before the measured question."""
    bytes: list[int] = field(default_factory=list)
    """Of the state of the conversation."""
    prompt_bytes: list[int] = field(default_factory=list)
    """Of the state of the system prompt."""
    kinds: dict[str, Samples] = field(default_factory=dict)
    saving: dict[str, list[float]] = field(default_factory=dict)
    """Milliseconds by what takes them."""


class Bench:
    """Engines of one model that run one after the other."""

    def __init__(self, settings: Settings, lengths: list[int]) -> None:
        self.settings, self.sizes = settings, [Size(length) for length in lengths]

    def open(self, **changed: object) -> LocalEngineBackend:
        return LocalEngineBackend(replace(self.settings, **changed))  # type: ignore[arg-type]

    async def measure(self, size: Size, seed: int) -> None:
        """One run: all kinds of resume of one new conversation."""
        StateStore(paths.states_dir()).clear()
        backend = self.open()
        await self._timed(size, "new conversation at once", backend, Conversation())
        window = backend.status().context_size or sys.maxsize
        context = await _talk(backend, min(size.wanted, window * 7 // 8 - _ROOM), seed)
        await self._timed(size, _LIVE, backend, context)
        await self._timed(size, "/undo, then another question", backend, context, "And what is a model?")
        await self._timed(size, "/regen", backend, context, "And what is a model?")
        began = time.perf_counter()
        await _saved(backend)
        _note(size, f"from a reply to its saved state, of which {1e3 * SAVE_PAUSE:.0f} are a pause", began)
        size.bytes.append(max(path.stat().st_size for path in paths.states_dir().glob("*.state")))
        began = time.perf_counter()
        await _prepared(backend, context.without_last_turn())
        _note(size, "a fork in a running engine, until the context of the branch is ready", began)
        await self._timed(size, "the first question of this fork", backend, context.without_last_turn())
        await self._timed(size, "back in the conversation", backend, context)
        await self._asked_at_once(size, backend, context)
        await self._other_conversation(size, backend, context)
        await self._killed(size, backend, context)
        await _close(size, backend, "with states")
        backend = self.open()
        await self._timed(size, "resumed at once", backend, context)
        await backend.close()
        backend = self.open()
        await _prepared(backend, context)
        await self._timed(size, "resumed, prepared before the question", backend, context)
        await backend.close()
        backend = self.open()
        await self._timed(size, "forked: another branch after a restart", backend, context.without_last_turn())
        await backend.close()
        backend = self.open(journal=False)
        await self._timed(size, _TODAY, backend, context)
        await self._asked_at_once(size, backend, context, "without states")
        await _close(size, backend, "without states")
        backend = self.open(journal=False)
        await _prepared(backend, context)
        await self._timed(size, "resumed without a state, prepared before the question", backend, context)
        await backend.close()
        await self._shared_prompt(size, context)

    async def _shared_prompt(self, size: Size, context: Conversation) -> None:
        """New conversations with a system prompt that is as long as the conversation."""
        StateStore(paths.states_dir()).clear()
        system = " ".join(each.content for each in context.turns if each.role == "user")
        new = Conversation().with_system(f"{len(size.prompt_bytes)}. {system}")
        for kind in ("first conversation with a long system prompt, at once", "the next one after a restart, at once"):
            backend = self.open()
            await self._timed(size, kind, backend, new)
            await backend.close()
        size.prompt_bytes.append(min(path.stat().st_size for path in paths.states_dir().glob("*.state")))
        backend = self.open()
        await _prepared(backend, new)
        await self._timed(size, "the next one, prepared before the question", backend, new)
        await self._timed(size, "the next one in the same engine", backend, new)
        await backend.close()

    async def _asked_at_once(
        self, size: Size, backend: LocalEngineBackend, context: Conversation, how: str = "with states"
    ) -> None:
        """A question that follows a reply without a pause: the engine may be busy with the state."""
        after, _, _ = await _ask(backend, context, "Tell me more.")
        await self._timed(size, f"follow-up at once after a reply, {how}", backend, after)
        after, _, _ = await _ask(backend, context, "Tell me even more.")
        await asyncio.sleep(0.35)
        await self._timed(size, f"follow-up 0.35 s after a reply, {how}", backend, after)

    async def _other_conversation(self, size: Size, backend: LocalEngineBackend, context: Conversation) -> None:
        """/new, then back: the engine has read another conversation."""
        await _ask(backend, Conversation(), _message(Random(len(size.bytes)), 2))
        await self._timed(size, "back from another conversation", backend, context)

    async def _killed(self, size: Size, backend: LocalEngineBackend, context: Conversation) -> None:
        await _saved(backend)
        process = backend._session.process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        await process.gone()
        await self._timed(size, "at once after kill -9 of the engine", backend, context)

    async def _timed(
        self, size: Size, kind: str, backend: LocalEngineBackend, context: Conversation, text: str = ""
    ) -> None:
        samples = size.kinds.setdefault(kind, Samples())
        number = list(size.kinds).index(kind) + 10
        _, seconds, end = await _ask(backend, context, text or f"What is a token? Question {number}.")
        print(f"{size.wanted} tokens, {kind}: {1e3 * seconds:,.0f} ms", file=sys.stderr, flush=True)
        samples.times.append(1e3 * seconds)
        samples.evaluated.append(end.stats.prompt_tokens or 0)
        if kind == _LIVE:
            size.tokens.append((end.stats.prompt_size or 0) - (end.stats.prompt_tokens or 0))


def _note(size: Size, what: str, began: float) -> None:
    size.saving.setdefault(what, []).append(1e3 * (time.perf_counter() - began))


async def _close(size: Size, backend: LocalEngineBackend, how: str) -> None:
    began = time.perf_counter()
    await backend.close()
    _note(size, f"the end of the engine right after a reply, {how}", began)


async def _ask(backend: LocalEngineBackend, context: Conversation, text: str) -> tuple[Conversation, float, Completed]:
    """The conversation with the reply, and seconds to its first text."""
    asked, first, begun = context.with_user(text), None, time.perf_counter()
    options = ReplyOptions(max_tokens=_REPLY, sampling=Sampling(temperature=0.0))
    async with aclosing(backend.reply(asked, options)) as events:
        async for event in events:
            if first is None and isinstance(event, TextDelta | ThinkingDelta):
                first = time.perf_counter() - begun
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Completed):
                return asked.with_assistant(event.text), first or time.perf_counter() - begun, event
    raise AssertionError("a reply has an end")


def _message(random: Random, number: int) -> str:
    return f"Part {number}: " + " ".join(random.choice(_WORDS) for _ in range(_TURN)) + "."


async def _talk(backend: LocalEngineBackend, tokens: int, seed: int) -> Conversation:
    """A conversation with at least so many tokens in the context of the engine."""
    random, conversation, number = Random(seed), Conversation().with_system("You are kind."), 0
    while True:
        number += 1
        conversation, _, end = await _ask(backend, conversation, _message(random, number))
        if (end.stats.context_used or 0) >= tokens:
            return conversation


async def _saved(backend: LocalEngineBackend) -> None:
    """Wait until the state is saved, as it is between two messages."""
    while backend._store is not None and not backend.status().state_saved:  # noqa: ASYNC110  # nothing reports it
        await asyncio.sleep(0.01)


async def _prepared(backend: LocalEngineBackend, context: Conversation) -> None:
    """Prepare a history as the REPL does, and wait until the engine has restored or read it."""
    backend.prepare(context)
    supervisor = backend._session.supervisor
    async with asyncio.timeout(_PATIENCE):
        while supervisor.starting is not None or not _is_ready(backend, context):  # noqa: ASYNC110  # nothing reports it
            await asyncio.sleep(0.001)


def _is_ready(backend: LocalEngineBackend, context: Conversation) -> bool:
    loaded = backend._session.supervisor._loaded
    if loaded is None or loaded.process.state is not ProcessState.IDLE:
        return False
    return loaded.evaluated is not None and len(loaded.evaluated.turns) == len(context.turns)


async def _run(benches: list[Bench], runs: int) -> None:
    for run in range(runs):
        for bench in benches:
            for size in bench.sizes:
                began = time.monotonic()
                await bench.measure(size, 1000 * run + size.wanted)
                took = time.monotonic() - began
                print(f"run {run + 1}, {bench.settings.model}, {size.wanted}: {took:.0f} s", file=sys.stderr)


def _report(sizes: list[Size], runs: int) -> None:
    for size in sizes:
        tokens = round(statistics.median(size.tokens))
        print(f"\n### {tokens:,} tokens, {runs} runs\n")
        print("| kind | first token, ms (range) | × live | tokens evaluated |\n|---|---|---|---|")
        live = statistics.median(size.kinds[_LIVE].times)
        for kind, samples in size.kinds.items():
            middle, least, most = statistics.median(samples.times), min(samples.times), max(samples.times)
            evaluated = round(statistics.median(samples.evaluated))
            print(f"| {kind} | {middle:,.0f} ({least:,.0f} to {most:,.0f}) | {middle / live:.2f} | {evaluated:,} |")
        print(f"\nState of the conversation on disk: {statistics.median(size.bytes) / 1e6:,.1f} MB, ", end="")
        print(f"of the system prompt: {statistics.median(size.prompt_bytes) / 1e6:,.1f} MB. Saving, in ms:\n")
        for what, times in size.saving.items():
            print(f"- {what}: {statistics.median(times):,.0f} ({min(times):,.0f} to {max(times):,.0f})")


def _of_2b(folder: Path) -> tuple[str, Path]:
    """The engine and the file of the random model."""
    package = packages.by_name("bitnet")
    engine = packages.at(packages.folder_of(package)) if package is not None else None
    if engine is None:
        sys.exit("the prebuilt engine is not installed: bitnet-chat engine install bitnet")
    model = random_model(folder / "new.gguf", "bitnet-b1.58")
    conversion.obtain(model, engine)
    return str(engine.path), model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="500,2000,7500", help="lengths of the conversations (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--engine", default="", help="path of a native engine (default: the prebuilt llama.cpp)")
    parser.add_argument("--model", default="smollm2-135m", help="name or file (default: %(default)s)")
    parser.add_argument("--ctx", type=int, default=0, help="tokens of the window (default: that of the model)")
    parser.add_argument("--threads", type=int, default=0, help="default: as the program chooses")
    parser.add_argument("--random-2b", action="store_true", help="also a random model of BitNet 2B4T's shape")
    parser.add_argument(
        "--folder", type=Path, default=paths.cache_dir() / "bench", help="of that (default: %(default)s)"
    )
    flags = parser.parse_args()
    engine = flags.engine or next(
        (str(each.path) for each in packages.installed() if packages.name_of(each) == "llama.cpp"), "llama.cpp"
    )
    settings = Settings(engine=engine, model=flags.model, ctx=flags.ctx, threads=flags.threads)
    lengths = [int(each) for each in flags.tokens.split(",")]
    benches = [Bench(settings, lengths)]
    if flags.random_2b:
        engine, model = _of_2b(flags.folder)
        benches.append(Bench(replace(settings, engine=engine, model=str(model)), lengths))
    print(f"{os.cpu_count()} processors, load before: {os.getloadavg()[0]:.1f}")
    with TemporaryDirectory(prefix="bitnet-chat-bench-") as folder:
        paths.states_dir = lambda: Path(folder) / "states"
        asyncio.run(_run(benches, flags.runs))
    for bench in benches:
        print(f"\n## {Path(bench.settings.model).name}")
        _report(bench.sizes, flags.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
