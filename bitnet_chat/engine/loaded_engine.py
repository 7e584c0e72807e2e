"""An engine process with its memory: a copy of a conversation, valid until another caller changes it."""

from __future__ import annotations

from collections.abc import Callable

from bitnet_chat.backend import JournalPlace, Sampling
from bitnet_chat.context.token_count import Counter, TokenCount
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.process import EngineProcess, ProcessState
from bitnet_chat.engine.protocols import EngineProtocol
from bitnet_chat.engine.saved_states import StateJob, common_part, shared_messages
from bitnet_chat.events import ContextOrigin, ContextSource
from bitnet_chat.prompt_cache.record import SavedState


class EngineInstance:
    """A loaded engine. ``memory``: the conversation of its start, and all turns since. ``replayed_thinking``: these
    turns are in its system prompt. ``notes``: what could not be kept when it was started, for the user. ``is_within``:
    its context ends within the last reply, which it can go on with."""

    def __init__(
        self,
        process: EngineProcess,
        memory: Conversation,
        *,
        replayed_thinking: bool = False,
        notes: tuple[str, ...] = (),
        is_within: bool = False,
        sampling: Sampling | None = None,
    ) -> None:
        self.process = process
        self.sampling = sampling or Sampling()
        self.has_answered = False
        """Random numbers were used: the same seed would no longer give the same reply."""
        self.memory = memory
        self.replayed_thinking = replayed_thinking
        self.notes = notes
        self.is_within = is_within
        self.evaluated: Conversation | None = None
        """What its context begins with for certain; None if nothing is known."""
        self.place: Callable[[], JournalPlace | None] | None = None
        """The place of that conversation in a journal; None while it is not known: no reply was asked for."""
        self.is_alone = False
        """Whether its last request did not depend on earlier ones."""
        self.was_hurried = False
        """Whether the reading of a history was stopped."""
        self.cache: StateJob | None = None
        """The state that it writes at its first reply."""
        self.saved: Conversation | None = None
        """The conversation of the last saved state."""
        self.state: SavedState | None = None
        """That state, if it was kept."""
        self.exact: Conversation | None = None
        """What its context begins with as it was evaluated at first, turn by turn: lived through, or restored."""
        self.restored = 0
        """Tokens of the state that ``exact`` was restored from; 0: lived through."""
        self.restored_key = ""
        """The key of that state."""
        self.has_strayed = False
        """Its context differs from ``memory``."""
        self.is_at_limit = False
        """The last reply was cut at its limit of tokens, and the engine can continue it."""
        self._account: TokenCount | None = None

    @property
    def is_alive(self) -> bool:
        return self.process.state is not ProcessState.DEAD

    @property
    def is_lone_request(self) -> bool:
        """Whether its context is that of an independent request, and not of a conversation in a journal, which is
        expected to go on."""
        return self.is_alone and (self.place is None or self.place() is None)

    def samples_as(self, sampling: Sampling) -> bool:
        """Whether its next reply would be sampled with ``sampling``."""
        return self.sampling == sampling and not (self.has_answered and sampling.starts_over)

    def origin(self, memory: Conversation) -> ContextOrigin:
        """How the context of a message after ``memory`` comes about."""
        shared, turns = shared_messages(self.exact, memory), len(memory.turns)
        if self.restored and (shared > 0 or (shared == turns and memory.system)):
            return ContextOrigin(ContextSource.STATE, self.restored, state=self.restored_key)
        return ContextOrigin(ContextSource.LIVE if shared == turns else ContextSource.COLD)

    def restored_from(self, state: SavedState, part: Conversation) -> None:
        """Note that the context is that of a state, of which ``part`` is known."""
        self.evaluated = self.saved = self.exact = part
        self.state, self.restored, self.restored_key = state, state.tokens, state.key

    def cut_to(self, memory: Conversation) -> None:
        """Note that a prompt with ``memory`` is evaluated, of which only the known part is certain."""
        self.evaluated, self.exact = common_part(self.evaluated, memory), common_part(self.exact, memory)

    def forgot(self) -> None:
        """Note that nothing is known of the context."""
        self.evaluated = self.exact = None
        self.restored = 0

    def used(self, protocol: EngineProtocol, count: Counter) -> TokenCount:
        """Tokens in its context: exact if the engine reports them."""
        if self.process.meter.context_used is not None:
            return TokenCount(self.process.meter.context_used)
        if self._account is None:
            self._account = protocol.cost_of_history(self.memory, count)
        return self._account

    def clear(self, command: bytes, memory: Conversation) -> None:
        """Make it forget all but its system prompt, which is that of ``memory``; it must be idle."""
        self.process.command(command, forgets=True)
        self.memory, self._account, self.has_strayed = memory, None, False

    def turn_to(self, memory: Conversation) -> None:
        """The next message carries ``memory``, regardless of the context."""
        if self.has_strayed or self.memory != memory:
            self.process.meter.forgot()
            self.memory, self._account, self.has_strayed = memory, None, False

    def record(self, memory: Conversation, protocol: EngineProtocol, count: Counter) -> None:
        """Add the turn at the end of ``memory``."""
        if self.is_within:  # the turn is not a new one
            self._account = None
        elif self.process.meter.context_used is None and len(memory.messages) > 1:
            asked, answered = memory.messages[-2:]
            turn = protocol.cost_of_message(asked.content, count) + count(answered.content) + TokenCount(1)
            self._account = self.used(protocol, count) + turn
        self.memory = self.evaluated = self.exact = memory
        self.restored = 0
