"""Choice of the sequence of a library that continues a prompt. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class Sequences:
    """Evaluated tokens of each sequence, by its number; busy sequences are in use by a reply. Not thread-safe."""

    def __init__(self, count: int) -> None:
        self._evaluated: list[tuple[int, ...]] = [()] * count
        self._order = list(range(count))  # used longest ago first
        self._busy: set[int] = set()

    @property
    def last(self) -> int:
        """The one that was used last."""
        return self._order[-1]

    def evaluated(self, number: int) -> tuple[int, ...]:
        return self._evaluated[number]

    def take(self, prompt: Sequence[int], wanted: int | None = None) -> int:
        """A sequence for a prompt, busy from now on: ``wanted``, the one that has most of it, or the one used longest
        ago, in that order. One has to be free."""
        free = [number for number in self._order if number not in self._busy]
        chosen = max(free, key=lambda number: (number == wanted, common(self._evaluated[number], prompt)))
        self._busy.add(chosen)
        self._order.remove(chosen)
        self._order.append(chosen)
        return chosen

    def put(self, number: int, evaluated: tuple[int, ...]) -> None:
        """Set the evaluated tokens of a sequence."""
        self._evaluated[number] = evaluated

    def release(self, number: int) -> None:
        self._busy.discard(number)

    def donor(self, prompt: Sequence[int]) -> int:
        """The sequence with the longest beginning of a prompt, a busy one included."""
        return max(self._order, key=lambda number: common(self._evaluated[number], prompt))


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning of two sequences of tokens."""
    for at, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return at
    return min(len(first), len(second))
