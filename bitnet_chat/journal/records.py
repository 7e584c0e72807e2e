"""Records of conversations from the journal. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.conversation.export import LEFT_OUT, NOT_ANSWERED, SideNote

TITLE_LENGTH = 60
"""Characters of a title made of the first message."""


class ReplyState(StrEnum):
    """The end of a conversation. The value is that of JSON output."""

    WHOLE = "whole"
    CUT_OFF = "cut_off"
    """A program was killed while it wrote the last reply."""
    ANSWERING = "answering"
    """A running program is writing the last reply right now."""
    UNANSWERED = "unanswered"
    """The last message got no reply."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One line of a list of conversations. Times in seconds since the epoch."""

    id: int
    title: str
    created: float
    updated: float
    turns: int
    """Messages of the user in the present line."""
    model: str
    """Finish reason of the last reply."""
    state: ReplyState = ReplyState.WHOLE
    damage: str = ""
    """The damage of its row; empty without any."""
    head: int | None = None
    """The row of its last message; None without one, or where a server lists it."""


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A conversation that contains all the words. ``snippet``: the text around them in one message; empty where only
    the title has them."""

    entry: JournalEntry
    snippet: str
    count: int
    """Messages that have them all, those of older branches included."""


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """One message with what is known about it. ``stats`` has the fields of :class:`bitnet_chat.events.Stats`."""

    row: int
    message: Message
    created: float
    model: str = ""
    engine: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    stats: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredConversation:
    """A conversation at the time of reading: its present line, from the first message to the last reply."""

    id: int
    title: str
    created: float
    updated: float
    model: str
    """Of the last reply, like ``engine`` and ``options``."""
    engine: str
    options: Mapping[str, object]
    forked_from: int | None
    state: ReplyState
    records: tuple[MessageRecord, ...]
    unanswered: str = ""
    """The last message, where it got no reply: it is not in ``records``, and may be sent again."""
    pending: MessageRecord | None = None
    """The same with its metadata."""
    passed_over: tuple[MessageRecord, ...] = ()
    """Messages of the user in the present line that got no reply before the next one was sent. They are shown where
    they stand, as their rows tell; no model sees them."""
    head: int | None = None
    """The last row of the line, which may be a reply without text. A program that continues the conversation compares
    it to detect changes of other programs."""
    misplaced: tuple[MessageRecord, ...] = ()
    """Messages of a damaged file whose place is not valid in a prompt. They are shown."""
    damage: tuple[str, ...] = ()
    """A line for each damaged part."""

    @property
    def conversation(self) -> Conversation:
        """Ends with a reply, or has none."""
        return Conversation(tuple(record.message for record in self.records))

    @property
    def is_named(self) -> bool:
        """Whether the title was given, and is not that of the first message."""
        return bool(self.title) and self.title not in (
            title_of(self.conversation),
            title_of(Conversation(tuple(record.message for record in self.shown))),
        )

    @property
    def shown(self) -> tuple[MessageRecord, ...]:
        """All of the present line: with the messages that got no reply, wherever they stand."""
        pending = () if self.pending is None else (self.pending,)
        every = (*self.records, *pending, *self.passed_over, *self.misplaced)
        return tuple(sorted(every, key=lambda record: record.row))

    @property
    def asides(self) -> tuple[SideNote, ...]:
        """Messages that are shown beside the conversation, each with the number of records before it."""
        rows = {record.row for record in self.records}
        found, place = list[SideNote](), 0
        for record in self.shown:
            if record.row in rows:
                place += 1
            else:
                why = LEFT_OUT if record in self.misplaced else NOT_ANSWERED
                found.append(SideNote(place, record.message, why, _details(record)))
        return tuple(found)

    def about(self) -> dict[str, object]:
        """The fields of an export for the conversation."""
        facts: dict[str, object] = {"id": self.id, "title": self.title, "created": self.created}
        facts |= {"updated": self.updated, "model": self.model, "engine": self.engine, "options": dict(self.options)}
        facts |= {"forked_from": self.forked_from, "state": self.state.value, "unanswered": self.unanswered}
        passed = [{"content": record.message.content, "created": record.created} for record in self.passed_over]
        return facts | ({"passed_over": passed} if passed else {})

    def details(self) -> list[dict[str, object]]:
        """The fields of an export for each message, beside the message itself."""
        return [_details(record) for record in self.records]


def _details(record: MessageRecord) -> dict[str, object]:
    facts: dict[str, object] = {"created": record.created, "model": record.model, "engine": record.engine}
    facts |= {"options": dict(record.options), "stats": dict(record.stats)}
    return {name: value for name, value in facts.items() if value}


def title_of(conversation: Conversation) -> str:
    """The first line that the user typed, shortened; empty without any."""
    from bitnet_chat.attachments import typed

    for message in conversation.turns:
        if message.role == "user":
            for line in typed(message.content).splitlines():
                words = " ".join(line.split())
                if words:
                    return words if len(words) <= TITLE_LENGTH else words[: TITLE_LENGTH - 1].rstrip() + "…"
    return ""


class ConversationSlot:
    """One conversation: its number, once its row is there, and its title; empty before its first message."""

    def __init__(self, id: int | None = None, title: str = "") -> None:
        self.id, self.title = id, title
