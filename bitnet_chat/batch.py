"""Batch mode: answers one question, or a file of prompts with one resident engine."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

from bitnet_chat.backend import Backend, ReplyOptions
from bitnet_chat.backends.wrappers.recording import record_reply
from bitnet_chat.conversation import Conversation
from bitnet_chat.conversation.api_messages import conversation_of
from bitnet_chat.conversation.export import json_text
from bitnet_chat.conversation.json_fields import Fields, IgnoredFields
from bitnet_chat.errors import (
    BitnetChatError,
    EmptyReplyError,
    EngineDiedError,
    EngineNotFoundError,
    FinishReason,
    ModelError,
    RefusedFlagError,
    UnsupportedError,
    UsageError,
)
from bitnet_chat.events import Completed, Event, Failed, Notice, Stats, TextDelta, ThinkingDelta
from bitnet_chat.text.sanitize import Sanitizer
from bitnet_chat.text.utf8 import well_formed

if TYPE_CHECKING:
    from bitnet_chat.journal import JournalRecorder
    from bitnet_chat.tools import Toolbox

T = TypeVar("T")
Say = Callable[[str], None]
"""Prints one line for the user on stderr."""

# The beginnings of special tokens in the templates of common model families.
_TOKEN_MARKS = ("<|", "<s>", "</s>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<｜")
_ANSWERED = (FinishReason.STOP, FinishReason.LENGTH, FinishReason.ROLE_MARKER)
_MAX_CRASHES = 3  # consecutive crashes of the engine that end the run


class Tracker(Protocol):
    """Display of the progress of a batch."""

    def advance(self, done: int, todo: int, failed: int) -> None:
        """Show the progress: numbers of prompts; ``todo``: those that this run has to answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one question."""

    reason: FinishReason
    text: str
    stats: Stats = field(default_factory=Stats)
    error: BitnetChatError | None = None
    thinking: str = ""

    @classmethod
    def of(cls, end: Completed | Failed, thoughts: Sequence[str]) -> Answer:
        """Make the answer from the last event. A finished reply with thinking but without text fails with
        :class:`EmptyReplyError`."""
        thinking = "".join(thoughts)
        if isinstance(end, Failed):
            return cls(end.error.reason, end.text, error=end.error, thinking=thinking)
        if end.reason in _ANSWERED and not end.text.strip() and thinking.strip():
            cut = "--max-tokens N allows more; " if end.reason is FinishReason.LENGTH else ""
            error = EmptyReplyError(
                "the model did not answer: its thinking did not end",
                remedy=f"{cut}--json prints its thoughts, and the journal keeps them",
            )
            return cls(FinishReason.EMPTY, end.text, end.stats, error, thinking)
        return cls(end.reason, end.text, end.stats, thinking=thinking)

    def as_json(self, backend: Backend) -> dict[str, Any]:
        """Return the object of ``--json`` and ``--output``.

        Times are in seconds. ``prompt_size``: tokens of the whole prompt; ``prompt_tokens``: those that were new.
        ``exact``: False if the counts are estimates.
        """
        stats, status = self.stats, backend.status()
        rate = stats.tokens_per_second
        result: dict[str, Any] = {
            "reply": well_formed(self.text) if self.error is None or self.text.strip() else None,
            "finish_reason": self.reason.value,
            "tokens": stats.tokens,
            "timings": {
                "prompt_tokens": stats.prompt_tokens,
                "prompt_size": stats.prompt_size,
                "exact": stats.exact,
                "time_to_first_token": _rounded(stats.time_to_first_token),
                "seconds": _rounded(stats.seconds),
                "tokens_per_second": _rounded(rate),
            },
            "model": status.model,
            "engine": status.engine,
        }
        if self.thinking:
            result["thinking"] = well_formed(self.thinking)
        if self.error is not None:
            result["error"] = well_formed(str(self.error))
        return result


def failure(error: BitnetChatError, model: str) -> dict[str, Any]:
    """Return the object of ``--json`` for a backend that could not be opened."""
    timings = dict.fromkeys(
        ("prompt_tokens", "prompt_size", "exact", "time_to_first_token", "seconds", "tokens_per_second")
    )
    result: dict[str, Any] = {"reply": None, "finish_reason": error.reason.value, "tokens": 0, "timings": timings}
    return result | {"model": model or None, "engine": None, "error": well_formed(str(error))}


async def ask(
    backend: Backend,
    conversation: Conversation,
    options: ReplyOptions,
    say: Say,
    recorder: JournalRecorder | None = None,
    toolbox: Toolbox | None = None,
) -> Answer:
    """Return the whole reply to a conversation.

    ``recorder`` saves it while it streams. ``toolbox``: tools that the model may call without approval.
    """
    thoughts: list[str] = []
    async with _events(backend, conversation, options, recorder, toolbox) as events:
        async for event in events:
            if isinstance(event, Notice):
                say(event.text)
            elif isinstance(event, ThinkingDelta):
                thoughts.append(event.text)
            elif isinstance(event, Completed | Failed):
                return Answer.of(event, thoughts)
    raise AssertionError("a reply ended without Completed or Failed")


async def stream(
    backend: Backend,
    conversation: Conversation,
    options: ReplyOptions,
    say: Say,
    show: Callable[[str], None],
    recorder: JournalRecorder | None = None,
    toolbox: Toolbox | None = None,
) -> Answer:
    """Like :func:`ask`, and pass each piece of the reply to ``show`` as it arrives, sanitized for a terminal."""
    sanitizer, thoughts = Sanitizer(), list[str]()
    async with _events(backend, conversation, options, recorder, toolbox) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                show(sanitizer.feed(event.text))
            elif isinstance(event, Notice):
                say(event.text)
            elif isinstance(event, ThinkingDelta):
                thoughts.append(event.text)
            elif isinstance(event, Completed | Failed):
                show(sanitizer.flush())
                return Answer.of(event, thoughts)
    raise AssertionError("a reply ended without Completed or Failed")


@asynccontextmanager
async def _events(
    backend: Backend,
    conversation: Conversation,
    options: ReplyOptions,
    recorder: JournalRecorder | None,
    toolbox: Toolbox | None,
) -> AsyncIterator[AsyncGenerator[Event]]:
    """Yield the events of a reply. The reply is stopped at the end of the block, so that the backend can start the next
    one."""
    if toolbox is not None:
        options = replace(options, tools=toolbox.tools)

    def replies(conversation: Conversation) -> AsyncGenerator[Event]:
        if recorder is None:
            return backend.reply(conversation, options)
        return record_reply(backend, recorder, conversation, options)

    if toolbox is None:
        events = replies(conversation)
    else:
        from bitnet_chat.tools.loop import ResultBudget, rounds

        def space(conversation: Conversation) -> ResultBudget:
            return ResultBudget(conversation, toolbox.tools, backend.status().context_size, backend.count)

        events = rounds(replies, conversation, toolbox, space)
    async with aclosing(events):
        yield events


@dataclass(frozen=True, slots=True)
class Job:
    """One line of the input."""

    index: int
    """Line number, from 1."""
    fields: Mapping[str, Any]
    conversation: Conversation | None
    """None for an invalid line, whose error is ``error``."""
    error: UsageError | None = None
    notes: tuple[str, ...] = ()
    """Messages about fields that were ignored or changed."""


def read_jobs(lines: Iterator[bytes], system: str = "") -> Iterator[Job]:
    """Yield a job for each line that is not blank. ``system``: the system prompt for lines without one."""
    for index, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        fields: Mapping[str, Any] = {}
        try:
            fields = _object(raw)
            notes = IgnoredFields()
            conversation = _conversation(fields, system, notes)
            yield Job(index, fields, conversation, notes=tuple(notes.lines))
        except UsageError as error:
            yield Job(index, fields, None, UsageError(f"line {index}: {error.what}", remedy=error.remedy))


def _object(raw: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UsageError(f"this is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise UsageError("this is not a JSON object with 'prompt' or 'messages'")
    return value


def is_blank(question: str) -> bool:
    """Whether a prompt is empty, and so invalid."""
    return not question.strip()


def _conversation(fields: Mapping[str, Any], system: str, notes: IgnoredFields) -> Conversation:
    prompt, messages = fields.get("prompt"), fields.get("messages")
    if (prompt is None) == (messages is None):
        raise UsageError("the line needs either 'prompt' or 'messages'")
    if prompt is not None:
        if not isinstance(prompt, str):
            raise UsageError("'prompt' is not a text")
        if is_blank(prompt):
            raise UsageError("'prompt' is empty")
        return Conversation().with_system(system).with_user(prompt)
    if not isinstance(messages, list):
        raise UsageError("'messages' is not a list")
    conversation = conversation_of(Fields({"messages": messages}, notes=notes).needed_objects("messages"))
    return conversation if conversation.system else conversation.with_system(system)


def needs_exact_history(conversation: Conversation) -> bool:
    """Whether the job requires a backend that accepts an exact history: it has earlier turns, or text like a special
    token."""
    contents = [message.content for message in conversation.messages]
    return len(conversation.turns) > 1 or any(mark in content for content in contents for mark in _TOKEN_MARKS)


def finished(output: Path, jobs: Sequence[Job]) -> dict[int, FinishReason]:
    """Return the lines that an earlier run has answered, with their finish reasons, and cut off an incomplete last
    line.

    Raises UsageError, without changing the file, if it belongs to another input.
    """
    if not output.is_file():  # missing, or a device or pipe, which cannot be read back
        return {}
    try:
        data = output.read_bytes()
    except OSError as error:
        raise UsageError(f"{output} cannot be read: {error.strerror}") from None
    whole = data.rfind(b"\n") + 1
    lines, incomplete = data[:whole].splitlines(), data[whole:]
    heads = {job.index: _head(job) for job in jobs}
    ends: dict[int, FinishReason] = {}
    for number, raw in enumerate(lines, 1):
        try:
            entry = json.loads(raw)
            index = entry["index"]
            head = heads.pop(index)
            # Compared as text, because NaN is not equal to itself.
            if _encoded({key: entry[key] for key in head}) != _encoded(head):
                raise ValueError
        except (ValueError, TypeError, KeyError):
            raise _mismatch(output, number) from None
        ends[index] = _finish_reason(entry)
    if incomplete:
        # Cut off the last line only if it is the beginning of the next line to write.
        start = _encoded(heads[min(heads)])[:-1] + b", " if heads else b""
        if not heads or not (start.startswith(incomplete) or incomplete.startswith(start)):
            raise _mismatch(output, len(lines) + 1)
        try:
            with output.open("r+b") as file:
                file.truncate(whole)
        except OSError as error:
            raise UsageError(f"{output} cannot be written: {error.strerror}") from None
    return ends


def _finish_reason(entry: Mapping[str, Any]) -> FinishReason:
    try:
        return FinishReason(entry.get("finish_reason", ""))
    except ValueError:  # written by another release
        return FinishReason.STOP if entry.get("error") is None else FinishReason.USAGE


def _mismatch(output: Path, number: int) -> UsageError:
    return UsageError(f"{output}, line {number} is not a reply to a line of this input", remedy="give another --output")


_RESERVED = frozenset(
    {"index", "given", "reply", "finish_reason", "tokens", "timings", "model", "engine", "thinking", "error"}
)


def _head(job: Job) -> dict[str, Any]:
    """The first fields of an output line: number and fields of the input line. Fields with reserved names go into
    ``given``."""
    own = {key: value for key, value in job.fields.items() if key not in _RESERVED}
    given = {key: value for key, value in job.fields.items() if key in _RESERVED}
    return {"index": job.index} | own | ({"given": given} if given else {})


def _encoded(entry: Mapping[str, Any]) -> bytes:
    # Lone surrogates, which represent bytes that are not UTF-8, are escaped as in JSON.
    return json_text(entry).encode()


async def run(
    jobs: Iterator[Job],
    count: int,
    output: IO[bytes],
    backend_for: Callable[[Conversation], Backend],
    options: ReplyOptions,
    say: Say,
    progress: Tracker,
    stopped: Callable[[], bool],
    toolbox: Toolbox | None = None,
    at_once: int = 1,
) -> FinishReason:
    """Answer ``jobs`` in order, and write each reply when it ends. Return the reason of the first failure, or STOP.

    ``count``: number of jobs, for the progress. ``at_once``: number of concurrent requests, for a backend that can
    serve several; replies are still written in order. ``stopped``: whether to stop before the next job.

    Raises EngineNotFoundError, ModelError, UnsupportedError, RefusedFlagError or EngineDiedError if all further jobs
    would fail too; the output so far is complete.
    """
    worst, failed, crashes = FinishReason.STOP, 0, _CrashCount()

    async def answered(conversation: Conversation, backend: Backend) -> tuple[Backend, Answer]:
        answer = await ask(backend, conversation, options, say, toolbox=toolbox)
        if answer.reason is FinishReason.ENGINE_DIED and not crashes.is_last:
            # Nothing of the first attempt was written.
            answer = await ask(backend, conversation, options, say, toolbox=toolbox)
        return backend, answer

    def begun(job: Job) -> asyncio.Task[tuple[Backend, Answer]] | None:
        conversation = job.conversation
        if conversation is None:
            return None
        return asyncio.ensure_future(answered(conversation, backend_for(conversation)))

    progress.advance(0, count, 0)
    async with aclosing(_in_order(jobs, begun, at_once, stopped)) as asked:
        async for number, job, answering in asked:
            if job is None:
                return FinishReason.INTERRUPTED
            if answering is None:
                assert job.error is not None
                result: dict[str, Any] = {"reply": None, "finish_reason": "usage", "error": str(job.error)}
                reason = FinishReason.USAGE
            else:
                backend, answer = await answering
                if answer.reason is FinishReason.INTERRUPTED:
                    return FinishReason.INTERRUPTED  # not written: the next run repeats this job
                crashes.check(answer)
                result, reason = answer.as_json(backend), answer.reason
            _write(output, job, result)
            if reason.exit_code:
                failed += 1
                worst = worst if worst.exit_code else reason
            progress.advance(number, count, failed)
    return worst


class _CrashCount:
    """Counts consecutive crashes of the engine, and ends the run at the limit."""

    def __init__(self) -> None:
        self._count = 0

    @property
    def is_last(self) -> bool:
        """Whether one more crash ends the run."""
        return self._count + 1 >= _MAX_CRASHES

    def check(self, answer: Answer) -> None:
        """Raise the error of ``answer`` if all further jobs would fail too."""
        if isinstance(answer.error, EngineNotFoundError | ModelError | UnsupportedError | RefusedFlagError):
            raise answer.error
        self._count = self._count + 1 if answer.reason is FinishReason.ENGINE_DIED else 0
        if self._count == _MAX_CRASHES:
            raise answer.error or EngineDiedError(
                "the engine process ended several times in a row", remedy="run the same command again"
            )


def _write(output: IO[bytes], job: Job, result: dict[str, Any]) -> None:
    try:
        output.write(_encoded(_head(job) | result) + b"\n")
        output.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(
            f"the reply to line {job.index} cannot be written: {error.strerror}",
            remedy="free disk space and run the same command again: it continues at this line",
        ) from None


async def _in_order(
    jobs: Iterator[Job], begin: Callable[[Job], asyncio.Task[T] | None], at_once: int, stopped: Callable[[], bool]
) -> AsyncGenerator[tuple[int, Job | None, asyncio.Task[T] | None]]:
    """Yield number, job and started request of each job; up to ``at_once`` requests run at a time.

    The job is None if the batch was stopped before a job was started; the request is None for a job without a
    conversation.
    """
    begun: deque[tuple[Job, asyncio.Task[T] | None]] = deque()
    number = 0
    try:
        while True:
            while len(begun) < at_once and not stopped() and (job := next(jobs, None)) is not None:
                begun.append((job, begin(job)))
            number += 1
            if begun:
                job, task = begun[0]
                yield number, job, task
                begun.popleft()
            elif stopped() and next(jobs, None) is not None:
                yield number, None, None
            else:
                return
    finally:
        tasks = [task for _, task in begun if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


__all__ = ["Answer", "Job", "ask", "finished", "is_blank", "needs_exact_history", "read_jobs", "run", "stream"]
