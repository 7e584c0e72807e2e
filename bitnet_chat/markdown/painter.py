"""Buffer of styled text. Writes an escape sequence only where the style changes, and never within a grapheme
cluster."""

from __future__ import annotations

from bitnet_chat.markdown.style import OFF, PLAIN, Palette

_CLUSTER = 32
"""Maximum number of code points of a cluster that is kept together. The longest emoji have 10."""


class AnsiBuffer:
    """Collects text with :meth:`put`; :meth:`take` returns the output to write at once.

    The style is reset at the end of each line, so that text written between two lines does not inherit it.
    """

    def __init__(self, palette: Palette) -> None:
        self._palette = palette
        self._out: list[str] = []
        self._codes = ""
        """The current SGR parameters."""
        self._tail = ""
        """The end of the current line, which the next code point may extend."""
        self._ahead = 0
        """Number of code points that were written by :meth:`show` and not yet by :meth:`put`."""

    def put(self, text: str, look: int = PLAIN) -> None:
        """Add text without newlines in the style ``look``."""
        if self._ahead:
            seen = min(self._ahead, len(text))
            self._ahead -= seen
            text = text[seen:]
        if not text:
            return
        codes = self._palette.codes(look)
        if codes != self._codes:
            joined = self._joining_length(text)
            if joined:
                self._write(text[:joined])
                text = text[joined:]
                if not text:
                    return
            self._out.append(f"\x1b[{codes}m" if not self._codes else f"\x1b[0;{codes}m" if codes else OFF)
            self._codes = codes
        self._write(text)

    def show(self, text: str, look: int = PLAIN) -> None:
        """Write text before it is added with :meth:`put`, whose style then has no effect on it."""
        ahead, self._ahead = self._ahead, 0
        self.put(text[ahead:], look)
        self._ahead = max(ahead, len(text))

    def newline(self) -> None:
        """End the line."""
        self.plain()
        self._out.append("\n")
        self._tail = ""

    def plain(self) -> None:
        """Reset the style. The next :meth:`put` sets its style again."""
        if self._codes:
            self._out.append(OFF)
            self._codes = ""

    def take(self) -> str:
        """Return the output since the last call."""
        text = "".join(self._out)
        self._out.clear()
        return text

    def _write(self, text: str) -> None:
        self._out.append(text)
        self._tail = text[-_CLUSTER:] if len(text) >= _CLUSTER else (self._tail + text)[-_CLUSTER:]

    def _joining_length(self, text: str) -> int:
        """Number of code points at the beginning of ``text`` that belong to the preceding cluster."""
        if not self._tail or (text[0] < "\x80" and self._tail[-1] < "\x80"):
            return 0
        from wcwidth import iter_graphemes

        end = 0
        for cluster in iter_graphemes(self._tail + text[:_CLUSTER]):
            end += len(cluster)
            if end >= len(self._tail):
                break
        return end - len(self._tail)
