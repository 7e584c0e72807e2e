"""The actions of commands on files, the clipboard and titles. Results and errors are shown on the display."""

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
    from bitnet_chat.conversation.export import BranchMessage, SideNote
    from bitnet_chat.journal import JournalRecorder


class FileActions:
    """Holds the attachments of the next message (``attached``, in the order in which they were named), and carries out
    the actions. ``recorder``: None if the conversation is not saved.
    """

    def __init__(self, display: ReplyDisplay, console: UserInterface, recorder: JournalRecorder | None) -> None:
        self._display = display
        self._console = console
        self._recorder = recorder
        self.attached: list[Attachment] = []

    async def attach(self, action: Attach, backend: Backend) -> None:
        """Attach, list or remove files. ``backend`` counts their tokens."""
        if action.paths == ("-",):
            self.attached.clear()
            self._display.lines("No file is attached.")
        elif action.paths:
            await self._read(action.paths, backend)
        elif self.attached:
            self._list(self.attached, backend)
        else:
            self._display.lines("No file is attached: /file [PATH…] attaches some.")

    async def _read(self, paths: Sequence[str], backend: Backend) -> None:
        """Attach files; none of them if one cannot be read."""
        from bitnet_chat.attachments.reading import attach_all

        try:
            # In a thread: a slow disk, a network file system or a large PDF would block the event loop.
            files = await run_in_daemon_thread(lambda: attach_all(paths))
        except BitnetChatError as error:
            self._display.error(error)
            return
        names = {file.name for file in files}
        self.attached = [each for each in self.attached if each.name not in names] + files
        self._list(files, backend)

    def _list(self, files: Sequence[Attachment], backend: Backend) -> None:
        window = backend.status().context_size
        self._display.lines(*(file.described(backend.count(file.block), window) for file in files))

    async def with_files(self, message: str, backend: Backend) -> str | None:
        """Return the message with its attachments and the files that it mentions (``@path``). The attachments remain
        until :meth:`sent`. Returns None if a mentioned file cannot be read, after an error message, or if it does not
        exist and the user does not confirm the message.
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
                self._list(files, backend)
        else:
            files = []
        return with_attachments(message, [*self.attached, *files])

    def sent(self) -> None:
        """Forget the attachments, which were sent."""
        self.attached.clear()

    async def write(
        self,
        action: Write,
        conversation: Conversation,
        asides: Sequence[SideNote] = (),
        branches: Sequence[BranchMessage] | None = None,
    ) -> None:
        """Write the conversation to a new file. ``asides``: messages without a reply, included at their place.
        ``branches``: the messages of all branches, written instead.
        """
        from bitnet_chat.conversation.export import export, export_branches
        from bitnet_chat.util.files import write_exclusive

        title = self._recorder.title if self._recorder is not None else ""
        path = Path(action.path or f"{_file_name(title)}.{action.format}")
        try:
            if branches is None:
                text = export(conversation, action.format, about={"title": title}, asides=asides)
            else:
                text = export_branches(branches, action.format, about={"title": title})
            await run_in_daemon_thread(lambda: write_exclusive(path, text))
        except BitnetChatError as error:
            self._display.error(error)
            return
        count = len(conversation.turns) + len(asides) if branches is None else len(branches)
        self._display.lines(f"{count} message{'' if count == 1 else 's'} written to {one_line(str(path))}")

    def copy(self, action: Copy) -> None:
        """Copy a text to the clipboard of the terminal."""
        length = len(action.text.encode("utf-8", "surrogateescape"))
        if length > CLIPBOARD_LIMIT:
            self._display.lines(
                f"{action.what} is {size(length)}, too large for the clipboard of a terminal: use /save FILE."
            )
        elif self._console.copy(action.text):
            count = f"{len(action.text)} character{'' if len(action.text) == 1 else 's'}"
            self._display.lines(f"{action.what}, {count}, sent to the clipboard of the terminal.")
        else:
            self._display.lines("The clipboard requires a terminal: use /save FILE.")

    def rename(self, title: str) -> None:
        """Change the title of the conversation in the journal."""
        if self._recorder is None:
            self._display.lines("This conversation is not saved, and has no title.")
            return
        self._recorder.rename(title)
        self._display.lines(f"Title: {one_line(title)}.")


def not_files(paths: Sequence[str]) -> str:
    """Return a sanitized message such as ``@notse.md is not a file``."""
    names = [one_line(f"@{path}") for path in paths]
    return f"{names[0]} is not a file" if len(names) == 1 else f"{', '.join(names)} are not files"


def _file_name(title: str) -> str:
    """Derive a file name from a title: lower-case letters and digits of any script, separated by hyphens."""
    words = "".join(character if character.isalnum() else " " for character in title).split()
    return "-".join(words)[:60].strip("-").lower() or "conversation"
