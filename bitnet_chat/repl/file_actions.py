"""Effects of commands on files, the clipboard and titles, with their messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_chat.backend import Backend
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import BitnetChatError
from bitnet_chat.repl.commands import Attach, Copy, Write
from bitnet_chat.repl.display import ReplyDisplay
from bitnet_chat.repl.interfaces import CLIPBOARD_LIMIT, UserInterface
from bitnet_chat.text.sanitize import one_line
from bitnet_chat.util.progress import size
from bitnet_chat.util.threads import run_in_daemon_thread

if TYPE_CHECKING:
    from bitnet_chat.attachments import Attachment
    from bitnet_chat.conversation.export import SideNote
    from bitnet_chat.journal import JournalRecorder


class FileActions:
    """``attached``: the attachments of the next message, in the order in which they were named."""

    def __init__(self, display: ReplyDisplay, console: UserInterface, recorder: JournalRecorder | None) -> None:
        self._display = display
        self._console = console
        self._recorder = recorder
        self.attached: list[Attachment] = []

    async def attach(self, side_prompt: Attach, backend: Backend) -> None:
        if side_prompt.paths == ("-",):
            self.attached.clear()
            self._display.lines("No file is attached.")
        elif side_prompt.paths:
            await self._read(side_prompt.paths, backend)
        elif self.attached:
            self._tell(self.attached, backend)
        else:
            self._display.lines("No file is attached: /file [PATH…] attaches some.")

    async def _read(self, paths: Sequence[str], backend: Backend) -> None:
        """Add files; none of them if one cannot be read."""
        from bitnet_chat.attachments.reading import attach_all

        try:
            # Disks sleep, servers are far away, and a PDF takes its time.
            files = await run_in_daemon_thread(lambda: attach_all(paths))
        except BitnetChatError as error:
            self._display.error(error)
            return
        names = {file.name for file in files}
        self.attached = [each for each in self.attached if each.name not in names] + files
        self._tell(files, backend)

    def _tell(self, files: Sequence[Attachment], backend: Backend) -> None:
        window = backend.status().context_size
        self._display.lines(*(file.described(backend.count(file.block), window) for file in files))

    async def with_files(self, message: str, backend: Backend) -> str | None:
        """The message with its attachments and the files that it mentions. None if one of those cannot be read, which
        is reported, or if the user does not confirm a missing one; the attachments remain until :meth:`sent`.
        """
        from bitnet_chat.attachments import with_attachments

        if "@" in message:
            from bitnet_chat.attachments.reading import attach_all, mentioned, missing

            gone = await run_in_daemon_thread(lambda: missing(message))
            if gone and not await self._console.confirm(f"{not_files(gone)}: send the message unchanged?"):
                return None
            try:
                named = {file.name for file in self.attached}
                files = await run_in_daemon_thread(
                    lambda: attach_all([each for each in mentioned(message) if each not in named])
                )
            except BitnetChatError as error:
                self._display.error(error)
                return None
            if files:
                self._tell(files, backend)
        else:
            files = []
        return with_attachments(message, [*self.attached, *files])

    def sent(self) -> None:
        """Clear the attachments after they were sent."""
        self.attached.clear()

    async def write(self, side_prompt: Write, conversation: Conversation, asides: Sequence[SideNote] = ()) -> None:
        from bitnet_chat.conversation.export import export
        from bitnet_chat.util.files import write_exclusive

        title = self._recorder.title if self._recorder is not None else ""
        path = Path(side_prompt.path or f"{_file_name(title)}.{side_prompt.format}")
        try:
            text = export(conversation, side_prompt.format, about={"title": title}, asides=asides)
            await run_in_daemon_thread(lambda: write_exclusive(path, text))
        except BitnetChatError as error:
            self._display.error(error)
            return
        count = len(conversation.turns) + len(asides)
        self._display.lines(f"{count} message{'' if count == 1 else 's'} written to {one_line(str(path))}")

    def copy(self, side_prompt: Copy) -> None:
        length = len(side_prompt.text.encode("utf-8", "surrogateescape"))
        if length > CLIPBOARD_LIMIT:
            self._display.lines(
                f"{side_prompt.what} is {size(length)}, too large for the clipboard of a terminal: use /save FILE."
            )
        elif self._console.copy(side_prompt.text):
            count = f"{len(side_prompt.text)} character{'' if len(side_prompt.text) == 1 else 's'}"
            self._display.lines(f"{side_prompt.what}, {count}, sent to the clipboard of the terminal.")
        else:
            self._display.lines("The clipboard requires a terminal: use /save FILE.")

    def rename(self, title: str) -> None:
        if self._recorder is None:
            self._display.lines("This conversation is not saved, and has no title.")
            return
        self._recorder.rename(title)
        self._display.lines(f"Title: {one_line(title)}.")


def not_files(paths: Sequence[str]) -> str:
    """``@notse.md is not a file``, sanitized."""
    names = [one_line(f"@{path}") for path in paths]
    return f"{names[0]} is not a file" if len(names) == 1 else f"{', '.join(names)} are not files"


def _file_name(title: str) -> str:
    """A file name made of a title: letters and digits of any script, and hyphens."""
    words = "".join(character if character.isalnum() else " " for character in title).split()
    return "-".join(words)[:60].strip("-").lower() or "conversation"
