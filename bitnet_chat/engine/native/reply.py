"""The text of a reply from the bytes of its tokens: whole characters, and no part of a text that ends it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bitnet_chat.filters.stop_texts import StopScanner
from bitnet_chat.text.utf8 import Utf8Decoder


class ReplyText:
    """``add`` tokens as they come; what it returns can be sent."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._decoder, self._scanner = Utf8Decoder(), StopScanner(stops)
        self._held: list[int | None] = []
        self.count = 0
        """Tokens that were added."""

    @property
    def has_ended(self) -> bool:
        """Whether a stop text was found."""
        return bool(self._scanner.found)

    def add(self, token: int | None, piece: bytes, count: int = 1) -> tuple[str, tuple[int, ...]]:
        """The characters that are known now, and the tokens that they came from: none where not all are known."""
        self.count += count
        self._held.append(token)
        text = self._scanner.feed(self._decoder.decode(piece))
        return (text, self._released()) if text else ("", ())

    def end(self, *, by_token: bool) -> tuple[str, tuple[int, ...]]:
        """What was held back, now that nothing follows. ``by_token``: the last token ended the reply and is none of
        it."""
        if by_token:
            self.count -= 1
            self._held = self._held[:-1]
        if self.has_ended:
            return "", ()
        text = self._scanner.feed(self._decoder.flush())
        # The last bytes, as surrogates, may have completed a stop text; without that all that was held is text.
        text += "" if self.has_ended else self._scanner.flush()
        return text, self._released()

    def _released(self) -> tuple[int, ...]:
        tokens = tuple(token for token in self._held if token is not None)
        is_whole = len(tokens) == len(self._held)
        self._held.clear()
        return tokens if is_whole else ()
