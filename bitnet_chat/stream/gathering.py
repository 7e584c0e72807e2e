"""A long text that comes in pieces. Pure."""

from __future__ import annotations

_JOINED = 32
"""Pieces. Joined they are a text of some hundred bytes, which is copied once and lies where small objects lie."""


class Gathering:
    """Costs little more than its characters: each piece by itself would cost ten times that, and one text that grows
    would be copied again and again."""

    __slots__ = ("_joined", "_pieces")

    def __init__(self) -> None:
        self._joined: list[str] = []
        self._pieces: list[str] = []

    def add(self, piece: str) -> None:
        self._pieces.append(piece)
        if len(self._pieces) == _JOINED:
            self._joined.append("".join(self._pieces))
            self._pieces.clear()

    @property
    def text(self) -> str:
        """All of it."""
        return "".join((*self._joined, *self._pieces))
