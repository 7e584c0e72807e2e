"""The events of a reply: the interface between backends and front ends.

A reply consists of any number of :class:`Notice`, one :class:`Started`, then text and tool calls, then exactly one
:class:`Completed` or :class:`Failed`. A Notice can occur at any point.

A :class:`ToolCall` is complete and well-formed; an incomplete call does not become an event. A front end executes calls
only if the reply ends with the reason ``tool_calls``. With any other reason (``length``, ``interrupted``,
``engine_died`` …) the reply was cut off, and none of its calls is executed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from bitnet_chat.conversation.message import ToolCall
from bitnet_chat.errors import BitnetChatError, FinishReason

BURST = 0.02
"""Seconds. Tokens that arrive within this time come from buffers, and do not show the speed of the engine."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Statistics of one reply. Times are in seconds. None: the engine does not report the value."""

    prompt_tokens: int | None = None
    """Number of new tokens in the prompt: those added to the context by this turn, before the reply."""
    tokens: int = 0
    """Number of tokens of the reply, including thinking and tool calls, excluding the end-of-turn token."""
    time_to_first_token: float | None = None
    """Time from sending the message to the first character, prefill included."""
    seconds: float = 0.0
    """Time from sending the message to the end of the reply."""
    context_used: int | None = None
    """Number of tokens in the context window after the reply, end-of-turn token included."""
    context_size: int | None = None
    """Size of the context window in tokens."""
    exact: bool = False
    """True if the engine has counted the tokens. False for estimates, with the vocabulary of the model if it is
    readable, else from the length of the texts."""
    prompt_size: int | None = None
    """Number of tokens of the whole prompt, including those that the engine had evaluated before."""
    first_tokens: int = 1
    """Number of tokens that make up the first characters: an emoji has several."""

    def __add__(self, other: Stats) -> Stats:
        """The figures of two consecutive replies as one: the prompt of the first, the context of the second."""
        return replace(
            other,
            prompt_tokens=self.prompt_tokens,
            prompt_size=self.prompt_size,
            tokens=self.tokens + other.tokens,
            time_to_first_token=self.time_to_first_token,
            first_tokens=self.first_tokens,
            seconds=self.seconds + other.seconds,
            exact=self.exact and other.exact,
        )

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of generation in tokens per second, prefill excluded; None for a reply without tokens.

        If the reply arrived in (nearly) one burst, its generation time cannot be measured. The value is then the rate
        over the whole time, prefill included, which is lower.
        """
        if self.time_to_first_token is None or self.tokens < 1 or self.seconds <= 0:
            return None
        generating = self.seconds - self.time_to_first_token
        if self.tokens > self.first_tokens and generating > BURST:
            return (self.tokens - self.first_tokens) / generating
        return self.tokens / self.seconds


class ContextSource(StrEnum):
    """How an engine came to the context before a message. Batches of another shape round differently: the same prompt
    may get another reply after COLD than after LIVE or STATE. The values are those of the journal."""

    LIVE = "live"
    """Evaluated turn by turn by the same process."""
    STATE = "state"
    """Restored from a saved state."""
    COLD = "cold"
    """Read anew, or nothing: the first message of a conversation."""


@dataclass(frozen=True, slots=True)
class ContextOrigin:
    """The context before the message of a reply. ``restored``: number of tokens of a saved state. ``begun``: characters
    of the reply that were read as text, since the reply continues one that was cut; 0 if all of it was generated.
    ``state``: the key of the saved state, the digests of what it was made with and of its conversation."""

    source: ContextSource
    restored: int = 0
    begun: int = 0
    state: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """A message for the user that is not part of the reply, for example about a restart."""

    text: str
    dropped: int = 0
    """Number of messages that were dropped from the prompt, if the notice reports that."""


@dataclass(frozen=True, slots=True)
class Started:
    """The message was passed to the engine; prefill begins."""


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """Progress of prefill: ``done`` of ``total`` tokens of the prompt are evaluated, including those in the cache of
    the engine.

    Occurs between Started and the first text, any number of times. Not all backends report it.
    """

    done: int
    total: int
    repeats: bool = False
    """The tokens are not those of the prompt, but of the beginning of a continued reply, which the engine generates
    again. It is not shown again."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next characters of the reply, never empty. Bytes that are not UTF-8 are lone surrogates."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """The next characters of the thinking, which is not part of the reply."""

    text: str


@dataclass(frozen=True, slots=True)
class Completed:
    """The reply has ended. ``text``: the whole reply, equal to all TextDelta joined. ``origin``: None where the backend
    does not know it."""

    reason: FinishReason
    text: str
    stats: Stats = field(default_factory=Stats)
    origin: ContextOrigin | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The request failed. The conversation is unchanged, and the message can be sent again. ``text``: the text that
    arrived."""

    error: BitnetChatError
    text: str = ""


Event = Notice | Started | PromptProgress | TextDelta | ThinkingDelta | ToolCall | Completed | Failed
"""Any event of a reply."""


@dataclass(frozen=True, slots=True)
class VariantEvent:
    """An event of one of several replies. ``variant``: its number, from 0."""

    variant: int
    event: Event
