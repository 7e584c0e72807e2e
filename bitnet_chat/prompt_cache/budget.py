"""Selection of the saved states to remove. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from bitnet_chat.util.progress import parse_size

KEPT_BRANCHES = 3
"""Maximum number of states of one conversation, one for each branch. A state holds its whole branch, so n states take
n times the space. The last one serves every point of its branch; the others are of branches that /undo, /edit and
/regen have left."""
MAX_STATES = 1000
"""Each search reads the records of one model: 11 ms for 100 states of 200 messages."""
MAX_DEFAULT = 8_000_000_000
_DEFAULT_SHARE = 10


@dataclass(frozen=True, slots=True)
class StateUse:
    """The properties of a saved state that its removal depends on."""

    name: str
    bytes: int
    used: int
    """Time of the last use, in any unit."""
    conversations: frozenset[tuple[str, str, int]] = frozenset()
    """Identity, journal and conversation id of each owner. The identity is included because states of one model do not
    replace those of another. Empty for a state without an owner."""


def limit(setting: str, free: int, kept: int) -> int:
    """Maximum size of all states in bytes. ``setting``: ``state_limit``, empty or a size. ``free``: free bytes on the
    disk. ``kept``: bytes of the present states, which count as free. Raises ValueError for a setting that is not a
    size."""
    return parse_size(setting) if setting else min(MAX_DEFAULT, (free + kept) // _DEFAULT_SHARE)


def leaving(states: Iterable[StateUse], limit: int) -> list[str]:
    """The names of the states to remove, in this order: those beyond the last :data:`KEPT_BRANCHES` of each
    conversation; then, while the others exceed ``limit`` bytes or :data:`MAX_STATES`, those that are not the last one
    of any conversation that owns them; then the rest. Within each group the least recently used state is first."""
    later: Counter[tuple[str, str, int]] = Counter()
    ranked: list[tuple[int, StateUse]] = []
    """Each state with the number of later states of the same conversation; with several owners, the smallest number."""
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
