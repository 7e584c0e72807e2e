"""Conversion of the output of a failed pip, cmake or ninja into an error with a remedy. Pure."""

from __future__ import annotations

import re
from pathlib import Path

from bitnet_chat.errors import BuildError

# Messages of pip and its libraries if the index cannot be reached (pip 22 to 25 on Linux, macOS and Windows).
_NO_NETWORK = re.compile(
    r"NewConnectionError|ConnectTimeoutError|ReadTimeoutError|ConnectionResetError|ConnectionRefusedError"
    r"|NameResolutionError|name resolution|getaddrinfo failed|nodename nor servname|Network is unreachable"
    r"|No route to host|ProxyError|Cannot connect to proxy|Max retries exceeded|Connection broken|SSLError"
    r"|Read timed out|Connection refused"
)
_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded|not enough space on the disk|\[Errno 28\]")
# "c++: fatal error: Killed signal terminated program cc1plus" is the kernel's out-of-memory killer.
_NO_MEMORY = re.compile(
    r"Killed signal terminated|internal compiler error: Killed|virtual memory exhausted|[Cc]annot allocate memory"
    r"|out of memory allocating|LLVM ERROR: out of memory|C1060|compiler is out of heap space"
)
_PIP_ERROR = re.compile(r"^\s*(ERROR|error):")
_BUILD_ERROR = re.compile(r"^FAILED: |^CMake Error|\berror:|^ninja: (error|fatal)", re.MULTILINE)

OFFLINE = (
    "Connect this computer (pip's own settings for index, proxy and certificates are used) and try again; or copy the "
    "engine folder from a computer of the same kind; or name an engine that is already here with --engine PATH."
)
_CHECK_INDEX = "Nothing of it was used. Check pip's index and proxy (`pip config list`), then try again."


def of_pip(output: str, *, purpose: str, log: Path, python: str, offline: str = OFFLINE) -> BuildError:
    """Make the error for a failed pip. ``purpose`` completes "cannot …"; ``offline`` is the remedy without network."""
    if re.search(r"No module named '?pip", output):
        return BuildError(
            f"Cannot {purpose}: this Python has no pip ({python}).",
            remedy=f"Run `{python} -m ensurepip` (Debian, Ubuntu: `apt-get install python3-pip`) and try again.",
        )
    if _NO_SPACE.search(output):
        return no_space(log.parent)
    if _NO_NETWORK.search(output):
        return BuildError(f"Cannot {purpose}: no network, or the package index is not reachable.", remedy=offline)
    if "DO NOT MATCH THE HASHES" in output:
        return BuildError(
            f"Cannot {purpose}: the file from the package index is not the pinned one: its sha256 differs.",
            remedy=_CHECK_INDEX,
            detail=pip_excerpt(output),
        )
    if "No matching distribution found" in output:
        return BuildError(
            f"Cannot {purpose}: the package index that pip uses does not have it.",
            remedy=offline,
            detail=pip_excerpt(output),
        )
    return BuildError(f"Cannot {purpose}: pip failed.", remedy=f"The log is {log}.", detail=pip_excerpt(output))


def of_build(output: str, *, step: str, status: int, log: Path) -> BuildError:
    """Make the error for a failed cmake or ninja. ``status``: exit status, negative for a signal."""
    if _NO_SPACE.search(output):
        return no_space(log.parent)
    if _NO_MEMORY.search(output):
        return BuildError(
            f"{step} failed: the compiler ran out of memory.",
            remedy="Close other programs, or set CMAKE_BUILD_PARALLEL_LEVEL=1, and run the same command again: "
            f"it resumes. The log is {log}.",
        )
    ended = f"was ended by signal {-status}" if status < 0 else f"failed with status {status}"
    return BuildError(
        f"{step} {ended}.",
        remedy=f"The log is {log}. Run the same command again to resume.",
        detail=build_excerpt(output),
    )


def wrong_archive(name: str, found: str, expected: str) -> BuildError:
    """Make the error for a file with the hash ``found`` instead of ``expected``."""
    return BuildError(
        f"{name} is not the pinned file: its sha256 is {found}, expected {expected}.", remedy=_CHECK_INDEX
    )


def unsafe_archive(name: str, problem: str) -> BuildError:
    """Make the error for an archive; ``problem`` is a predicate."""
    return BuildError(f"{name} {problem}.", remedy=_CHECK_INDEX)


def no_space(place: Path) -> BuildError:
    """Make the error for a full disk."""
    return BuildError(
        f"The disk of {place} is full.",
        remedy="Free some space and run the same command again: it resumes. "
        "BITNET_CHAT_DATA=FOLDER chooses another place.",
    )


def pip_excerpt(output: str, lines: int = 6) -> str:
    """Return the last error lines of pip, or the last lines of its output."""
    found = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in found if _PIP_ERROR.match(line)]
    return _cut((errors or found)[-lines:])


def build_excerpt(output: str, lines: int = 12) -> str:
    """Return the lines from the first reported error on. After it, other compilers still write warnings, and the last
    lines are not specific."""
    first = _BUILD_ERROR.search(output)
    if first is None:
        return _cut(output.splitlines()[-lines:])
    start = output.rfind("\n", 0, first.start()) + 1
    return _cut(output[start:].splitlines()[:lines])


def _cut(lines: list[str], width: int = 240) -> str:
    """Shorten long lines: the command line of a compiler has a thousand characters."""
    return "\n".join(line if len(line) <= width else line[: width - 2] + " …" for line in lines)
