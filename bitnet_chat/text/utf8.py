"""Incremental decoding of UTF-8: each character as soon as its last byte has arrived, and no byte is lost.

A model may generate any bytes, cut anywhere. Bytes that are not UTF-8 become lone surrogates (U+DC80..U+DCFF, the
``surrogateescape`` handler of Python), so that ``text.encode("utf-8", "surrogateescape")`` is the exact input.
:mod:`bitnet_chat.text.sanitize` makes them displayable.
"""

from __future__ import annotations

import codecs
import re

_BYTE = re.compile("[\udc80-\udcff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_new_decoder = codecs.getincrementaldecoder("utf-8")


class Utf8Decoder:
    """:meth:`decode` for each chunk, :meth:`flush` at the end of the stream."""

    def __init__(self) -> None:
        self._decoder = _new_decoder("surrogateescape")

    def decode(self, data: bytes) -> str:
        """Return the characters that ``data`` completes. At most 3 bytes, of an incomplete character, are held back."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """Return the bytes held back as surrogates, and reset the decoder."""
        return self._decoder.decode(b"", final=True)


def encode(text: str) -> bytes:
    """Return the bytes from which :class:`Utf8Decoder` made ``text``."""
    return text.encode("utf-8", "surrogateescape")


def rejoined(text: str) -> str:
    """Decode characters again whose bytes were in two of the parts that ``text`` was joined from."""
    return encode(text).decode("utf-8", "surrogateescape") if _BYTE.search(text) else text


def well_formed(text: str) -> str:
    """Return ``text`` with U+FFFD for each lone surrogate, for files and networks."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


_JOINED = 32
"""Number of pieces that are joined at a time: some hundred bytes, which Python's allocator for small objects can
hold."""


class TextBuffer:
    """Collects a long text from small pieces.

    It uses little more memory than the characters. A list of all pieces would take ten times as much, and appending to
    one string would copy it again and again.
    """

    __slots__ = ("_joined", "_pieces")

    def __init__(self) -> None:
        self._joined: list[str] = []
        self._pieces: list[str] = []

    def add(self, piece: str) -> None:
        """Append a piece."""
        self._pieces.append(piece)
        if len(self._pieces) == _JOINED:
            self._joined.append("".join(self._pieces))
            self._pieces.clear()

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join((*self._joined, *self._pieces))
