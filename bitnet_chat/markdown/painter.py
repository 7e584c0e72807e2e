"""Collects styled text: one escape sequence where the look changes, none within a character of several code points."""

from __future__ import annotations

from bitnet_chat.markdown.style import OFF, PLAIN, Palette

_CLUSTER = 32
"""Code points of the longest cluster that is kept whole; the longest emoji have 10."""


class AnsiBuffer:
    """``put`` adds text, ``take`` gives what has been added, to be written at once.

    Every line ends in plain writing, so that nothing that is written between two lines inherits a look.
    """

    def __init__(self, palette: Palette) -> None:
        self._palette = palette
        self._out: list[str] = []
        self._codes = ""
        """The look of what was written last."""
        self._tail = ""
        """The end of the line so far, where the next code point may join."""
        self._ahead = 0
        """Code points that were shown before they were put."""

    def put(self, text: str, look: int = PLAIN) -> None:
        """``text`` has no newline in it."""
        if self._ahead:
            seen = min(self._ahead, len(text))
            self._ahead -= seen
            text = text[seen:]
        if not text:
            return
        codes = self._palette.codes(look)
        if codes != self._codes:
            joined = self._joined(text)
            if joined:
                self._write(text[:joined])
                text = text[joined:]
                if not text:
                    return
            self._out.append(f"\x1b[{codes}m" if not self._codes else f"\x1b[0;{codes}m" if codes else OFF)
            self._codes = codes
        self._write(text)

    def show(self, text: str, look: int = PLAIN) -> None:
        """Writes what is still to be ``put``: that has no say any more in how it looks."""
        ahead, self._ahead = self._ahead, 0
        self.put(text[ahead:], look)
        self._ahead = max(ahead, len(text))

    def newline(self) -> None:
        self.plain()
        self._out.append("\n")
        self._tail = ""

    def plain(self) -> None:
        """Back to plain writing; the next ``put`` takes up its look again."""
        if self._codes:
            self._out.append(OFF)
            self._codes = ""

    def take(self) -> str:
        text = "".join(self._out)
        self._out.clear()
        return text

    def _write(self, text: str) -> None:
        self._out.append(text)
        self._tail = text[-_CLUSTER:] if len(text) >= _CLUSTER else (self._tail + text)[-_CLUSTER:]

    def _joined(self, text: str) -> int:
        """How many code points of ``text`` belong to the character before them."""
        if not self._tail or (text[0] < "\x80" and self._tail[-1] < "\x80"):
            return 0
        from wcwidth import iter_graphemes

        end = 0
        for cluster in iter_graphemes(self._tail + text[:_CLUSTER]):
            end += len(cluster)
            if end >= len(self._tail):
                break
        return end - len(self._tail)
