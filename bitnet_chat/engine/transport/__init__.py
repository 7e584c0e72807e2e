"""Transports: an engine process and its three streams, as bytes. Each transport has a module; they make no
decisions.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol

from bitnet_chat.engine import environment_variables

__all__ = ["Transport", "TransportKind", "TransportListener", "pty_is_available", "spawn"]

TransportKind = Literal["auto", "pty", "pipe"]
"""The requested transport. ``auto`` and ``pty``: a pseudo-terminal if the platform has them, else pipes."""


class TransportListener(Protocol):
    """Receives the output of a process. All methods are called on the event loop, in the order of the events."""

    def output(self, data: bytes) -> None:
        """Receive bytes of the standard output."""

    def logged(self, data: bytes) -> None:
        """Receive bytes of the standard error."""

    def closed(self) -> None:
        """Receive the end of the standard output. ``exited`` follows at once, unless the process continues to run."""

    def exited(self, code: int) -> None:
        """Receive the end of the process, the last call. ``code``: exit status, or minus the number of the signal that
        ended it.
        """


class Transport(Protocol):
    """A running process in its own session. It ends when this program ends."""

    @property
    def pid(self) -> int:
        """The process id, which is also that of its process group."""

    @property
    def is_terminal(self) -> bool:
        """Whether its standard output is a terminal."""

    @property
    def can_interrupt(self) -> bool:
        """Whether :meth:`interrupt` has an effect on this platform."""

    @property
    def log_lag(self) -> float:
        """Seconds by which the delivery of the log may be later than that of output written after it. 0: after
        :meth:`drain_log` it is not later.
        """

    def write(self, data: bytes) -> None:
        """Queue input. Does not block."""

    def interrupt(self) -> None:
        """Send SIGINT to the process group, as Ctrl-C on its terminal would."""

    def has_output(self) -> bool:
        """Return False if the process is running and has closed its terminal. A read does not show that, because the
        terminal remains open as its input.
        """

    def drain_log(self) -> None:
        """Deliver the log that is available now."""

    def after_output(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` on the event loop after all output that the process has written so far was delivered."""

    def kill(self) -> None:
        """Send SIGKILL to the process group. ``exited`` follows after the end of all descendants of the process."""


def pty_is_available() -> bool:
    """Return whether this platform has pseudo-terminals and the modules to use them."""
    try:
        for name in ("fcntl", "pty", "termios", "ptyprocess"):
            import_module(name)
    except ImportError:
        return False
    return True


def environment() -> dict[str, str]:
    """Return the environment of an engine: that of this program without variables that would change its flags, see
    :mod:`bitnet_chat.engine.environment_variables`.
    """
    return environment_variables.passed(os.environ)


def spawn(
    argv: Sequence[str], sink: TransportListener, *, transport: TransportKind, cwd: Path | None = None
) -> Transport:
    """Start ``argv`` on a transport. Requires a running event loop. Raises OSError if the program cannot be started."""
    loop = asyncio.get_running_loop()
    if sys.platform != "win32" and transport != "pipe" and pty_is_available():
        from bitnet_chat.engine.transport.pty import PtyTransport

        return PtyTransport(argv, sink, loop, cwd)
    from bitnet_chat.engine.transport.pipe import PipeTransport

    return PipeTransport(argv, sink, loop, cwd)
