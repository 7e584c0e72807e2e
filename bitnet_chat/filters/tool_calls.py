"""The separation of tool calls from the text of a reply. Pure.

The format is the one that Hermes and Qwen models were trained on: ``<tool_call>``, a JSON object with ``name`` and
``arguments``, ``</tool_call>``. Nothing of it is ever text: what may be the beginning of a tag waits, and so does white
space, since what stands around calls belongs to them. A closing tag inside a JSON string is text of that string; a
quotation mark that is not closed in its line begins no string, so that one slip does not swallow the rest of a reply.

The result does not depend on the pieces in which a reply comes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from bitnet_chat.conversation.export import json_text
from bitnet_chat.engine_frames import held_length

OPENING, CLOSING = "<tool_call>", "</tool_call>"
CALL_LIMIT = 200_000
"""Characters of one call. A longer one is not a call any more, and the reply is stopped."""

_SPACE = " \t\r\n"
_TAG = re.compile(f"{OPENING}|{CLOSING}")
_MARK = re.compile(f'"|{CLOSING}')
_IN_STRING = re.compile(r'(?:\\[^\n]|[^"\\\n])*')


@dataclass(frozen=True, slots=True)
class PlainText:
    """The next characters of the reply, never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """A whole call. ``arguments``: a JSON object, as text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class MalformedCall:
    """Text between the tags that is not a call. ``why``: a line for the model."""

    text: str
    why: str


Piece = PlainText | ParsedCall | MalformedCall


class ToolCallSplitter:
    """``feed`` a reply as it comes, ``flush`` at its end."""

    def __init__(self) -> None:
        self._held = ""
        """Not told apart yet: the end of the text, or what has come of a call behind its opening tag."""
        self._space = ""
        """White space in front of a call, which is text only if more text follows."""
        self._in_call = False
        self._at = 0
        """So much of a call has been looked at."""
        self._string = -1
        """Where in the call a string began that is open; -1: none."""
        self._said = False
        """Text has come."""
        self._called = False
        """A call has come."""
        self._apart = False
        """A call has come since the last text."""

    @property
    def is_in_call(self) -> bool:
        return self._in_call

    @property
    def is_too_long(self) -> bool:
        """Whether a call is longer than the limit."""
        return self._in_call and len(self._held) > CALL_LIMIT

    def feed(self, text: str) -> list[Piece]:
        self._held += text
        pieces: list[Piece] = []
        self._go_on(pieces)
        return pieces

    def flush(self, *, whole: bool) -> list[Piece]:
        """The reply is over. ``whole``: it came to its own end, so that a call which only lacks its closing tag is one;
        otherwise it was cut, and a call that has not ended never was, nor was what may have been a tag."""
        pieces: list[Piece] = []
        while self._in_call and self._string >= 0:  # it began no string
            self._at, self._string = self._string + 1, -1
            self._go_on(pieces)
        held, self._held = self._held, ""
        if not self._in_call:
            if not whole and (open_tag := held_length(held, (OPENING, CLOSING))):
                held = held[:-open_tag].rstrip(_SPACE)
            self._say(held, pieces, at_end=True)
        elif whole:
            pieces.append(parse(held[: len(held) - held_length(held, (CLOSING,))]))
        self._in_call = False
        return pieces

    def _go_on(self, pieces: list[Piece]) -> None:
        while self._call(pieces) if self._in_call else self._text(pieces):
            pass

    def _text(self, pieces: list[Piece]) -> bool:
        """Take complete pieces of the text. Return whether more can be taken at once."""
        match = _TAG.search(self._held)
        if match is None:
            cut = len(self._held) - held_length(self._held, (OPENING, CLOSING))
            cut = len(self._held[:cut].rstrip(_SPACE))
            self._say(self._held[:cut], pieces)
            self._held = self._held[cut:]
            return False
        cut = len(self._held[: match.start()].rstrip(_SPACE))
        self._say(self._held[:cut], pieces)
        self._space += self._held[cut : match.start()]
        self._held = self._held[match.end() :]
        self._in_call = match.group() == OPENING
        self._called = self._apart = True
        self._at, self._string = 0, -1
        return True

    def _say(self, text: str, pieces: list[Piece], *, at_end: bool = False) -> None:
        if not text or (self._called and at_end and not text.strip(_SPACE)):
            return
        if self._apart:
            # Words on both sides of a call stay apart; before the first ones there is nothing to be apart from.
            gap = self._space + text[: len(text) - len(text.lstrip(_SPACE))]
            text = ((gap or " ") if self._said else "") + text.lstrip(_SPACE)
            self._space, self._apart = "", False
        self._said = True
        pieces.append(PlainText(text))

    def _call(self, pieces: list[Piece]) -> bool:
        """The same for a call."""
        held = self._held
        while True:
            if self._string >= 0:
                match = _IN_STRING.match(held, self._at)
                self._at = match.end() if match else self._at
                if self._at == len(held) or (held[self._at] == "\\" and self._at + 1 == len(held)):
                    return False
                # A newline, which no string has: it was no string, and what looked like one is looked at again.
                self._at = self._at + 1 if held[self._at] == '"' else self._string + 1
                self._string = -1
            mark = _MARK.search(held, self._at)
            if mark is None:
                self._at = max(self._at, len(held) - held_length(held, (CLOSING,)))
                return False
            self._at = mark.end()
            if mark.group() == CLOSING:
                end = mark.start()
                piece = parse(held[:end])
                if isinstance(piece, MalformedCall) and CLOSING in piece.text:
                    end = piece.text.index(CLOSING)  # that was no string either
                    piece = parse(held[:end])
                pieces.append(piece)
                self._held, self._in_call = held[end + len(CLOSING) :], False
                return True
            self._string = mark.start()


def parse(text: str) -> ParsedCall | MalformedCall:
    """Parse the text between the tags."""
    try:
        # Models break lines inside of strings, which the strict form of JSON forbids.
        value = json.loads(text, strict=False, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        return MalformedCall(text, f"it is no JSON ({error})")
    if not isinstance(value, dict):
        return MalformedCall(text, "it is no JSON object")
    name = value.get("name")
    if not isinstance(name, str) or not name.strip():
        return MalformedCall(text, "it has no name")
    arguments: Any = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):  # the object as a text, as the API has it
        try:
            arguments = json.loads(arguments, strict=False, parse_constant=_refuse) if arguments.strip() else None
        except (ValueError, RecursionError) as error:
            return MalformedCall(text, f"its arguments are no JSON ({error})")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        return MalformedCall(text, "its arguments are no JSON object")
    return ParsedCall(name.strip(), json_text(arguments))


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
