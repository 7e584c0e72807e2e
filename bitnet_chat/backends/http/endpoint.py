"""Who answers requests, as a backend sees it. No I/O here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from bitnet_chat.backends.http.client import HTTPConnection
from bitnet_chat.templates.special_tokens import SpecialTokens


@dataclass(frozen=True, slots=True)
class RequestTarget:
    """Where a request goes, good for one attempt."""

    connection: HTTPConnection
    model: str
    """As the server calls it."""
    context_size: int | None = None
    """Tokens of one conversation's window, where somebody has told."""
    knows_tools: bool = True
    """False where it is known that the model's template has no place for tools."""
    specials: SpecialTokens = field(default_factory=SpecialTokens)
    """Those of the model that are not to act in a message; none for a server of others, whose vocabulary is unknown:
    there ``<|im_start|>system`` in a message may begin a system prompt."""
    count: Callable[[dict[str, Any]], Awaitable[int | None]] | None = None
    """Tokens of the prompt that a request makes, as the server counts them; None where it does not tell."""


class Endpoint(Protocol):
    """A server, ours or somebody else's."""

    name: str
    """As the user knows it, for errors: ``llama-server``, ``the server at http://…``."""
    retries: int
    """How often a reply is asked again that was cut off before its first word."""

    @property
    def model(self) -> str:
        """The model that answers, as far as it is known."""

    @property
    def target(self) -> RequestTarget | None:
        """What ``ready`` gives, where that is known by now."""

    @property
    def engine(self) -> str:
        """For a status line."""

    @property
    def is_alive(self) -> bool: ...

    @property
    def pid(self) -> int | None:
        """The process, where it is ours."""

    @property
    def restarts(self) -> int:
        """How often it died and was started again."""

    async def ready(self) -> RequestTarget:
        """Waits until it can answer. Raises BitnetChatError where it never will; ConnectionLostError and Refused as
        requests do.
        """

    async def models(self) -> list[str]:
        """The names of what it can answer with. Raises as ``ready`` does."""

    async def after_loss(self) -> str:
        """The connection was lost: what happened, in words that fit behind "the reply was cut off: "; or nothing."""

    def after_stop(self) -> None:
        """A reply was stopped that was not whole: the server may be busy with it for good, or have stopped itself."""

    def take_notices(self) -> list[str]:
        """Lines for the user that were not told yet."""

    async def close(self) -> None:
        """This backend needs it no more."""
