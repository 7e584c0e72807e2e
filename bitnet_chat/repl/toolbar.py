"""The bar below the prompt, and the figures it shares with ``/stats`` and the line after a reply. Pure."""

from __future__ import annotations

from bitnet_chat.backends import BackendStatus
from bitnet_chat.events import Stats
from bitnet_chat.stream.sanitize import one_line

SEPARATOR = " · "
_STATES = {"starting": "loading", "dead": "stopped", "interrupting": "stopping", "generating": "answering"}


def size(count: int) -> str:
    """Bytes for people, in powers of ten as disks and downloads give them: ``812 MB``, ``1.2 GB``."""
    if count < 1_000_000:
        return f"{count / 1000:.0f} kB"
    if count < 999_500_000:
        return f"{count / 1_000_000:.0f} MB"
    return f"{count / 1_000_000_000:.1f} GB"


def rate(tokens_per_second: float) -> str:
    return f"{tokens_per_second:.1f} tok/s" if tokens_per_second < 100 else f"{tokens_per_second:.0f} tok/s"


def seconds(time: float) -> str:
    """``0.35 s``, ``4.2 s``, ``75 s``."""
    return f"{time:.2f} s" if time < 1 else f"{time:.1f} s" if time < 60 else f"{time:.0f} s"


def tokens(count: int, exact: bool = True) -> str:
    return f"{'' if exact or not count else '~'}{count} token{'' if count == 1 else 's'}"


def context(used: int | None, total: int | None) -> str:
    """``ctx 512/2048 (25 %)``; empty when the size is not known."""
    if not total:
        return ""
    return f"ctx {used or 0}/{total} ({100 * (used or 0) / total:.0f} %)"


def bar(status: BackendStatus, last: Stats | None, columns: int) -> str:
    """One line for ``columns`` cells: what does not fit is left out, the least important first, then the name cut."""
    used = status.context_used if status.context_used is not None else last.context_used if last else None
    total = status.context_size or (last.context_size if last else None)
    speed = last.tokens_per_second if last else None
    engine = [size(status.memory)] if status.memory is not None else []
    if status.cpu is not None:
        engine.append(f"{status.cpu:.0f} % CPU")
    # In the order of display; the number says how long each is kept when the room gets short.
    parts = [
        (9, one_line(status.model)),
        (8, _STATES.get(status.state, "")),
        (7, context(used, total)),
        (6, rate(speed) if speed is not None else ""),
        (5, " ".join(engine)),
    ]
    parts = [part for part in parts if part[1]]
    while len(parts) > 1 and width(_joined(parts)) > columns:
        parts.remove(min(parts))
    return clip(_joined(parts), columns)


def _joined(parts: list[tuple[int, str]]) -> str:
    return " " + SEPARATOR.join(text for _, text in parts)


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
