"""What can be told before an engine is started whose layers are to lie on rpc-servers."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

from bitnet_chat.engine import rpc
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.install import manifest
from bitnet_chat.errors import EngineDied

PATIENCE: float = 5.0
"""Seconds for a server to take a connection and to end it again. In a network it takes milliseconds; the engine itself
would wait for minutes where a computer is off, and for ever where a server is busy."""


def require(binary: EngineBinary) -> None:
    """Raises EngineNotFound for an engine that is known to have no RPC.

    Its ``--help`` names ``--rpc`` either way, so that of another build only its log can tell.
    """
    built = manifest.read(binary.path.parent)
    is_ours = built is not None and binary.path.name in built.files
    if not binary.has("--rpc") or (built is not None and is_ours and "rpc" not in built.features):
        raise rpc.not_built(binary.path)


def knock(servers: Sequence[str]) -> None:
    """Raises EngineDied where an rpc-server does not answer, or is busy with another engine. Blocks.

    A client that has nothing to say is let go by every version of the protocol; a busy server does not get to it.
    """
    for server in servers:
        try:
            _knock(server, time.monotonic() + PATIENCE)
        except TimeoutError:
            raise rpc.unreachable(server, f"it did not answer within {PATIENCE:g} s") from None
        except OSError as error:
            raise rpc.unreachable(server, error.strerror or str(error)) from None


def _knock(server: str, deadline: float) -> None:
    host, port = rpc.split(server)
    with socket.create_connection((host, port), timeout=max(deadline - time.monotonic(), 0.1)) as connection:
        connection.shutdown(socket.SHUT_WR)
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            try:
                if not connection.recv(4096):
                    return
            except ConnectionResetError:  # let go all the same
                return
            except TimeoutError:
                break
    raise EngineDied(
        f"the rpc-server {server} is busy: it serves one engine at a time",
        remedy="end the program that uses it, or start another rpc-server on another port",
    )
