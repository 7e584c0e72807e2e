"""Which saved states leave. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from bitnet_chat.util.progress import parse_size

KEPT_BRANCHES = 3
"""States of one conversation. Each holds a whole branch, so that n of them take n times the space. The last one serves
every point of its branch; the others are branches that /undo, /edit and /regen have left."""
MAX_STATES = 1000
"""Each search lists the folder: 3 ms for so many, 0.4 ms for 100."""
MAX_DEFAULT = 8_000_000_000
_DEFAULT_SHARE = 10


@dataclass(frozen=True, slots=True)
class StateUse:
    """A saved state, as far as its removal depends on it."""

    name: str
    bytes: int
    used: int
    """Grows with the time of the last use."""
    conversations: frozenset[tuple[str, str, int]] = frozenset()
    """Its identity with the journal and the id of each conversation that owns it: states of one model do not replace
    those of another. Empty for a state without an owner, such as one of a system prompt."""


def limit(setting: str, free: int, kept: int) -> int:
    """Bytes for all states. ``setting``: ``state_limit``, empty or a size. ``free``: bytes on the disk. ``kept``: bytes
    of the present states, which count as free. Raises ValueError for a setting that is not a size."""
    return parse_size(setting) if setting else min(MAX_DEFAULT, (free + kept) // _DEFAULT_SHARE)


def leaving(states: Iterable[StateUse], limit: int) -> list[str]:
    """The names of the states that leave, in this order: those beyond the last :data:`KEPT_BRANCHES` of each
    conversation that owns them; then, while the others exceed ``limit`` bytes or :data:`MAX_STATES`, those that are not
    the last one of a conversation that owns them; then the rest. Each time the least recently used one is first."""
    later: Counter[tuple[str, str, int]] = Counter()
    ranked: list[tuple[int, StateUse]] = []
    """With the number of later states of the same conversation, the smallest one where it has several owners."""
    for state in sorted(states, key=lambda each: (each.used, each.name), reverse=True):
        ranked.append((min((later[each] for each in state.conversations), default=0), state))
        later.update(state.conversations)
    ranked.reverse()
    names = [state.name for rank, state in ranked if rank >= KEPT_BRANCHES]
    kept = [(rank, state) for rank, state in ranked if rank < KEPT_BRANCHES]
    count, total = len(kept), sum(state.bytes for _, state in kept)
    for _, state in sorted(kept, key=lambda each: not each[0]):
        if total <= limit and count <= MAX_STATES:
            break
        count, total = count - 1, total - state.bytes
        names.append(state.name)
    return names
