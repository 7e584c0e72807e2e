"""What a REPL writes, and a console whose user has decided beforehand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from program import TIMEOUT

from bitnet_chat.errors import UsageError
from bitnet_chat.journal import JournalEntry
from bitnet_chat.repl.branches import TreeLine
from bitnet_chat.repl.interfaces import Verdict


class RecordedOutput:
    """A sink that keeps all text, and the text on stdout (``words``) apart."""

    def __init__(self) -> None:
        self.all = ""
        self.stdout = ""
        self._changed = asyncio.Event()

    def words(self, text: str) -> None:
        self.stdout += text
        self.remarks(text)

    def remarks(self, text: str) -> None:
        self.all += text
        self._changed.set()

    async def until(self, text: str) -> None:
        """Wait until ``text`` was written."""
        async with asyncio.timeout(TIMEOUT):
            while text not in self.all:
                self._changed.clear()
                await self._changed.wait()


class ScriptedConsole:
    """``verdicts``: the answers to questions about calls, in order."""

    def __init__(self, verdicts: Iterable[Verdict | None] = ()) -> None:
        self.verdicts = list(verdicts)
        self.edited = ""
        self.picked: int | None = None
        self.offered: list[JournalEntry] = []
        self.listed: list[str] = []
        self.marked: int | None = None
        self.clipboard: str | None = None
        self.has_clipboard = True
        self.agrees = True
        self.questions: list[str] = []
        self.complaints: list[str] = []
        self.choices: list[int | None] = []
        self.on_choose: Callable[[], None] = lambda: None

    async def choose(self, question: str, count: int, enter: str, escape: str) -> int | None:
        self.questions.append(question)
        self.on_choose()
        return self.choices.pop(0)

    async def decide(self, question: str) -> Verdict | None:
        self.questions.append(question)
        return self.verdicts.pop(0)

    async def edit(self, text: str) -> str:
        if not self.edited:
            raise UsageError("There is no editor")
        return self.edited.replace("LAST", text)

    async def pick(self, entries: Sequence[JournalEntry]) -> int | None:
        self.offered = list(entries)
        return self.picked

    async def pick_message(self, lines: Sequence[TreeLine], current: int | None) -> int | None:
        self.listed, self.marked = [line.text for line in lines], current
        return self.picked

    async def confirm(self, question: str) -> bool:
        self.questions.append(question)
        return self.agrees

    def complain(self, text: str) -> None:
        self.complaints.append(text)

    def copy(self, text: str) -> bool:
        self.clipboard = text
        return self.has_clipboard
