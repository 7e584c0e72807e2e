"""The status bar below the prompt, and the formats of figures that ``/stats`` and the line after a reply share.
Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from bitnet_chat.backend import BackendState, BackendStatus
from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.events import Stats
from bitnet_chat.text.cell_width import clip, width
from bitnet_chat.text.sanitize import one_line
from bitnet_chat.util.progress import size

SEPARATOR = " · "
FULL = 0.8
"""Used share of the context window from which the bar warns."""
WARNING = "class:warning"
_NAME = 5
"""Priority of the model name in the bar, see :func:`bar`."""
_NAME_CELLS = 8
"""Minimum width of the model name in cells; a shorter name is left out."""
_OVERFLOW = {
    "drop-oldest": "the oldest turns will be dropped",
    "summarize": "the oldest turns will be summarized",
    "stop": "the conversation will end",
}
_STATES = {
    BackendState.STARTING: "loading",
    BackendState.IDLE: "idle",
    BackendState.GENERATING: "answering",
    BackendState.INTERRUPTING: "stopping",
    BackendState.DEAD: "stopped",
}


def rate(tokens_per_second: float) -> str:
    """Format a rate: ``18.3 tok/s``, ``120 tok/s``."""
    return f"{tokens_per_second:.1f} tok/s" if tokens_per_second < 100 else f"{tokens_per_second:.0f} tok/s"


def seconds(time: float) -> str:
    """Format a time in seconds: ``0.35 s``, ``4.2 s``, ``75 s``."""
    return f"{time:.2f} s" if time < 1 else f"{time:.1f} s" if time < 60 else f"{time:.0f} s"


def tokens(count: int, exact: bool = True) -> str:
    """Format a number of tokens: ``42 tokens``, ``~42 tokens`` for an estimate."""
    return f"{'' if exact or not count else '~'}{count} token{'' if count == 1 else 's'}"


def context(used: int | None, total: int | None, exact: bool = True) -> str:
    """Format the use of the context window in tokens: ``ctx 512/2048 (25 %)``, ``ctx ~512/2048 (25 %)`` for an
    estimate, ``ctx ?/2048`` if the used part is unknown, and an empty text if the size is unknown.
    """
    if not total:
        return ""
    share = "?" if used is None else f"{'' if exact else '~'}{used}"
    return f"ctx {share}/{total}" + ("" if used is None else f" ({100 * used / total:.0f} %)")


def state(status: BackendStatus) -> str:
    """Return the state of the backend as a word for users."""
    return _STATES[status.state]


def _exceeds_window(draft: TokenCount | None, used: int | None, total: int | None) -> bool:
    return draft is not None and total is not None and (used or 0) + draft.at_least > total


def _cells(parts: Iterable[str]) -> int:
    return sum(width(SEPARATOR + part) for part in parts) - len(SEPARATOR) + 1


def bar(
    status: BackendStatus,
    last: Stats | None,
    columns: int,
    overflow: str = "drop-oldest",
    draft: TokenCount | None = None,
    variant: str = "",
) -> list[tuple[str, str]]:
    """Return the status bar, at most ``columns`` cells wide, as pairs of a prompt_toolkit style and a text. Parts that
    do not fit are left out, the least important first; the model name is cut before it is left out. ``overflow``: the
    policy for a full context window. ``draft``: the token count of the message on the prompt. ``variant``: the position
    of the last reply or message among its variants.
    """
    used = status.context_used  # not that of the last reply, which may belong to another conversation
    total = status.context_size or (last.context_size if last else None)
    speed = last.tokens_per_second if last else None
    engine = [size(status.memory)] if status.memory is not None else []
    if status.cpu is not None:
        engine.append(f"{status.cpu:.0f} % CPU")
    full = bool(total and (used or 0) >= FULL * total)
    # In the order of display. The first value is the priority: the part with the lowest is left out first.
    parts = [
        (_NAME, "", one_line(status.model)),
        (8, "", state(status) if status.state is not BackendState.IDLE else ""),
        (7, WARNING if _exceeds_window(draft, used, total) else "", f"message {draft}" if draft is not None else ""),
        (9, WARNING if full else "", ("! " if full else "") + context(used, total, status.context_exact)),
        (6, WARNING, _OVERFLOW.get(overflow, "") if full else ""),
        (4, "", variant),
        (3, "", rate(speed) if speed is not None else ""),
        (2, "", " ".join(engine)),
        (1, "", f"spare {size(status.spare_memory)}" if status.spare_memory is not None else ""),
        (0, "", "state saved" if status.state_saved else ""),
    ]
    parts = [part for part in parts if part[2]]
    while len(parts) > 1 and (over := _cells(part[2] for part in parts) - columns) > 0:
        least = min(parts)
        parts.remove(least)
        if least[0] == _NAME and (room := width(least[2]) - over) >= _NAME_CELLS:
            parts.insert(0, (_NAME, "", clip(least[2], room)))
    if len(parts) == 1:
        return [(parts[0][1], clip(f" {parts[0][2]}", columns))]
    pieces = [[("", SEPARATOR if number else " "), (look, text)] for number, (_, look, text) in enumerate(parts)]
    return [piece for pair in pieces for piece in pair]
