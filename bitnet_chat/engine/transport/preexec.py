"""Code that runs in a child process between fork and exec: default signals, raw mode, and the end with this program."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def make_preexec(*, raw_terminal: bool = False) -> Callable[[], None]:
    """Return the ``preexec_fn`` of a child. As little as possible runs after the fork, so everything is looked up here.

    ``raw_terminal``: stdin is a terminal, and is set to raw mode.
    """
    make_raw = _raw_mode() if raw_terminal else None
    parent = os.getpid()
    die_with_parent = _linux_death_signal()
    # Python ignores SIGPIPE, and a background shell ignores SIGINT. A signal that is ignored remains so after exec.
    names = ("SIGPIPE", "SIGINT", "SIGHUP", "SIGTERM", "SIGQUIT")
    signals = [getattr(signal, name) for name in names if hasattr(signal, name)]

    def prepare() -> None:
        for number in signals:
            signal.signal(number, signal.SIG_DFL)
        if make_raw is not None:
            make_raw()
        if die_with_parent is not None:
            die_with_parent()
            if os.getppid() != parent:  # the parent ended before the request
                os._exit(0)

    return prepare


def as_bytes(argv: Sequence[str]) -> list[str | bytes]:
    """Encode the arguments of a command line. Arguments that the locale cannot encode, such as chat templates, become
    UTF-8.

    It is called before the fork: an encoding error after it would leave a second copy of this program running.
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
    else:  # noqa: RET505  # without the else, mypy reports the rest as unreachable for this platform
        import tty

        return lambda: tty.setraw(0)


def _linux_death_signal() -> Callable[[], None] | None:
    """Return a function that makes the Linux kernel kill the child when this program ends, even after ``kill -9``; None
    elsewhere. There, a child on a pty gets SIGHUP when this program closes the terminal, and a child on pipes the end
    of its input.
    """
    if sys.platform != "linux":
        return None
    else:  # noqa: RET505  # without the else, mypy reports the rest as unreachable for this platform
        import ctypes

        try:
            prctl = ctypes.CDLL(None).prctl
        except (OSError, AttributeError):
            return None
        return lambda: prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
