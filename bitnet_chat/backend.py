"""The protocol of a backend, and its data: sampling, options of a reply, status. A front end needs nothing else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Protocol

from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.context.window import Policy
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.errors import BitnetChatError
from bitnet_chat.events import Event


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. None: the setting of the backend, or its default without one."""

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
        """These values, and those of ``other`` where they are None."""
        mine = {each.name: value for each in fields(self) if (value := getattr(self, each.name)) is not None}
        return replace(other, **mine)

    @property
    def starts_over(self) -> bool:
        """Whether the reply depends on a generator of random numbers that starts with it."""
        return self.seed is not None and self.temperature != 0

    @property
    def repeats(self) -> bool:
        """Whether the same conversation gets the same reply, as far as sampling decides."""
        return self.temperature == 0 or self.seed is not None


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """A grammar for the reply: JSON of any kind, or such as ``schema`` allows."""

    schema: Mapping[str, object] | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class ReplyOptions:
    """The request for one reply. A backend refuses what it does not support: with Failed(UnsupportedError)."""

    max_tokens: int | None = None
    """None: no limit."""
    timeout: float | None = None
    """Wall clock seconds, loading included. None: no limit."""
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    """Texts that end the reply where they would begin; no part of them is in the reply."""
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    """``auto``, ``none``, ``required`` or the name of a tool."""
    format: ResponseFormat | None = None
    template: Mapping[str, object] = field(default_factory=dict, hash=False)
    """Arguments of the chat template beside the messages, such as ``enable_thinking``."""
    overflow: Policy | None = None
    """What happens to a conversation that has outgrown the window; None: as the backend was set up."""
    alone: bool = False
    """Whether the request stands for itself, as each of a stateless API does: what other requests said or cost changes
    nothing in what it gets, and what its reply is made without is told with that reply, however often it is asked."""


class BackendState(StrEnum):
    """What a backend does. The values are those of ``/health``."""

    STARTING = "starting"
    """It loads the model."""
    IDLE = "idle"
    GENERATING = "generating"
    INTERRUPTING = "interrupting"
    """It was told to stop a reply, and has not ended it yet."""
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """What a status line may show; any of it may change from one moment to the next."""

    model: str
    engine: str
    state: BackendState
    context_used: int | None = None
    context_size: int | None = None
    memory: int | None = None
    """Resident bytes of the engine process."""
    cpu: float | None = None
    """Percent of one core since the last look."""
    spare_memory: int | None = None
    """Resident bytes of the processes that are kept ready beside the one that answers; None when there are none."""
    restarts: int = 0
    """How often the engine died without being asked to, and was started again."""
    context_exact: bool = True
    """False where ``context_used`` is an estimate."""
    engine_version: str = ""
    """What the engine says of itself; empty where it is not known."""
    sampling: Sampling = Sampling()
    """What a reply gets that asks for nothing else, once it is known."""
    in_bursts: bool = False
    """Whether the words of a reply come in bursts, since a program on the way to here buffers its output."""


class Backend(Protocol):
    """``reply`` streams the answer to a conversation whose last message is the user's, or the result of a tool.

    Where the last message is a reply that was cut, ``reply`` goes on with it: events then hold the new characters only,
    and so does the text of the Completed at the end.
    """

    def start(self) -> None:
        """Begin to load in the background; returns at once. Needs a running loop. Errors come with the next reply."""

    def reply(self, conversation: Conversation, options: ReplyOptions = ...) -> AsyncGenerator[Event]:
        """Events of one reply; one reply at a time. Use it with :func:`contextlib.aclosing`: closing the generator
        stops the reply, and leaves the backend ready for the next one."""

    def prepare(self, history: Conversation) -> None:
        """The next message will follow ``history``: get ready for it in the background, where that saves a wait.

        Returns at once. Nothing is lost where the guess was wrong."""

    def count(self, text: str) -> TokenCount | None:
        """Tokens that ``text`` will take as a message, without the marks of the template around it; None where
        nothing can be said yet. Fast: a front end may ask while the user types."""

    def interrupt(self) -> None:
        """Stop the reply that is under way, if any; it still ends with a Completed of its own."""

    def status(self) -> BackendStatus: ...

    async def close(self) -> None:
        """Leave no process behind."""


async def refusal_of(backend: Backend, conversation: Conversation, options: ReplyOptions) -> BitnetChatError | None:
    """What a request would be refused for whenever its turn came, as far as that can be said without an engine; another
    reply may be under way. None where nothing is wrong with it, or where ``backend`` has no method ``refusal``."""
    ask = getattr(backend, "refusal", None)
    return None if ask is None else await ask(conversation, options)
