"""Separation of tool calls from the text of a reply. Pure.

The format is that of Hermes and Qwen models: ``<tool_call>``, a JSON object with ``name`` and ``arguments``,
``</tool_call>``. No part of a call is returned as text: text that may be the beginning of a tag is held back, and so is
white space, because white space around calls belongs to them. A closing tag inside a JSON string is part of the string.
A quotation mark that is not closed in its line does not begin a string, so that one error does not swallow the rest of
the reply.

The result does not depend on the pieces of the reply.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from bitnet_chat.conversation.export import json_text
from bitnet_chat.engine_output import held_length

OPENING, CLOSING = "<tool_call>", "</tool_call>"

_SPACE = " \t\r\n"
_TAG = re.compile(f"{OPENING}|{CLOSING}")
_MARK = re.compile(f'"|{CLOSING}')
_IN_STRING = re.compile(r'(?:\\[^\n]|[^"\\\n])*')


@dataclass(frozen=True, slots=True)
class PlainText:
    """Text of the reply, never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """A complete call. ``arguments``: a JSON object as text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class MalformedCall:
    """Text between the tags that is not a valid call. ``why``: the error as a line for the model."""

    text: str
    why: str


Piece = PlainText | ParsedCall | MalformedCall
"""A part of a reply."""


class ToolCallSplitter:
    """Splits a reply into text and calls: :meth:`feed` for each piece, :meth:`flush` at the end."""

    def __init__(self) -> None:
        self._held = ""
        """Input that is not processed yet: the end of the text, or the beginning of a call after its opening tag."""
        self._space = ""
        """White space before a call, which is text only if more text follows."""
        self._in_call = False
        self._scanned = 0
        """Number of characters of the call that were scanned."""
        self._string = -1
        """Position in the call of the quotation mark of an open string; -1 without one."""
        self._has_text = False
        """Whether text was returned."""
        self._has_call = False
        """Whether a call was found."""
        self._after_call = False
        """Whether a call was found after the last text."""

    @property
    def call_size(self) -> int:
        """Characters of the call that has not ended yet; 0 without one."""
        return len(self._held) if self._in_call else 0

    def feed(self, text: str) -> list[Piece]:
        """Return the parts that are complete."""
        self._held += text
        pieces: list[Piece] = []
        self._process(pieces)
        return pieces

    def flush(self, *, whole: bool) -> list[Piece]:
        """Return the rest at the end of the reply.

        ``whole``: the model ended the reply, so a call that lacks only its closing tag is valid. Otherwise the reply
        was cut off: an incomplete call or tag is dropped.
        """
        pieces: list[Piece] = []
        while self._in_call and self._string >= 0:  # the quotation mark did not begin a string
            self._scanned, self._string = self._string + 1, -1
            self._process(pieces)
        held, self._held = self._held, ""
        if not self._in_call:
            if not whole and (open_tag := held_length(held, (OPENING, CLOSING))):
                held = held[:-open_tag].rstrip(_SPACE)
            self._add_text(held, pieces, at_end=True)
        elif whole:
            pieces.append(parse(held[: len(held) - held_length(held, (CLOSING,))]))
        self._in_call = False
        return pieces

    def _process(self, pieces: list[Piece]) -> None:
        while self._process_call(pieces) if self._in_call else self._process_text(pieces):
            pass

    def _process_text(self, pieces: list[Piece]) -> bool:
        """Process text outside calls. Returns whether more can be processed at once."""
        match = _TAG.search(self._held)
        if match is None:
            cut = len(self._held) - held_length(self._held, (OPENING, CLOSING))
            cut = len(self._held[:cut].rstrip(_SPACE))
            self._add_text(self._held[:cut], pieces)
            self._held = self._held[cut:]
            return False
        cut = len(self._held[: match.start()].rstrip(_SPACE))
        self._add_text(self._held[:cut], pieces)
        self._space += self._held[cut : match.start()]
        self._held = self._held[match.end() :]
        self._in_call = match.group() == OPENING
        self._has_call = self._after_call = True
        self._scanned, self._string = 0, -1
        return True

    def _add_text(self, text: str, pieces: list[Piece], *, at_end: bool = False) -> None:
        if not text or (self._has_call and at_end and not text.strip(_SPACE)):
            return
        if self._after_call:
            # Keep words on both sides of a call apart; no space is needed before the first text.
            gap = self._space + text[: len(text) - len(text.lstrip(_SPACE))]
            text = ((gap or " ") if self._has_text else "") + text.lstrip(_SPACE)
            self._space, self._after_call = "", False
        self._has_text = True
        pieces.append(PlainText(text))

    def _process_call(self, pieces: list[Piece]) -> bool:
        """Process text inside a call. Returns whether more can be processed at once."""
        held = self._held
        while True:
            if self._string >= 0:
                match = _IN_STRING.match(held, self._scanned)
                self._scanned = match.end() if match else self._scanned
                if self._scanned == len(held) or (held[self._scanned] == "\\" and self._scanned + 1 == len(held)):
                    return False
                # Strings do not contain newlines: this was not a string, and its characters are scanned again.
                self._scanned = self._scanned + 1 if held[self._scanned] == '"' else self._string + 1
                self._string = -1
            mark = _MARK.search(held, self._scanned)
            if mark is None:
                self._scanned = max(self._scanned, len(held) - held_length(held, (CLOSING,)))
                return False
            self._scanned = mark.end()
            if mark.group() == CLOSING:
                end = mark.start()
                piece = parse(held[:end])
                if isinstance(piece, MalformedCall) and CLOSING in piece.text:
                    end = piece.text.index(CLOSING)  # that was not a string either
                    piece = parse(held[:end])
                pieces.append(piece)
                self._held, self._in_call = held[end + len(CLOSING) :], False
                return True
            self._string = mark.start()


def parse(text: str) -> ParsedCall | MalformedCall:
    """Parse the text between the tags."""
    try:
        # strict=False: models write line breaks in strings, which JSON forbids.
        value = json.loads(text, strict=False, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        return MalformedCall(text, f"it is no JSON ({error})")
    if not isinstance(value, dict):
        return MalformedCall(text, "it is no JSON object")
    name = value.get("name")
    if not isinstance(name, str) or not name.strip():
        return MalformedCall(text, "it has no name")
    try:
        arguments = arguments_of(value.get("arguments", value.get("parameters")), strict=False)
    except ValueError as error:
        return MalformedCall(text, str(error))
    return ParsedCall(name.strip(), json_text(arguments))


def arguments_of(value: object, *, strict: bool = True) -> dict[str, Any]:
    """The arguments of a call: an object, its JSON text, or nothing. ``strict``: line breaks in strings are invalid.

    Raises ValueError with a line for the model."""
    if isinstance(value, str):
        try:
            value = json.loads(value, strict=strict, parse_constant=_reject_constant) if value.strip() else None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"its arguments are no JSON ({error})") from None
    if value is not None and not isinstance(value, dict):
        raise ValueError("its arguments are no JSON object")
    return value or {}


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
