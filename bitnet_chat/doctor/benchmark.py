"""Questions to engines: whether their answers are correct, and which number of threads is fastest.

The replies are neither stored in the journal nor recorded.
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
from bitnet_chat.engine import known_answer_results
from bitnet_chat.engine.binary import Dialect, EngineBinary, EngineVariant
from bitnet_chat.engine.install import packages
from bitnet_chat.engine.known_answer_results import AnswerVerdict
from bitnet_chat.engine.process import EngineProcess
from bitnet_chat.engine.threads import Processors, Threads
from bitnet_chat.engine_checks import known_answers
from bitnet_chat.errors import BitnetChatError, EngineDiedError, FinishReason
from bitnet_chat.events import Completed, Failed, TextDelta, ThinkingDelta
from bitnet_chat.paths import bundled_model

_REPLIES_GROUP = "answer"
_LIMIT = 60.0
"""Seconds for one answer, including loading. The bundled model needs 0.1 s."""
_STALL_TIMEOUT = 10.0
"""Maximum stall timeout in seconds, so that an engine that hangs does not delay the other checks."""
_LOG_BYTES = 1 << 18
_MEASURED = 0.8
"""Duration of one measurement in seconds, from the first token."""
_LONG_QUESTION = "tell me a long story"

# Question, required part of the answer, and answer of the bundled model at temperature 0 with all tested engines.
# Another build may round differently, and word the same answer differently.
KNOWN_ANSWERS = (
    ("how do I leave?", "/exit", "Type /exit to leave, or press Ctrl-D on an empty line."),
    ("how do I stop a reply?", "Ctrl-C", "Press Ctrl-C or Esc to stop the reply."),
)


@dataclass(frozen=True, slots=True)
class BenchmarkReply:
    """Answers of an engine to :data:`KNOWN_ANSWERS`. ``answers``: those that are complete. ``log``: the beginning of
    the log of the engine. ``error``: the failure that ended the check. ``seconds``: duration, including loading.
    """

    answers: tuple[str, ...] = ()
    log: str = ""
    error: BitnetChatError | None = None
    seconds: float = 0.0


class _LogCapture:
    """A :class:`bitnet_chat.engine.process.TraceListener` that stores the beginning of the log."""

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
    """Ask the bundled model the questions of :data:`KNOWN_ANSWERS` with the engine ``settings.engine``. ``limit``:
    seconds for each answer. Blocks. Failures are in the result.
    """
    # A path, because the default is the largest installed model, which gives other answers.
    model = str(bundled_model() or "")
    return asyncio.run(_ask(replace(_plain(settings), temperature=0.0, model=model, threads=1), limit))


async def _ask(settings: Settings, limit: float) -> BenchmarkReply:
    log_capture, begun = _LogCapture(), time.monotonic()
    answers: list[str] = []
    error: BitnetChatError | None = None
    backend: LocalEngineBackend | None = None
    try:
        backend = LocalEngineBackend(settings, on_spawn=log_capture.listen)
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
    return BenchmarkReply(tuple(answers), log_capture.log.decode("utf-8", "replace"), error, time.monotonic() - begun)


def judge_replies(reply: BenchmarkReply) -> Finding:
    """Judge whether the engine computes correct answers. Pure."""
    if reply.error is not None:
        detail = reply.error.detail.strip().split("\n")[0]
        seen = f"the engine failed with the bundled model: {reply.error.what}"
        illegal = "SIGILL" in reply.error.what
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
        for said, (question, point, known) in zip(reply.answers, KNOWN_ANSWERS, strict=True)
        if said != known
    ]
    if not differences:
        count = len(KNOWN_ANSWERS)
        seen = f"{count} of {count} questions were answered correctly, in {reply.seconds:.1f} s with loading"
        return ok(_REPLIES_GROUP, "known answers", seen, seconds=round(reply.seconds, 3))
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


def check_answers(winner: EngineBinary | None) -> Iterator[Finding]:
    """Check the known answers of small models with each prebuilt engine, and with ``winner`` if it is a BitNet build.
    Results are stored; a new check takes about 0.25 s for each type of weights.
    """
    for engine in packages.installed():
        yield judge_answers(engine, known_answers.check(engine))
    if winner is not None and winner.make is EngineVariant.BITNET and winner.can_chat:
        models = [each for each in known_answer_results.offered(winner) if each.weights == "I2_S"]
        yield judge_answers(winner, known_answers.check(winner, models))


def judge_answers(engine: EngineBinary, verdicts: Sequence[AnswerVerdict]) -> Finding:
    """Judge the results of one engine. A prebuilt engine is not broken if it is correct for some types of weights:
    models of other types use other engines. Pure.
    """
    right = [each.model.name for each in verdicts if not each.wrong]
    wrong = {each.model.name: each.wrong for each in verdicts if each.wrong}
    facts: dict[str, object] = {"right": right, "wrong": wrong}
    if not verdicts:
        return warn(
            _REPLIES_GROUP, engine.path.name, "its files do not show the supported types of weights", "", **facts
        )
    if not wrong:
        return ok(_REPLIES_GROUP, engine.path.name, f"its answers are correct with {', '.join(right)}", **facts)
    if engine.dialect is Dialect.NATIVE and right:
        seen = f"its answers are correct with {', '.join(right)}; it is not used for {', '.join(wrong)}"
        return ok(_REPLIES_GROUP, engine.path.name, f"{seen}, which it computes wrongly", **facts)
    told = "; ".join(f"{name}: {what}" for name, what in wrong.items())
    return broken(
        _REPLIES_GROUP,
        engine.path.name,
        f"it computes wrong results ({told})",
        "bitnet-chat engine install bitnet has a verified one",
        **facts,
    )


def measure(settings: Settings, counts: tuple[int, ...], budget: float) -> Iterator[ThreadRate]:
    """Measure the generation rate with each number of threads in ``counts``, until ``budget`` seconds have passed.

    Raises BitnetChatError if the engine or the model cannot be used.
    """
    begun = time.monotonic()
    longest = 0.0
    for threads in counts:
        left = budget - (time.monotonic() - begun)
        if left < max(longest, _MEASURED):  # not enough for a measurement as long as the longest
            return
        started = time.monotonic()
        rate = asyncio.run(_rate(replace(_plain(settings), threads=threads), limit=left))
        longest = max(longest, time.monotonic() - started)
        if rate is None:
            return
        yield ThreadRate(threads, rate)


async def _rate(settings: Settings, limit: float) -> float | None:
    """Measure the tokens per second; None if the reply has fewer than two tokens. ``limit``: seconds. Raises
    BitnetChatError.
    """
    backend = LocalEngineBackend(settings)
    stop: asyncio.TimerHandle | None = None
    rate: float | None = None
    try:
        conversation = Conversation().with_user(_LONG_QUESTION)
        async for event in backend.reply(conversation, ReplyOptions(timeout=limit)):
            if isinstance(event, TextDelta | ThinkingDelta) and stop is None:
                stop = asyncio.get_running_loop().call_later(_MEASURED, backend.interrupt)
            elif isinstance(event, Completed) and event.stats.tokens > 1:
                # A reply that came in one burst has no meaningful rate after the first token.
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
    stall_timeout_s = min(settings.stall_timeout or _STALL_TIMEOUT, _STALL_TIMEOUT)
    return replace(settings, journal=False, spare=False, system="", persona="", stall_timeout=stall_timeout_s)


_THREADS_GROUP, _NAME = "threads", "sweep"
_SIGNIFICANT = 1.1
"""Factor between two rates from which the difference is reported; smaller ones may be noise."""
_BITNET_SCRIPT_THREADS = 2
"""The default number of threads in run_inference.py of BitNet."""


@dataclass(frozen=True, slots=True)
class ThreadRate:
    """The generation rate with a number of threads. ``tokens``: tokens per second."""

    threads: int
    tokens: float


def counts(physical: int, logical: int, current: int) -> tuple[int, ...]:
    """Return the numbers of threads to measure, those most likely to be fast first. ``physical``, ``logical``: usable
    cores. ``current``: the number that a conversation uses.
    """
    return tuple(
        dict.fromkeys(
            min(each, logical)
            for each in (current, physical, _BITNET_SCRIPT_THREADS, max(1, physical // 2), logical, 1)
            if each > 0
        )
    )


def given(share: Threads, has: Processors) -> Finding:
    """Report the number of threads of an engine, and the origin of the number of usable processors. Pure."""
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
    """Judge the measured rates. ``current``: threads of a conversation. ``physical``: usable physical cores. ``tiny``:
    the model is too small for conclusions about others. Pure.
    """
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
    bitnets = next((rate for rate in rates if rate.threads == _BITNET_SCRIPT_THREADS), None)
    if bitnets is not None and physical > _BITNET_SCRIPT_THREADS and best.tokens > _SIGNIFICANT * bitnets.tokens:
        share = 100 * bitnets.tokens / best.tokens
        seen += f". The script of BitNet uses {_BITNET_SCRIPT_THREADS} by default: {share:.0f} % of the best"
    if best.tokens > _SIGNIFICANT * now.tokens:
        return warn(
            _THREADS_GROUP, _NAME, seen, f"-t {best.threads}, or threads = {best.threads} in config.toml", **facts
        )
    return ok(_THREADS_GROUP, _NAME, seen, **facts)
