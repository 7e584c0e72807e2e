"""The HTTP server: uvicorn with limits for connections and requests.

Two parts of uvicorn are replaced: the command line handles signals, and the main loop waits for an event instead of a
check ten times per second.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bitnet_chat.errors import UsageError

_HEAD_LIMIT = 65_536
"""Bytes of a request line and its headers."""
_HEAD_TIMEOUT = 30.0
"""Seconds for a client to send them."""
_BODY_TIMEOUT = 120.0
"""Seconds for the body: 8 MB at 67 KB per second."""
_UNWANTED = 32_000_000
"""Bytes of a body that are read after the response: a client that still sends does not read the response yet."""
_CONNECTIONS = 1000
"""Maximum number of connections (:class:`ConnectionLimit`)."""
_FILES = 384
"""Open files that are reserved for engines, the journal, and the connections accepted in one turn of the event loop."""
_BACKLOG = 256
"""Length of the listen queue."""
_KEEP_ALIVE = 120
"""Seconds: longer than clients keep an idle connection (httpx 5, aiohttp 15, Go 90). A server that closes it first may
do so while the next request is being sent.
"""
_SWITCH_INTERVAL = 0.001
"""Seconds that a computing thread keeps the interpreter while the event loop waits for it; Python's default is 0.005.
A response needs several turns of the loop, so beside a large body it waits this often."""
_LINGER = 5.0
"""Seconds for connections to receive the end of their replies at shutdown."""


@asynccontextmanager
async def listening(app: Any, host: str, port: int) -> AsyncIterator[str]:
    """Run the server during the block. Yields its URL, such as ``http://127.0.0.1:8033``. ``port`` 0: any free port.

    At the end of the block new connections are refused, and open ones have :data:`_LINGER` seconds. Raises UsageError
    for an address that cannot be used.
    """
    listeners = _bound(host, port)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    address = url(host, listeners[0].getsockname()[1])
    places = ConnectionLimit(min(_CONNECTIONS, _affordable()))
    server = _Server(
        uvicorn.Config(
            app,
            http=partial(_Protocol, places=places),  # type: ignore[arg-type]  # uvicorn only calls it
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,  # uvicorn renews it once per second; the middleware adds an exact one
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=int(_LINGER),
        )
    )
    serving = asyncio.ensure_future(server.serve(listeners))
    up = asyncio.ensure_future(server.up.wait())
    try:
        await asyncio.wait([serving, up], return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()  # raises what went wrong
        yield address
    except BaseException:
        server.abort()
        raise
    finally:
        up.cancel()
        server.down.set()
        server.should_exit = True
        try:
            await serving
        finally:
            for listener in listeners:
                listener.close()
            server.abort()
            sys.setswitchinterval(interval)


def _affordable() -> int:
    """Return the number of connections that the limit of open files allows."""
    affordable = _CONNECTIONS
    if sys.platform != "win32":
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit != resource.RLIM_INFINITY:
            affordable = max(16, limit - _FILES)
    return affordable


def url(host: str, port: int) -> str:
    """Return the URL of an address. For the address of all interfaces it has the loopback address."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _bound(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address of ``host`` (``localhost`` usually has two), all with the same port."""
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"{host!r} is not an address of this computer: {error}",
            remedy="use --host with an address of this computer",
        ) from None
    listeners: list[socket.socket] = []
    for family, kind, protocol, _, address in places:
        number = listeners[0].getsockname()[1] if listeners else port
        try:
            listeners.append(_listener(family, kind, protocol, (address[0], number, *address[2:])))
        except (OSError, OverflowError) as error:
            if not listeners:  # only the first address must work: IPv6 may be missing
                raise _refused(host, port, error) from None
    return listeners


def _listener(family: int, kind: int, protocol: int, address: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform == "win32":  # SO_REUSEADDR would let two servers share a port there
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _refused(host: str, port: int, error: Exception) -> UsageError:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return UsageError(
            f"{where} is already in use",
            remedy="another server may be running; use another --port N, or --port 0 for any free port",
        )
    reason = error.strerror if isinstance(error, OSError) else "the port is out of range"
    return UsageError(f"{where} cannot be listened on: {reason}", remedy="check --host and --port")


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()
        self.down = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    async def main_loop(self) -> None:
        await self.down.wait()

    def abort(self) -> None:
        """Close every connection at once."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ConnectionLimit:
    """At most ``limit`` connections. A new connection replaces the one that has waited longest for its client. One that
    waits for the server is never closed; if all of them do, new requests get 503.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = 0
        self._idle: dict[_Protocol, None] = {}
        """Connections that wait for their clients, in the order of the waiting time: without a request, with an
        incomplete one, or idle after a reply.
        """

    def enter(self, newcomer: _Protocol) -> None:
        self._taken += 1
        self.idle(newcomer)
        if self._taken > self.limit:
            longest = next(iter(self._idle))
            if longest is not newcomer:
                self.leave(longest)
                longest.give_way()

    @property
    def full(self) -> bool:
        return self._taken > self.limit

    def idle(self, connection: _Protocol) -> None:
        if not connection.has_left:
            self._idle.pop(connection, None)
            self._idle[connection] = None

    def busy(self, connection: _Protocol) -> None:
        """The connection waits for the server."""
        self._idle.pop(connection, None)

    def leave(self, connection: _Protocol) -> None:
        if not connection.has_left:
            connection.has_left = True
            self._taken -= 1
            self._idle.pop(connection, None)


class _Protocol(HttpToolsProtocol):
    """The protocol with limits that uvicorn lacks: size and time of the head of a request, time of its body."""

    has_left = False
    """The connection does not count for the limit any more."""
    _head = 0
    _in_body = False
    _unwanted = 0
    _prompt_timeout: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, places: ConnectionLimit, **options: Any) -> None:
        super().__init__(*args, **options)
        self._places = places

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._expect(_HEAD_TIMEOUT)
        self._places.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relax()
        self._places.leave(self)
        super().connection_lost(exc)

    def give_way(self) -> None:
        if self._head or self._in_body:
            self._refuse(b"408 Request Timeout")
        else:
            self._relax()
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._in_body:
            if self.cycle.response_complete:
                self._unwanted += len(data)
        else:
            if self._prompt_timeout is None and (self.cycle is None or self.cycle.response_complete):
                self._expect(_HEAD_TIMEOUT)  # the first bytes of the next request on this connection
            self._head += len(data)
        super().data_received(data)
        if self._in_body:
            if self._unwanted > _UNWANTED:
                self._refuse(b"413 Content Too Large")
        elif self._head > _HEAD_LIMIT:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_headers_complete(self) -> None:
        self._relax()
        self.limit_concurrency = 0 if self._places.full else None  # 0: it is answered with 503
        super().on_headers_complete()
        self._in_body, self._head, self._unwanted = True, 0, 0
        self._expect(_BODY_TIMEOUT)

    def on_message_complete(self) -> None:
        self._relax()
        self._in_body = False
        if not self.cycle.response_complete:
            self._places.busy(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # and no pipelined request follows
            self._places.idle(self)

    def _expect(self, seconds: float) -> None:
        self._prompt_timeout = self.loop.call_later(seconds, self._refuse, b"408 Request Timeout")

    def _relax(self) -> None:
        if self._prompt_timeout is not None:
            self._prompt_timeout.cancel()
            self._prompt_timeout = None

    def _refuse(self, status: bytes) -> None:
        self._relax()
        if self.transport.is_closing():
            return
        cycle = self.cycle
        # Within a response, these bytes would be read as a part of it.
        if cycle is None or (not cycle.response_started if self._in_body else cycle.response_complete):
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        self.transport.close()
