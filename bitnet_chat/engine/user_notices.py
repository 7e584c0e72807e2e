"""Pending notices for the user. Threads may add to them."""

from __future__ import annotations

from bitnet_chat.events import Notice


class Notices:
    def __init__(self) -> None:
        self._of_engine: list[Notice] = []
        self._of_request: list[Notice] = []

    def notify(self, line: str) -> None:
        """Add a notice about the engine, shown with the next reply."""
        self._of_engine.append(Notice(line))

    def tell(self, line: str, dropped: int = 0) -> None:
        """Add a notice about the current request only. ``dropped``: see :class:`Notice`."""
        self._of_request.append(Notice(line, dropped))

    def forget_request(self) -> None:
        self._of_request.clear()

    def take(self) -> list[Notice]:
        notices = [*self._of_engine, *self._of_request]
        self._of_engine, self._of_request = [], []
        return notices
