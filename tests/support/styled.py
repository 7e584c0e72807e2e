"""Styled text made readable: ``{1:bold}`` for what the escape sequence of ``1`` governs."""

from __future__ import annotations

import re

from bitnet_chat.markdown.block import BlockParser
from bitnet_chat.markdown.style import Palette
from bitnet_chat.text.cell_width import width

SGR = re.compile(r"\x1b\[([0-9;]*)m")
_PIECE = re.compile(r"\x1b\[([0-9;]*)([DKm])|\n|.")
BELOW = re.compile(r"(?:\x1bD)*(?:\x1b\[\d+A)?\x1b7.*?\x1b8(?:\x1b\[K)?|\x1b\[J", re.DOTALL)
"""What is drawn below the words for the time being, and what erases it."""


def markdown(columns: int = 80, colour: bool = True) -> BlockParser:
    return BlockParser(Palette(colour), lambda: columns)


def style(*parts: str, columns: int = 80, colour: bool = True) -> str:
    """What comes out for a reply in these parts."""
    shown = markdown(columns, colour)
    return "".join(map(shown.feed, parts)) + shown.finish()


def words(written: str) -> str:
    """What a terminal got for good."""
    return BELOW.sub("", written)


def plain(text: str) -> str:
    return SGR.sub("", text)


def marked(text: str) -> str:
    """``\\x1b[1mbold\\x1b[0m`` becomes ``{1:bold}``. Asserts that no look goes past the end of a line."""
    out, codes, at = "", "", 0
    for match in (*SGR.finditer(text), None):
        piece = text[at : match.start() if match else len(text)]
        assert not codes or "\n" not in piece, f"{codes} goes on behind a line of {text!r}"
        out += f"{{{codes}:{piece}}}" if codes and piece else piece
        if match:
            given = match[1].split(";")
            assert not codes or given[0] == "0", f"{codes} goes on into {match[0]!r}"
            codes = ";".join(code for code in given if code != "0")
            at = match.end()
    assert not codes, f"{codes} at the end of {text!r}"
    return out


def rows(text: str) -> list[str]:
    """Rows without looks, what was taken back left out. Asserts that each of them ends in plain writing."""
    out, row, look = [], "", ""
    for match in _PIECE.finditer(text):
        if match[2] == "D":
            row = row[: len(row) - _characters(row, int(match[1]))]
        elif match[2] == "m":
            look = match[1] if match[1] != "0" else ""
        elif match[0] == "\n":
            assert not look, f"{row!r} ends in {look}"
            out.append(row)
            row = ""
        elif match[2] is None:
            row += match[0]
    return [*out, row]


def _characters(row: str, cells: int) -> int:
    return next(count for count in range(len(row) + 1) if width(row[len(row) - count :]) >= cells)
