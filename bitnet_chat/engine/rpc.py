"""rpc-servers that hold layers of a model: their addresses, and their errors in an engine's log. Pure.

llama.cpp's RPC backend aborts the engine when a server cannot be reached or goes away. Each server serves one engine at
a time: a second one waits, without a word, until the first has left.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable, Sequence

from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.install import manifest
from bitnet_chat.errors import BitnetChatError, EngineDiedError, EngineNotFoundError, UsageError

_ADDRESS = re.compile(r"(?:\[(?P<six>[^\[\]]*)\]|(?P<host>[A-Za-z0-9][A-Za-z0-9._-]*)):(?P<port>[0-9]{1,5})")
_BARE_SIX = re.compile(r"\[?[0-9A-Fa-f:.%]*:[0-9A-Fa-f:.%]*:[0-9A-Fa-f:.%]*\]?")
_EXAMPLE = "such as --rpc 192.168.1.7:50052,192.168.1.8:50052"
INSTALL = "bitnet-chat engine install --with rpc compiles one that has it"

# From ggml-rpc.cpp and transport.cpp, and the last one from common/arg.cpp of llama.cpp.
_NO_HOST = re.compile(r"Cannot resolve host '(?P<host>[^']*)'")
_NO_CONNECTION = re.compile(r"Failed to connect to (?P<server>\S+)")
_OTHER_VERSION = re.compile(r"RPC server version mismatch|RPC handshake failed for (?P<server>\S+)")
_LOST = "Remote RPC server crashed"
_SIGPIPE = -13
"""It was writing to a server that had gone: that ends it before it can say so."""
_NOT_BUILT = "RPC not supported in this build"


def servers(text: str) -> tuple[str, ...]:
    """The addresses in ``host:port,…``, as an engine wants them. Raises UsageError for an invalid address."""
    found: list[str] = []
    for address in [each.strip() for each in text.split(",")] if text.strip() else []:
        match = _ADDRESS.fullmatch(address)
        if match is None:
            why = "an IPv6 address goes in brackets" if _BARE_SIX.fullmatch(address) else "host:port is needed"
            raise UsageError(f"--rpc: {address!r} is not an address of an rpc-server: {why}", remedy=_EXAMPLE)
        if not 0 < int(match["port"]) < 65536:
            raise UsageError(f"--rpc: {address!r} has no port between 1 and 65535", remedy=_EXAMPLE)
        if match["six"] is not None and not _is_six(match["six"]):
            raise UsageError(f"--rpc: {address!r} has no IPv6 address in its brackets", remedy=_EXAMPLE)
        if address in found:  # its layers would be counted twice
            raise UsageError(f"--rpc: {address} is named twice", remedy="name each rpc-server once")
        found.append(address)
    return tuple(found)


def _is_six(text: str) -> bool:
    from ipaddress import IPv6Address

    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def split(server: str) -> tuple[str, int]:
    """Host, without brackets, and port of an address that :func:`servers` gave."""
    host, _, port = server.rpartition(":")
    return host.strip("[]"), int(port)


def not_built(engine: object) -> EngineNotFoundError:
    return EngineNotFoundError(f"the engine {engine} was built without RPC, which --rpc needs", remedy=INSTALL)


def unreachable(server: str, why: str = "") -> EngineDiedError:
    return EngineDiedError(
        f"the rpc-server {server} cannot be reached{f': {why}' if why else ''}",
        remedy="start it on that computer (rpc-server --host ADDRESS --port PORT), or remove it from --rpc",
    )


def meaning(log: Iterable[str], engine: object, exit_code: int | None = None) -> BitnetChatError | None:
    """The error of an rpc-server in the last lines of an engine that has died; None without one.

    ``exit_code``: negative where a signal ended it.
    """
    text = "\n".join(log)
    if _NOT_BUILT in text:
        return not_built(engine)
    if match := _NO_CONNECTION.search(text):
        unknown = _NO_HOST.search(text)
        # It takes all in front of the first colon for the name: one bracket of an IPv6 address.
        return unreachable(match["server"], "llama.cpp finds no IPv4 address of that name" if unknown else "")
    if match := _OTHER_VERSION.search(text):
        which = next((each["server"] for each in _OTHER_VERSION.finditer(text) if each["server"]), "of --rpc")
        return EngineDiedError(
            f"the rpc-server {which} has another version of the protocol than the engine",
            remedy="build both from the same llama.cpp: bitnet-chat engine install --with rpc on each computer",
        )
    if _LOST in text or exit_code == _SIGPIPE:
        return EngineDiedError(
            "an rpc-server of --rpc ended, or is of another version than the engine",
            remedy="its output has the reason; start it again, or remove it from --rpc",
        )
    return None


# Checks before the start of an engine with layers on rpc-servers.

PATIENCE: float = 5.0
"""Seconds for a server to take a connection and to end it again. In a network it takes milliseconds; the engine itself
would wait for minutes where a computer is off, and for ever where a server is busy."""


def require(binary: EngineBinary) -> None:
    """Raises EngineNotFoundError for an engine that is known to have no RPC.

    Its ``--help`` names ``--rpc`` either way, so for another build only its log shows it.
    """
    built = manifest.read(binary.path.parent)
    is_ours = built is not None and binary.path.name in built.files
    if not binary.has("--rpc") or (built is not None and is_ours and "rpc" not in built.features):
        raise not_built(binary.path)


def knock(servers: Sequence[str]) -> None:
    """Raises EngineDiedError where an rpc-server does not answer, or is busy with another engine. Blocks.

    Every version of the protocol accepts a client that sends nothing and leaves; a busy server does not accept it.
    """
    for server in servers:
        try:
            _knock(server, time.monotonic() + PATIENCE)
        except TimeoutError:
            raise unreachable(server, f"it did not answer within {PATIENCE:g} s") from None
        except OSError as error:
            raise unreachable(server, error.strerror or str(error)) from None


def _knock(server: str, deadline: float) -> None:
    host, port = split(server)
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
    raise EngineDiedError(
        f"the rpc-server {server} is busy: it serves one engine at a time",
        remedy="end the program that uses it, or start another rpc-server on another port",
    )
