r"""Encoding of a message for the stdin of an engine, without loss and without side effects. Pure.

:func:`normalise` makes control characters visible, since they may take effect in a terminal line or an engine.
:func:`encode_lines` encodes the text for the ``--simple-io`` reader of llama.cpp, ``readline_simple`` in
common/console.cpp, with these rules: a trailing ``\`` is dropped, and another line follows; a trailing ``/`` is dropped
and ends the message; an empty message is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.errors import EmptyMessageError
from bitnet_chat.text.utf8 import rejoined

# C0 except tab and newline, and DEL. For an engine C1 controls are ordinary characters of two bytes.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_CONTROL_BYTES = bytes(code for code in range(128) if _CONTROL.match(chr(code)))
_NO_BYTE = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")

# From llama-cli 0.5.0 (tools/cli/cli-context.cpp). The commands in the banner of an engine are added.
MODERN_COMMANDS = frozenset({"/exit", "/regen", "/clear", "/read", "/glob", "/image", "/audio", "/video"})


@dataclass(frozen=True, slots=True)
class NormalisedText:
    """``text``: the text for the model. ``note``: the changes in one line, or empty."""

    text: str
    note: str = ""


def normalise(text: str) -> NormalisedText:
    """Replace control characters by their pictures (U+2400…), CRLF by a newline, undecodable bytes by U+FFFD."""
    if _is_clean(text):
        return NormalisedText(text)
    changes = []
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
        changes.append("line ends CRLF became LF")
    text, controls = _CONTROL.subn(_control_picture, text)
    if controls:
        changes.append(f"{controls} control character{'s' * (controls > 1)} made visible")
    text, broken = _SURROGATE.subn("\ufffd", text)
    if broken:
        changes.append("1 byte that is" if broken == 1 else f"{broken} bytes that are")
        changes[-1] += " not UTF-8 replaced"
    return NormalisedText(text, "message: " + ", ".join(changes) if changes else "")


def _utf8(text: str) -> bytes | None:
    """``text`` as bytes; None for a text with surrogates. 20 times faster than a regular expression: the whole
    conversation is checked at each turn."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None


def _is_clean(text: str) -> bool:
    data = _utf8(text)
    return data is not None and len(data.translate(None, _CONTROL_BYTES)) == len(data)


def encoded_conversation(conversation: Conversation) -> Conversation:
    """A conversation as it is sent to an engine: user and system messages normalised, without finish reasons.

    The bytes of replies are unchanged, except surrogates that do not represent a byte, which become U+FFFD. Bytes of
    one character that arrived in two parts are joined.
    """

    def sent(message: Message) -> str:
        if message.role != "assistant":
            return normalise(message.content).text
        if _utf8(message.content) is not None:
            return message.content
        return rejoined(_NO_BYTE.sub("\ufffd", message.content))

    return Conversation(tuple(Message(each.role, sent(each)) for each in conversation.messages))


def _control_picture(match: re.Match[str]) -> str:
    code = ord(match.group())
    return "\u2421" if code == 0x7F else chr(0x2400 + code)


def encode_lines(text: str, commands: Iterable[str] = ()) -> bytes:
    """The bytes of ``text`` as one message for a ``--simple-io`` engine.

    The last line ends in ``/`` and a newline, which the reader drops. After a bare newline BitNet 2024 passes the
    newline on to the model. A text that begins with one of ``commands`` gets a newline before it. Raises
    EmptyMessageError for an empty text.
    """
    if not text:
        raise EmptyMessageError
    if any(text.startswith(command) for command in commands):
        text = "\n" + text
    return (text.replace("\n", "\\\n") + "/\n").encode("utf-8", "surrogateescape")


def decode_lines(data: bytes) -> str:
    """The inverse of :func:`encode_lines`; ``data`` may end in a bare newline."""
    text = data.decode("utf-8", "surrogateescape").removesuffix("\n")
    return text.removesuffix("/").replace("\\\n", "\n")
