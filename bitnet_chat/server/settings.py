"""What a server is started with."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from bitnet_chat.context.window import Policy
from bitnet_chat.errors import UsageError
from bitnet_chat.server.origins import AllowedHosts, AllowedOrigins

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
    """Patterns for origins of pages elsewhere that may use the APIs, see :mod:`bitnet_chat.server.origins`."""
    allow_host: tuple[str, ...] = ()
    """More names that this server has, such as that of a proxy before it; ``.example.com``: all below, ``*``: any."""
    parallel: int = 1
    """Conversations of one model that are answered at once."""
    any_backend: bool = False
    """Whether the backend was left to the server, see :mod:`bitnet_chat.cli.server_engine`."""
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
    overflow: Policy | None = None
    """What happens to a conversation that is larger than the window. None: what each API's own servers do."""
    strict: bool = False
    """Whether a field that has no effect is refused by name, and not ignored with a notice."""
    log_prompts: bool = False
    """Whether what is said stands in the log."""

    def checked(self) -> ServeSettings:
        """These, if they go together. Raises UsageError."""
        if not 0 <= self.port < 1 << 16:
            raise UsageError(f"--port: there is no port {self.port}", remedy="0 takes any that is free")
        for name in ("parallel", "queue", "linger", "memory_limit"):
            least = 1 if name == "parallel" else 0
            if not least <= getattr(self, name) < 1e15:
                raise UsageError(f"--{name.replace('_', '-')} cannot be {getattr(self, name)}")
        if not self.api_key.isascii() or not self.api_key.isprintable() or " " in self.api_key:
            raise UsageError("the API key has characters that no HTTP header can carry", remedy="use letters, digits")
        if not self.api_key and not is_loopback(self.host):
            raise UsageError(
                f"--host {self.host} lets other computers in, and there is no API key to tell who may",
                remedy="set one: BITNET_CHAT_API_KEY=… or --api-key KEY",
            )
        if AllowedHosts(self.allow_host).all and not self.api_key:
            raise UsageError(
                "--allow-host '*' lets a page whose name was made to point here use this server",
                remedy="name the hosts, or set an API key too",
            )
        if AllowedOrigins(self.cors).all and not self.api_key:
            raise UsageError(
                "--cors '*' lets every web page that is open in a browser here use this server",
                remedy="name the origins, or set an API key too",
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether a name or an address is that of this computer, for itself alone."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
