"""The framer protocol: engine output in, frames out.

A framer knows the console format of one engine dialect and extracts the reply from it. It is told when a message was
sent; all else it learns from the text. Frames do not depend on how the text was cut into chunks, except that a run of
reply text may be split into several :class:`ReplyText`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from bitnet_chat.errors import FinishReason

# What llama.cpp's common/console.cpp writes when it changes colour: reset, user input, error, reasoning, info.
RESET = "\x1b[0m"
USER_INPUT = "\x1b[1m\x1b[32m"
ERROR = "\x1b[1m\x1b[31m"
REASONING = "\x1b[90m"
INFO = "\x1b[35m"


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine has loaded and waits for input."""


@dataclass(frozen=True, slots=True)
class ReplyText:
    text: str


@dataclass(frozen=True, slots=True)
class ThinkingText:
    text: str


@dataclass(frozen=True, slots=True)
class EngineError:
    """The engine reported an error in place of the reply, or in the middle of it. ``why``: its kind, if the engine
    states it: ``usage``, ``unsupported``, ``context_full``, ``model`` or ``failed``.
    """

    text: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The engine waits for input again. ``natural``: the reply is complete. ``reason``: its end, if the engine states
    it.
    """

    natural: bool
    reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """``done`` of ``total`` tokens of the prompt are evaluated."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class ReplyFigures:
    """Token counts of the engine, see :class:`bitnet_chat.events.Stats`. None: not reported."""

    context_size: int | None = None
    context_used: int | None = None
    prompt_tokens: int | None = None
    prompt_size: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class UnexpectedOutput:
    """Output in a state that expects none: the framer and the engine disagree about the turn."""

    text: str


Frame = Ready | ReplyText | ThinkingText | EngineError | TurnEnd | PrefillProgress | ReplyFigures | UnexpectedOutput


class Framer(Protocol):
    @property
    def kind(self) -> str:
        """The name under which a recording is read in the same way: ``modern``, ``ordered``, ``unordered``, ``logged``,
        ``logged, ordered`` or ``native``.
        """

    @property
    def reply(self) -> str:
        """The reply to the last message as it was printed, thoughts included; empty if not available."""

    def feed(self, text: str) -> list[Frame]: ...

    def logged(self, line: str) -> bool:
        """A line of the log, without prefix. True if it states that the engine waits for input: :meth:`waiting` follows
        once all output up to then was fed.
        """

    def waiting(self) -> list[Frame]: ...

    def sent(self, data: bytes = b"") -> None:
        """A message was sent to the engine as ``data``: its reply follows."""

    def continued(self, data: bytes = b"") -> None:
        """The engine was told by ``data`` to continue its own last reply: the rest of it follows."""

    def commanded(self, data: bytes = b"") -> None:
        """``data`` other than a message was sent to the engine: all up to the next prompt is dropped, which gives
        Ready.
        """

    def interrupted(self) -> None:
        """The reply was interrupted: its end may have another form."""

    def settle(self) -> list[Frame]:
        """Called after seconds of silence: ends a turn if its end is likely but not certain."""

    def eof(self, *, clean: bool) -> list[Frame]:
        """The engine has exited; ``clean``: with 0. Gives held text of a reply."""


def held_length(text: str, endings: Iterable[str]) -> int:
    """Length of the longest suffix of ``text`` that is a proper prefix of one of ``endings``.

    That much must be held, as it may be the beginning of an ending; everything before it can be shown.
    """
    longest = 0
    for ending in endings:
        first = ending[0]
        # Only places where the ending's first character stands can begin it; the earliest that fits is the longest.
        start = text.find(first, max(0, len(text) - len(ending) + 1))
        while start >= 0:
            length = len(text) - start
            if length <= longest:
                break
            if ending.startswith(text[start:]):
                longest = length
                break
            start = text.find(first, start + 1)
    return longest
