"""Width of text on a terminal in cells, and clipping to a width."""

from __future__ import annotations

import re

_SGR = re.compile(r"(\x1b\[[0-9;]*m)")


def width(text: str) -> int:
    """Return the number of terminal cells of one line of visible text."""
    if text.isascii():
        return len(text)
    from wcwidth import wcswidth

    return max(wcswidth(text), 0)


def clip(text: str, columns: int) -> str:
    """Clip one line of visible text to ``columns`` cells; … marks an omitted end."""
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
    """Return the end of one line of visible text that fits in ``columns`` cells; … marks an omitted beginning."""
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
    """Clip a line that contains SGR sequences, which take no cells; see :func:`clip`."""
    room, out = columns, []
    for piece in _SGR.split(text):
        if piece.startswith("\x1b"):
            out.append(piece)
        elif room > 0:
            out.append(clip(piece, room))
            room -= width(out[-1])
    return "".join(out)
