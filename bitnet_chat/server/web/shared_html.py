"""The HTML of one reply, rendered once for all readers. Pure.

Each reader adds the text that it receives; only new text is rendered. Each block has the position in the reply of its
last change, so that a reader receives the changes since its own position.
"""

from __future__ import annotations

from bitnet_chat.server.web.html_stream import HtmlStream


class SharedHtml:
    """The blocks of a reply. Positions are those of :class:`bitnet_chat.server.broadcast.ReplyBroadcast`."""

    def __init__(self, before: str = "") -> None:
        """``before``: the text that the reply continues."""
        self._stream = HtmlStream()
        self.place = 0
        """The position after the rendered text."""
        self._blocks: dict[int, tuple[int, str]] = {}
        """Position of the last change and HTML, by the number of a block."""
        self._ended = False
        if before:
            self._keep(self._stream.feed(before))

    def advance(self, text: str, place: int) -> None:
        """Add text. ``place``: the position after it. It must continue earlier text, and may overlap it."""
        new = text[max(0, len(text) - max(0, place - self.place)) :]
        if new and not self._ended:
            self.place = place
            self._keep(self._stream.feed(new))

    def finish(self, place: int) -> None:
        """End the reply. ``place``: the position after all text."""
        if not self._ended:
            self._ended, self.place = True, place
            self._keep(self._stream.finish())

    def changed(self, since: int) -> list[tuple[int, str]]:
        """Return number and HTML of the blocks that changed after a position; empty HTML: the block is removed."""
        return [(number, html) for number, (place, html) in sorted(self._blocks.items()) if place > since]

    def _keep(self, changes: list[tuple[int, str]]) -> None:
        for number, html in changes:
            self._blocks[number] = self.place, html
