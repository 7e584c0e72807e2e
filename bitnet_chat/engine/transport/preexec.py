"""Steps of a child between fork and exec, for a clean start and an end with this program."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def make_preexec(*, raw_terminal: bool = False) -> Callable[[], None]:
    """A function to be run in the child. Everything it needs is looked up now: after fork, the less the better.

    ``raw_terminal``: standard input is a terminal, and its line discipline is to leave every byte alone.
    """
    make_raw = _raw_mode() if raw_terminal else None
    parent = os.getpid()
    die_with_parent = _linux_death_signal()
    # Python ignores SIGPIPE, and a background shell may have SIGINT ignored; an ignored signal stays so over exec.
    names = ("SIGPIPE", "SIGINT", "SIGHUP", "SIGTERM", "SIGQUIT")
    signals = [getattr(signal, name) for name in names if hasattr(signal, name)]

    def prepare() -> None:
        for number in signals:
            signal.signal(number, signal.SIG_DFL)
        if make_raw is not None:
            make_raw()
        if die_with_parent is not None:
            die_with_parent()
            if os.getppid() != parent:  # it died before the request was made
                os._exit(0)

    return prepare


def as_bytes(argv: Sequence[str]) -> list[str | bytes]:
    """A command line whose arguments can be handed over in any locale: chat templates hold characters of any script.

    Done before the fork, where what cannot be encoded would end in a second copy of this program.
    """
    encoded: list[str | bytes] = [argv[0]]
    for argument in argv[1:]:
        try:
            encoded.append(os.fsencode(argument))
        except UnicodeEncodeError:
            encoded.append(argument.encode("utf-8", "surrogateescape"))
    return encoded


def _raw_mode() -> Callable[[], None] | None:
    if sys.platform == "win32":
        return None
    else:  # noqa: RET505  # without it the checker takes the rest for dead code on other platforms
        import tty

        return lambda: tty.setraw(0)


def _linux_death_signal() -> Callable[[], None] | None:
    """On Linux the kernel kills the child when this program ends, kill -9 included. Elsewhere a pty child gets SIGHUP
    when this program's end of its terminal closes, and a pipe child the end of its input.
    """
    if sys.platform != "linux":
        return None
    else:  # noqa: RET505  # without it the checker takes the rest for dead code on other platforms
        import ctypes

        try:
            prctl = ctypes.CDLL(None).prctl
        except (OSError, AttributeError):
            return None
        return lambda: prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
