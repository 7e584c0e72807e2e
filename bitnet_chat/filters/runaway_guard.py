"""The guard of one reply: decides which part may be shown, and when to stop the reply. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bitnet_chat.errors import FinishReason
from bitnet_chat.filters.repetition import RepetitionDetector
from bitnet_chat.filters.role_markers import RoleMarkerScanner
from bitnet_chat.filters.stop_texts import StopTextScanner

_CHUNK = 4096


class LengthLimit:
    """The limit on the length of a reply, thinking included.

    A reply with more tokens than the context window cannot come from the model alone. Tokens are counted in pieces of
    4,096 characters.
    """

    def __init__(self, most: Callable[[], int], count: Callable[[str], int]) -> None:
        """Start a reply.

        ``most``: returns the maximum number of tokens; called after each full piece. ``count``: returns a lower bound
        of the number of tokens of a text.
        """
        self._most, self._count = most, count
        self._pending: list[str] = []
        self._left, self._tokens = _CHUNK, 0

    def feed(self, text: str) -> int | None:
        """Return None, or the number of characters of ``text`` after which the reply is too long."""
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
    """Applies all checks to a reply: show the text that :meth:`feed` returns, and stop when ``finding`` is set.

    The result does not depend on the pieces of the reply.
    """

    def __init__(
        self,
        markers: Iterable[str],
        repeat_limit: int,
        before: str = "",
        stops: Iterable[str] = (),
        count: Callable[[str], int] | None = None,
        length: LengthLimit | None = None,
    ) -> None:
        """Start a reply.

        ``markers``: result of :func:`~bitnet_chat.filters.role_markers.relevant`. ``repeat_limit``: 0 disables the
        check. ``before``: the existing part of a reply that is continued. ``stops``: texts that end the reply.
        ``count``: returns the number of tokens of a text. ``length``: None means no limit.
        """
        self._stops = StopTextScanner(stops)
        self._scanner = RoleMarkerScanner(markers, before)
        self._text = RepetitionDetector(repeat_limit, before, count)
        self._thoughts = RepetitionDetector(repeat_limit, count=count)
        self._length = length
        self.finding: FinishReason | None = None
        """ROLE_MARKER, REPETITION, CONTEXT_OVERFLOW, or STOP for a stop text; None until then."""
        self.repetitions = 0
        """Number of repetitions for REPETITION."""

    def feed(self, text: str) -> str:
        """Return the text that may be shown. It excludes role markers and stop texts, and includes a repetition."""
        text = self._scanner.feed(self._stops.feed(text))
        return self._checked(text + self._scanner.flush() if self._stops.found else text)

    def flush(self) -> str:
        """Return the text that was held back, at the end of the text or before other events."""
        return self._checked(self._scanner.feed(self._stops.flush()) + self._scanner.flush())

    def think(self, text: str) -> str:
        """Like :meth:`feed` for thinking, in which role markers are harmless."""
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
