"""``/chats``: conversations in the journal and their streamed replies; ``/replies``: replies that are not stored.

``POST /chats`` creates a chat, ``POST /chats/{id}/messages`` adds a message and streams the reply. ``GET
/chats/{id}/events`` streams a running reply to any other client, and continues a broken stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, aclosing
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from bitnet_chat.conversation.json_fields import IgnoredFields
from bitnet_chat.errors import InvalidFieldError
from bitnet_chat.events import Failed
from bitnet_chat.server.broadcast import ReplyBroadcast
from bitnet_chat.server.chats.events import RETRY, LastSeen, chat_event, notice_event, saved_state_event
from bitnet_chat.server.chats.live import ChatChanged, ChatNews, LiveChat, LiveReply, SavedStateChanged
from bitnet_chat.server.chats.reply_stream import StreamedReply, events_of
from bitnet_chat.server.chats.requests import (
    MOST_ROWS,
    ChatRequest,
    ask,
    new_chat,
    new_head,
    new_title,
    stateless_request,
    vote,
)
from bitnet_chat.server.chats.responses import begun_form, chat_json, entry_form, tree_json
from bitnet_chat.server.chats.service import ChatService
from bitnet_chat.server.requests import is_urgent, read, while_connected
from bitnet_chat.server.responses import EventStream, json_response, to_json
from bitnet_chat.server.routing import route
from bitnet_chat.server.settings import ServeSettings

if TYPE_CHECKING:
    from bitnet_chat.journal import JournalEntry, StoredConversation

_LISTED, _MOST_LISTED = 100, 1000
_MOST_WORDS = 1000
"""Characters of a search."""


def routes(chats: ChatService, settings: ServeSettings) -> list[BaseRoute]:
    api = _ChatsApi(chats, settings)
    return [
        route("/chats", GET=api.list, POST=api.create),
        route("/chats/{id}", GET=api.show, PATCH=api.rename, DELETE=api.remove),
        route("/chats/{id}/messages", POST=api.answer),
        route("/chats/{id}/head", POST=api.set_head),
        route("/chats/{id}/tree", GET=api.tree),
        route("/chats/{id}/votes", POST=api.vote),
        route("/chats/{id}/events", GET=api.events),
        route("/chats/{id}/stop", POST=api.stop),
        route("/replies", POST=api.reply),
    ]


class _ChatsApi:
    def __init__(self, chats: ChatService, settings: ServeSettings) -> None:
        self._chats, self._settings = chats, settings

    # Chats and their messages

    async def list(self, request: Request) -> Response:
        limit, words = _number(request, "limit", _LISTED, _MOST_LISTED), request.query_params.get("q", "").strip()
        if len(words) > _MOST_WORDS:
            raise InvalidFieldError(f"q has more than {_MOST_WORDS} characters", param="q")
        entries: list[tuple[JournalEntry, str | None]]
        if words:
            entries = [(hit.entry, hit.snippet) for hit in await self._chats.search(words, limit)]
        else:
            entries = [(each, None) for each in await self._chats.list(limit)]
        saved = await self._chats.saved_states()
        forms = [
            entry_form(entry, live=self._is_live(entry.id), saved=entry.id in saved, snippet=snippet)
            for entry, snippet in entries
        ]
        return json_response(to_json({"chats": forms}))

    async def create(self, request: Request) -> Response:
        stored = await self._chats.create(await read(request, self._settings.body_limit, new_chat))
        return await self._chat(stored, status=201, headers={"Location": f"/chats/{stored.id}"})

    async def show(self, request: Request) -> Response:
        id, renders = _id(request), _renders(request)
        if "message" not in request.query_params:
            return await self._chat(await self._chats.load(id), renders)
        return await self._chat(
            await self._chats.branch(id, _number(request, "message", 0, MOST_ROWS)), renders, live=False
        )

    async def rename(self, request: Request) -> Response:
        id = _id(request)
        title = await read(request, self._settings.body_limit, new_title)
        return await self._chat(await self._chats.rename(id, title))

    async def tree(self, request: Request) -> Response:
        tree = await self._chats.tree(_id(request))
        return json_response(await asyncio.to_thread(tree_json, tree))

    async def set_head(self, request: Request) -> Response:
        id = _id(request)
        message = await read(request, self._settings.body_limit, new_head)
        return await self._chat(await self._chats.set_head(id, message), _renders(request))

    async def vote(self, request: Request) -> Response:
        id = _id(request)
        choice = await read(request, self._settings.body_limit, vote)
        return await self._chat(await self._chats.vote(id, choice), _renders(request))

    async def remove(self, request: Request) -> Response:
        await self._chats.remove(_id(request))
        return Response(status_code=204)

    def _is_live(self, id: int) -> bool:
        live_chat = self._chats.live_chats.get(id)
        return live_chat is not None and live_chat.running_reply is not None

    async def _chat(
        self,
        stored: StoredConversation,
        renders: bool = False,
        *,
        live: bool = True,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """``live``: include the running reply."""
        live_chat = self._chats.live_chats.get(stored.id) if live else None
        running = None if live_chat is None or live_chat.running_reply is None else live_chat.running_reply.snapshot()
        render = None
        if renders:
            from bitnet_chat.server.web.html_stream import html_of

            render = html_of
        saved = stored.id in await self._chats.saved_states()
        votes = await self._chats.votes(stored.id)
        body = await asyncio.to_thread(chat_json, stored, votes, running, saved, render)
        return json_response(body, status, headers)

    # Replies

    async def answer(self, request: Request) -> Response:
        id = _id(request)
        notes = None if self._settings.strict else IgnoredFields()
        asked = await read(request, self._settings.body_limit, ask, notes)
        live = await self._chats.begin(id, asked, urgent=_is_urgent(request))
        notices = notes.lines if notes is not None else []
        if not asked.stream:
            return json_response(to_json(begun_form(live.openings) | ({"notices": notices} if notices else {})), 202)
        live.join()
        try:
            first, *_ = live.generations
            await while_connected(request, first.started.wait())
            _check_begin(first)
            events = _with_notices(notices, _kept(live, _renders(request)))
        except BaseException:
            live.leave()
            raise
        return EventStream(events, gone=live.leave)

    async def reply(self, request: Request) -> Response:
        notes = None if self._settings.strict else IgnoredFields()
        asked: ChatRequest = await read(request, self._settings.body_limit, stateless_request, notes)
        opening, generation = self._chats.begin_alone(asked, urgent=_is_urgent(request))
        await while_connected(request, generation.started.wait(), generation.stop)
        _check_begin(generation)
        events = _with_notices(
            notes.lines if notes is not None else [], events_of([StreamedReply(opening, generation)])
        )
        return EventStream(events, gone=generation.stop, headers=generation.headers)

    async def stop(self, request: Request) -> Response:
        id = _id(request)
        stopped = self._chats.stop(id)
        if not stopped:
            await self._chats.load(id)
        return json_response(to_json({"stopped": stopped}))

    async def events(self, request: Request) -> Response:
        id = _id(request)
        with ExitStack() as stack:
            live_chat = stack.enter_context(self._chats.live_chats.open(id))
            since = live_chat.position  # before the chat is loaded, so that no later change is missed
            stored = await self._chats.load(id)
            if request.method == "HEAD":
                return Response(media_type="text/event-stream")
            seen = LastSeen.of(request.headers.get("last-event-id") or request.query_params.get("last_event_id", ""))
            renders = _renders(request)
            if _flag(request, "follow"):
                self._chats.attend()
                events = _followed(stored, live_chat.follow(seen, since), renders)
                return EventStream(events, gone=stack.pop_all().close)
            found = _to_watch(live_chat, seen)
        if found is None:
            return Response(status_code=204)
        live, places = found
        live.join()
        return EventStream(_kept(live, renders, places), gone=live.leave)


async def _followed(
    stored: StoredConversation,
    news: AsyncGenerator[tuple[LiveReply | ChatNews, tuple[int, ...] | None]],
    renders: bool,
) -> AsyncIterator[bytes]:
    yield RETRY
    yield chat_event(_changed(stored, stored.title))
    async with aclosing(news) as following:
        async for told, places in following:
            if isinstance(told, ChatChanged):
                yield chat_event(_changed(stored, told.title, deleted=told.deleted, head=told.head))
                continue
            if isinstance(told, SavedStateChanged):
                yield saved_state_event({"id": stored.id, "saved_state": told.saved_state})
                continue
            told.join()
            try:
                async for part in _kept(told, renders, places):
                    yield part
            finally:
                told.leave()


def _to_watch(live_chat: LiveChat, seen: LastSeen | None) -> tuple[LiveReply, tuple[int, ...] | None] | None:
    """Return the reply for a reader and the positions that it has seen (None: no event); None without a reply."""
    found = live_chat.find(seen)
    if found is not None:
        live, places = found
        if live.has_unread(places):
            return live, places
    return None if live_chat.running_reply is None else (live_chat.running_reply, None)


async def _with_notices(lines: Sequence[str], events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Yield notices about a request, which only its own client gets, before the events of the reply."""
    async with aclosing(events):
        for line in lines:
            yield notice_event(line)
        async for each in events:
            yield each


def _kept(live: LiveReply, renders: bool, places: tuple[int, ...] | None = None) -> AsyncGenerator[bytes]:
    """Yield the events of a reply of a chat that follow the positions ``places``; None: all of them."""
    return events_of(live.streamed(renders), places, live.settled)


def _changed(
    stored: StoredConversation, title: str, *, deleted: bool = False, head: int | None = None
) -> dict[str, object]:
    form: dict[str, object] = {"id": stored.id, "title": title, "deleted": deleted}
    return form if head is None else form | {"head": head}


def _check_begin(generation: ReplyBroadcast) -> None:
    """Raise the error of a reply that failed before its first token: it has a status of its own."""
    if isinstance(generation.end, Failed) and generation.is_empty:
        raise generation.end.error


def _id(request: Request) -> int:
    text: str = request.path_params["id"]
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 0 < int(text) <= MOST_ROWS):
        raise InvalidFieldError(f"{text[:40]!r} is not a chat id", status=404, code="chat_not_found")
    return int(text)


def _is_urgent(request: Request) -> bool:
    return is_urgent(request.headers.get("priority"))


def _renders(request: Request) -> bool:
    wanted = request.query_params.get("render", "")
    if wanted not in ("", "html"):
        raise InvalidFieldError("render must be html", param="render")
    return wanted == "html"


def _flag(request: Request, name: str) -> bool:
    value = request.query_params.get(name, "0")
    if value not in ("0", "1"):
        raise InvalidFieldError(f"{name} must be 0 or 1", param=name)
    return value == "1"


def _number(request: Request, name: str, default: int, most: int) -> int:
    value = request.query_params.get(name, str(default))
    if not (value.isascii() and value.isdigit() and len(value) < 20 and 0 < int(value) <= most):
        raise InvalidFieldError(f"{name} must be a number from 1 to {most}", param=name)
    return int(value)
