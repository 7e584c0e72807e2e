"""The journal of a running server, for an attached client: the methods of a local journal, over HTTP.

The server writes the conversation; the recorder only tracks the present chat.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any
from urllib.parse import quote

from bitnet_chat.backends.attached_server.client import ServerClient
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.conversation.openai_codec import decode_tool_call
from bitnet_chat.errors import BitnetChatError, EngineDiedError, FinishReason, UsageError
from bitnet_chat.journal import (
    JournalEntry,
    JournalRecorder,
    JournalStore,
    MessageRecord,
    MessageTree,
    ReplyState,
    SearchHit,
    StoredConversation,
)
from bitnet_chat.journal.recorder import ReplyWriter
from bitnet_chat.journal.records import ConversationSlot
from bitnet_chat.journal.transactions import MessageRows
from bitnet_chat.journal.tree import TreeNode
from bitnet_chat.journal.votes import Vote, VotedReply
from bitnet_chat.models.names import ModelNames


class ChatPosition(ConversationSlot):
    """The present chat, shared by a recorder and its backends. ``id``: None: the chat is not made yet."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = asyncio.Event()
        """Set when the present chat changes."""
        self.own: set[str] = set()
        """Generations that this client requested."""
        self.known = asyncio.Event()
        """Cleared while the generation of a request is not known yet."""
        self.known.set()
        self.heard: tuple[int | None, str] = None, ""
        """The chat and the id of the last event of a reply that this client requested."""
        self.changes: set[asyncio.Task[None]] = set()
        """Changes of the chat that are being sent, each after those before it."""
        self.replies: list[int | None] = []
        """Messages of the replies that were begun together last, as far as they have begun."""

    def go(self, chat: int | None) -> None:
        if chat != self.id:
            self.id = chat
            self.moved.set()


class ServerJournal(JournalStore):
    """See :class:`JournalStore`. Every method raises BitnetChatError if the server does not answer."""

    def __init__(self, server: ServerClient, facts: Mapping[str, Any]) -> None:
        """``facts``: the server's description of itself."""
        self.server = server
        self.facts = facts
        self.place = ChatPosition()

    @classmethod
    def at(cls, server: ServerClient) -> ServerJournal:
        """The journal, if the server answers. Raises as :meth:`ServerClient.greet` does."""
        return cls(server, server.greet())

    def model_of(self, asked: str, usual: str) -> str:
        """The model for the replies: ``asked``; if that is empty, ``usual``, if the server has it; else empty.

        Raises UsageError if the server does not have ``asked``."""
        models = [str(each) for each in self.facts.get("models") or ()]
        names = ModelNames((each, None, "") for each in (*models, "auto"))
        if asked and names.find(asked) is None:
            raise UsageError(f"{self.server.url} has no model {asked}", remedy=f"it has: {', '.join(models)}")
        return names.find(asked or usual) or ""

    def list(self, limit: int | None = None) -> list[JournalEntry]:
        answer = self.server.call("GET", f"/chats?limit={min(limit or 1000, 1000)}")
        return [_entry(each) for each in _objects(answer, "chats")]

    def load(self, id: int, end: int | None = None) -> StoredConversation:
        """The chat, without a running reply and its user message: a client that follows the chat gets events of
        both."""
        answer = self.server.call("GET", f"/chats/{id}")
        try:
            if end is not None:
                tree = self.server.call("GET", f"/chats/{id}/tree")
                return replace(_stored(answer | _branch_of(tree, end)), head=end)
            return _stored(answer)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _strange(self.server, error) from None

    def tree(self, id: int) -> MessageTree:
        answer = self.server.call("GET", f"/chats/{id}/tree")
        try:
            nodes = {int(each["id"]): TreeNode(_record(each), _parent(each)) for each in answer["messages"]}
            return MessageTree(id, nodes, answer["head"], votes=tuple(map(_vote, answer["votes"])))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _strange(self.server, error) from None

    def votes(self, conversation: int) -> builtins.list[Vote]:
        return builtins.list(self.tree(conversation).votes)

    def search(self, words: str) -> builtins.list[SearchHit]:
        if not words.split():
            raise UsageError("the search has no words", remedy="give one word or more")
        answer = self.server.call("GET", f"/chats?q={quote(words)}")
        return [SearchHit(_entry(each), str(each.get("snippet") or ""), 1) for each in _objects(answer, "chats")]

    def remove(self, ids: Sequence[int]) -> bool:
        for id in ids:
            self.server.call("DELETE", f"/chats/{id}")
        return True

    def recorder(self, complain: Callable[[str], None]) -> JournalRecorder:
        return ServerRecorder(self, complain)


class ServerRecorder(JournalRecorder):
    """See :class:`JournalRecorder`. The server gets changes of a conversation with the next request for a reply."""

    def __init__(self, journal: ServerJournal, complain: Callable[[str], None]) -> None:
        super().__init__(None, complain, slot=journal.place)
        self._place = journal.place
        self._server = journal.server

    def sync(self, conversation: Conversation) -> None:
        self._update_title(conversation)

    def begin_replies(
        self,
        conversation: Conversation,
        options: Sequence[Mapping[str, object]],
        *,
        model: str = "",
        engine: str = "",
    ) -> tuple[ReplyWriter, ...]:
        self._place.replies.clear()
        return super().begin_replies(conversation, options, model=model, engine=engine)

    def vote(self, replies: Sequence[int], chosen: int | None, *, blind: bool) -> None:
        choice = {"replies": list(replies), "chosen": chosen, "blind": blind}
        self._send("POST", "votes", choice, "the choice is not kept")

    def resume(self, stored: StoredConversation) -> None:
        self._place.go(stored.id)
        self._place.title, self._named = stored.title, bool(stored.title)

    def set_head(self, stored: StoredConversation) -> None:
        self._send("POST", "head", {"message": stored.head}, "other clients keep the other branch")

    def start_new(self) -> None:
        self._place.go(None)
        self._place.title, self._named = "", False

    def rename(self, title: str) -> None:
        self._place.title, self._named = title, True
        self._send("PATCH", "", {"title": title[:200]}, "the conversation keeps its title")

    def fork(self, title: str = "") -> None:
        """Move the conversation into another chat at the next message."""
        self._place.go(None)
        self._place.title, self._named = title or self.title, True

    async def rows(self) -> MessageRows:
        """Return the rows of the last replies alone."""
        begun = self._place.replies
        return MessageRows(replies=(*begun, *[None] * (len(self._replies) - len(begun))))

    async def settled(self) -> bool:
        if self._place.changes:
            await asyncio.wait(self._place.changes)
        return True

    async def close(self) -> None:
        await self.settled()

    def _send(self, method: str, what: str, body: Mapping[str, object], failed: str) -> None:
        """Change the present chat, if there is one. ``failed``: begins the line for the user about a failure."""
        if self._place.id is None:
            return
        path = f"/chats/{self._place.id}/{what}".removesuffix("/")
        earlier = list(self._place.changes)

        async def send() -> None:
            if earlier:
                await asyncio.wait(earlier)
            try:
                await asyncio.to_thread(self._server.call, method, path, body)
            except BitnetChatError as error:
                self._complain(f"{failed}: {error.what}")

        task = asyncio.ensure_future(send())
        self._place.changes.add(task)
        task.add_done_callback(self._place.changes.discard)


def _objects(answer: Any, name: str) -> builtins.list[Mapping[str, Any]]:
    found = answer.get(name) if isinstance(answer, dict) else None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _entry(form: Mapping[str, Any]) -> JournalEntry:
    return JournalEntry(
        int(form["id"]),
        str(form["title"]),
        float(form["created"]),
        float(form["updated"]),
        int(form["turns"]),
        str(form["model"]),
        ReplyState(form["state"]),
    )


def _stored(form: Mapping[str, Any]) -> StoredConversation:
    records = [_record(each) for each in form["messages"]]
    live, state = form["live"], ReplyState(form["state"])
    if live is not None:
        records = [record for record in records if record.row != live["message"]]
        if records and records[-1].message.role == "user":
            records.pop()
        state = ReplyState.WHOLE
    passed = tuple(_record(each) for each in form.get("passed_over") or ())
    pending = records.pop() if records and records[-1].message.role == "user" else None
    variants = {each["id"]: tuple(each.get("siblings") or ()) for each in form["messages"]}
    return StoredConversation(
        int(form["id"]),
        str(form["title"]),
        float(form["created"]),
        float(form["updated"]),
        str(form["model"]),
        "",
        {},
        None,
        state,
        tuple(records),
        pending.message.content if pending is not None else "",
        pending,
        passed,
        siblings={row: rows for row, rows in variants.items() if rows},
    )


def _branch_of(tree: Mapping[str, Any], end: int) -> dict[str, object]:
    """The fields of a chat for the branch that ends at a message, from all its messages."""
    known, path = {each["id"]: each for each in tree["messages"]}, builtins.list[Mapping[str, Any]]()
    at: int | None = end
    while at is not None:
        path.append(known[at])
        at = _parent(known[at])
    path.reverse()
    passed = [each for each, after in pairwise(path) if each["role"] == after["role"] == "user"]
    without = {each["id"] for each in passed}
    state = ReplyState.UNANSWERED if path[-1]["role"] in ("user", "tool") else ReplyState.WHOLE
    messages = [each for each in path if each["id"] not in without]
    return {"messages": messages, "passed_over": passed, "state": state.value, "live": None}


def _vote(form: Mapping[str, Any]) -> Vote:
    replies = tuple(VotedReply(int(each["message"]), each["model"], each["engine"]) for each in form["replies"])
    return Vote(form["id"], form["conversation"], form["created"], form["blind"], replies, form["chosen"])


def _parent(form: Mapping[str, Any]) -> int | None:
    """The message before one. Raises ValueError if it is not older, as in a cycle."""
    parent: int | None = form["parent"]
    if parent is not None and parent >= form["id"]:
        raise ValueError(f"message {parent} is before {form['id']}")
    return parent


def _record(form: Mapping[str, Any]) -> MessageRecord:
    reason = form["finish_reason"]
    known = {each.value for each in FinishReason}
    calls = tuple(decode_tool_call(call, "") for call in form["tool_calls"])
    message = Message(
        form["role"],
        form["content"],
        FinishReason(reason) if reason in known else None,
        form["thinking"],
        calls,
        form["tool_call_id"] or "",
        form["name"] or "",
    )
    row = form["id"] if form["id"] is not None else -1
    return MessageRecord(row, message, float(form["created"]), str(form["model"]), stats=form["stats"])


def _strange(server: ServerClient, error: Exception) -> BitnetChatError:
    return EngineDiedError(
        f"{server.url} sent a chat in an unknown form ({error!r})",
        remedy="use the same release on both sides",
    )
