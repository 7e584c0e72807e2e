"""The branches of the open conversation: the list of ``/tree``, and the choice of another branch."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bitnet_chat.errors import BitnetChatError
from bitnet_chat.text.sanitize import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bitnet_chat.conversation import Message
    from bitnet_chat.conversation.export import BranchMessage
    from bitnet_chat.journal import (
        JournalRecorder,
        JournalStore,
        MessageRecord,
        MessageTree,
        Position,
        StoredConversation,
    )

_DEPTH = 12
"""Maximum indentation of a line in steps; more would leave no room for the text."""
_ROLES = {"system": "system", "user": "you", "assistant": "model", "tool": "tool"}
NOT_SAVED = "This conversation is not saved, and has no other branches."


@dataclass(frozen=True, slots=True)
class TreeLine:
    """A message in the list. ``text``: sanitized, with mark, indentation, role and ``< 2/3 >``."""

    row: int
    text: str


def tree_lines(tree: MessageTree) -> list[TreeLine]:
    """Return a line for each message. ``*`` marks the current branch."""
    lines = []
    for row, depth in tree.walk():
        message, position = tree.nodes[row].record.message, str(tree.position(row))
        mark = "*" if row in tree.current else " "
        name = f"{_ROLES[message.role]}{' ' * bool(position)}{position}"
        lines.append(TreeLine(row, f"{mark} {'  ' * min(depth, _DEPTH)}{name}: {_first_line(message)}"))
    return lines


def _first_line(message: Message) -> str:
    from bitnet_chat.attachments import typed

    text = typed(message.content) if message.role == "user" else message.content
    calls = ", ".join(f"calls {call.name}" for call in message.tool_calls)
    text = text.strip() or calls or (message.thinking and f"(thinks) {message.thinking.strip()}")
    return one_line(text.split("\n", 1)[0]) or "(empty)"


class Branches:
    """Finds the branches of the conversation of a recorder in ``journal``; None: it is not saved."""

    def __init__(self, journal: JournalStore | None, recorder: JournalRecorder) -> None:
        self._journal = journal
        self._recorder = recorder

    async def tree(self) -> MessageTree | str:
        """Read all messages. Returns a line for the user if that is not possible."""
        if self._journal is None:
            return NOT_SAVED
        await self._recorder.settled()
        if self._recorder.id is None:
            return "The conversation is empty." if not self._recorder.unsaved else NOT_SAVED
        try:
            return await asyncio.to_thread(self._journal.tree, self._recorder.id)
        except BitnetChatError as error:
            return one_line(str(error))

    async def messages(self) -> list[BranchMessage] | str:
        """Read the messages of all branches for an export. Returns a line for the user if that is not possible."""
        tree = await self.tree()
        if isinstance(tree, str):
            return tree
        assert self._journal is not None
        try:
            return tree.exported(await asyncio.to_thread(self._journal.load, tree.id))
        except BitnetChatError as error:
            return one_line(str(error))

    async def through(self, tree: MessageTree, row: int) -> StoredConversation | str:
        """Read the branch through the message ``row`` down to its newest end. Returns a line for the user if there is
        nothing to switch to.
        """
        if row not in tree.nodes:
            return f"Message {row} is not in this conversation: /tree lists its messages."
        if row in tree.current:
            return "This message is in the current branch."
        return await self._load(tree.id, tree.newest_leaf(row))

    async def beside(self, step: int) -> StoredConversation | str:
        """Read the branch through the next (1) or previous (-1) variant of the last message that has variants."""
        tree = await self.tree()
        if isinstance(tree, str):
            return tree
        row = next((row for row in reversed(tree.path(tree.head)) if len(tree.siblings(row)) > 1), None)
        if row is None:
            return "No message of this branch has variants: /regen and /edit make them."
        other = tree.neighbour(row, step)
        if other is None:
            return f"This is the {'last' if step > 0 else 'first'} of {len(tree.siblings(row))} variants."
        return await self._load(tree.id, tree.newest_leaf(other))

    async def position_of_replacement(self, place: int) -> Position | None:
        """The position that a message will have that replaces message ``place`` of the conversation, counted from 0.
        None if that is unknown.
        """
        from bitnet_chat.journal import Position

        if self._journal is None or not await self._recorder.settled() or self._recorder.id is None:
            return None
        try:
            stored = await asyncio.to_thread(self._journal.load, self._recorder.id)
        except BitnetChatError:
            return None
        if place >= len(stored.records):
            return None
        row = stored.records[place].row
        count = len(stored.siblings.get(row, (row,))) + 1
        return Position(count, count)

    async def replies(self, count: int) -> tuple[int | None, ...]:
        """The rows of the last ``count`` replies that were begun together; None: an empty one. Empty if they are not
        known.
        """
        rows = await self._recorder.rows()
        return rows.replies if rows is not None and len(rows.replies) == count else ()

    async def through_reply(self, row: int) -> StoredConversation | None:
        """Read the branch that ends at a reply. None if that is not possible."""
        if self._journal is None or not await self._recorder.settled() or self._recorder.id is None:
            return None
        found = await self._load(self._recorder.id, row)
        return None if isinstance(found, str) else found

    async def last_reply(self) -> MessageRecord | None:
        """Read the last reply of the current branch. None if it is not known."""
        if self._journal is None or not await self._recorder.settled() or self._recorder.id is None:
            return None
        try:
            stored = await asyncio.to_thread(self._journal.load, self._recorder.id)
        except BitnetChatError:
            return None
        last = stored.records[-1] if stored.records else None
        return last if last is not None and last.message.role == "assistant" else None

    async def _load(self, id: int, end: int) -> StoredConversation | str:
        assert self._journal is not None
        try:
            return await asyncio.to_thread(self._journal.load, id, end)
        except BitnetChatError as error:
            return one_line(str(error))


def numbered(lines: Sequence[TreeLine]) -> list[str]:
    """Return the lines with the numbers of their messages before them."""
    widest = max((len(str(line.row)) for line in lines), default=0)
    return [f"{line.row:>{widest}} {line.text}" for line in lines]
