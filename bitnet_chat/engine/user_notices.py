"""Lines for the user that were not told yet. May be added to from a thread."""

from __future__ import annotations

from bitnet_chat.events import Notice


class Notices:
    def __init__(self) -> None:
        self._of_engine: list[Notice] = []
        self._of_request: list[Notice] = []

    def notify(self, line: str) -> None:
        """About the engine: told with the next reply."""
        self._of_engine.append(Notice(line))

    def tell(self, line: str, dropped: int = 0) -> None:
        """About the request that is under way, and none of another one's. ``dropped``: see :class:`Notice`."""
        self._of_request.append(Notice(line, dropped))

    def forget_request(self) -> None:
        self._of_request.clear()

    def take(self) -> list[Notice]:
        notices = [*self._of_engine, *self._of_request]
        self._of_engine, self._of_request = [], []
        return notices
