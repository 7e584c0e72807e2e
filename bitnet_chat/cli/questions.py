"""Answers without a conversation: one question (``QUESTION``, ``-f FILE``, stdin), or a batch (``--input FILE``)."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, TextIO

from bitnet_chat import batch, paths, terminal
from bitnet_chat.attachments import Attachment, with_attachments
from bitnet_chat.attachments.reading import file_mentions
from bitnet_chat.backend import Backend
from bitnet_chat.backends.factory import expect, open_backend, open_batch, open_interactive, open_journal, reply_options
from bitnet_chat.backends.wrappers.runaway_guard import TOLD
from bitnet_chat.cli.arguments import find_conversation, read_attachments
from bitnet_chat.cli.conversion import convert
from bitnet_chat.cli.greeting import alone
from bitnet_chat.cli.messages import write_lines
from bitnet_chat.cli.tools import allowed_toolbox
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.conversation.export import json_text
from bitnet_chat.engine.binary import Dialect
from bitnet_chat.errors import EngineNotFoundError, FinishReason, UsageError
from bitnet_chat.journal import JournalRecorder, JournalStore, StoredConversation
from bitnet_chat.markdown import Mode, prose
from bitnet_chat.text.sanitize import one_line, visible
from bitnet_chat.text.utf8 import well_formed
from bitnet_chat.text.wrap import WordWrapper
from bitnet_chat.util.file_lock import try_lock
from bitnet_chat.util.progress import Progress, ProgressLine

if TYPE_CHECKING:
    from bitnet_chat.tools import Toolbox


_PRINTED = (FinishReason.TIMEOUT, FinishReason.STALLED, FinishReason.INTERRUPTED)
"""Finish reasons after which ``--no-stream`` prints the incomplete text. After other failures it prints nothing."""


def answer_one(flags: argparse.Namespace, settings: Settings, configured: str) -> Coroutine[object, object, int]:
    """Read the question, and return a coroutine that answers it and returns the exit code. The question is read before
    the event loop runs, because a blocking read would delay the handling of signals. Raises UsageError.
    """
    journal = open_journal(settings)
    stored = find_conversation(flags, journal, _say)  # before a question is typed, because this may fail
    box = allowed_toolbox(flags, settings)
    question, files = _question(flags)
    before = stored.conversation if stored is not None else Conversation()
    if stored is None or hasattr(flags, "system"):
        before = before.with_system(settings.system)
    writer = AnswerWriter(settings.markdown, sys.stdout, _say)
    recorder = journal.recorder(writer.say) if settings.journal else JournalRecorder(None, writer.say)
    asked = before.with_user(with_attachments(question, files))
    return _answer_one(flags, settings, configured, asked, journal, recorder, stored, files, box, writer)


async def _answer_one(
    flags: argparse.Namespace,
    settings: Settings,
    configured: str,
    conversation: Conversation,
    journal: JournalStore,
    recorder: JournalRecorder,
    stored: StoredConversation | None,
    files: Sequence[Attachment],
    box: Toolbox | None,
    writer: AnswerWriter,
) -> int:
    backend = open_interactive(settings, configured, journal, model=getattr(flags, "model", ""), convert=convert)
    _say_model_note(settings)
    expect(backend, box)
    if stored is not None:
        recorder.resume(stored)
    try:
        if files:
            backend.prepare(Conversation(conversation.messages[:-1]))
            for each in files:  # in a thread, while the model loads
                _say(each.described(await asyncio.to_thread(backend.count, each.block)))

        def stop() -> None:
            backend.interrupt()
            if box is not None:
                box.stop()

        with _interrupting(stop):
            answer = await _reply(flags, settings, backend, conversation, recorder, box, writer)
        await recorder.close()
        if hasattr(flags, "json"):
            print(json_text(answer.as_json(backend) | _journal_fields(recorder)))
        else:
            _print(answer, writer, streamed=not hasattr(flags, "no_stream"))
        _tell_failure(answer)
        sys.stdout.flush()
        return answer.reason.exit_code or (FinishReason.JOURNAL.exit_code if recorder.unsaved else 0)
    finally:
        await recorder.close()
        await backend.close()
        writer.close()


async def _reply(
    flags: argparse.Namespace,
    settings: Settings,
    backend: Backend,
    conversation: Conversation,
    recorder: JournalRecorder,
    box: Toolbox | None,
    writer: AnswerWriter,
) -> batch.Answer:
    options = reply_options(settings)
    if hasattr(flags, "json") or hasattr(flags, "no_stream"):
        return await batch.ask(backend, conversation, options, _say, recorder, box)
    answer = await batch.stream(backend, conversation, options, writer.say, writer.show, recorder, box)
    writer.close()
    return answer


def _print(answer: batch.Answer, writer: AnswerWriter, *, streamed: bool) -> None:
    """End a streamed answer, or print one that was not streamed, unless a failure makes it useless."""
    if streamed:
        writer.end()
    elif answer.text and (not answer.reason.exit_code or answer.reason in _PRINTED):
        print(visible(answer.text))


def _tell_failure(answer: batch.Answer) -> None:
    if answer.error is not None:
        write_lines(f"bitnet-chat: {visible(str(answer.error))}")
    elif answer.reason.exit_code and answer.reason not in TOLD:
        _say(f"the reply is incomplete: {answer.reason.value.replace('_', ' ')}")


def _journal_fields(recorder: JournalRecorder) -> dict[str, object]:
    """Return the fields of ``--json`` about the journal."""
    kept: dict[str, object] = {"conversation": recorder.id, "kept": recorder.id is not None and not recorder.unsaved}
    return kept | ({"not_kept": well_formed(recorder.unsaved)} if recorder.unsaved else {})


def _question(flags: argparse.Namespace) -> tuple[str, list[Attachment]]:
    """Read the question and its attachments. Raises UsageError."""
    from_stdin = not flags.question and getattr(flags, "file", "-") == "-"
    if flags.question:
        if hasattr(flags, "file"):
            raise UsageError("give the question or --file, not both")
        text = " ".join(flags.question)
    elif not from_stdin:
        path = paths.expand(flags.file)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from None
        text = _decoded(data, str(path))
    else:
        if sys.stdin.isatty():
            _say("reading the question from the terminal; Ctrl-D ends the input")
        text = _decoded(sys.stdin.buffer.read(), "stdin")
    if not flags.question:  # an editor or echo has added the last newline
        text = text.removesuffix("\n").removesuffix("\r")
    if batch.is_blank(text):
        raise UsageError("the question is empty")
    files = read_attachments(flags, _say, stdin_is_taken=from_stdin)
    for mention in file_mentions(text):
        if mention not in {each.name for each in files}:
            _say(f"@{mention} is sent as text, without a file: -a {mention} attaches one")
    return text, files


def _decoded(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{source} is not UTF-8 (byte {error.start} is {data[error.start]:#04x})",
            remedy="convert it, for example with iconv -t utf-8",
        ) from None


def answer_file(flags: argparse.Namespace, settings: Settings, configured: str) -> Coroutine[object, object, int]:
    """Read the prompts of ``--input``, and return a coroutine that answers them and returns the exit code. They are
    read before the event loop runs, see :func:`answer_one`. Raises UsageError.
    """
    jobs = list(batch.read_jobs(iter(_input_lines(flags.input)), settings.system))
    _say_mentions(jobs)
    return _answer_file(_output_path(flags), settings, configured, jobs, allowed_toolbox(flags, settings))


def _say_mentions(jobs: Sequence[batch.Job]) -> None:
    """Report in one line that files mentioned as ``@path`` are not attached: a prompt may come from another source."""
    asked = [(job.index, job.conversation.last) for job in jobs if job.conversation is not None]
    lines = [(index, path) for index, last in asked if last is not None for path in file_mentions(last.content)[:1]]
    if lines:
        (index, path), more = lines[0], len(lines) - 1
        others = f", and so are those in {more} more line{'s' * (more > 1)}" if more else ""
        _say(f"line {index}: @{path} is sent as text, without a file{others}: prompts of --input attach none")


async def _answer_file(
    output_path: Path | None, settings: Settings, configured: str, jobs: list[batch.Job], box: Toolbox | None
) -> int:
    with _opened(output_path) as output:  # before reading it: another run may be writing a line
        done = {} if output_path is None else batch.finished(output_path, jobs)
        return await _answer_rest(output, output_path, settings, configured, jobs, done, box)


async def _answer_rest(
    output: IO[bytes],
    output_path: Path | None,
    settings: Settings,
    configured: str,
    jobs: list[batch.Job],
    done: dict[int, FinishReason],
    box: Toolbox | None,
) -> int:
    todo = [job for job in jobs if job.index not in done]
    noted: set[str] = set()
    for job in todo:
        for note in job.notes:
            if note not in noted:  # most notes are the same for all lines
                _say(f"line {job.index}: {note}")
            noted.add(note)
    failed = [done[index] for index in sorted(done) if done[index].exit_code]
    if done:
        told = f"{output_path} already has {len(done)} of {len(jobs)} replies"
        told += f", {len(failed)} of them failed" if failed else ""
        again = "; to repeat a line, remove it from the file" if failed else ""
        _say(f"{told}: resuming" if todo else f"{told}: complete{again}")
        if not todo:
            return failed[0].exit_code if failed else 0
    engines = _Engines(settings, configured, box)
    bar = _ProgressBar(sys.stderr)
    try:
        with _interrupting(engines.interrupt):
            reason = await batch.run(
                iter(todo),
                len(todo),
                output,
                engines.for_conversation,
                reply_options(settings),
                bar.say,
                bar,
                lambda: engines.interrupted,
                box,
                engines.at_once,
            )
        # The exit code is that of the first failed line, which may be one of an earlier run.
        return (failed[0] if failed and reason is not FinishReason.INTERRUPTED else reason).exit_code
    finally:
        bar.close()
        await engines.close()


def _output_path(flags: argparse.Namespace) -> Path | None:
    name = getattr(flags, "output", "-")
    return None if name == "-" else paths.expand(name)


class _Engines:
    """The backends of a batch: at most one of each kind, opened on first use.

    A modern engine can clear its context without loading again, so one process answers all lines. A line with its own
    history, or with text that looks like a special token, uses a classic engine, which reproduces these exactly.
    """

    def __init__(self, settings: Settings, configured: str, box: Toolbox | None = None) -> None:
        self._settings, self._configured, self._box = settings, configured, box
        self._exact: Backend | None = None
        self._clearing: Backend | None = None
        self._current: Backend | None = None
        self._note_was_shown = False
        self.interrupted = False
        self.at_once = 1
        """Number of lines that may be answered at the same time."""
        if settings.attach:
            self._exact, self.at_once = open_batch(settings)
            if box is not None:  # tools are called one at a time
                self.at_once = 1

    def for_conversation(self, conversation: Conversation) -> Backend:
        """Return the backend for a line of the batch."""
        # Other backends receive the whole conversation with each request, so one of them is enough. With rpc-servers,
        # two engines would wait for each other.
        settings = self._settings
        has_one = settings.attach or settings.backend != "engine" or settings.rpc
        if has_one or batch.needs_exact_history(conversation):
            self._exact = self._exact or self._default()
            self._current = self._exact
        else:
            self._clearing = self._clearing or self._modern() or self._exact or self._default()
            self._current = self._clearing
        return self._current

    def _default(self) -> Backend:
        return self._opened(open_backend(self._settings, self._configured, advice="nothing", convert=convert))

    def _opened(self, backend: Backend) -> Backend:
        expect(backend, self._box)
        if not self._note_was_shown:
            _say_model_note(self._settings)
        self._note_was_shown = True
        return backend

    def _modern(self) -> Backend | None:
        try:
            backend = open_backend(
                self._settings, self._configured, dialect=Dialect.MODERN, advice="nothing", convert=convert
            )
        except EngineNotFoundError:
            return None
        return self._opened(backend)

    def interrupt(self) -> None:
        """Stop the current reply or tool call, and remember that."""
        self.interrupted = True
        if self._box is not None:
            self._box.stop()
        if self._current is not None:
            self._current.interrupt()

    async def close(self) -> None:
        for backend in (self._exact, self._clearing):
            if backend is not None:
                await backend.close()


class _ProgressBar:
    """Shows the progress of a batch on stderr, and erases it before other lines."""

    def __init__(self, stream: TextIO) -> None:
        self._line = ProgressLine(stream)
        self._started = time.monotonic()

    def advance(self, done: int, todo: int, failed: int) -> None:
        seconds = time.monotonic() - self._started
        left = seconds * (todo - done) / done if done else None
        detail = f"{done}/{todo}" + (f", {failed} failed" if failed else "")
        self._line(Progress("replies", done, todo, seconds, left, detail))

    def say(self, text: str) -> None:
        self.close()
        _say(text)

    def close(self) -> None:
        self._line.close()


def _input_lines(name: str) -> list[bytes]:
    if name == "-":
        return sys.stdin.buffer.readlines()
    path = paths.expand(name)
    try:
        return path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[IO[bytes]]:
    """Open and lock the output for the block; None is stdout. Raises UsageError if it cannot be written or another run
    has locked it.
    """
    if path is None:
        yield sys.stdout.buffer
        return
    try:
        file = path.open("ab")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    try:
        if not _lock(file):
            raise UsageError(f"{path} is in use by another run", remedy="wait until it ends, or use another --output")
        yield file
    finally:
        with contextlib.suppress(OSError):  # each write was flushed and its error reported
            file.close()


def _lock(file: IO[bytes]) -> bool:
    """Lock the output. Returns False if another run has locked it. A device or a pipe is not locked."""
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return True
    try:
        return try_lock(file.fileno())
    except OSError:  # a file system without locks
        return True


@contextlib.contextmanager
def _interrupting(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` on the first Ctrl-C during the block; a second Ctrl-C ends the program."""
    loop = asyncio.get_running_loop()

    def on_interrupt() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        stop()

    try:
        loop.add_signal_handler(signal.SIGINT, on_interrupt)
    except (NotImplementedError, RuntimeError):  # Windows: the first Ctrl-C ends the program (KeyboardInterrupt)
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _say_model_note(settings: Settings) -> None:
    for line in alone(settings):
        _say(line)


def _say(text: str) -> None:
    write_lines(f"bitnet-chat: {one_line(text)}")


class AnswerWriter:
    """Writes one streamed answer to ``stream``: on a terminal styled and wrapped, elsewhere unchanged.

    Call ``show`` for each piece, ``say`` for other lines, and at the end ``close`` or ``end``.
    """

    def __init__(self, mode: Mode, stream: TextIO, say: Callable[[str], None]) -> None:
        """Create a writer. ``mode``: the setting ``markdown``. ``say``: writes a line to stderr."""
        self._stream = stream
        self._write_message = say
        self._is_terminal = stream.isatty()
        self._begun = self._within_line = False
        # A Windows console interprets escape sequences only after a call that enables them, which is not done here.
        draws = terminal.draws(stream) and sys.platform != "win32"
        self._wrapper = WordWrapper(self._columns if draws else None)
        colour = terminal.shows_colours(stream)
        self._renderer = prose(mode, terminal=draws, colour=colour, columns=lambda: self._columns() - 1)

    def show(self, text: str) -> None:
        """Write a sanitized piece of the answer."""
        self._write(self._renderer.feed(text))

    def say(self, text: str) -> None:
        """Write a line to stderr. On a terminal it does not interrupt a line of the answer."""
        # Text that is held back comes first, and styles are reset.
        self._write(self._renderer.flush())
        if self._is_terminal and self._within_line:
            self._write("\n")
        self._write_message(text)

    def close(self) -> None:
        """Write text that is held back, and reset styles. May be called again."""
        self._write(self._renderer.finish())

    def end(self) -> None:
        """Close, and add a newline: in a file always, on a terminal only if the last line has none."""
        self.close()
        if self._within_line if self._is_terminal else self._begun:
            self._write("\n")

    def _write(self, text: str) -> None:
        if text:
            self._stream.write(self._wrapper.feed(text))
            self._stream.flush()
            self._begun, self._within_line = True, not text.endswith("\n")

    def _columns(self) -> int:
        return terminal.size(self._stream)[0]
