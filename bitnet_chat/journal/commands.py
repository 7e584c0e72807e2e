"""The commands of the journal, one for each change: a :class:`JournalRecorder` makes them, a writer runs them."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bitnet_chat.conversation import Conversation, ToolCall
    from bitnet_chat.errors import FinishReason
    from bitnet_chat.journal.records import StoredConversation
    from bitnet_chat.journal.transactions import ConversationStore, MessageRows, ReplyOrigin
    from bitnet_chat.journal.writer_thread import PendingText


@dataclass(frozen=True, slots=True)
class Create:
    """See :meth:`ConversationStore.create`; the same below, unless stated otherwise."""

    conversation: Conversation
    title: str
    model: str


@dataclass(frozen=True, slots=True)
class Sync:
    conversation: Conversation


@dataclass(frozen=True, slots=True)
class BeginReply:
    conversation: Conversation
    origin: ReplyOrigin


@dataclass(frozen=True, slots=True)
class AddText:
    """The part of a reply that waits to be written."""

    text: PendingText


@dataclass(frozen=True, slots=True)
class EndReply:
    reason: FinishReason
    stats: Mapping[str, object]
    text: str | None = None
    thinking: str | None = None
    calls: tuple[ToolCall, ...] = ()
    options: str | None = None


@dataclass(frozen=True, slots=True)
class ResumeConversation:
    stored: StoredConversation


@dataclass(frozen=True, slots=True)
class Follow:
    row: int | None


@dataclass(frozen=True, slots=True)
class StartNew:
    """See :meth:`ConversationStore.anew`."""


@dataclass(frozen=True, slots=True)
class RenameConversation:
    title: str


@dataclass(frozen=True, slots=True)
class ForkConversation:
    title: str


@dataclass(frozen=True, slots=True)
class Report:
    """Changes nothing. ``rows`` is set by the recorder, on its loop, once all before this command is written."""

    rows: Future[MessageRows]


@dataclass(frozen=True, slots=True)
class Verify:
    """Changes nothing: the file is checked as for every command."""


Command = (
    Create
    | Sync
    | BeginReply
    | AddText
    | EndReply
    | ResumeConversation
    | Follow
    | StartNew
    | RenameConversation
    | ForkConversation
    | Report
    | Verify
)


def run(command: Command, store: ConversationStore) -> None:
    """Run the command; may be called again after a failure. Raises the errors of ``store``'s methods."""
    match command:
        case AddText(text):
            text.write(store)
        case Create(conversation, title, model):
            store.create(conversation, title, model)
        case Sync(conversation):
            store.sync(conversation)
        case BeginReply(conversation, origin):
            store.begin_reply(conversation, origin)
        case EndReply(reason, stats, text, thinking, calls, options):
            store.end_reply(reason, stats, text, thinking, calls, options)
        case ResumeConversation(stored):
            store.resume(stored)
        case Follow(row):
            store.follow(row)
        case StartNew():
            store.anew()
        case RenameConversation(title):
            store.rename(title)
        case ForkConversation(title):
            store.fork(title)
        case Report() | Verify():
            pass
