"""What a server is started with."""

from __future__ import annotations

from dataclasses import dataclass

PORT = 8033


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Times in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    port: int = PORT
    """0: any that is free."""
    api_key: str = ""
    """What every request has to bring. Empty: none is wanted, and only this computer is listened to."""
    cors: tuple[str, ...] = ()
    """Origins of pages elsewhere that may use the APIs."""
    queue: int = 64
    """Requests that may wait for a model; more are refused."""
    cache: bool = False
    """Answer again from memory what is repeatable."""
    memory_limit: int = 0
    """Of all loaded models; those that were used least recently are unloaded. 0: no limit."""
    linger: float = 30.0
    """So long a reply of a chat goes on while nobody watches: a page that is reloaded finds it again."""
    grace: float = 10.0
    """So long a server that is told to end waits for replies that are under way."""
    body_limit: int = 8_000_000
    """Of one request."""
    log_prompts: bool = False
    """Whether what is said stands in the log."""
