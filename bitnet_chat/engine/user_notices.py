"""Notices for the user that are sent with the next reply. Other threads may add notices."""

from __future__ import annotations

from bitnet_chat.events import Notice


class Notices:
    """Pending notices: those about the engine, and those about the current request."""

    def __init__(self) -> None:
        self._of_engine: list[Notice] = []
        self._of_request: list[Notice] = []

    def notify(self, line: str) -> None:
        """Add a notice about the engine. It is sent even if the current request fails."""
        self._of_engine.append(Notice(line))

    def tell(self, line: str, dropped: int = 0) -> None:
        """Add a notice about the current request. ``dropped``: number of dropped messages, see :class:`Notice`."""
        self._of_request.append(Notice(line, dropped))

    def forget_request(self) -> None:
        """Remove the notices about the current request."""
        self._of_request.clear()

    def take(self) -> list[Notice]:
        """Remove and return all notices."""
        notices = [*self._of_engine, *self._of_request]
        self._of_engine, self._of_request = [], []
        return notices
