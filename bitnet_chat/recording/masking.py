"""Words made unreadable and nothing else: what a framer, a decoder or a terminal could trip over stays. Pure.

Each letter, digit and mark becomes another of its class, which takes as many bytes: the mask of a text does not depend
on what stands around it, so that what was sent and what came back still agree. White space, punctuation, control
bytes and escape sequences stay, and so do those special tokens and names of roles that chat templates are made of.
"""

from __future__ import annotations

import re
import unicodedata

# What chat templates write around messages. Not words of a conversation, and framers look for them.
_TOKENS = (
    r"im_start|im_end|bos|eos|pad|begin_of_text|end_of_text|start_header_id|end_header_id|eot_id|eom_id|endoftext"
    r"|user|assistant|system|end"
)
_THOUGHTS = r"</?(?:think|thinking|thought|reasoning|seed:think|mm:think)>|\[/?THINK\]|<\|(?:START|END)_THINKING\|>"
_ROLES = r"(?:user|assistant|system|human|model|bot|gpt|instruction|response|input)"
_MARKS = re.compile(
    rf"<\|(?:{_TOKENS})\|>|<(?:start_of_turn|end_of_turn)>|</?s>|\[/?INST\]|<</?SYS>>|<unk>|{_THOUGHTS}"
)
_CSI = r"\x1b\[[0-9;]*[A-Za-z]"
_MARK = re.compile(rf"{_CSI}|{_MARKS.pattern}")
_ROLE_LINES = re.compile(rf"(?i)\A(?:{_MARKS.pattern}|{_ROLES}|[\W_])*\Z")


def mask(text: str, keep: re.Pattern[str] = _MARK) -> str:
    """``text`` with as many bytes of UTF-8 (surrogates are one byte each); what ``keep`` matches stays."""
    parts, at = [], 0
    for match in keep.finditer(text):
        parts += [text[at : match.start()].translate(_TABLE), match.group()]
        at = match.end()
    return "".join([*parts, text[at:].translate(_TABLE)])


def marks(*templates: str) -> re.Pattern[str]:
    """What to keep where a template writes ``templates`` around messages: they too, if they are made of known words.

    Others are masked like all the rest, alike in the command line and in what the engine echoes.
    """
    known = sorted((each for each in set(templates) if each and is_role(each)), key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, known), _MARK.pattern]))


def is_role(text: str) -> bool:
    """Whether a text is made of nothing but special tokens, names of roles and punctuation."""
    return _ROLE_LINES.match(text) is not None


def behind_marks(text: str) -> str:
    """The end of ``text`` in which no special token is."""
    return _MARKS.split(text)[-1]


def _masked(code: int) -> str:
    if code < 0x80:
        character = chr(code)
        return "0" if character.isdigit() else "X" if character.isupper() else "x" if character.isalpha() else character
    if 0xD800 <= code <= 0xDFFF:
        # A byte that is no UTF-8: it may be a letter of another encoding. Continuations and others stay such.
        return "\udcbf" if 0xDC80 <= code < 0xDCC0 else "\udcff" if code >= 0xDCC0 else chr(code)
    size = 2 if code < 0x800 else 3 if code < 0x10000 else 4
    character = chr(code)
    category = unicodedata.category(character)
    if category[0] in "PZC" or category in ("Sm", "Sc", "Sk"):
        return character  # joiners among them: they say nothing without their letters
    if category[0] == "M":
        # Variation selectors choose a picture, no letter.
        return (
            character
            if 0xFE00 <= code <= 0xFE0F or code >= 0xE0100
            else ("", "", "\u0301", "\u20d7", "\U0001d167")[size]
        )
    if category[0] == "N":
        return ("", "", "\u0660", "\u0966", "\U0001d7ce")[size]
    if category == "So":
        return ("", "", "\u00a9", "\u2605", "\U0001f642")[size]
    if size == 3:
        return "\u5b57" if unicodedata.east_asian_width(character) in "WF" else "\u1e8d"
    upper = category == "Lu"
    return ("\u00c4" if upper else "\u00e4") if size == 2 else "\U0001d4d0" if upper else "\U0001d4ea"


class _Table(dict[int, str]):
    def __missing__(self, code: int) -> str:
        self[code] = _masked(code)
        return self[code]


_TABLE = _Table()
