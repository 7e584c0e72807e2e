"""How much room text takes on a terminal: cells, not characters."""

from __future__ import annotations


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
