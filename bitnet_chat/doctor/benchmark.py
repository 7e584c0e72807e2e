"""Questions to a real engine: whether its answers are correct, and the fastest number of threads.

Nothing of this is stored in the journal or recorded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.doctor.finding import Finding, broken, ok, warn
from bitnet_chat.engine.process import EngineProcess
from bitnet_chat.engine.threads import Processors, Threads
from bitnet_chat.errors import BitnetChatError, EngineDiedError, FinishReason
from bitnet_chat.events import Completed, Failed, TextDelta, ThinkingDelta
from bitnet_chat.paths import bundled_model

_REPLIES_GROUP = "answer"
_LIMIT = 60.0
"""Seconds for one answer, loading included. The bundled model needs a tenth of one."""
_SILENCE = 10.0
"""Seconds without any work while an engine loads."""
_LOG_BYTES = 1 << 18
_MEASURED = 0.8
"""Seconds of one measurement, from the first token on."""
_LONG_QUESTION = "tell me a long story"

# Answers of the bundled model at temperature 0 on every engine that was tested; the second text is the required part.
# Another build may round differently and word the same answer differently.
KNOWN_ANSWERS = (
    ("how do I leave?", "/exit", "Type /exit to leave, or press Ctrl-D on an empty line."),
    ("how do I stop a reply?", "Ctrl-C", "Press Ctrl-C or Esc to stop the reply."),
)


@dataclass(frozen=True, slots=True)
class BenchmarkReply:
    """``answers``: to :data:`KNOWN_ANSWERS`, as far as generated. ``log``: the beginning of the log of the engine."""

    answers: tuple[str, ...] = ()
    log: str = ""
    error: BitnetChatError | None = None
    seconds: float = 0.0


class _LogCapture:
    """A trace listener that keeps the beginning of the log; see :class:`bitnet_chat.engine.process.TraceListener`."""

    def __init__(self) -> None:
        self.log = bytearray()

    def listen(self, process: EngineProcess) -> None:
        process.trace_listener = self

    def output(self, data: bytes) -> None:
        pass

    def logged(self, data: bytes) -> None:
        if len(self.log) < _LOG_BYTES:
            self.log += data

    def wrote(self, data: bytes, *, command: bool) -> None:
        pass

    def signalled(self, name: str) -> None:
        pass

    def exited(self, code: int) -> None:
        pass


def ask(settings: Settings, *, limit: float = _LIMIT) -> BenchmarkReply:
    """Ask the bundled model :data:`KNOWN_ANSWERS`. ``settings.engine`` is the engine."""
    # By its path: without a name the largest installed model would reply, which has other answers.
    model = str(bundled_model() or "")
    return asyncio.run(_ask(replace(_plain(settings), temperature=0.0, model=model, threads=1), limit))


async def _ask(settings: Settings, limit: float) -> BenchmarkReply:
    ear, begun = _LogCapture(), time.monotonic()
    answers: list[str] = []
    error: BitnetChatError | None = None
    backend: LocalEngineBackend | None = None
    try:
        backend = LocalEngineBackend(settings, on_spawn=ear.listen)
        for question, _, _ in KNOWN_ANSWERS:
            options = ReplyOptions(max_tokens=200, timeout=limit)
            async for event in backend.reply(Conversation().with_user(question), options):
                if isinstance(event, Failed):
                    error = event.error
                elif isinstance(event, Completed) and event.reason is FinishReason.TIMEOUT:
                    error = EngineDiedError(f"the answer was not complete within {limit:g} s")
                elif isinstance(event, Completed):
                    answers.append(event.text)
            if error is not None:
                break
    except BitnetChatError as caught:
        error = caught
    finally:
        if backend is not None:
            await backend.close()
    return BenchmarkReply(tuple(answers), ear.log.decode("utf-8", "replace"), error, time.monotonic() - begun)


def judge_replies(heard: BenchmarkReply) -> Finding:
    """Whether the engine computes correct answers. Pure."""
    if heard.error is not None:
        detail = heard.error.detail.strip().split("\n")[0]
        seen = f"the engine failed with the bundled model: {heard.error.what}"
        illegal = "SIGILL" in heard.error.what
        return broken(
            _REPLIES_GROUP,
            "known answers",
            f"{seen} ({detail})" if detail else seen,
            "it was compiled for another processor: bitnet-chat engine install --build compiles one for this processor"
            if illegal
            else "bitnet-chat engine list shows others, bitnet-chat engine install installs one",
        )
    differences = [
        (question, point in said, said, known)
        for said, (question, point, known) in zip(heard.answers, KNOWN_ANSWERS, strict=True)
        if said != known
    ]
    if not differences:
        count = len(KNOWN_ANSWERS)
        seen = f"{count} of {count} questions were answered correctly, in {heard.seconds:.1f} s with loading"
        return ok(_REPLIES_GROUP, "known answers", seen, seconds=round(heard.seconds, 3))
    told = "; ".join(f"{question!r} got {said!r} instead of {known!r}" for question, _, said, known in differences)
    if all(to_the_point for _, to_the_point, _, _ in differences):
        return warn(
            _REPLIES_GROUP,
            "known answers",
            f"correct, but worded differently: {told}",
            "builds may round differently; if replies are wrong, use bitnet-chat engine install",
        )
    return broken(
        _REPLIES_GROUP,
        "known answers",
        f"the engine computes wrong results: {told}",
        "bitnet-chat engine install installs a verified one",
    )


def measure(settings: Settings, counts: tuple[int, ...], budget: float) -> Iterator[ThreadRate]:
    """The generation rate with each number of threads, until ``budget`` seconds are spent.

    Raises BitnetChatError if the engine or the model cannot be used.
    """
    begun = time.monotonic()
    longest = 0.0
    for threads in counts:
        left = budget - (time.monotonic() - begun)
        if left < max(longest, _MEASURED):  # too little time for another one of the same length
            return
        started = time.monotonic()
        rate = asyncio.run(_rate(replace(_plain(settings), threads=threads), limit=left))
        longest = max(longest, time.monotonic() - started)
        if rate is None:
            return
        yield ThreadRate(threads, rate)


async def _rate(settings: Settings, limit: float) -> float | None:
    """Tokens per second; None if the measurement failed."""
    backend = LocalEngineBackend(settings)
    stop: asyncio.TimerHandle | None = None
    rate: float | None = None
    try:
        conversation = Conversation().with_user(_LONG_QUESTION)
        async for event in backend.reply(conversation, ReplyOptions(timeout=limit)):
            if isinstance(event, TextDelta | ThinkingDelta) and stop is None:
                stop = asyncio.get_running_loop().call_later(_MEASURED, backend.interrupt)
            elif isinstance(event, Completed) and event.stats.tokens > 1:
                # Of a reply that came in one burst only the whole time tells something.
                brief = event.stats.seconds < _MEASURED / 2
                rate = event.stats.tokens / event.stats.seconds if brief else event.stats.tokens_per_second
            elif isinstance(event, Failed):
                raise event.error
    finally:
        if stop is not None:
            stop.cancel()
        await backend.close()
    return rate


def _plain(settings: Settings) -> Settings:
    silence = min(settings.stall_timeout or _SILENCE, _SILENCE)
    return replace(settings, journal=False, spare=False, system="", persona="", stall_timeout=silence)


# How many threads an engine should have. Pure.

_THREADS_GROUP, _NAME = "threads", "sweep"
_WORTH_IT = 1.1  # less of a difference may be chance
_BITNETS_DEFAULT = 2


@dataclass(frozen=True, slots=True)
class ThreadRate:
    threads: int
    tokens: float
    """Tokens per second."""


def counts(physical: int, logical: int, current: int) -> tuple[int, ...]:
    """Numbers of threads to try, the likeliest first. ``current``: the number for a conversation."""
    return tuple(
        dict.fromkeys(
            min(each, logical)
            for each in (current, physical, _BITNETS_DEFAULT, max(1, physical // 2), logical, 1)
            if each > 0
        )
    )


def given(share: Threads, has: Processors) -> Finding:
    """The number of threads of an engine, and its origin."""
    count = "1 thread" if share.number == 1 else f"{share.number} threads"
    processors = "1 processor" if has.count == 1 else f"{has.count} processors"
    seen = f"an engine gets {count}; {processors} may be used: {has.origin}"
    facts: dict[str, object] = {
        "given": share.number,
        "allowed": has.count,
        "machine": has.machine,
        "affinity": has.affinity,
        "quota": has.quota,
        "cores": has.cores,
    }
    if share.notice:
        return warn(_THREADS_GROUP, "allowed", f"{seen}; {share.notice}", f"-t {has.count} or less", **facts)
    return ok(_THREADS_GROUP, "allowed", seen, **facts)


def judge_threads(rates: Sequence[ThreadRate], *, current: int, physical: int, tiny: bool) -> Finding:
    """``tiny``: the model is too small for conclusions about others."""
    if not rates:
        return warn(
            _THREADS_GROUP,
            _NAME,
            "nothing could be measured within the time limit",
            "use a smaller model with -m",
        )
    best = max(rates, key=lambda rate: rate.tokens)
    now = next((rate for rate in rates if rate.threads == current), best)
    told = ", ".join(f"{rate.threads}: {rate.tokens:,.1f}" for rate in sorted(rates, key=lambda rate: rate.threads))
    seen = f"tokens per second by threads: {told}; in use: {current}"
    facts: dict[str, object] = {
        "rates": {str(rate.threads): round(rate.tokens, 2) for rate in rates},
        "best": best.threads,
    }
    if tiny:
        return ok(_THREADS_GROUP, _NAME, f"{seen}. This model is too small for conclusions about others", **facts)
    bitnets = next((rate for rate in rates if rate.threads == _BITNETS_DEFAULT), None)
    if bitnets is not None and physical > _BITNETS_DEFAULT and best.tokens > _WORTH_IT * bitnets.tokens:
        share = 100 * bitnets.tokens / best.tokens
        seen += f". BitNet's own script takes {_BITNETS_DEFAULT} by default: {share:.0f} % of the best"
    if best.tokens > _WORTH_IT * now.tokens:
        return warn(
            _THREADS_GROUP, _NAME, seen, f"-t {best.threads}, or threads = {best.threads} in config.toml", **facts
        )
    return ok(_THREADS_GROUP, _NAME, seen, **facts)
