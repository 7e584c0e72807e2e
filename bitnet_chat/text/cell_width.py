"""Width of text on a terminal: cells, not characters."""

from __future__ import annotations

import re

_SGR = re.compile(r"(\x1b\[[0-9;]*m)")


def width(text: str) -> int:
    """Cells of a terminal that one line of visible text takes."""
    if text.isascii():
        return len(text)
    from wcwidth import wcswidth

    return max(wcswidth(text), 0)


def clip(text: str, columns: int) -> str:
    """The beginning of one line of visible text that fits in ``columns`` cells."""
    if width(text) <= columns:
        return text
    from wcwidth import iter_graphemes

    kept, room = "", columns - 1
    for cluster in iter_graphemes(text):
        room -= width(cluster)
        if room < 0:
            break
        kept += cluster
    return kept + "…" if columns > 0 else ""


def tail(text: str, columns: int) -> str:
    """The end of one line of visible text that fits in ``columns`` cells."""
    if width(text) <= columns:
        return text
    from wcwidth import iter_graphemes

    kept, room = "", columns - 1
    for cluster in reversed(list(iter_graphemes(text[-4 * max(columns, 1) :]))):
        room -= width(cluster)
        if room < 0:
            break
        kept = cluster + kept
    return "…" + kept if columns > 0 else ""


def clip_styled(text: str, columns: int) -> str:
    """The same for a line with SGR sequences, which take no cells."""
    room, out = columns, []
    for piece in _SGR.split(text):
        if piece.startswith("\x1b"):
            out.append(piece)
        elif room > 0:
            out.append(clip(piece, room))
            room -= width(out[-1])
    return "".join(out)
