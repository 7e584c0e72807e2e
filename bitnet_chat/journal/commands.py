"""The commands of the journal, one class for each kind of change.

A :class:`JournalRecorder` creates them on the event loop, the writer thread executes them on a
:class:`ConversationStore`. The fields of a command are the arguments of the store's method of the same name, unless
stated otherwise.
"""

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
    """See :meth:`ConversationStore.create`."""

    conversation: Conversation
    title: str
    model: str


@dataclass(frozen=True, slots=True)
class Sync:
    """See :meth:`ConversationStore.sync`."""

    conversation: Conversation


@dataclass(frozen=True, slots=True)
class BeginReply:
    """See :meth:`ConversationStore.begin_reply`."""

    conversation: Conversation
    origins: tuple[ReplyOrigin, ...]


@dataclass(frozen=True, slots=True)
class AddText:
    """Write the pending text of the open replies."""

    text: PendingText


@dataclass(frozen=True, slots=True)
class EndReply:
    """See :meth:`ConversationStore.end_reply`; ``reason`` is the finish reason."""

    reason: FinishReason
    stats: Mapping[str, object]
    text: str | None = None
    thinking: str | None = None
    calls: tuple[ToolCall, ...] = ()
    options: str | None = None
    number: int = 0


@dataclass(frozen=True, slots=True)
class CastVote:
    """See :meth:`ConversationStore.vote`."""

    replies: tuple[int, ...]
    chosen: int | None
    blind: bool


@dataclass(frozen=True, slots=True)
class ResumeConversation:
    """See :meth:`ConversationStore.resume`."""

    stored: StoredConversation


@dataclass(frozen=True, slots=True)
class SetHead:
    """See :meth:`ConversationStore.set_head`."""

    stored: StoredConversation


@dataclass(frozen=True, slots=True)
class Follow:
    """See :meth:`ConversationStore.follow`."""

    row: int | None


@dataclass(frozen=True, slots=True)
class StartNew:
    """See :meth:`ConversationStore.start_new`."""


@dataclass(frozen=True, slots=True)
class RenameConversation:
    """See :meth:`ConversationStore.rename`."""

    title: str


@dataclass(frozen=True, slots=True)
class ForkConversation:
    """See :meth:`ConversationStore.fork`."""

    title: str


@dataclass(frozen=True, slots=True)
class Report:
    """Change nothing; ``rows`` is resolved on the event loop once all earlier commands are written."""

    rows: Future[MessageRows]


@dataclass(frozen=True, slots=True)
class Verify:
    """Change nothing. The writer thread checks the file, as it does before every command."""


Command = (
    Create
    | Sync
    | BeginReply
    | AddText
    | EndReply
    | CastVote
    | ResumeConversation
    | SetHead
    | Follow
    | StartNew
    | RenameConversation
    | ForkConversation
    | Report
    | Verify
)


def run(command: Command, store: ConversationStore) -> None:
    """Execute the command. May be repeated after a failure. Raises the errors of the methods of ``store``."""
    match command:
        case BeginReply() | AddText() | EndReply() | CastVote():
            _run_for_replies(command, store)
        case Create(conversation, title, model):
            store.create(conversation, title, model)
        case Sync(conversation):
            store.sync(conversation)
        case ResumeConversation(stored):
            store.resume(stored)
        case SetHead(stored):
            store.set_head(stored)
        case Follow(row):
            store.follow(row)
        case StartNew():
            store.start_new()
        case RenameConversation(title):
            store.rename(title)
        case ForkConversation(title):
            store.fork(title)  # Report and Verify change nothing


def _run_for_replies(command: BeginReply | AddText | EndReply | CastVote, store: ConversationStore) -> None:
    match command:
        case BeginReply(conversation, origins):
            store.begin_reply(conversation, *origins)
        case AddText(text):
            text.write(store)
        case EndReply(reason, stats, text, thinking, calls, options, number):
            store.end_reply(reason, stats, text, thinking, calls, options, number)
        case CastVote(replies, chosen, blind):
            store.vote(replies, chosen, blind)
