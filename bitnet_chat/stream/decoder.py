"""Bytes to text, each character as soon as its last byte is there, and no byte ever lost.

A model may emit any byte, cut anywhere. What is not UTF-8 becomes lone surrogates (U+DC80..U+DCFF, Python's
``surrogateescape``), so that ``text.encode("utf-8", "surrogateescape")`` gives back exactly what came in. Making
them fit to be shown is the work of :mod:`bitnet_chat.stream.sanitize`.
"""

from __future__ import annotations

import codecs
import re

_BYTE = re.compile("[\udc80-\udcff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_new_decoder = codecs.getincrementaldecoder("utf-8")


class Utf8Decoder:
    """``decode`` chunks as they come, ``flush`` at the end of the stream."""

    def __init__(self) -> None:
        self._decoder = _new_decoder("surrogateescape")

    def decode(self, data: bytes) -> str:
        """All characters completed by ``data``. Holds at most the 3 bytes of an unfinished character."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What was held back, as surrogates; the decoder is then as new."""
        return self._decoder.decode(b"", final=True)


def encode(text: str) -> bytes:
    """The bytes that :class:`Utf8Decoder` made ``text`` from."""
    return text.encode("utf-8", "surrogateescape")


def rejoined(text: str) -> str:
    """``text`` that was put together from parts: bytes of a character that are in two of them become the character."""
    return encode(text).decode("utf-8", "surrogateescape") if _BYTE.search(text) else text


def well_formed(text: str) -> str:
    """``text`` as it can be written to a file or a network: each byte that was not UTF-8 is U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)
