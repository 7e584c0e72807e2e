"""The user interface without prompt_toolkit: it reads lines and writes text.

For pipes, dumb terminals and systems without termios. The line editing is that of the terminal driver.
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
from bitnet_chat.repl.branches import TreeLine, numbered
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
"""Maximum number of conversations in the list of ``/resume``, latest first."""


class StreamOutput:
    """An :class:`bitnet_chat.repl.screen.Output` that writes replies to one stream and all other text to another, which
    may be the same.
    """

    def __init__(self, words: TextIO, remarks: TextIO) -> None:
        self._words = words
        self._remarks = remarks

    def words(self, text: str) -> None:
        _write(self._words, text)

    def remarks(self, text: str) -> None:
        _write(self._remarks, text)


def _write(stream: TextIO, text: str) -> None:
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding))  # "?" for characters outside of the encoding
    stream.flush()


class LineReader:
    """Reads the lines of a stream in a thread."""

    def __init__(self, stream: TextIO) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        # The raw file below the buffer is read: a thread that blocks in the buffer holds its lock, and the interpreter
        # aborts at exit if a daemon thread holds it. On Windows the raw console also delivers UTF-8.
        buffer = getattr(stream, "buffer", None)
        raw = buffer.raw if isinstance(buffer, io.BufferedReader) else None
        encoding = "utf-8" if sys.platform == "win32" else stream.encoding or "utf-8"
        target, arguments = (self._read_raw, (raw, encoding)) if raw is not None else (self._read_text, (stream,))
        threading.Thread(target=target, args=arguments, name="lines", daemon=True).start()

    async def next(self) -> str | None:
        """Wait for the next line and return it, without its newline; None at the end of the stream."""
        return await self._lines.get()

    def answer(self, line: str | None) -> None:
        """Insert a line as if it had been read; None is the end of the stream."""
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
            pass  # the terminal was closed: the end of the stream
        rest += decoder.decode(b"", True)
        self._put(rest or None)
        if rest:
            self._put(None)

    def _read_text(self, stream: TextIO) -> None:
        for line in stream:
            self._put(line.removesuffix("\n"))
        self._put(None)

    def _put(self, line: str | None) -> None:
        with suppress(RuntimeError):  # the event loop has ended
            self._loop.call_soon_threadsafe(self._lines.put_nowait, line and line.removesuffix("\r"))


class PlainUI:
    """A session on plain lines. Implements UserInterface and RemoteReplyScreen."""

    def __init__(
        self,
        backend: Backend,
        settings: ReplSettings,
        colour: bool,
        switch_model: SwitchModel | None,
        journal: JournalStore | None = None,
        attached: Sequence[Attachment] = (),
    ) -> None:
        self._is_terminal = sys.stdin.isatty()
        remarks = sys.stdout if sys.stdout.isatty() else sys.stderr
        self._sink = StreamOutput(sys.stdout, remarks)
        size = partial(terminal.size, remarks) if remarks.isatty() else None
        self._display = ReplyDisplay(self._sink, colour=colour, spinner=False, thinking=settings.thinking, size=size)
        self._controller = ReplController(backend, settings, self._display, self, switch_model, journal, attached)
        self._lines = LineReader(sys.stdin)
        self._parts: list[str] = []
        """The previous lines of a message; each ended in a backslash."""
        self._replying = False
        self._picking = False
        self._exit_code = 0

    async def run(self, notices: Sequence[str], resumed: StoredConversation | None = None) -> int:
        """Run until the input ends or the user exits, and close the backend. Returns the exit code: 9 if the end of the
        conversation was not saved. Without a terminal, 130 after Ctrl-C, and else, as for a batch, the code of the
        first message without a complete reply take precedence. ``resumed``: a conversation to continue.
        """
        try:
            for text in notices:
                self._display.notice(text)
            if resumed is not None:
                self._controller.resume(resumed)
                self._tell_unanswered()
            self._controller.start()
            self._controller.follow(self)
            with on_interrupt(self._interrupt):
                await self._converse()
        finally:
            await self._controller.close()
        reason = FinishReason.JOURNAL if self._controller.unsaved else None
        if not self._is_terminal:
            reason = self._controller.failure or reason
        return self._exit_code or (reason.exit_code if reason is not None else 0)

    async def _converse(self) -> None:
        while not self._controller.leaving:
            self._prompt()
            line = await self._lines.next()
            if line is None:
                if self._is_terminal:
                    self._sink.remarks("\n")
                if self._parts:  # the last line ended in a backslash
                    await self._submit("")
                return
            if line.endswith("\\"):
                self._parts.append(line[:-1])
            else:
                await self._submit(line)

    async def _submit(self, last: str) -> None:
        message = "\n".join([*self._parts, last])
        self._parts.clear()
        if not message and self._is_terminal:
            message = self._controller.unanswered
        self._replying = True
        try:
            await self._controller.submit(message)
        finally:
            self._replying = False
        self._tell_unanswered()

    def _tell_unanswered(self) -> None:
        if self._controller.unanswered and self._is_terminal:
            self._display.notice("An empty line sends the message again.")

    # UserInterface

    async def edit(self, text: str) -> str:
        """See :class:`bitnet_chat.repl.interfaces.UserInterface`."""
        if not self._is_terminal:
            raise UsageError("an editor requires a terminal as input")
        return await asyncio.to_thread(edit, text)

    async def pick(self, entries: Sequence[JournalEntry]) -> int | None:
        """Print a list; the next line is the number of a conversation."""
        self._display.lines(*(f"{each.id:>6}  {one_line(each.title)}" for each in entries[:CHOICES]))
        more = f" ({CHOICES} of {len(entries)} are shown)" if len(entries) > CHOICES else ""
        return await self._pick_number({each.id for each in entries}, "conversation", more)

    async def pick_message(self, lines: Sequence[TreeLine], current: int | None) -> int | None:
        """Print the messages; the next line is the number of one of them."""
        self._display.lines(*numbered(lines))
        return await self._pick_number({each.row for each in lines}, "message")

    async def _pick_number(self, numbers: set[int], what: str, more: str = "") -> int | None:
        self._display.notice(f"Enter a number{more}, or an empty line to cancel:")
        self._picking = True
        try:
            line = (await self._lines.next() or "").strip()
        finally:
            self._picking = False
        if line.isdecimal() and int(line) in numbers:
            return int(line)
        if line:
            self._display.lines(f"{one_line(line)} is not the number of a {what}.")
        return None

    async def decide(self, question: str) -> Verdict | None:
        if not self._is_terminal:
            self._display.notice(
                f"{question} No: stdin is not a terminal. --allow-tools NAME allows a tool in advance."
            )
            return "no"
        line = await self._answer(f"{question} yes, no or always: ")
        words: tuple[Verdict, ...] = ("yes", "no", "always")
        return next((word for word in words if line and word.startswith(line)), None)

    async def choose(self, question: str, count: int, enter: str, escape: str) -> int | None:
        if not self._is_terminal:
            return None
        line = await self._answer(f"{question} 1 to {count}, 0: {enter}, an empty line: {escape}: ")
        if line.isascii() and line.isdigit() and len(line) < 3 and int(line) <= count:
            return int(line)
        if line:
            self._display.lines(f"{one_line(line)} is not the number of a reply.")
        return None

    async def confirm(self, question: str) -> bool:
        if not self._is_terminal:
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

    # RemoteReplyScreen. The terminal driver edits the typed line, so nothing can be drawn above it while it is typed.

    by_lines = False

    async def above(self, write: Callable[[], None]) -> None:
        """See :class:`bitnet_chat.repl.remote_replies.RemoteReplyScreen`."""
        prompting = self._is_terminal and not self._replying
        if prompting:
            self._sink.remarks("\n")
        write()
        if prompting:
            self._prompt()

    def preview(self, text: str) -> None:
        pass

    def _prompt(self) -> None:
        if self._is_terminal:
            self._sink.remarks("  " if self._parts else PROMPT)

    def _interrupt(self) -> None:
        if self._picking and self._is_terminal:  # the terminal driver has discarded the typed line
            self._sink.remarks("\n")
            self._lines.answer("")
        elif self._replying:
            self._controller.interrupt()
        elif self._is_terminal:
            self._parts.clear()
            self._sink.remarks("\n")
            self._prompt()
        else:
            self._exit_code = FinishReason.INTERRUPTED.exit_code
            self._lines.answer(None)
