"""What a docstring says of a function and of its parameters, in the styles of Google, Sphinx and NumPy. Pure."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

_GOOGLE = re.compile(r"(?:Args|Arguments|Parameters):\s*$")
_GOOGLE_ITEM = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)")
_SPHINX_ITEM = re.compile(r":param\s+(?:[^:]*\s)?\*{0,2}(\w+):\s*(.*)")
_NUMPY = re.compile(r"(?:Parameters|Other Parameters)\s*$")
_NUMPY_ITEM = re.compile(r"\*{0,2}(\w+)\s*(?::.*)?$")
_SECTION = re.compile(
    r"(?:Args|Arguments|Parameters|Returns?|Raises|Yields?|Examples?|Notes?):\s*$|:\w[^:]*:|-{3,}\s*$"
)


def described(docstring: str) -> tuple[str, dict[str, str]]:
    """The first paragraph on one line, and what is said of each parameter."""
    lines = inspect.cleandoc(docstring).splitlines()
    summary: list[str] = []
    for number, line in enumerate(lines):
        follows = lines[number + 1] if number + 1 < len(lines) else ""
        if not line.strip() or _SECTION.match(line) or re.match(r"-{3,}\s*$", follows):
            break
        summary.append(line.strip())
    return " ".join(summary), _parameters(lines)


def _parameters(lines: Sequence[str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    at = 0
    while at < len(lines):
        line = lines[at]
        if (match := _SPHINX_ITEM.match(line.strip())) is not None:
            at = _item(lines, at, match, found)
        elif _GOOGLE.match(line):
            at = _section(lines, at + 1, _GOOGLE_ITEM, found, indented=True)
        elif _NUMPY.match(line) and at + 1 < len(lines) and re.match(r"-{3,}\s*$", lines[at + 1]):
            at = _section(lines, at + 2, _NUMPY_ITEM, found, indented=False)
        else:
            at += 1
    return {name: " ".join(words) for name, words in found.items() if words}


def _section(
    lines: Sequence[str], at: int, item: re.Pattern[str], found: dict[str, list[str]], *, indented: bool
) -> int:
    """The items of one section; where it ends."""
    depth = -1
    while at < len(lines):
        line = lines[at]
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            at += 1
            continue
        if depth < 0:
            depth = indent
        if indent < depth or (indented and not indent):
            return at
        underlined = at + 1 < len(lines) and re.match(r"-{3,}\s*$", lines[at + 1])
        match = item.match(line.strip())
        if match is None or underlined:
            return at
        at = _item(lines, at, match, found)
    return at


def _item(lines: Sequence[str], at: int, match: re.Match[str], found: dict[str, list[str]]) -> int:
    """One item with the deeper lines below it; the line after them."""
    indent = len(lines[at]) - len(lines[at].lstrip())
    words = found.setdefault(match[1], [])
    if match.re.groups > 1 and match[2]:
        words.append(match[2].strip())
    at += 1
    while at < len(lines) and lines[at].strip() and len(lines[at]) - len(lines[at].lstrip()) > indent:
        words.append(lines[at].strip())
        at += 1
    return at
