"""Conversations as read from the journal. Pure data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.conversation.export import LEFT_OUT, NOT_ANSWERED, SideNote

TITLE_LENGTH = 60
"""Maximum number of characters of a title derived from the first message."""


class ReplyState(StrEnum):
    """The state of the last message of a conversation. The values appear in JSON output."""

    WHOLE = "whole"
    CUT_OFF = "cut_off"
    """The program ended while it wrote the last reply."""
    ANSWERING = "answering"
    """A running program is writing the last reply."""
    UNANSWERED = "unanswered"
    """The last message has no reply."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One line of a list of conversations. Times are in seconds since the epoch."""

    id: int
    title: str
    created: float
    updated: float
    turns: int
    """Number of user messages in the current branch."""
    model: str
    """Name of the model of the last reply."""
    state: ReplyState = ReplyState.WHOLE
    damage: str = ""
    """Description of invalid values in the row; empty without any."""


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A conversation that matches a search."""

    entry: JournalEntry
    snippet: str
    """Text around the words in one message; empty if only the title matches."""
    count: int
    """Number of matching messages, in all branches."""


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """A message with its metadata. ``stats`` has the fields of :class:`bitnet_chat.events.Stats`; ``created`` is in
    seconds since the epoch."""

    row: int
    message: Message
    created: float
    model: str = ""
    engine: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    stats: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Position:
    """The place of a message among the messages with the same parent, from 1."""

    number: int
    count: int

    @classmethod
    def of(cls, row: int, siblings: Sequence[int]) -> Position:
        """The place of ``row`` in ``siblings``; 1 of 1 if they do not contain it."""
        return cls(siblings.index(row) + 1, len(siblings)) if row in siblings else cls(1, 1)

    def __str__(self) -> str:
        """``< 2/3 >``; empty for a message without siblings."""
        return f"< {self.number}/{self.count} >" if self.count > 1 else ""


@dataclass(frozen=True, slots=True)
class StoredConversation:
    """A snapshot of a conversation: the current branch from its first message to the last reply. Times are in seconds
    since the epoch."""

    id: int
    title: str
    created: float
    updated: float
    model: str
    """Model of the last reply; ``engine`` and ``options`` also describe the last reply."""
    engine: str
    options: Mapping[str, object]
    forked_from: int | None
    state: ReplyState
    records: tuple[MessageRecord, ...]
    unanswered: str = ""
    """Text of the last message if it has no reply. It is not in ``records``, and can be sent again."""
    pending: MessageRecord | None = None
    """The same message with its metadata."""
    passed_over: tuple[MessageRecord, ...] = ()
    """User messages of the current branch that got no reply before the next one was sent. They are shown at their
    positions but not sent to a model."""
    head: int | None = None
    """The last row of the branch, which may be a reply without text. A program that continues the conversation compares
    this row to detect changes by other programs."""
    misplaced: tuple[MessageRecord, ...] = ()
    """Messages of a damaged file that are not valid in a prompt at their positions. They are shown but not sent."""
    damage: tuple[str, ...] = ()
    """One line for each damaged part."""
    siblings: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """For each message of the branch with siblings: the rows with its parent, itself included, oldest first."""

    def position(self, row: int) -> Position:
        """The place of a message of the branch among its siblings."""
        return Position.of(row, self.siblings.get(row, ()))

    @property
    def turn_position(self) -> Position:
        """The position of the last message of the branch with siblings, if it is in the last turn; else 1 of 1."""
        for record in reversed(self.shown):
            if record.row in self.siblings:
                return self.position(record.row)
            if record.message.role == "user":
                break
        return Position(1, 1)

    @property
    def conversation(self) -> Conversation:
        """The messages of ``records``: ends with a reply, or is empty."""
        return Conversation(tuple(record.message for record in self.records))

    @property
    def is_named(self) -> bool:
        """Whether the title was given, and not derived from the first message."""
        return bool(self.title) and self.title not in (
            title_of(self.conversation),
            title_of(Conversation(tuple(record.message for record in self.shown))),
        )

    @property
    def shown(self) -> tuple[MessageRecord, ...]:
        """All messages of the current branch in order, including those without a reply and misplaced ones."""
        pending = () if self.pending is None else (self.pending,)
        every = (*self.records, *pending, *self.passed_over, *self.misplaced)
        return tuple(sorted(every, key=lambda record: record.row))

    @property
    def asides(self) -> tuple[SideNote, ...]:
        """The messages that are shown but not in ``records``, each with the number of records before it."""
        rows = {record.row for record in self.records}
        found, place = list[SideNote](), 0
        for record in self.shown:
            if record.row in rows:
                place += 1
            else:
                why = LEFT_OUT if record in self.misplaced else NOT_ANSWERED
                found.append(SideNote(place, record.message, why, details_of(record)))
        return tuple(found)

    def about(self) -> dict[str, object]:
        """Return the export fields of the conversation."""
        facts: dict[str, object] = {"id": self.id, "title": self.title, "created": self.created}
        facts |= {"updated": self.updated, "model": self.model, "engine": self.engine, "options": dict(self.options)}
        facts |= {"forked_from": self.forked_from, "state": self.state.value, "unanswered": self.unanswered}
        passed = [{"content": record.message.content, "created": record.created} for record in self.passed_over]
        return facts | ({"passed_over": passed} if passed else {})

    def details(self) -> list[dict[str, object]]:
        """Return the export fields of each message, see :func:`details_of`."""
        return [details_of(record) for record in self.records]


def details_of(record: MessageRecord) -> dict[str, object]:
    """Return the export fields of a message, without the message itself."""
    facts: dict[str, object] = {"created": record.created, "model": record.model, "engine": record.engine}
    facts |= {"options": dict(record.options), "stats": dict(record.stats)}
    return {name: value for name, value in facts.items() if value}


def title_of(conversation: Conversation) -> str:
    """Derive a title: the first non-empty line of the first user message, shortened; empty without one."""
    from bitnet_chat.attachments import typed

    for message in conversation.turns:
        if message.role == "user":
            for line in typed(message.content).splitlines():
                words = " ".join(line.split())
                if words:
                    return words if len(words) <= TITLE_LENGTH else words[: TITLE_LENGTH - 1].rstrip() + "…"
    return ""


class ConversationSlot:
    """Mutable id and title of one conversation. The id is None until its row exists; the title is empty before its
    first message."""

    def __init__(self, id: int | None = None, title: str = "") -> None:
        self.id, self.title = id, title
