"""Transports: one engine process and its three streams, as bytes. One file per transport, without decisions."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Literal, Protocol

from bitnet_chat.engine import environment_variables

__all__ = ["Transport", "TransportKind", "TransportListener", "pty_is_available"]

TransportKind = Literal["auto", "pty", "pipe"]


class TransportListener(Protocol):
    """Receiver of a child's output. Calls come from the event loop, in order; ``exited`` is the last one."""

    def output(self, data: bytes) -> None: ...

    def logged(self, data: bytes) -> None: ...

    def closed(self) -> None:
        """End of its output. ``exited`` follows at once, unless the process continues without one."""

    def exited(self, code: int) -> None:
        """The process has ended. ``code``: exit status, or minus the number of the signal that ended it."""


class Transport(Protocol):
    """A running process in its own session, which ends with this program."""

    @property
    def pid(self) -> int: ...

    @property
    def is_terminal(self) -> bool:
        """Whether its output is a terminal."""

    @property
    def can_interrupt(self) -> bool:
        """Whether :meth:`interrupt` has a signal to send."""

    @property
    def log_lag(self) -> float:
        """Seconds that the log may be behind the output; 0: :meth:`drain_log` brings it level."""

    def write(self, data: bytes) -> None:
        """Queue input. Returns at once, whatever the size."""

    def interrupt(self) -> None:
        """Send SIGINT, as Ctrl-C on its own terminal would."""

    def has_output(self) -> bool:
        """False for a process that has closed its output and continues, which no read shows while its input is open."""

    def drain_log(self) -> None:
        """Deliver what the log holds by now, so that it is not behind the output."""

    def after_output(self, callback: Callable[[], None]) -> None:
        """Call back, on the event loop, after all its output so far was delivered."""

    def kill(self) -> None:
        """Send SIGKILL to the process and its group. ``exited`` follows after the end of all its descendants."""


def pty_is_available() -> bool:
    """Whether this platform has pseudo-terminals and the modules to use them."""
    try:
        for name in ("fcntl", "pty", "termios", "ptyprocess"):
            import_module(name)
    except ImportError:
        return False
    return True


def environment() -> dict[str, str]:
    """Environment of an engine or a server: this program's, without variables that change its flags; see
    :mod:`bitnet_chat.engine.environment_variables`."""
    return environment_variables.passed(os.environ)
