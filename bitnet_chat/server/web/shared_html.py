"""The HTML of one reply, rendered once for all that watch it. Pure.

Each watcher passes on the text, as far as it has come; only what is new is rendered. Each block knows the place in
the reply at which it was changed last, so that a watcher gets what has changed since the place that it knows.
"""

from __future__ import annotations

from bitnet_chat.server.web.html_stream import HtmlStream


class SharedHtml:
    """Places are those of :class:`bitnet_chat.server.broadcast.ReplyBroadcast`."""

    def __init__(self, before: str = "") -> None:
        """``before``: the text that the reply goes on with."""
        self._stream = HtmlStream()
        self.place = 0
        """Behind what was rendered."""
        self._blocks: dict[int, tuple[int, str]] = {}
        """The place of its last change, and its HTML, by the number of a block."""
        self._ended = False
        if before:
            self._keep(self._stream.feed(before))

    def advance(self, text: str, place: int) -> None:
        """``text``: what was said before ``place``. It has to join on to what was told before, and may overlap it."""
        new = text[max(0, len(text) - max(0, place - self.place)) :]
        if new and not self._ended:
            self.place = place
            self._keep(self._stream.feed(new))

    def finish(self, place: int) -> None:
        """The reply has ended. ``place``: of its end, behind all that was said."""
        if not self._ended:
            self._ended, self.place = True, place
            self._keep(self._stream.finish())

    def changed(self, since: int) -> list[tuple[int, str]]:
        """Number and HTML of the blocks that have changed behind a place; empty HTML: the block is gone."""
        return [(number, html) for number, (place, html) in sorted(self._blocks.items()) if place > since]

    def _keep(self, changes: list[tuple[int, str]]) -> None:
        for number, html in changes:
            self._blocks[number] = self.place, html
