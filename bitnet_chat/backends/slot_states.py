"""Saved states of the slots of a managed llama-server: ``/slots/N?action=save`` and ``restore``."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bitnet_chat.backend import JournalPlace, ReplyOptions
from bitnet_chat.backends.http.client import ConnectionLostError, HTTPStatusError
from bitnet_chat.backends.http.endpoint import RequestTarget
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.engine.saved_states import SAVE_PAUSE, SAVE_SHARE, WORTH_CHARACTERS, EngineStates, shared_messages
from bitnet_chat.errors import BitnetChatError
from bitnet_chat.events import ContextOrigin, ContextSource
from bitnet_chat.util.threads import run_in_daemon_thread

_TURN_LIMIT = 0.5
"""Seconds that a request may wait for the context of another conversation, which it replaces, to be saved."""
_CLOSE_LIMIT = 3.0
"""Seconds for which :meth:`SlotStates.close` waits for a state."""


@dataclass(frozen=True, slots=True)
class _SlotContext:
    """What a slot holds: the prompt of its last request, and the reply. ``place``: of the conversation in a journal."""

    target: RequestTarget
    conversation: Conversation
    tools: tuple[Tool, ...] = ()
    tokens: int = 0
    is_alone: bool = False
    is_restored: bool = False
    place: Callable[[], JournalPlace | None] = field(default=lambda: None, compare=False)


class SlotStates:
    """The states of one slot. One request at a time uses it."""

    def __init__(self, states: EngineStates, slot: int) -> None:
        self._states, self.slot = states, slot
        self._context: _SlotContext | None = None
        """None while it is not known, as during a request."""
        self._saved: _SlotContext | None = None
        self._seconds = 0.0
        """Time that the last state took."""
        self._saving: asyncio.Task[None] | None = None
        self._is_writing = False
        self._closing = asyncio.Event()
        self._recalling = asyncio.Lock()

    async def recall(
        self, target: RequestTarget, conversation: Conversation, tools: Sequence[Tool], *, is_exact: bool = False
    ) -> None:
        """See :class:`bitnet_chat.backends.http.endpoint.PromptStates`."""
        async with self._recalling:
            await self._at_rest()
            live = self._live(target, tools)
            if self._states.is_lost(live, conversation) and self._seconds <= _TURN_LIMIT:
                await self._save()
            worth = 1 if is_exact else WORTH_CHARACTERS
            find = partial(self._states.better, live, conversation, tuple(tools), worth=worth)
            found = await run_in_daemon_thread(find)
            if found is None:
                self._save_later()  # a state that was not begun was given up
                return
            self._context = None
            state, part = found
            try:
                await self._post(target, "restore", state.path.name)
            except HTTPStatusError as error:
                await run_in_daemon_thread(partial(self._states.remove, state, str(error)))
            except (BitnetChatError, ConnectionLostError):
                pass  # the request itself reports it
            else:
                self._context = self._saved = _SlotContext(target, part, tuple(tools), state.tokens, is_restored=True)

    async def evaluated_messages(self, target: RequestTarget, conversation: Conversation, tools: Sequence[Tool]) -> int:
        """See :class:`bitnet_chat.backends.http.endpoint.PromptStates`."""
        live = shared_messages(self._live(target, tools), conversation)
        return max(live, await run_in_daemon_thread(partial(self._states.shared, conversation, tuple(tools))))

    @property
    def is_saved(self) -> bool:
        """See :class:`bitnet_chat.backends.http.endpoint.PromptStates`."""
        return self._context is not None and self._context == self._saved

    def sent(self) -> None:
        """See :class:`bitnet_chat.backends.http.endpoint.PromptStates`."""
        self._context = None

    def origin(self, target: RequestTarget, conversation: Conversation, tools: Sequence[Tool]) -> ContextOrigin:
        """How the context before the last message of ``conversation`` comes about."""
        context, live = self._context, self._live(target, tools)
        if context is None or shared_messages(live, conversation) < len(conversation.turns) - 1:
            return ContextOrigin(ContextSource.COLD)
        if context.is_restored:
            return ContextOrigin(ContextSource.STATE, context.tokens)
        return ContextOrigin(ContextSource.LIVE)

    def replied(
        self, target: RequestTarget, conversation: Conversation, options: ReplyOptions, tokens: int | None
    ) -> None:
        """See :class:`bitnet_chat.backends.http.endpoint.PromptStates`. The context is saved once nothing has been
        asked of the slot for a while."""
        tools = tuple(options.offered)
        self._context = _SlotContext(target, conversation, tools, tokens or 0, options.alone, place=options.place)
        self._save_later()

    def _save_later(self) -> None:
        if self._saving is None or self._saving.done():
            self._saving = asyncio.ensure_future(self._save_at_rest())

    async def close(self) -> None:
        """Save the context, in a limited time."""
        self._closing.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_LIMIT):
                if self._saving is not None:
                    await asyncio.wait([self._saving])
                await self._save()

    def _live(self, target: RequestTarget, tools: Sequence[Tool]) -> Conversation | None:
        """The conversation in the slot; None after a restart of the server, or with other tools in its prompt."""
        context = self._context
        return context.conversation if context and context.target is target and context.tools == tuple(tools) else None

    async def _at_rest(self) -> None:
        """Wait for a state that is being written; give up one that is not begun."""
        if self._saving is not None and not self._saving.done():
            if not self._is_writing:
                self._saving.cancel()
            await asyncio.wait([self._saving])

    async def _save_at_rest(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(SAVE_PAUSE, SAVE_SHARE * self._seconds)):
                await self._closing.wait()
        await self._save()

    async def _save(self) -> None:
        context, states = self._context, self._states
        if context is None or context == self._saved:
            return
        self._is_writing = True
        began, reason = time.monotonic(), ""
        try:
            begin = partial(states.begin, context.conversation, context.tools, is_alone=context.is_alone)
            job = await run_in_daemon_thread(begin)
            if job is None:
                return
            try:
                await self._post(context.target, "save", job.name)
            except (HTTPStatusError, ConnectionLostError, BitnetChatError) as error:
                reason = str(error) or "the server did not save it"
            if reason or context is not self._context:  # a request has changed the slot meanwhile
                await run_in_daemon_thread(partial(states.discard, job, reason))
                return
            self._saved = context
            await run_in_daemon_thread(partial(states.commit, job, tokens=context.tokens, place=context.place()))
        finally:
            self._is_writing, self._seconds = False, time.monotonic() - began

    async def _post(self, target: RequestTarget, action: str, file: str) -> Any:
        return await target.connection.ask(f"/slots/{self.slot}?action={action}", {"filename": file})
