"""The only place where text is made safe for a terminal.

Output of a model, file names and the log of an engine are data. Data must not move the cursor, change colours or the
window title, send input to the program, change the reading order, or hide text from the user that a model reads.
Characters that could do so are replaced:

====================================  ==========================  =======================================
character                             replacement                 example
====================================  ==========================  =======================================
newline, tab                          none
CR LF                                 newline
C0 controls, a lone CR, DEL           their control picture       ESC -> ␛, NUL -> ␀, DEL -> ␡
C1 controls (U+0080..U+009F)          ``<U+....>``                CSI -> <U+009B>
line and paragraph separator          ``<U+....>``                <U+2028>
bidi embeddings, overrides, isolates  ``<U+....>``                <U+202E>, "Trojan Source"
characters without width and glyph    ``<U+....>``                <U+E0041>; exceptions below
U+DC80..U+DCFF: a byte, not UTF-8     ``<XX>``, the byte in hex   <F0>, as less(1) writes it
any other lone surrogate              U+FFFD                      cannot be encoded, is not from a byte
====================================  ==========================  =======================================

Raw bytes are not shown as U+FFFD because a model may generate that character itself, and because the byte value tells
what was received.

Characters without a glyph (Default_Ignorable_Code_Point of Unicode, and U+FFF9..U+FFFB) can hide a whole message: tag
characters spell ASCII, and 256 variation selectors encode 256 byte values. Terminals do not act on them, but some are
needed to write. Each stays unchanged next to a character that it affects, but not twice in a row; elsewhere it is
shown:

- a joiner (U+200D, U+200C) between characters beyond ASCII: emoji, Persian, Indic scripts;
- U+FE00..U+FE0F after a character beyond ASCII, U+FE0E and U+FE0F also after ``0``-``9``, ``#``, ``*`` (keycaps);
  U+E0100..U+E01EF after a Chinese character; U+180B..U+180F after a Mongolian one;
- U+200E, U+200F, U+061C next to a character of Hebrew, Arabic or another right-to-left script;
- U+200B, a permitted line break, after a character of Thai, Lao, Tibetan, Burmese or Khmer;
- tag characters after U+1F3F4, as many as in a region code, with their end tag: the flags of Scotland and others.

Always shown: soft hyphens, Hangul fillers (U+115F, U+1160, U+3164, U+FFA0: letters that look like blanks), U+FEFF (a
byte order mark, which is removed where files are read), U+2060..U+2064, U+206A..U+206F, U+034F, U+17B4, U+17B5 and code
points reserved by Unicode for more such characters. The remaining ones can still carry a bit or two per visible
character, as a choice of synonyms can.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from json import dumps

_GLYPHLESS = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u2065\u206a-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_ACTIVE = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_BLANK = "\x00-\xa0\u1680\u2000-\u200a\u202f\u205f\u3000"
_VISIBLE = f"[^{_BLANK}{_GLYPHLESS}{_ACTIVE}]"
"""Matches a visible character beyond ASCII."""
_RIGHT_TO_LEFT = "[\u0590-\u061b\u061d-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
_HAN = "[\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd]"
_EFFECTIVE = re.compile(
    "|".join(
        (
            f"(?<={_VISIBLE})[\ufe00-\ufe0f]",
            "(?<=[0-9#*])[\ufe0e\ufe0f]",
            f"(?:(?<={_VISIBLE})|(?<={_VISIBLE}[\ufe0e\ufe0f]))[\u200c\u200d](?={_VISIBLE})",
            f"(?<={_HAN})[\U000e0100-\U000e01ef]",
            "(?<=[\u1807\u1820-\u18aa])[\u180b-\u180f]",
            f"(?:(?<={_RIGHT_TO_LEFT})[\u061c\u200e\u200f](?![\u061c\u200e\u200f])"
            f"|[\u061c\u200e\u200f](?={_RIGHT_TO_LEFT}))",
            "(?<=[\u0e01-\u0fff\u1000-\u109f\u1780-\u17b3\u17b6-\u17ff])\u200b(?!\u200b)",
            "(?<=\U0001f3f4)[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f",
        )
    )
)
_UNSAFE = re.compile(f"[{_GLYPHLESS}{_ACTIVE}]")
_HELD_BACK = re.compile(f"[{_GLYPHLESS}\\r]")
_MAX_HELD = 8
"""Maximum number of characters without a glyph that are held back. A flag has at most seven."""
_CONTEXT = 2
"""Number of preceding characters that affect whether the next one is shown."""


def _replacement(character: str) -> str:
    """The replacement of one unsafe character."""
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if 0xD800 <= code < 0xE000:
        return f"<{code - 0xDC00:02X}>" if 0xDC80 <= code < 0xDD00 else "\ufffd"
    return f"<U+{code:04X}>"


def _replacements(text: str, start: int = 0) -> Iterator[tuple[int, int, str]]:
    """Yield start, end and replacement of each unsafe character in ``text``, or of a sequence that stays unchanged."""
    while (found := _UNSAFE.search(text, start)) is not None:
        at = found.start()
        work = _EFFECTIVE.match(text, at)
        start = work.end() if work is not None else at + 1
        yield at, start, work[0] if work is not None else _replacement(found[0])


def visible(text: str) -> str:
    """Replace all characters of ``text`` that a terminal could act on. For text in pieces see :class:`Sanitizer`."""
    if not _UNSAFE.search(text):  # the usual case; more than 300 MB/s
        return text
    return _replace_unsafe(text.replace("\r\n", "\n"))


def _replace_unsafe(text: str, start: int = 0, end: int | None = None) -> str:
    """Return ``text[start:end]`` with replacements; the rest of ``text`` is its context."""
    end = len(text) if end is None else end
    out, at = [], start
    for begin, stop, shown in _replacements(text, start):
        if begin >= end:
            break
        out += [text[at:begin], shown]
        at = stop
    return "".join([*out, text[at:end]])


def visible_characters(text: str) -> list[str]:
    """Return the replacement of each character of one line. Joined, they are ``visible(text)``."""
    characters = list(text)
    for at, stop, shown in _replacements(text):
        if stop == at + 1:
            characters[at] = shown
    return characters


def escaped(json: str) -> str:
    r"""Return equivalent JSON text with ``\u....`` for characters that a terminal could act on."""
    return _UNSAFE.sub(lambda found: dumps(found[0])[1:-1], json)


def one_line(text: str) -> str:
    """Return :func:`visible` text on one line, for names and notices. Runs of white space become one space."""
    return visible(" ".join(text.split()))


class Sanitizer:
    """:func:`visible` for text in pieces. The result does not depend on the pieces.

    A CR at the end of a piece is held back, because LF may follow, and so are characters without a glyph.
    """

    def __init__(self) -> None:
        self._before = ""
        """The last characters that were returned, before replacement."""
        self._held = ""

    def feed(self, text: str) -> str:
        """Return the next text with replacements."""
        if not self._held and not _UNSAFE.search(text):
            self._before = (self._before + text[-_CONTEXT:])[-_CONTEXT:]
            return text
        text = self._held + text
        at = len(text)
        while at and _HELD_BACK.match(text[at - 1]):
            at -= 1
            if len(text) - at > _MAX_HELD:
                at = len(text) - 1  # in such a long run only the neighbours of a character matter
                break
        self._held = text[at:]
        return self._show(text[:at])

    def flush(self) -> str:
        """Return the text that was held back, at the end of the text."""
        held, self._held = self._held, ""
        shown = self._show(held)
        self._before = ""
        return shown

    def _show(self, text: str) -> str:
        """Replace in ``text``, with the context of the text before it and of the text held back."""
        whole = self._before + text.replace("\r\n", "\n")
        start, self._before = len(self._before), whole[-_CONTEXT:]
        return _replace_unsafe(whole + self._held, start, len(whole))
