"""Bytes to text, each character as soon as its last byte has arrived, without loss of bytes.

A model may emit any byte, cut anywhere. Bytes that are not UTF-8 become lone surrogates (U+DC80..U+DCFF,
``surrogateescape`` of Python), so that ``text.encode("utf-8", "surrogateescape")`` gives back the exact input.
:mod:`bitnet_chat.text.sanitize` makes them fit for display.
"""

from __future__ import annotations

import codecs
import re

_BYTE = re.compile("[\udc80-\udcff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_new_decoder = codecs.getincrementaldecoder("utf-8")


class Utf8Decoder:
    """``decode`` chunks as they arrive, ``flush`` at the end of the stream."""

    def __init__(self) -> None:
        self._decoder = _new_decoder("surrogateescape")

    def decode(self, data: bytes) -> str:
        """All characters completed by ``data``. Holds at most the 3 bytes of an unfinished character."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """The held bytes, as surrogates; the decoder is then new."""
        return self._decoder.decode(b"", final=True)


def encode(text: str) -> bytes:
    """The bytes that :class:`Utf8Decoder` made ``text`` from."""
    return text.encode("utf-8", "surrogateescape")


def rejoined(text: str) -> str:
    """``text`` that was joined from parts: bytes of a character that are in two of them become the character."""
    return encode(text).decode("utf-8", "surrogateescape") if _BYTE.search(text) else text


def well_formed(text: str) -> str:
    """``text`` for a file or a network: each byte that was not UTF-8 is U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


# A long text that comes in pieces. Pure.

_JOINED = 32
"""Pieces. Joined they are a text of some hundred bytes, which is copied once and stays in the memory
of small objects.
"""


class TextBuffer:
    """Takes little more memory than its characters: each piece by itself would take ten times as much, and one growing
    text would be copied again and again.
    """

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
        """The whole text."""
        return "".join((*self._joined, *self._pieces))
