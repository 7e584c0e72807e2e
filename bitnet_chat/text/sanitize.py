"""The one place where text is made safe for a terminal.

Words of a model, file names, the log of an engine: all of it is data, and data must not move the cursor, change
colours, retitle the window, answer for the keyboard, reorder what is read, or hide from a person what a model reads.
What could do so is shown instead:

====================================  ==========================  =======================================
what                                  becomes                     example
====================================  ==========================  =======================================
newline, tab                          itself
CR LF                                 newline
C0 controls, a lone CR, DEL           their control picture       ESC -> ␛, NUL -> ␀, DEL -> ␡
C1 controls (U+0080..U+009F)          ``<U+....>``                CSI -> <U+009B>
line and paragraph separator          ``<U+....>``                <U+2028>
bidi embeddings, overrides, isolates  ``<U+....>``                <U+202E>, "Trojan Source"
what takes no room and has no glyph   ``<U+....>``                <U+E0041>; with exceptions, see below
U+DC80..U+DCFF: a byte, no UTF-8      ``<XX>``, the byte in hex   <F0>, as less(1) writes it
any other lone surrogate              U+FFFD                      cannot be encoded, comes from no byte
====================================  ==========================  =======================================

Raw bytes are not shown as U+FFFD because a model may write that character itself, and because the byte shows
what arrived.

Characters without a glyph (Default_Ignorable_Code_Point of Unicode, and U+FFF9..U+FFFB) can carry a whole message past
a reader: tag characters spell ASCII, 256 variation selectors are the 256 bytes. No terminal acts on them, but some are
needed to write. Each stays where it does that work, which is beside the character that it works on, and never twice
in a row; everywhere else it is shown:

- a joiner (U+200D, U+200C) between characters beyond ASCII: emoji, Persian, the scripts of India;
- U+FE00..U+FE0F behind a character beyond ASCII, U+FE0E and U+FE0F behind ``0``-``9``, ``#``, ``*`` (keycaps) too;
  U+E0100..U+E01EF behind a Chinese character; U+180B..U+180F behind a Mongolian one;
- U+200E, U+200F, U+061C beside a character of Hebrew, Arabic or another script from right to left;
- U+200B, where a line may break, behind a character of Thai, Lao, Tibetan, Burmese or Khmer;
- tag characters behind U+1F3F4, as many as name a region, with their end: the flags of Scotland and others.

Shown wherever they are: soft hyphens, Hangul fillers (U+115F, U+1160, U+3164, U+FFA0: letters that look like blanks),
U+FEFF (a mark at the start of a file, which readers of files remove), U+2060..U+2064, U+206A..U+206F, U+034F, U+17B4,
U+17B5 and what Unicode keeps free for more of the kind. What stays can still tell a bit or two for each visible
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
"""Visible characters beyond ASCII."""
_FROM_THE_RIGHT = "[\u0590-\u061b\u061d-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
_HAN = "[\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd]"
_AT_WORK = re.compile(
    "|".join(
        (
            f"(?<={_VISIBLE})[\ufe00-\ufe0f]",
            "(?<=[0-9#*])[\ufe0e\ufe0f]",
            f"(?:(?<={_VISIBLE})|(?<={_VISIBLE}[\ufe0e\ufe0f]))[\u200c\u200d](?={_VISIBLE})",
            f"(?<={_HAN})[\U000e0100-\U000e01ef]",
            "(?<=[\u1807\u1820-\u18aa])[\u180b-\u180f]",
            f"(?:(?<={_FROM_THE_RIGHT})[\u061c\u200e\u200f](?![\u061c\u200e\u200f])"
            f"|[\u061c\u200e\u200f](?={_FROM_THE_RIGHT}))",
            "(?<=[\u0e01-\u0fff\u1000-\u109f\u1780-\u17b3\u17b6-\u17ff])\u200b(?!\u200b)",
            "(?<=\U0001f3f4)[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f",
        )
    )
)
_UNSAFE = re.compile(f"[{_GLYPHLESS}{_ACTIVE}]")
_WAITS = re.compile(f"[{_GLYPHLESS}\\r]")
_LONGEST = 8
"""Maximum number of held characters without a glyph: a flag has seven at most."""
_BEFORE = 2
"""Characters that the meaning of the next one depends on."""


def _shown(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if 0xD800 <= code < 0xE000:
        return f"<{code - 0xDC00:02X}>" if 0xDC80 <= code < 0xDD00 else "\ufffd"
    return f"<U+{code:04X}>"


def _judged(text: str, start: int = 0) -> Iterator[tuple[int, int, str]]:
    """Positions of unsafe characters in ``text``, with their replacements."""
    while (found := _UNSAFE.search(text, start)) is not None:
        at = found.start()
        work = _AT_WORK.match(text, at)
        start = work.end() if work is not None else at + 1
        yield at, start, work[0] if work is not None else _shown(found[0])


def visible(text: str) -> str:
    """``text`` with everything that a terminal could act on made visible. Whole texts; for parts see
    :class:`Sanitizer`.
    """
    if not _UNSAFE.search(text):  # 300 MB/s and more; nearly every text ends here
        return text
    return _replaced(text.replace("\r\n", "\n"))


def _replaced(text: str, start: int = 0, end: int | None = None) -> str:
    """The replacement of ``text[start:end]`` at its position."""
    end = len(text) if end is None else end
    out, at = [], start
    for begin, stop, shown in _judged(text, start):
        if begin >= end:
            break
        out += [text[at:begin], shown]
        at = stop
    return "".join([*out, text[at:end]])


def visible_characters(text: str) -> list[str]:
    """The replacement of each character of one line: joined it is ``visible(text)``."""
    characters = list(text)
    for at, stop, shown in _judged(text):
        if stop == at + 1:
            characters[at] = shown
    return characters


def escaped(json: str) -> str:
    r"""Equivalent JSON text, with everything that a terminal could act on as ``\u....``."""
    return _UNSAFE.sub(lambda found: dumps(found[0])[1:-1], json)


def one_line(text: str) -> str:
    """``visible`` text on one line, for names and notices: runs of white space become one space."""
    return visible(" ".join(text.split()))


class Sanitizer:
    """``visible`` for text in parts: any cut gives the same characters as the whole.

    A CR at the end of a part is held, since LF may follow, and so are characters without a glyph.
    """

    def __init__(self) -> None:
        self._before = ""
        """The last characters that were shown."""
        self._held = ""

    def feed(self, text: str) -> str:
        if not self._held and not _UNSAFE.search(text):
            self._before = (self._before + text[-_BEFORE:])[-_BEFORE:]
            return text
        text = self._held + text
        at = len(text)
        while at and _WAITS.match(text[at - 1]):
            at -= 1
            if len(text) - at > _LONGEST:
                at = len(text) - 1  # so far behind the first of them only its neighbours count
                break
        self._held = text[at:]
        return self._show(text[:at])

    def flush(self) -> str:
        """The held text, at the end of the text."""
        held, self._held = self._held, ""
        shown = self._show(held)
        self._before = ""
        return shown

    def _show(self, text: str) -> str:
        """``text`` behind what was shown and before what is held."""
        whole = self._before + text.replace("\r\n", "\n")
        start, self._before = len(self._before), whole[-_BEFORE:]
        return _replaced(whole + self._held, start, len(whole))
