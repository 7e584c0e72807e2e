"""The environment of the program: terminal, pseudo-terminals, and versions of program, Python and packages."""

from __future__ import annotations

import locale
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata

from bitnet_chat import paths
from bitnet_chat import terminal as terminals
from bitnet_chat.doctor.finding import Finding, broken, ok, warn
from bitnet_chat.engine.transport import pty_is_available
from bitnet_chat.version import __version__

_GROUP = "terminal"
_NARROW = 40
"""Width of a terminal in columns below which most lines of the program wrap."""


@dataclass(frozen=True, slots=True)
class TerminalFacts:
    """What is known about the terminal. ``stdin``, ``stdout``: whether it is a terminal. ``columns``, ``lines``: 0 if
    stdout is not one. ``variables``: those that describe a terminal.
    """

    stdin: bool
    stdout: bool
    columns: int
    lines: int
    encoding: str
    variables: Mapping[str, str]
    windows: bool = False


def here() -> TerminalFacts:
    """Collect the facts about the terminal of this process."""
    stdout = sys.stdout.isatty()
    columns, lines = terminals.size(sys.stdout) if stdout else (0, 0)
    names = ("TERM", "COLORTERM", "NO_COLOR", "LANG", "LC_ALL", "LC_CTYPE", "TMUX", "STY", "TERM_PROGRAM")
    return TerminalFacts(
        stdin=sys.stdin.isatty(),
        stdout=stdout,
        columns=columns,
        lines=lines,
        encoding=locale.getencoding(),
        variables={name: os.environ[name] for name in names if name in os.environ},
        windows=sys.platform == "win32",
    )


def judge_terminal(terminal: TerminalFacts) -> Iterator[Finding]:
    """Judge size, encoding and colours of a terminal. Pure."""
    yield _screen(terminal)
    encoding = terminal.encoding.lower().replace("-", "").replace("_", "")
    if encoding in ("utf8", "cp65001"):
        yield ok(_GROUP, "unicode", f"the locale is {terminal.encoding}")
    elif terminal.windows:
        yield ok(_GROUP, "unicode", f"the code page is {terminal.encoding}; a console gets Unicode nevertheless")
    else:
        yield warn(
            _GROUP,
            "unicode",
            f"the locale is {terminal.encoding}: other typed characters may be changed",
            "set a UTF-8 locale, for example LANG=C.UTF-8",
        )
    yield _colours(terminal)


def _screen(terminal: TerminalFacts) -> Finding:
    term = terminal.variables.get("TERM", "")
    facts: dict[str, object] = {"stdin": terminal.stdin, "stdout": terminal.stdout, "term": term}
    if not terminal.stdout:
        return ok(_GROUP, "screen", "stdout is not a terminal: output is plain text", **facts)
    facts |= {"columns": terminal.columns, "lines": terminal.lines}
    seen = f"{term or 'an unnamed terminal'}, {terminal.columns} columns and {terminal.lines} lines"
    if not terminals.is_capable(term, windows=terminal.windows):
        remedy = "set TERM to the type of this terminal, for example xterm-256color"
        return warn(_GROUP, "screen", f"{seen}: input and output are plain lines", remedy, **facts)
    if terminal.columns < _NARROW:
        return warn(_GROUP, "screen", f"{seen}: narrow", f"widen the window to {_NARROW} columns or more", **facts)
    return ok(_GROUP, "screen", seen, **facts)


def _colours(terminal: TerminalFacts) -> Finding:
    variables = terminal.variables
    if variables.get("NO_COLOR"):
        return ok(_GROUP, "colours", "none, because NO_COLOR is set", colours=False)
    if not (terminal.stdout and terminals.is_capable(variables.get("TERM"), windows=terminal.windows)):
        return ok(_GROUP, "colours", "none, because this is not a terminal with colours", colours=False)
    more = " (the terminal reports 16 million)" if variables.get("COLORTERM") in ("truecolor", "24bit") else ""
    return ok(_GROUP, "colours", f"the 16 standard colours are used{more}", colours=True)


def pty() -> Iterator[Finding]:
    """Check pseudo-terminals: open one and pass bytes through it."""
    name = "pty"
    if not pty_is_available():
        yield warn(
            _GROUP,
            name,
            "pseudo-terminals are not available: engines are connected by pipes, and write in bursts",
            "nothing to do: output is paced; --typing-speed sets the pace",
        )
        return
    problem = _try_pty()
    if problem:
        yield broken(
            _GROUP,
            name,
            f"a pseudo-terminal cannot be used: {problem}",
            "use --io pipe; in a container /dev/pts may have to be mounted",
        )
    else:
        yield ok(_GROUP, name, "a pseudo-terminal opens, in raw mode, and passes bytes on")


def _try_pty() -> str:
    """Return the reason why a pseudo-terminal does not work; empty if it does."""
    if sys.platform == "win32":
        return "not on this platform"
    else:  # noqa: RET505  # without the else, mypy reports the rest as unreachable for this platform
        import select
        import termios
        import tty

        try:
            ours, theirs = os.openpty()
        except OSError as error:
            return str(error.strerror)
        try:
            tty.setraw(theirs)
            os.write(theirs, b"\n\x03")
            if not select.select([ours], [], [], 1.0)[0]:
                return "written bytes do not arrive"
            heard = os.read(ours, 16)
        except (OSError, termios.error) as error:
            return str(error)
        finally:
            os.close(ours)
            os.close(theirs)
        return "" if heard == b"\n\x03" else f"it changed the written bytes to {heard!r}"


_PROGRAM_GROUP = "program"
_NEEDED = ("prompt_toolkit", "psutil", "platformdirs", "jinja2", "wcwidth", "pygments", "charset-normalizer", "pypdf")
_ON_POSIX = ("ptyprocess",)


def versions() -> dict[str, str]:
    """Return the versions of the program, Python, the platform and the required packages, by name; empty for a missing
    package.
    """
    packages = _NEEDED if sys.platform == "win32" else (*_NEEDED, *_ON_POSIX)
    return {
        "bitnet-chat": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _version(name) for name in packages},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def program() -> Iterator[Finding]:
    """Check versions, missing packages, and how the program is installed."""
    found = versions()
    seen = f"bitnet-chat {__version__}, Python {found['python']}, {found['platform']}"
    yield ok(_PROGRAM_GROUP, "versions", seen, **dict(found.items()))
    missing = [name for name, version in found.items() if not version]
    if missing:
        yield broken(
            _PROGRAM_GROUP,
            "packages",
            f"not installed: {', '.join(missing)}",
            f"{sys.executable} -m pip install {' '.join(missing)}",
        )
    command = shutil.which("bitnet-chat")
    root = paths.checkout()
    if root is not None:
        yield ok(
            _PROGRAM_GROUP,
            "installed",
            f"runs from the checkout {root}" + (f"; {command} is on PATH" if command else ""),
        )
    elif command:
        yield ok(_PROGRAM_GROUP, "installed", f"as a package; {command} is on PATH")
    else:
        yield warn(
            _PROGRAM_GROUP,
            "installed",
            "as a package, but no bitnet-chat is on PATH",
            f"{sys.executable} -m bitnet_chat starts it; pipx ensurepath or a similar command corrects PATH",
        )
