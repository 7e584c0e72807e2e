"""The protocol of a backend, and its data: sampling, options of a reply, status."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.context.window import Policy
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.errors import BitnetChatError
from bitnet_chat.events import Event, Stats

MOST_VARIANTS = 8
"""Maximum number of replies of one request."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters. None: the setting or the default of the backend."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    """The same seed, the same reply."""
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None

    def over(self, other: Sampling) -> Sampling:
        """Return these values, with those of ``other`` where they are None."""
        mine = {each.name: value for each in fields(self) if (value := getattr(self, each.name)) is not None}
        return replace(other, **mine)

    @property
    def starts_over(self) -> bool:
        """Whether the reply depends on a random number generator that is seeded with it."""
        return self.seed is not None and self.temperature != 0

    @property
    def repeats(self) -> bool:
        """Whether sampling gives the same reply to the same conversation."""
        return self.temperature == 0 or self.seed is not None


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """A grammar for the reply: any JSON, or JSON that ``schema`` allows."""

    schema: Mapping[str, object] | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class JournalPlace:
    """A conversation of a journal: the file of the journal, and the number of the conversation in it."""

    journal: Path
    conversation: int


class JoinedReply(Protocol):
    """One of several replies to one conversation that pass separate filters and are generated together."""

    def events(self, conversation: Conversation, options: ReplyOptions) -> AsyncGenerator[Event]:
        """The events of this reply, in place of a request of its own. Called again if a filter repeats the request."""

    def stop(self) -> None:
        """Stop this reply only; it still ends with a Completed."""


@dataclass(frozen=True, slots=True)
class ReplyOptions:
    """The request for one reply. A backend refuses an unsupported option with Failed(UnsupportedError)."""

    max_tokens: int | None = None
    """None: no limit."""
    timeout: float | None = None
    """Wall clock seconds, loading included. None: no limit."""
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    """Stop texts: the reply ends before the first of them, and contains no part of it."""
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    """``auto``, ``none``, ``required`` or the name of a tool."""
    format: ResponseFormat | None = None
    template: Mapping[str, object] = field(default_factory=dict, hash=False)
    """Arguments of the chat template beside the messages, such as ``enable_thinking``."""
    overflow: Policy | None = None
    """The policy for a conversation that is longer than the window; None: that of the backend."""
    place: Callable[[], JournalPlace | None] = field(default=lambda: None, compare=False)
    """The place of the conversation in a journal, once it has one: saved states of the engine belong to it."""
    joined: JoinedReply | None = field(default=None, compare=False)
    """Set for one of several replies that the backend generates from one prefill."""
    alone: bool = False
    """Whether the request is independent, as in a stateless API: other requests have no effect on its reply, and each
    reply reports its dropped messages, also where the request is repeated."""

    def repeats(self, default: Sampling) -> bool:
        """Whether the same conversation gets the same reply again. ``default``: sampling where these options have
        none."""
        return not self.alone and self.sampling.over(default).repeats

    @property
    def offered(self) -> tuple[Tool, ...]:
        """The tools that the model may call."""
        return self.tools if self.tool_choice != "none" else ()

    def for_variant(self, number: int) -> ReplyOptions:
        """These options for one of several replies: a seed is increased by its number."""
        seed = self.sampling.seed
        return self if seed is None else replace(self, sampling=replace(self.sampling, seed=seed + number))

    def after(self, used: Stats) -> ReplyOptions:
        """These options with the rest of the limits, for another answer within the same reply."""
        return replace(
            self,
            max_tokens=None if self.max_tokens is None else max(1, self.max_tokens - used.tokens),
            timeout=None if self.timeout is None else max(0.1, self.timeout - used.seconds),
        )


class BackendState(StrEnum):
    """The state of a backend. The values are those of ``/health``."""

    STARTING = "starting"
    """The backend loads the model."""
    IDLE = "idle"
    GENERATING = "generating"
    INTERRUPTING = "interrupting"
    """A reply was interrupted and has not ended yet."""
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the replies of an engine depend on, beside the options of each. Empty or None: not known."""

    version: str = ""
    """As the engine reports it."""
    model_file: Path | None = None
    template: str = ""
    """Digest of the chat template, see :func:`bitnet_chat.prompt_cache.key.text_digest`."""
    threads: int | None = None
    takes_seeds: bool = False
    """Whether each reply may have a seed of its own, without a restart of the engine."""


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """Values for a status line; each may change at any time."""

    model: str
    engine: str
    state: BackendState
    context_used: int | None = None
    context_size: int | None = None
    memory: int | None = None
    """Resident bytes of the engine process."""
    cpu: float | None = None
    """Percent of one core since the previous reading."""
    spare_memory: int | None = None
    """Resident bytes of the spare engine processes; None without any."""
    restarts: int = 0
    """Number of restarts after the engine process ended unasked."""
    context_exact: bool = True
    """False where ``context_used`` is an estimate."""
    engine_version: str = ""
    """The engine's version as it reports it; empty where it is not known."""
    sampling: Sampling = Sampling()
    """The sampling of a reply without options, once it is known."""
    state_saved: bool = False
    """Whether the context of the engine is saved: the conversation goes on without being read, after a restart too."""
    in_bursts: bool = False
    """Whether text arrives in bursts, since a program in between buffers its output."""
    facts: EngineFacts = EngineFacts()


class Backend(Protocol):
    """A source of replies to conversations that end with a user message or the result of a tool.

    An incomplete reply at the end of a conversation is continued: the events and the text of the Completed then have
    the new characters only.
    """

    def start(self) -> None:
        """Begin to load in the background; return at once. Needs a running loop. The next reply reports errors."""

    def reply(self, conversation: Conversation, options: ReplyOptions = ...) -> AsyncGenerator[Event]:
        """The events of one reply; one reply at a time. To be used with :func:`contextlib.aclosing`: closing the
        generator stops the reply, and the backend is ready for the next one."""

    def prepare(self, history: Conversation) -> None:
        """Prefill ``history``, which probably precedes the next message, in the background; return at once. A wrong
        guess has no effect on the next reply."""

    def count(self, text: str) -> TokenCount | None:
        """Estimate the tokens of ``text`` as a message, without those of the template; None: not possible yet. Fast
        enough for a call at each key press."""

    def interrupt(self) -> None:
        """Stop the running reply, if any; it still ends with a Completed."""

    def status(self) -> BackendStatus: ...

    async def close(self) -> None:
        """End all processes of the backend."""


async def refusal_of(backend: Backend, conversation: Conversation, options: ReplyOptions) -> BitnetChatError | None:
    """Return the error with which the backend would refuse a request, as far as that is known without an engine;
    another reply may be running. None for a valid request, and for a backend without a method ``refusal``."""
    ask = getattr(backend, "refusal", None)
    return None if ask is None else await ask(conversation, options)
