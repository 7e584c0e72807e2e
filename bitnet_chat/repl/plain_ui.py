"""The user interface without a terminal library: lines in, text out.

For dumb terminals, for pipes, and for systems without termios, with the line editing of the terminal.
"""

from __future__ import annotations

import asyncio
import codecs
import io
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TextIO

from bitnet_chat import terminal
from bitnet_chat.backend import Backend
from bitnet_chat.errors import FinishReason, UsageError
from bitnet_chat.repl.controller import ReplController, SwitchModel
from bitnet_chat.repl.display import ReplyDisplay
from bitnet_chat.repl.interfaces import ReplSettings, Verdict, clipboard_sequence
from bitnet_chat.repl.signals import on_interrupt
from bitnet_chat.text.sanitize import one_line
from bitnet_chat.util.editor import edit

if TYPE_CHECKING:
    from bitnet_chat.attachments import Attachment
    from bitnet_chat.journal import JournalEntry, JournalStore, StoredConversation

PROMPT = "> "
CHOICES = 20
"""Maximum number of conversations in a list, the latest first."""


class StreamOutput:
    """Output of words to one stream and remarks to another, which may be the same."""

    def __init__(self, words: TextIO, remarks: TextIO) -> None:
        self._words = words
        self._remarks = remarks

    def words(self, text: str) -> None:
        _write(self._words, text)

    def remarks(self, text: str) -> None:
        _write(self._remarks, text)


def _write(stream: TextIO, text: str) -> None:
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding))  # what it cannot show becomes "?"
    stream.flush()


class LineReader:
    """Lines of a stream, read ahead by a thread; ``None`` at its end."""

    def __init__(self, stream: TextIO) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        # The raw file under a buffered one, because a thread that waits inside the buffer holds its lock, which
        # is fatal to an interpreter that wants to exit. WindowsConsoleIO, too, gives UTF-8 here.
        buffer = getattr(stream, "buffer", None)
        raw = buffer.raw if isinstance(buffer, io.BufferedReader) else None
        encoding = "utf-8" if sys.platform == "win32" else stream.encoding or "utf-8"
        target, arguments = (self._read_raw, (raw, encoding)) if raw is not None else (self._read_text, (stream,))
        threading.Thread(target=target, args=arguments, name="lines", daemon=True).start()

    async def next(self) -> str | None:
        return await self._lines.get()

    def answer(self, line: str | None) -> None:
        """Insert a line as if it had been read; None: the end of the stream."""
        self._lines.put_nowait(line)

    def _read_raw(self, raw: io.RawIOBase, encoding: str) -> None:
        decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
        rest = ""
        try:
            while data := raw.read(65536):
                *lines, rest = (rest + decoder.decode(data)).split("\n")
                for line in lines:
                    self._put(line)
        except OSError:
            pass  # a terminal that hung up has ended
        rest += decoder.decode(b"", True)
        self._put(rest or None)
        if rest:
            self._put(None)

    def _read_text(self, stream: TextIO) -> None:
        for line in stream:
            self._put(line.removesuffix("\n"))
        self._put(None)

    def _put(self, line: str | None) -> None:
        with suppress(RuntimeError):  # the loop has ended first
            self._loop.call_soon_threadsafe(self._lines.put_nowait, line and line.removesuffix("\r"))


class PlainUI:
    """One run of the REPL without a terminal library."""

    def __init__(
        self,
        backend: Backend,
        settings: ReplSettings,
        colour: bool,
        switch_model: SwitchModel | None,
        journal: JournalStore | None = None,
        attached: Sequence[Attachment] = (),
    ) -> None:
        self._typed = sys.stdin.isatty()
        remarks = sys.stdout if sys.stdout.isatty() else sys.stderr
        self._sink = StreamOutput(sys.stdout, remarks)
        size = partial(terminal.size, remarks) if remarks.isatty() else None
        self._display = ReplyDisplay(self._sink, colour=colour, spinner=False, thinking=settings.thinking, size=size)
        self._talk = ReplController(backend, settings, self._display, self, switch_model, journal, attached)
        self._lines = LineReader(sys.stdin)
        self._parts: list[str] = []
        """Lines of a message that continues on the next line."""
        self._replying = False
        self._picking = False
        self._code = 0

    async def run(self, notices: Sequence[str], resumed: StoredConversation | None = None) -> int:
        """Run until the input ends or the user exits; closes the backend. Returns 9 if the end of the conversation was
        not saved. On piped input: 130 for Ctrl-C, else, as for a batch, the code of the first question without a
        complete reply.
        """
        try:
            for text in notices:
                self._display.notice(text)
            if resumed is not None:
                self._talk.resume(resumed)
                self._tell_unanswered()
            self._talk.start()
            self._talk.follow(self)
            with on_interrupt(self._interrupt):
                await self._converse()
        finally:
            await self._talk.close()
        reason = FinishReason.JOURNAL if self._talk.unsaved else None
        if not self._typed:
            reason = self._talk.failure or reason
        return self._code or (reason.exit_code if reason is not None else 0)

    async def _converse(self) -> None:
        while not self._talk.leaving:
            self._prompt()
            line = await self._lines.next()
            if line is None:
                if self._typed:
                    self._sink.remarks("\n")
                if self._parts:  # the input ended in a backslash
                    await self._submit("")
                return
            if line.endswith("\\"):
                self._parts.append(line[:-1])
            else:
                await self._submit(line)

    async def _submit(self, last: str) -> None:
        message = "\n".join([*self._parts, last])
        self._parts.clear()
        if not message and self._typed:
            message = self._talk.unanswered
        self._replying = True
        try:
            await self._talk.submit(message)
        finally:
            self._replying = False
        self._tell_unanswered()

    def _tell_unanswered(self) -> None:
        if self._talk.unanswered and self._typed:
            self._display.notice("An empty line sends the message again.")

    # The console of the talk

    async def edit(self, text: str) -> str:
        """See :class:`bitnet_chat.repl.interfaces.UserInterface`."""
        if not self._typed:
            raise UsageError("an editor requires a terminal as input")
        return await asyncio.to_thread(edit, text)

    async def pick(self, entries: Sequence[JournalEntry]) -> int | None:
        """Print a list; the next line is the number of a conversation."""
        self._display.lines(*(f"{each.id:>6}  {one_line(each.title)}" for each in entries[:CHOICES]))
        more = f" ({CHOICES} of {len(entries)} are shown)" if len(entries) > CHOICES else ""
        self._display.notice(f"Enter a number{more}, or an empty line to cancel:")
        self._picking = True
        try:
            line = (await self._lines.next() or "").strip()
        finally:
            self._picking = False
        if line.isdecimal() and any(each.id == int(line) for each in entries):
            return int(line)
        if line:
            self._display.lines(f"{one_line(line)} is not the number of a conversation.")
        return None

    async def decide(self, question: str) -> Verdict | None:
        if not self._typed:
            self._display.notice(
                f"{question} No: stdin is not a terminal. --allow-tools NAME allows a tool in advance."
            )
            return "no"
        line = await self._answer(f"{question} yes, no or always: ")
        words: tuple[Verdict, ...] = ("yes", "no", "always")
        return next((word for word in words if line and word.startswith(line)), None)

    async def confirm(self, question: str) -> bool:
        if not self._typed:
            self._display.notice(f"{question} Yes: stdin is not a terminal.")
            return True
        line = await self._answer(f"{question} yes or no: ")
        return bool(line) and "yes".startswith(line)

    async def _answer(self, question: str) -> str:
        self._sink.remarks(question)
        self._picking = True
        try:
            return (await self._lines.next() or "").strip().lower()
        finally:
            self._picking = False

    def copy(self, text: str) -> bool:
        if not terminal.draws(sys.stdout):
            return False
        self._sink.words(clipboard_sequence(text))
        return True

    def complain(self, text: str) -> None:
        """Show a line about a failure in the background."""
        self._display.notice(text)

    # Output of remote replies: the terminal owns the line that is being typed, and its rows above cannot be drawn.

    by_lines = False

    async def above(self, write: Callable[[], None]) -> None:
        """See :class:`bitnet_chat.repl.remote_replies.RemoteReplyScreen`."""
        prompting = self._typed and not self._replying
        if prompting:
            self._sink.remarks("\n")
        write()
        if prompting:
            self._prompt()

    def preview(self, text: str) -> None:
        pass

    def _prompt(self) -> None:
        if self._typed:
            self._sink.remarks("  " if self._parts else PROMPT)

    def _interrupt(self) -> None:
        if self._picking and self._typed:  # the terminal itself forgot the line
            self._sink.remarks("\n")
            self._lines.answer("")
        elif self._replying:
            self._talk.interrupt()
        elif self._typed:  # the terminal itself forgot the line
            self._parts.clear()
            self._sink.remarks("\n")
            self._prompt()
        else:
            self._code = FinishReason.INTERRUPTED.exit_code
            self._lines.answer(None)
