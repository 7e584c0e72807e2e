"""Settings of the server."""

from __future__ import annotations

from dataclasses import dataclass

from bitnet_chat.context.window import Policy
from bitnet_chat.errors import UsageError
from bitnet_chat.server.origins import AllowedHosts, AllowedOrigins
from bitnet_chat.util.loopback import is_loopback_host

PORT = 8033


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Times in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    port: int = PORT
    """0: any free port."""
    api_key: str = ""
    """The key that every request must have. Empty: no key is required, and the server listens on loopback only."""
    cors: tuple[str, ...] = ()
    """Patterns for origins of foreign pages that may use the APIs (:mod:`bitnet_chat.server.origins`)."""
    allow_host: tuple[str, ...] = ()
    """Additional names of this server, such as that of a proxy before it; ``.example.com``: all names below, ``*``:
    any.
    """
    parallel: int = 1
    """Number of parallel requests for one model."""
    any_backend: bool = False
    """Whether the server chooses the backend (:mod:`bitnet_chat.cli.server_engine`)."""
    queue: int = 64
    """Maximum number of requests that wait for a model."""
    cache: bool = False
    """Cache deterministic replies."""
    memory_limit: int = 0
    """Memory of all loaded models; the least recently used are unloaded. 0: no limit."""
    linger: float = 30.0
    """Seconds that a reply of a chat continues after the last client disconnects, so that a page can be reloaded."""
    grace: float = 10.0
    """Seconds that a shutdown waits for running replies."""
    body_limit: int = 8_000_000
    """Bytes of one request."""
    overflow: Policy | None = None
    """The policy for a conversation that is larger than the context window. None: the default of each API."""
    strict: bool = False
    """Refuse a field that would be ignored, instead of a notice."""
    log_prompts: bool = False
    """Log prompts and replies."""

    def checked(self) -> ServeSettings:
        """Return these settings. Raises UsageError for inconsistent ones."""
        if not 0 <= self.port < 1 << 16:
            raise UsageError(f"--port {self.port} is out of range", remedy="use 0 for any free port")
        for name in ("parallel", "queue", "linger", "memory_limit"):
            least = 1 if name == "parallel" else 0
            if not least <= getattr(self, name) < 1e15:
                raise UsageError(f"--{name.replace('_', '-')} cannot be {getattr(self, name)}")
        if not self.api_key.isascii() or not self.api_key.isprintable() or " " in self.api_key:
            raise UsageError(
                "the API key contains characters that are not allowed in an HTTP header", remedy="use letters, digits"
            )
        if not self.api_key and not is_loopback_host(self.host):
            raise UsageError(
                f"--host {self.host} accepts remote connections; an API key is required",
                remedy="set BITNET_CHAT_API_KEY=… or --api-key KEY",
            )
        if AllowedHosts(self.allow_host).all and not self.api_key:
            raise UsageError(
                "--allow-host '*' allows any page with a rebound name to use this server",
                remedy="name the hosts, or set an API key too",
            )
        if AllowedOrigins(self.cors).all and not self.api_key:
            raise UsageError(
                "--cors '*' allows every page in a browser on this computer to use this server",
                remedy="name the origins, or set an API key too",
            )
        return self
