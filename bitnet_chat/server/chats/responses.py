"""Chats as JSON: lists, whole chats, messages. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from bitnet_chat.conversation import Message, ToolCall
from bitnet_chat.conversation.openai_codec import encode_tool_call
from bitnet_chat.events import Completed, Failed, Stats
from bitnet_chat.journal.records import ReplyState
from bitnet_chat.server.chats.requests import line_of
from bitnet_chat.server.errors import APIError
from bitnet_chat.server.responses import to_json

if TYPE_CHECKING:
    from bitnet_chat.journal import JournalEntry, MessageRecord, MessageTree, StoredConversation
    from bitnet_chat.journal.votes import Vote
    from bitnet_chat.server.chats.events import ComparedReply, ReplyStart

Render = Callable[[str], str]
"""From the text of a reply to HTML."""


@dataclass(frozen=True, slots=True)
class LiveVariant:
    """A running reply of a chat at one moment, or one that has ended before the other variants. ``row``: of its
    message, if stored. ``place``: the position after ``content``, ``thinking`` and ``calls``. ``created``: seconds
    since 1970.
    """

    row: int | None
    place: int
    model: str
    content: str
    thinking: str
    calls: tuple[ToolCall, ...]
    created: float
    end: Completed | Failed | None = None


@dataclass(frozen=True, slots=True)
class LiveReplyState:
    """The running reply of a chat at one moment: all its variants. ``compared``: the reply that it is compared with."""

    generation: str
    variants: tuple[LiveVariant, ...]
    compared: ComparedReply | None = None


def figures(stats: Stats) -> dict[str, object]:
    """Return the values of ``stats`` that are known."""
    return {name: value for name, value in asdict(stats).items() if value is not None}


def error_body(problem: APIError) -> dict[str, object]:
    """Return ``{"error": …}`` in the format of this API."""
    told: dict[str, object] = {"message": problem.what, "remedy": problem.remedy, "type": problem.code}
    return {"error": told | ({"param": problem.param} if problem.param else {})}


def entry_form(entry: JournalEntry, *, live: bool, saved: bool, snippet: str | None = None) -> dict[str, object]:
    """Return an entry of the list. ``saved``: whether the chat has a saved engine state. ``snippet``: the text around
    the words of a search."""
    form: dict[str, object] = {
        "id": entry.id,
        "title": entry.title,
        "created": entry.created,
        "updated": entry.updated,
        "turns": entry.turns,
        "model": entry.model,
        "state": ReplyState.ANSWERING.value if live else entry.state.value,
        "live": live,
        "saved_state": saved,
    }
    return form if snippet is None else form | {"snippet": snippet}


def begun_form(openings: Sequence[ReplyStart]) -> dict[str, object]:
    """Return the facts about a reply that has begun, with the messages of all variants."""
    first, *_ = openings
    return {
        "generation": first.generation,
        "user_message": None if first.user is None else first.user[0],
        "message": first.message,
        "messages": [opening.message for opening in openings],
    }


def chat_form(
    stored: StoredConversation,
    votes: Sequence[Vote],
    live: LiveReplyState | None,
    saved: bool,
    render: Render | None = None,
) -> dict[str, object]:
    """Return a whole chat. The running reply is the last message, without a ``finish_reason``; of several variants it
    is the first one. ``saved``: whether the chat has a saved engine state."""
    running = () if live is None else live.variants
    rows = {variant.row for variant in running}
    records = [record for record in line_of(stored) if record.row not in rows]
    messages = [_message(record, render) | _variants(stored, record.row) for record in records]
    variants = [_live_message(variant, render) for variant in running]
    messages += [first | _variants(stored, running[0].row) for first in variants[:1]]
    return {
        "id": stored.id,
        "title": stored.title,
        "created": stored.created,
        "updated": stored.updated,
        "model": stored.model,
        "system": stored.conversation.system,
        "state": ReplyState.ANSWERING.value if live is not None else stored.state.value,
        "saved_state": saved,
        "messages": messages,
        "passed_over": [_message(each, render) | _variants(stored, each.row) for each in stored.passed_over],
        "votes": [vote.as_json() for vote in votes],
        "live": None if live is None else _live(live, variants),
    }


def chat_json(
    stored: StoredConversation,
    votes: Sequence[Vote],
    live: LiveReplyState | None,
    saved: bool,
    render: Render | None = None,
) -> bytes:
    """Return the same as JSON, encoded message by message: one call for a long chat would block all other threads."""
    form = chat_form(stored, votes, live, saved, render)
    lists = {name: form.pop(name) for name in ("messages", "passed_over")}
    parts = [to_json(form)[:-1]]
    for name, messages in lists.items():
        assert isinstance(messages, list)
        parts.append(b',"%b":[%b]' % (name.encode(), b",".join(map(to_json, messages))))
    return b"".join(parts) + b"}"


def tree_json(tree: MessageTree) -> bytes:
    """Return all messages of a chat as JSON, each with the id of the message before it, and the votes."""
    messages = []
    for row, node in tree.nodes.items():
        siblings = tree.siblings(row)
        variants = {"siblings": siblings if len(siblings) > 1 else (), "position": tree.position(row).number}
        messages.append(to_json(_message(node.record, None) | variants | {"parent": node.parent}))
    votes = [vote.as_json() for vote in tree.votes]
    return to_json({"id": tree.id, "head": tree.head, "votes": votes})[:-1] + b',"messages":[%b]}' % b",".join(messages)


def _message(record: MessageRecord, render: Render | None) -> dict[str, object]:
    message = record.message
    form: dict[str, object] = {
        "id": record.row,
        "role": message.role,
        "content": message.content,
        "thinking": message.thinking,
        "finish_reason": None if message.finish is None else message.finish.value,
        "created": record.created,
        "model": record.model,
        "stats": dict(record.stats),
    }
    return form | _calls(message) | _html(message.role, message.content, render)


def _variants(stored: StoredConversation, row: int | None) -> dict[str, object]:
    """Return the messages with the same parent, oldest first, and the place of this one among them, from 1."""
    siblings = stored.siblings.get(row or 0, ())
    return {"siblings": siblings, "position": stored.position(row or 0).number}


def _live(live: LiveReplyState, messages: list[dict[str, object]]) -> dict[str, object]:
    first, *_ = live.variants
    variants = [message | {"place": each.place} for message, each in zip(messages, live.variants, strict=True)]
    return {
        "generation": live.generation,
        "message": first.row,
        "place": first.place,
        "variants": variants if len(variants) > 1 else [],
        "compare": None if live.compared is None else asdict(live.compared),
    }


def _live_message(live: LiveVariant, render: Render | None) -> dict[str, object]:
    message = Message("assistant", live.content, None, live.thinking, live.calls)
    finish, stats = None, dict[str, object]()
    if isinstance(live.end, Failed):
        finish = live.end.error.reason.value
    elif live.end is not None:
        finish, stats = live.end.reason.value, figures(live.end.stats)
    form: dict[str, object] = {
        "id": live.row,
        "role": "assistant",
        "content": live.content,
        "thinking": live.thinking,
        "finish_reason": finish,
        "created": live.created,
        "model": live.model,
        "stats": stats,
    }
    return form | _calls(message) | _html("assistant", live.content, render)


def _calls(message: Message) -> dict[str, object]:
    calls = [encode_tool_call(call) for call in message.tool_calls]
    return {"tool_calls": calls, "tool_call_id": message.call_id or None, "name": message.tool_name or None}


def _html(role: str, content: str, render: Render | None) -> dict[str, object]:
    return {"html": render(content)} if render is not None and role == "assistant" else {}
