"""All messages of a conversation as a tree: every branch, not only the current one. Pure.

A message has siblings if another message has the same parent: /regen, /edit and /undo leave the earlier messages there.
Row numbers grow from a message to its descendants.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from bitnet_chat.conversation.export import LEFT_OUT, NOT_ANSWERED, OTHER_BRANCH, BranchMessage
from bitnet_chat.journal.columns import number
from bitnet_chat.journal.records import MessageRecord, Position, StoredConversation, details_of
from bitnet_chat.journal.votes import Vote


@dataclass(frozen=True, slots=True)
class Links:
    """The parents of the rows of a conversation, in the order of the rows."""

    all: Mapping[int, int | None]
    """Each row, whether or not it is a message."""
    broken: frozenset[int]
    """Rows whose parent cannot be found; they follow the preceding row."""
    messages: Mapping[int, int | None]
    """The rows that are messages, each with the nearest message before it."""
    children: Mapping[int | None, tuple[int, ...]]
    """The messages after each message, oldest first; of None: the first messages."""

    @classmethod
    def of(cls, rows: Mapping[int, tuple[object, str]], messages: frozenset[int] | set[int]) -> Links:
        """Resolve parents. ``rows``: the parent column and the role of each row; ``messages``: those with a message."""
        links, broken, nearest = dict[int, int | None](), set[int](), dict[int, int | None]()
        preceding: int | None = None
        for row in sorted(rows):
            given, role = rows[row]
            parent = number(given)
            is_first = given is None and role not in ("assistant", "tool")
            if not is_first and (parent is None or parent >= row or parent not in rows):
                broken.add(row)
                parent = preceding
            links[row] = parent
            nearest[row] = parent if parent is None or parent in messages else nearest[parent]
            preceding = row
        parents = {row: nearest[row] for row in links if row in messages}
        return cls(links, frozenset(broken), parents, _children_of(parents))

    def path(self, end: int | None) -> list[int]:
        """The rows from the first one to ``end``."""
        rows = list[int]()
        while end is not None:
            rows.append(end)
            end = self.all[end]
        return rows[::-1]


def _children_of(parents: Mapping[int, int | None]) -> dict[int | None, tuple[int, ...]]:
    found = dict[int | None, list[int]]()
    for row, parent in parents.items():
        found.setdefault(parent, []).append(row)
    return {parent: tuple(rows) for parent, rows in found.items()}


@dataclass(frozen=True, slots=True)
class TreeNode:
    """A message and the row of the message before it; None for a first message."""

    record: MessageRecord
    parent: int | None


@dataclass(frozen=True, slots=True)
class MessageTree:
    """A snapshot of all messages of conversation ``id``."""

    id: int
    nodes: Mapping[int, TreeNode]
    """By row, in the order of the rows."""
    head: int | None = None
    """The last message of the current branch; None without one."""
    misplaced: frozenset[int] = frozenset()
    """Messages of a damaged file that are not valid in a prompt at their positions."""
    damage: tuple[str, ...] = ()
    """One line for each damaged part."""
    votes: tuple[Vote, ...] = ()
    """The votes between its replies, oldest first."""

    children: Mapping[int | None, tuple[int, ...]] = field(init=False)
    """The messages after each message, oldest first; of None: the first messages."""
    current: frozenset[int] = field(init=False)
    """The messages of the current branch."""
    _newest: Mapping[int, int] = field(init=False)

    def __post_init__(self) -> None:
        newest = dict[int, int]()
        for row in sorted(self.nodes, reverse=True):
            newest.setdefault(row, row)
            parent = self.nodes[row].parent
            if parent is not None:
                newest[parent] = max(newest.get(parent, 0), newest[row])
        object.__setattr__(self, "children", _children_of({row: node.parent for row, node in self.nodes.items()}))
        object.__setattr__(self, "current", frozenset(self.path(self.head)))
        object.__setattr__(self, "_newest", newest)

    def siblings(self, row: int) -> tuple[int, ...]:
        """The messages with the parent of ``row``, itself included, oldest first. Raises KeyError."""
        return self.children[self.nodes[row].parent]

    def position(self, row: int) -> Position:
        """The place of ``row`` among its siblings. Raises KeyError."""
        return Position.of(row, self.siblings(row))

    def neighbour(self, row: int, step: int) -> int | None:
        """The sibling ``step`` places after ``row`` (negative: before it); None beyond the first and the last."""
        siblings = self.siblings(row)
        place = siblings.index(row) + step
        return siblings[place] if 0 <= place < len(siblings) else None

    def newest_leaf(self, row: int) -> int:
        """The end of the branch through ``row``: the newest message below it, or itself. Raises KeyError."""
        return self._newest[row]

    def path(self, row: int | None) -> tuple[int, ...]:
        """The messages from the first one to ``row``; empty for None. Raises KeyError."""
        rows = list[int]()
        while row is not None:
            rows.append(row)
            row = self.nodes[row].parent
        return tuple(reversed(rows))

    def walk(self) -> Iterator[tuple[int, int]]:
        """Yield every message and its indentation, each after its parent.

        The current branch is not indented. Of several messages with one parent, the others come first, one step
        deeper; the last one continues at the depth of the parent.
        """
        waiting = [(row, depth) for row, depth in self._below(None, 0)]
        while waiting:
            row, depth = waiting.pop()
            yield row, depth
            waiting += self._below(row, depth)

    def about(self, stored: StoredConversation) -> dict[str, object]:
        """Return the export fields of the conversation, which ``stored`` has as well, with its votes."""
        votes = [vote.as_json() for vote in self.votes]
        return stored.about() | ({"votes": votes} if votes else {})

    def exported(self, stored: StoredConversation) -> list[BranchMessage]:
        """Return all messages for an export: the current branch, which ``stored`` has as well, then each other one."""
        records, misplaced = ({each.row for each in rows} for rows in (stored.records, stored.misplaced))
        others = [row for row, _ in self.walk() if row not in self.current]
        found = list[BranchMessage]()
        for row in (*self.path(self.head), *others):
            node, why = self.nodes[row], NOT_ANSWERED
            if row not in self.current:
                why = OTHER_BRANCH
            elif row in records or row in misplaced:
                why = LEFT_OUT if row in misplaced else ""
            details = details_of(node.record)
            found.append(BranchMessage(row, node.parent, node.record.message, str(self.position(row)), why, details))
        return found

    def _below(self, row: int | None, depth: int) -> list[tuple[int, int]]:
        """The messages after ``row`` with their indentation, last one first."""
        rows = self.children.get(row, ())
        last = max(rows, key=lambda each: (each in self.current, self.newest_leaf(each)), default=None)
        others = [(each, depth + 1) for each in reversed(rows) if each != last]
        return others if last is None else [(last, depth), *others]
