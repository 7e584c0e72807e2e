"""Saved states of the slots of a managed llama-server: ``/slots/N?action=save`` and ``restore``.

A system prompt is saved as in :mod:`bitnet_chat.engine.context_saver`: the slot reads the prompt alone, up to the place
of a message in the chat template, and is saved.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from bitnet_chat.backend import JournalPlace, ReplyOptions
from bitnet_chat.backends.http.endpoint import RequestTarget
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.conversation.openai_codec import encode_message, encode_tool
from bitnet_chat.engine.context_saver import SaveAtRest, begun
from bitnet_chat.engine.saved_states import WORTH_CHARACTERS, EngineStates, StateJob, shared_messages
from bitnet_chat.errors import BitnetChatError, ConnectionLostError, HTTPStatusError
from bitnet_chat.events import ContextOrigin, ContextSource
from bitnet_chat.prompt_cache.record import SavedState
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
    restored_key: str = ""
    """The key of the state from which it was restored; empty: it was not."""
    place: Callable[[], JournalPlace | None] = field(default=lambda: None, compare=False)

    @property
    def is_lone_request(self) -> bool:
        """Whether it is that of an independent request, and not of a conversation in a journal, which is expected to
        go on."""
        return self.is_alone and self.place() is None


class SlotStates(SaveAtRest):
    """The states of one slot. One request at a time uses it."""

    def __init__(self, states: EngineStates, slot: int) -> None:
        super().__init__()
        self._states, self.slot = states, slot
        self._context: _SlotContext | None = None
        """None while it is not known, as during a request."""
        self._saved: _SlotContext | None = None
        self._state: SavedState | None = None
        """The state of ``_saved``, if it was kept."""
        self._prompt: tuple[Conversation, tuple[Tool, ...]] = Conversation(), ()
        """The system prompt and tools that were last looked for or saved."""
        self._recalling = asyncio.Lock()

    async def recall(
        self, target: RequestTarget, conversation: Conversation, tools: Sequence[Tool], *, is_exact: bool = False
    ) -> None:
        """See :class:`bitnet_chat.backends.http.endpoint.PromptStates`."""
        async with self._recalling:
            await self._at_rest()
            live = self._live(target, tools)
            is_lone = self._context is not None and self._context.is_lone_request
            if self._states.is_lost(live, conversation, is_alone=is_lone) and self._save_seconds <= _TURN_LIMIT:
                await self._save()
            worth = 1 if is_exact else WORTH_CHARACTERS
            find = partial(self._states.better, live, conversation, tuple(tools), worth=worth)
            found = await run_in_daemon_thread(find)
            if found is not None and await self._restore(target, found[0]):
                state, part = found
                self._context = self._saved = _SlotContext(
                    target, part, tuple(tools), state.tokens, restored_key=state.key
                )
                self._state = state
            if shared_messages(self._live(target, tools), conversation) == 0 and self._save_seconds <= _TURN_LIMIT:
                await self._save_prompt()
            if found is None:
                self._save_later()  # a state that was not begun was given up

    async def _restore(self, target: RequestTarget, state: SavedState) -> bool:
        """Restore a state. False: the server cannot, and the state is removed, or does not answer."""
        self._context = None
        try:
            await self._post(target, "restore", state.path.name)
        except HTTPStatusError as error:
            await run_in_daemon_thread(partial(self._states.remove, state, str(error)))
        except (BitnetChatError, ConnectionLostError):
            pass  # the next request reports it
        else:
            return True
        return False

    async def evaluated_messages(self, target: RequestTarget, conversation: Conversation, tools: Sequence[Tool]) -> int:
        """See :class:`bitnet_chat.backends.http.endpoint.PromptStates`."""
        live = shared_messages(self._live(target, tools), conversation)
        return max(live, await run_in_daemon_thread(partial(self._states.shared, conversation, tuple(tools))))

    @property
    def is_saved(self) -> bool:
        """See :class:`bitnet_chat.backends.http.endpoint.PromptStates`."""
        is_saved = self._context is not None and self._context == self._saved
        return is_saved and self._state is not None and self._state.is_present

    def sent(self) -> None:
        """See :class:`bitnet_chat.backends.http.endpoint.PromptStates`."""
        self._context = None

    def origin(self, target: RequestTarget, conversation: Conversation, tools: Sequence[Tool]) -> ContextOrigin:
        """How the context before the last message of ``conversation`` comes about."""
        context, live = self._context, self._live(target, tools)
        if context is None or shared_messages(live, conversation) < len(conversation.turns) - 1:
            return ContextOrigin(ContextSource.COLD)
        if context.restored_key:
            return ContextOrigin(ContextSource.STATE, context.tokens, state=context.restored_key)
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
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._save_at_rest())

    async def close(self) -> None:
        """Save the context, in a limited time."""
        self._closing.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_LIMIT):
                if self._task is not None:
                    await asyncio.wait([self._task])
                await self._save()
                await self._save_prompt()
        if self._task is not None:
            self._task.cancel()  # which removes what is not complete
            await asyncio.wait([self._task])

    def _live(self, target: RequestTarget, tools: Sequence[Tool]) -> Conversation | None:
        """The conversation in the slot; None after a restart of the server, or with other tools in its prompt."""
        context = self._context
        return context.conversation if context and context.target is target and context.tools == tuple(tools) else None

    async def _save_at_rest(self) -> None:
        await self._pause()
        await self._save()
        await self._save_prompt(and_restore=not self._closing.is_set())

    async def _save(self) -> None:
        """Save the context, unless that has been done."""
        context, states = self._context, self._states
        if context is None or context == self._saved or not context.conversation.turns:
            return
        with self._uninterrupted():
            begin = partial(states.begin, context.conversation, context.tools, is_alone=context.is_lone_request)
            job = await begun(states, begin)
            if job is not None and await self._write(context, job) is not None:
                self._saved, self._state = context, None
                commit = partial(states.commit, job, tokens=context.tokens, place=context.place())
                self._state = await run_in_daemon_thread(commit)

    async def _save_prompt(self, *, and_restore: bool = False) -> None:
        """Save the system prompt and the tools of the slot, unless they are short or have a state. The slot has only
        these then; with ``and_restore`` it is restored from its own state, without which nothing is done."""
        context, states, own = self._context, self._states, self._state
        if context is None or (context.conversation.cleared(), context.tools) == self._prompt or not states.are_known:
            return
        if and_restore and (context != self._saved or own is None):
            return
        with self._uninterrupted():
            if and_restore and own is not None and not await run_in_daemon_thread(partial(states.touch, own)):
                return
            self._prompt = context.conversation.cleared(), context.tools
            job = await begun(states, partial(states.begin_prompt, context.conversation, context.tools))
            if job is None:
                return
            if not await self._write_prompt(context, job):
                self._prompt = Conversation(), ()
            # A request that waits restores what it needs.
            if and_restore and own is not None and not self._recalling.locked():
                is_restored = await self._restore(context.target, own)
                self._context = self._saved = context if is_restored else None

    async def _write_prompt(self, context: _SlotContext, job: StateJob) -> bool:
        """Have the slot read a prompt alone, and write and keep that. False: it is not written."""
        target, states = context.target, self._states
        prompt = self._context = replace(context, conversation=job.conversation)
        read = None
        try:
            with contextlib.suppress(HTTPStatusError, ConnectionLostError, BitnetChatError):
                read = await _read_alone(target, self.slot, job.conversation, context.tools)
        finally:
            if read is None:
                states.discard(job)
        if read is None:
            return False
        tokens = await self._write(prompt, job)
        if tokens is None:
            return False
        if tokens > read:  # the text of a conversation, which is removed with it
            reason = f"it has {tokens} tokens, and the system prompt {read}"
            await run_in_daemon_thread(partial(states.discard, job, reason))
        else:
            await run_in_daemon_thread(partial(states.commit, job, tokens=tokens, place=None))
        return True

    async def _write(self, context: _SlotContext, job: StateJob) -> int | None:
        """Have the slot, which holds ``context``, write a state. Returns its tokens; None: it is not written, and
        discarded."""
        began, reason, tokens = time.monotonic(), "", 0
        try:
            saved = await self._post(context.target, "save", job.name)
            tokens = int(saved["n_saved"])
        except (HTTPStatusError, ConnectionLostError, BitnetChatError, KeyError, TypeError, ValueError) as error:
            reason = str(error) or "the server did not save it"
        except asyncio.CancelledError:
            self._states.discard(job)
            raise
        took = time.monotonic() - began
        self._save_seconds = max(took, self._save_seconds) if job.is_prompt else took
        if not reason and context is self._context:
            return tokens
        await run_in_daemon_thread(partial(self._states.discard, job, reason))  # or a request has changed the slot
        return None

    async def _post(self, target: RequestTarget, action: str, file: str) -> Any:
        return await target.connection.ask(f"/slots/{self.slot}?action={action}", {"filename": file})


async def _read_alone(
    target: RequestTarget, slot: int, conversation: Conversation, tools: Sequence[Tool]
) -> int | None:
    """Have a slot read the part of a prompt before its first message. Returns its tokens; None: the template has no
    place for a message. Raises as requests do."""
    from bitnet_chat.templates.segments import PLACEHOLDER  # and the parser of templates, when it is needed

    messages, _ = target.specials.protect_messages(conversation.with_user(PLACEHOLDER).messages)
    tools, _ = target.specials.protect_tools(tuple(tools))
    body: dict[str, Any] = {"messages": [encode_message(each) for each in messages]}
    made = await target.connection.ask("/apply-template", body | _offered(tools))
    before, found, _ = str(made.get("prompt", "") if isinstance(made, dict) else "").rpartition(PLACEHOLDER)
    if not found:
        return None
    request = {"prompt": before, "n_predict": 0, "id_slot": slot, "cache_prompt": True}
    read = await target.connection.ask("/completion", request)
    tokens = read.get("tokens_evaluated") if isinstance(read, dict) else None
    return tokens if isinstance(tokens, int) else None


def _offered(tools: Sequence[Tool]) -> dict[str, Any]:
    return {"tools": [encode_tool(tool) for tool in tools]} if tools else {}
