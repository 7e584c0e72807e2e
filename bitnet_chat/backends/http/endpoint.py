"""The interface between an HTTP backend and its server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.http.client import HTTPConnection
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.events import ContextOrigin
from bitnet_chat.templates.special_tokens import SpecialTokens
from bitnet_chat.text.sanitize import one_line


@dataclass(frozen=True, slots=True)
class RequestTarget:
    """The destination of a request, for one attempt."""

    connection: HTTPConnection
    model: str
    """The server's name of the model."""
    context_size: int | None = None
    """Tokens of the context window of one conversation; None: not known."""
    knows_tools: bool = True
    """False if the chat template of the model is known to have no place for tools."""
    specials: SpecialTokens = field(default_factory=SpecialTokens)
    """Special tokens that are made text in messages; none for an external server, whose vocabulary is unknown: there
    ``<|im_start|>system`` in a message may begin a system prompt."""
    count: Callable[[dict[str, Any]], Awaitable[int | None]] | None = None
    """The server's count of the prompt tokens of a request; its result is None if the server does not count."""


class PromptStates(Protocol):
    """Saved states of what a server has read."""

    async def recall(
        self, target: RequestTarget, conversation: Conversation, tools: Sequence[Tool], *, is_exact: bool = False
    ) -> None:
        """Restore a state before a request with this prompt, if that spares the server from reading it. ``is_exact``:
        also from reading very little, which rounds differently."""

    async def evaluated_messages(self, target: RequestTarget, conversation: Conversation, tools: Sequence[Tool]) -> int:
        """Number of messages after the system prompt with which a state or the live context begins, as they were
        evaluated at first; -1 for none."""

    @property
    def is_saved(self) -> bool:
        """Whether what the server has read is saved, and the state has not been removed."""

    def sent(self) -> None:
        """Note that a request is sent, of which the server may not read all."""

    def origin(self, target: RequestTarget, conversation: Conversation, tools: Sequence[Tool]) -> ContextOrigin:
        """How the context before the last message of a prompt comes about. Called after :meth:`recall`."""

    def replied(
        self, target: RequestTarget, conversation: Conversation, options: ReplyOptions, tokens: int | None
    ) -> None:
        """Note the end of a reply. ``conversation``: the prompt and the reply. ``tokens``: of both."""

    async def close(self) -> None:
        """Save what the server has read. Takes seconds at most."""


class Endpoint(Protocol):
    """A server, managed by this program or external."""

    name: str
    """Its name in errors: ``llama-server``, ``the server at http://…``."""
    retries: int
    """Retries of a reply that was cut off before its first token."""

    @property
    def model(self) -> str:
        """The name of the model; empty: not known."""

    @property
    def target(self) -> RequestTarget | None:
        """The result of ``ready``; None: not known yet."""

    @property
    def engine(self) -> str:
        """The name of the engine, for a status line."""

    @property
    def is_alive(self) -> bool: ...

    @property
    def pid(self) -> int | None:
        """The process of a managed server."""

    @property
    def restarts(self) -> int:
        """Number of restarts after an unexpected end."""

    async def ready(self) -> RequestTarget:
        """Wait until the server is ready. Raises BitnetChatError if it cannot start; ConnectionLostError and
        HTTPStatusError as requests do."""

    async def models(self) -> list[str]:
        """The names of the server's models. Raises as ``ready`` does."""

    async def after_loss(self) -> str:
        """Handle a lost connection: return its cause, as a suffix of "the reply was cut off: "; or an empty text."""

    def after_stop(self) -> None:
        """Note that an incomplete reply was stopped: the server may hang, or have ended."""

    def take_notices(self) -> list[str]:
        """Take the notices for the user that were not taken yet."""

    async def close(self) -> None:
        """Release the server: this backend does not use it any more."""


class ExternalEndpoint:
    """The common part of endpoints that this program does not manage. See :class:`Endpoint`."""

    retries = 1
    pid = None
    is_alive = True
    restarts = 0

    def __init__(self, base: str, settings: Settings, *, name: str) -> None:
        self.name = name
        self.engine = f"{settings.backend} {one_line(urlsplit(base).netloc)}"
        self._connection = HTTPConnection(base, settings.backend_key)
        given = {
            "--chat-template": settings.chat_template,
            "--rpc": settings.rpc,
            "flags behind --": settings.engine_args,
        }
        useless = [flag for flag, value in given.items() if value]
        self._notices = [f"without effect on a running server: {', '.join(useless)}"] if useless else []

    async def after_loss(self) -> str:
        return ""

    def after_stop(self) -> None:
        pass

    def take_notices(self) -> list[str]:
        notices, self._notices = self._notices, []
        return notices

    async def close(self) -> None:
        await self._connection.close()
