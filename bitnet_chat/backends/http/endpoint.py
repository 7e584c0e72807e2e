"""The interface between an HTTP backend and its server. No I/O here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from bitnet_chat.backends.http.client import HTTPConnection
from bitnet_chat.templates.special_tokens import SpecialTokens


@dataclass(frozen=True, slots=True)
class RequestTarget:
    """The destination of a request, for one attempt."""

    connection: HTTPConnection
    model: str
    """The server's name of the model."""
    context_size: int | None = None
    """Tokens of one conversation's window, where they are known."""
    knows_tools: bool = True
    """False where it is known that the model's template has no place for tools."""
    specials: SpecialTokens = field(default_factory=SpecialTokens)
    """Those of the model that are not to act in a message; none for a server of others, whose vocabulary is unknown:
    there ``<|im_start|>system`` in a message may begin a system prompt."""
    count: Callable[[dict[str, Any]], Awaitable[int | None]] | None = None
    """Tokens of the prompt that a request makes, as the server counts them; None where it does not tell."""


class Endpoint(Protocol):
    """A server, managed by this program or not."""

    name: str
    """Its name in errors: ``llama-server``, ``the server at http://…``."""
    retries: int
    """Retries of a reply that was cut off before its first token."""

    @property
    def model(self) -> str:
        """The model that answers, as far as it is known."""

    @property
    def target(self) -> RequestTarget | None:
        """The result of ``ready``, where it is known already."""

    @property
    def engine(self) -> str:
        """For a status line."""

    @property
    def is_alive(self) -> bool: ...

    @property
    def pid(self) -> int | None:
        """The process, for a managed server."""

    @property
    def restarts(self) -> int:
        """Number of restarts after it ended unasked."""

    async def ready(self) -> RequestTarget:
        """Wait until the server is ready. Raises BitnetChatError where it fails; ConnectionLostError and Refused
        as requests do.
        """

    async def models(self) -> list[str]:
        """The names of its models. Raises as ``ready`` does."""

    async def after_loss(self) -> str:
        """Handle a lost connection: return its cause, as a suffix of "the reply was cut off: "; or an empty text."""

    def after_stop(self) -> None:
        """A reply was stopped that was not whole: the server may be busy with it for good, or have stopped itself."""

    def take_notices(self) -> list[str]:
        """Lines for the user that were not told yet."""

    async def close(self) -> None:
        """This backend needs it no more."""
