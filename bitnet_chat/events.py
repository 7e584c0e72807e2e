"""The events of a reply: the only interface between a backend and a front end.

The order within one reply: any number of :class:`Notice`, one :class:`Started`, then text and tool calls, then exactly
one :class:`Completed` or :class:`Failed`. Notices may come at any time.

A :class:`ToolCall` is whole and well-formed; a call that was cut makes no event. A front end makes it only once the
reply has ended with the reason ``tool_calls``. A reply that ends for any other reason (``length``, ``interrupted``,
``engine_died`` …) was cut after its calls: a front end makes none of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from bitnet_chat.conversation.message import ToolCall
from bitnet_chat.errors import BitnetChatError, FinishReason

BURST = 0.02
"""Seconds. Tokens within this time came from buffers, and do not show the speed of the engine."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of one reply. Times in seconds. None: the engine does not report it."""

    prompt_tokens: int | None = None
    """Tokens of the prompt that were new: those that this turn added to the context before the reply."""
    tokens: int = 0
    """Tokens of the reply, its thoughts and calls of tools included. The token that ends a reply is not counted."""
    time_to_first_token: float | None = None
    """Time to first token: from sending the message to the first character, prefill included."""
    seconds: float = 0.0
    """From sending the message to the end of the reply."""
    context_used: int | None = None
    """Tokens in the context window after the reply, with the one that ended it."""
    context_size: int | None = None
    exact: bool = False
    """True when the engine itself counted the tokens; False when they are estimates: counted with the model's own
    vocabulary where it can be read, else by the length of the texts."""
    prompt_size: int | None = None
    """Tokens in the context window when the reply began: all of the prompt, with what the engine had evaluated
    before."""
    first_tokens: int = 1
    """Tokens of the reply that make its first characters: an emoji has several."""

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
        """Rate of generation, prefill excluded. A reply that came in one burst, or nearly so, leaves no time to
        measure: then it is the rate from sending to the end, prefill included, which is lower. None for a reply
        without tokens."""
        if self.time_to_first_token is None or self.tokens < 1 or self.seconds <= 0:
            return None
        generating = self.seconds - self.time_to_first_token
        if self.tokens > self.first_tokens and generating > BURST:
            return (self.tokens - self.first_tokens) / generating
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True)
class Notice:
    """One line for the user that is not part of the reply: a restart, or characters made visible in the message."""

    text: str
    dropped: int = 0
    """Number of messages that were dropped from the prompt, where the notice reports this."""


@dataclass(frozen=True, slots=True)
class Started:
    """The message was handed to the engine; prefill begins."""


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """Prefill progress: ``done`` of ``total`` tokens of the prompt are evaluated, those in the engine's cache included.
    Not all backends report it. May come between Started and the first text, any number of times."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next characters of the reply, never empty. Bytes that are not UTF-8 appear as lone surrogates."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """The next characters of the model's thinking; not part of the reply."""

    text: str


@dataclass(frozen=True, slots=True)
class Completed:
    """The reply has ended. ``text`` is the whole of it, the same as all TextDelta joined."""

    reason: FinishReason
    text: str
    stats: Stats = field(default_factory=Stats)


@dataclass(frozen=True, slots=True)
class Failed:
    """The request failed: the conversation is unchanged, and the message may be sent again. ``text``: the part that
    arrived."""

    error: BitnetChatError
    text: str = ""


Event = Notice | Started | PromptProgress | TextDelta | ThinkingDelta | ToolCall | Completed | Failed
