"""Patterns for ``Origin`` (the pages that may use the APIs) and ``Host`` (the names of this server). Pure.

An origin is ``http://localhost:3000``, or the scheme of an application: ``app://obsidian.md``, ``file://``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bitnet_chat.errors import UsageError

ANY = "*"
NONE = "none"
"""In place of :data:`USUAL`."""
USUAL = (
    *(
        f"{scheme}://{host}:*"
        for scheme in ("http", "https")
        for host in ("localhost", "127.0.0.1", "0.0.0.0", "[::1]")
    ),
    *(f"{scheme}://*.localhost:*" for scheme in ("http", "https")),
    *(f"{scheme}://*" for scheme in ("app", "file", "tauri", "vscode-webview", "vscode-file")),
)
"""Origins of servers and applications on this computer. A page from the network cannot have one of them."""
_PATTERN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\*|(?:\*\.)?[^\s/?#@:\[\]*]+|\[[0-9a-f:.]+\])?(?::(?P<port>\d{1,5}|\*))?"
)
_WEB = frozenset({"http", "https"})
_HOST_PATTERN = re.compile(r"(?:\*?\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[?[0-9a-f:.]*:[0-9a-f:.]*\]?")


def tidy(origin: str) -> str:
    """Return an origin in the form that browsers send."""
    origin = origin.strip().lower()
    return origin if origin.endswith("://") else origin.rstrip("/")


class AllowedOrigins:
    """A set of origins: those of ``patterns`` (``http://localhost:*``, ``https://*.example.com``, ``app://``) and
    :data:`USUAL`. ``*``: all origins; ``none``: without the usual ones.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        """Raises UsageError for a value that is not a pattern."""
        given = [tidy(each) for each in patterns]
        self.all = False
        """Whether every origin is allowed."""
        regexes: list[str] = []
        for pattern in (*given, *(() if NONE in given else USUAL)):
            if pattern == NONE:
                continue
            regex = "" if pattern == ANY else _regex_of(pattern)
            self.all = self.all or not regex
            regexes.append(regex)
        self._regex = re.compile("|".join(filter(None, regexes)) or "(?!)")

    def __contains__(self, origin: str) -> bool:
        """``null``, the origin of a file and of a sandboxed page, matches no pattern but ``*``."""
        origin = origin.lower()
        return bool(origin) and (self.all or (origin != "null" and self._regex.fullmatch(origin) is not None))


def _regex_of(pattern: str) -> str:
    """Return the regular expression of a pattern; an empty string if it allows every origin."""
    match = _PATTERN.fullmatch(pattern)
    if match is None or (match["scheme"] in _WEB and match["host"] is None):
        raise UsageError(
            f"--cors {pattern}: not an origin",
            remedy="use a form such as http://box:3000, http://box:*, https://*.example.com or app://, without a path",
        )
    scheme, host, port = match["scheme"], match["host"] or ANY, match["port"]
    if host == ANY and scheme in _WEB:
        return ""
    if host == ANY:
        return rf"{re.escape(scheme)}://[^\s?#@]*"
    name = rf"(?:[^\s/?#@:\[\].]+\.)+{re.escape(host[2:])}" if host.startswith("*.") else re.escape(host)
    number = "" if port is None else r"(?::\d{1,5})?" if port == ANY else f":{port}"
    return f"{re.escape(scheme)}://{name}{number}"


class AllowedHosts:
    """A set of host names. ``.example.com`` matches ``example.com`` and all names below it."""

    def __init__(self, names: Iterable[str]) -> None:
        """Raises UsageError for a value that is not a host name."""
        self.all = False
        self._names: set[str] = set()
        self._suffixes: tuple[str, ...] = ()
        for given in names:
            name = given.strip().lower().rstrip(".")
            if name == ANY:
                self.all = True
            elif _HOST_PATTERN.fullmatch(name) is None:
                raise UsageError(
                    f"--allow-host {given}: not a host name",
                    remedy="use a form such as chat.example.com, or .example.com for all names below it,"
                    " without scheme and port",
                )
            elif name.startswith((".", "*.")):
                self._suffixes += (name.removeprefix("*"),)
            else:
                self._names.add(name.strip("[]"))

    def __contains__(self, name: str) -> bool:
        """``name``: in lower case, without port, brackets and trailing dot."""
        return self.all or name in self._names or f".{name}".endswith(self._suffixes)
