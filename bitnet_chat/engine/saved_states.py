"""Saved states of one engine: which one is restored before a prompt, and which context is worth saving.

A state covers a whole branch of a conversation: an engine that restores it drops the tokens behind the part that a
prompt shares with it. So the state of the last turn serves /undo, /regen and /edit as well.

A long system prompt (a persona, the descriptions of tools) has a state of its own, which new conversations with it
restore, and which stays when a conversation is removed. The states of conversations contain it once more: llama.cpp
saves the whole of a sequence, and restores it only into an empty one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass

from bitnet_chat.backend import JournalPlace
from bitnet_chat.context.summary import MARK
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.conversation.openai_codec import encode_tool
from bitnet_chat.prompt_cache.key import StateIdentity, prefix_digests
from bitnet_chat.prompt_cache.record import PendingState, SavedState
from bitnet_chat.prompt_cache.store import StateStore

SAVE_PAUSE = 0.3
"""Seconds without a request before a state is saved: a client that asks at once does not wait for it."""
SAVE_SHARE = 10
"""A state that takes long to save waits this many times as long."""
WORTH_CHARACTERS = 400
"""Characters that a state must spare an engine from reading: about 100 tokens, 0.6 s at 160 tokens/s, where restoring
a state of 2,300 tokens takes 0.1 s."""
_WORTH_OF_CLIENTS = 2000
"""The same for a conversation of which it is not known whether it goes on."""


@dataclass(frozen=True, slots=True)
class StateJob:
    """A state that an engine is asked to write. ``conversation``: what its context holds. ``is_prompt``: that of a
    system prompt, which belongs to no conversation."""

    pending: PendingState
    conversation: Conversation
    is_prompt: bool = False

    @property
    def name(self) -> str:
        """The name of the file in the folder of states."""
        return self.pending.path.name


class EngineStates:
    """The states of an engine with ``identity``. All methods block; call them in a thread."""

    def __init__(self, store: StateStore, identity: Callable[[], StateIdentity | None]) -> None:
        """``identity``: None while it is not known, which means that no state is used."""
        self._store, self._identity = store, identity

    @property
    def are_known(self) -> bool:
        """Whether states can be looked for and saved: the hash of a new model takes seconds."""
        return self._identity() is not None

    def better(
        self,
        live: Conversation | None,
        wanted: Conversation,
        tools: tuple[Tool, ...] = (),
        *,
        worth: int = WORTH_CHARACTERS,
    ) -> tuple[SavedState, Conversation] | None:
        """A valid state that shares more with the prompt of ``wanted`` than an engine whose context holds ``live``, and
        the part that it shares; None if it would spare too little. ``tools``: in the prompt beside the conversation.
        ``worth``: characters that it must spare."""
        identity, damaged = self._identity(), set[str]()
        beyond = _characters(wanted, shared_messages(live, wanted), tools) - worth
        if identity is None or beyond < 0:
            return None
        while (found := self._store.find(identity, _digests(wanted, tools), damaged)) is not None:
            state, count = found
            if _characters(wanted, count) > beyond:
                return None
            if self._store.verify(state):
                self._store.touch(state)
                return state, first_messages(wanted, count)
            damaged.add(state.stem)  # which may be impossible to remove
        return None

    def touch(self, state: SavedState) -> bool:
        """Record the use of a state. False: it has been removed."""
        return self._store.touch(state)

    def shared(self, conversation: Conversation, tools: tuple[Tool, ...] = ()) -> int:
        """Number of leading messages of a conversation that a state has; -1 without one."""
        identity = self._identity()
        found = self._store.find(identity, _digests(conversation, tools)) if identity is not None else None
        return found[1] if found is not None else -1

    def is_lost(self, live: Conversation | None, wanted: Conversation, *, is_alone: bool = False) -> bool:
        """Whether an engine whose context holds ``live`` would lose much of it with the prompt of ``wanted``. Does not
        block. ``is_alone``: as in :meth:`begin`, of ``live``."""
        worth = _WORTH_OF_CLIENTS if is_alone else WORTH_CHARACTERS
        return live is not None and _characters(live, shared_messages(live, wanted)) >= worth

    def begin(
        self, conversation: Conversation, tools: tuple[Tool, ...] = (), *, is_alone: bool = False
    ) -> StateJob | None:
        """Begin to save the context of an engine that holds ``conversation``; None if it is not worth it, or no state
        is kept. :meth:`commit` or :meth:`discard` must follow. ``is_alone``: it is the prompt of an independent
        request without a journal, which is worth it only if it is long without a system prompt that has a state."""
        identity = self._identity()
        if identity is None:
            return None
        digests = _digests(conversation, tools)
        is_spared = is_alone and self._store.has(identity, digests[0])
        worth = _WORTH_OF_CLIENTS if is_alone else WORTH_CHARACTERS
        if _characters(conversation, 0 if is_spared else -1, tools) < worth:
            return None
        pending = self._store.begin(identity, digests)
        return StateJob(pending, conversation) if pending is not None else None

    def begin_prompt(self, conversation: Conversation, tools: tuple[Tool, ...] = ()) -> StateJob | None:
        """Like :meth:`begin`, for the system prompt of ``conversation`` with ``tools``. None if it is short or has a
        state, or contains a summary of messages."""
        identity, prompt = self._identity(), conversation.cleared()
        if identity is None or _characters(prompt, -1, tools) < WORTH_CHARACTERS or MARK in prompt.system:
            return None
        digests = _digests(prompt, tools)
        if self._store.has(identity, digests[0]):
            return None
        pending = self._store.begin(identity, digests)
        return StateJob(pending, prompt, is_prompt=True) if pending is not None else None

    def begin_copy(self, conversation: Conversation) -> StateJob | None:
        """Like :meth:`begin`, for an engine that reads the file when it starts: with the content of the state that
        shares most with ``conversation``."""
        job = self.begin(conversation)
        if job is not None and (found := self.better(None, conversation)) is not None:
            try:
                shutil.copyfile(found[0].path, job.pending.path)
            except OSError as error:
                self.discard(job, str(error))
                return None
        return job

    def commit(self, job: StateJob, *, tokens: int, place: JournalPlace | None) -> SavedState | None:
        """Keep a state that the engine has written. None: it is not kept. ``place``: of its conversation."""
        place = place if not job.is_prompt else None
        owner = self._store.owner(place.journal, place.conversation, 0) if place is not None else None
        return self._store.commit(job.pending, tokens=tokens, owner=owner)

    def discard(self, job: StateJob, reason: str = "") -> None:
        """Remove the file of a state that the engine has not written. ``reason``: for the log."""
        self._store.discard(job.pending, reason)

    def remove(self, state: SavedState, reason: str) -> None:
        """Remove a state that the engine cannot restore."""
        self._store.remove(state, reason)


def shared_messages(first: Conversation | None, second: Conversation) -> int:
    """Number of leading messages that two conversations share, after equal system prompts; -1 if these differ, or for
    None."""
    if first is None or first.system != second.system:
        return -1
    for count, (one, other) in enumerate(zip(first.turns, second.turns, strict=False)):
        if one != other:
            return count
    return min(len(first.turns), len(second.turns))


def first_messages(conversation: Conversation, count: int) -> Conversation:
    """The system prompt and the first ``count`` messages after it."""
    return Conversation((*conversation.cleared().messages, *conversation.turns[:count]))


def common_part(first: Conversation | None, second: Conversation) -> Conversation | None:
    """What two conversations begin with; None if that is nothing."""
    count = shared_messages(first, second)
    return None if count < 0 or first is None else first_messages(second, count)


def _digests(conversation: Conversation, tools: tuple[Tool, ...]) -> tuple[str, ...]:
    return prefix_digests(conversation.system, tools, conversation.turns)


def _characters(conversation: Conversation, shared: int, tools: tuple[Tool, ...] = ()) -> int:
    """Characters behind the first ``shared`` messages, or with the system prompt and ``tools`` for -1."""
    prompt = len(conversation.system) + sum(len(str(encode_tool(tool))) for tool in tools) if shared < 0 else 0
    return prompt + sum(len(each.content) for each in conversation.turns[max(0, shared) :])
