"""The guard of one reply: the part of it that may be shown, and the reason to stop it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bitnet_chat.errors import FinishReason
from bitnet_chat.filters.repetition import RepetitionDetector
from bitnet_chat.filters.role_markers import RoleMarkerScanner
from bitnet_chat.filters.stop_texts import StopTextScanner

_CHUNK = 4096


class LengthLimit:
    """The limit on the length of a reply, thinking included: a reply with more tokens than ``most()``, the window's
    size, cannot be a model's. Counted in pieces of 4,096 characters; ``most`` is called when the first one is full."""

    def __init__(self, most: Callable[[], int], count: Callable[[str], int]) -> None:
        """``count``: tokens of a text, at the least."""
        self._most, self._count = most, count
        self._pending: list[str] = []
        self._left, self._tokens = _CHUNK, 0

    def feed(self, text: str) -> int | None:
        """None, or how many characters of ``text`` there were when it had become too long."""
        at = 0
        while len(text) - at >= self._left:
            end = at + self._left
            self._tokens += self._count("".join((*self._pending, text[at:end])))
            self._pending, self._left, at = [], _CHUNK, end
            if self._tokens > self._most():
                return at
        self._pending.append(text[at:])
        self._left -= len(text) - at
        return None


class ReplyGuard:
    """Feed it the reply; show what it gives back, and stop when ``finding`` is set. It does not matter in which
    pieces the reply comes."""

    def __init__(
        self,
        markers: Iterable[str],
        repeat_limit: int,
        before: str = "",
        stops: Iterable[str] = (),
        count: Callable[[str], int] | None = None,
        length: LengthLimit | None = None,
    ) -> None:
        """``markers``: as :func:`~bitnet_chat.filters.role_markers.relevant` gives them. ``repeat_limit``: 0: none.
        ``before``: the part of the reply that was there already, where it is continued. ``stops``: texts that end the
        reply where they begin. ``count``: tokens of a text. ``length``: None means no
        limit."""
        self._stops = StopTextScanner(stops)
        self._scanner = RoleMarkerScanner(markers, before)
        self._text = RepetitionDetector(repeat_limit, before, count)
        self._thoughts = RepetitionDetector(repeat_limit, count=count)
        self._length = length
        self.finding: FinishReason | None = None
        """ROLE_MARKER, REPETITION, CONTEXT_OVERFLOW, or STOP for a stop text, once there is one."""
        self.repetitions = 0
        """Number of repetitions at that point."""

    def feed(self, text: str) -> str:
        """The characters that may be shown by now. Neither a role marker nor a stop text is among them, a
        repetition is."""
        text = self._scanner.feed(self._stops.feed(text))
        return self._checked(text + self._scanner.flush() if self._stops.found else text)

    def flush(self) -> str:
        """The held-back characters, at the end of the text or before other events."""
        return self._checked(self._scanner.feed(self._stops.flush()) + self._scanner.flush())

    def think(self, text: str) -> str:
        """The same as ``feed`` for thinking, in which role markers are harmless."""
        return self._until_repetition(self._thoughts, text)

    def _checked(self, text: str) -> str:
        text = self._until_repetition(self._text, text)
        if self.finding is None and self._scanner.found:
            self.finding = FinishReason.ROLE_MARKER
        if self.finding is None and self._stops.found:
            self.finding = FinishReason.STOP
        return text

    def _until_repetition(self, detector: RepetitionDetector, text: str) -> str:
        if self.finding is not None:
            return ""
        if (end := detector.feed(text)) is not None:
            self.finding = FinishReason.REPETITION
            self.repetitions = detector.repetitions
            text = text[:end]
        if self._length is not None and (end := self._length.feed(text)) is not None:
            self.finding = FinishReason.CONTEXT_OVERFLOW
            text = text[:end]
        return text
