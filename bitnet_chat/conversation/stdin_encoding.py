r"""Encoding of a message for the stdin of an engine: every character arrives, without side effects.

Two steps. :func:`normalise` makes control characters visible: a terminal line or an engine might act on them.
:func:`encode_lines` encodes the text for the ``--simple-io`` reader of llama.cpp, ``readline_simple`` in
common/console.cpp, which takes lines with these rules: a trailing ``\`` is dropped and means that another line
follows; a trailing ``/`` is dropped and ends the message; an empty message is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.text.utf8 import rejoined

# All of C0 but tab and newline, and DEL. C1 controls are ordinary two-byte characters to an engine.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_CONTROL_BYTES = bytes(code for code in range(128) if _CONTROL.match(chr(code)))
_NO_BYTE = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")

# Taken from llama-cli 0.5.0 (tools/cli/cli-context.cpp); what a banner names is added to it.
MODERN_COMMANDS = frozenset({"/exit", "/regen", "/clear", "/read", "/glob", "/image", "/audio", "/video"})


@dataclass(frozen=True, slots=True)
class NormalisedText:
    """``text``: the text for the model. ``note``: the changes in one line, or empty."""

    text: str
    note: str = ""


def normalise(text: str) -> NormalisedText:
    """Control characters become their pictures (U+2400..), CRLF a newline, undecodable bytes U+FFFD."""
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
    """None for a text with surrogates. 20 times faster than a regular expression: a long conversation is checked at
    each turn.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None


def _is_clean(text: str) -> bool:
    data = _utf8(text)
    return data is not None and len(data.translate(None, _CONTROL_BYTES)) == len(data)


def encoded_conversation(conversation: Conversation) -> Conversation:
    """A conversation in the form for an engine: user and system messages normalised, without finish reasons.

    Replies are unchanged, byte for byte, except for surrogates that are not bytes: these cannot be written. Bytes
    of one character that came in two parts are joined.
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
    """The bytes that make a ``--simple-io`` engine read ``text`` as one message.

    The last line ends in ``/`` and a newline: the reader drops the ``/`` and adds nothing. With a bare newline BitNet
    2024 passes the newline on to the model. The engine gets ``text`` exactly, but for a newline at its front if it
    would begin with one of ``commands``. Raises ValueError for an empty text, which no engine takes as a message.
    """
    if not text:
        raise ValueError("an empty message cannot be sent")
    if any(text.startswith(command) for command in commands):
        text = "\n" + text
    return (text.replace("\n", "\\\n") + "/\n").encode("utf-8", "surrogateescape")


def decode_lines(data: bytes) -> str:
    """The text of which :func:`encode_lines` made ``data``, and of one that ends in a bare newline."""
    text = data.decode("utf-8", "surrogateescape").removesuffix("\n")
    return text.removesuffix("/").replace("\\\n", "\n")
