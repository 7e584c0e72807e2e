"""This program itself: how it is installed, and on what."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata

from bitnet_chat import paths
from bitnet_chat.doctor.finding import Finding, broken, ok, warn
from bitnet_chat.version import __version__

_GROUP = "program"
_NEEDED = ("prompt_toolkit", "psutil", "platformdirs", "jinja2", "wcwidth", "pygments", "charset-normalizer", "pypdf")
_ON_POSIX = ("ptyprocess",)


def versions() -> dict[str, str]:
    """Of this program, of what it stands on, and of the packages it uses; empty where one is missing."""
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


def look() -> Iterator[Finding]:
    found = versions()
    seen = f"bitnet-chat {__version__}, Python {found['python']}, {found['platform']}"
    yield ok(_GROUP, "versions", seen, **dict(found.items()))
    missing = [name for name, version in found.items() if not version]
    if missing:
        yield broken(
            _GROUP,
            "packages",
            f"not installed: {', '.join(missing)}",
            f"{sys.executable} -m pip install {' '.join(missing)}",
        )
    command = shutil.which("bitnet-chat")
    root = paths.checkout()
    if root is not None:
        yield ok(_GROUP, "installed", f"runs from the checkout {root}" + (f"; {command} is on PATH" if command else ""))
    elif command:
        yield ok(_GROUP, "installed", f"as a package; {command} is on PATH")
    else:
        yield warn(
            _GROUP,
            "installed",
            "as a package, but no bitnet-chat is on PATH",
            f"{sys.executable} -m bitnet_chat starts it; pipx ensurepath or the like mends PATH",
        )
