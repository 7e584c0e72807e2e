"""The framer protocol: output of an engine in, frames out.

A framer knows the console format of one kind of engine and extracts the replies from it. It is notified when a message
is sent, and derives everything else from the output. Frames do not depend on the chunks of the output, except that
reply text can be split into several :class:`ReplyText`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from bitnet_chat.errors import FinishReason

# The colour sequences in common/console.cpp of llama.cpp: reset, user input, error, reasoning, info.
RESET = "\x1b[0m"
USER_INPUT = "\x1b[1m\x1b[32m"
ERROR = "\x1b[1m\x1b[31m"
REASONING = "\x1b[90m"
INFO = "\x1b[35m"


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine has loaded, or has done a command, and waits for input."""

    error: str = ""
    """Reason for a failed command; empty if it succeeded."""
    tokens: int = 0
    """Tokens that a command has read, saved or restored, if the engine reports them."""


@dataclass(frozen=True, slots=True)
class ReplyText:
    """The next characters of the reply."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingText:
    """The next characters of the thinking."""

    text: str


@dataclass(frozen=True, slots=True)
class EngineError:
    """The engine reported an error instead of the reply, or during it.

    ``why``: its kind, if the engine reports it: ``usage``, ``unsupported``, ``context_full``, ``model`` or ``failed``.
    """

    text: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The engine waits for input again. ``natural``: whether the reply is complete. ``reason``: why it ended, if the
    engine reports it."""

    natural: bool
    reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """``done`` of ``total`` tokens of the prompt are evaluated."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class ReplyFigures:
    """Token counts reported by the engine, see :class:`bitnet_chat.events.Stats`. None: not reported."""

    context_size: int | None = None
    context_used: int | None = None
    prompt_tokens: int | None = None
    prompt_size: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class UnexpectedOutput:
    """Output in a state that expects none: framer and engine disagree about the turn."""

    text: str


@dataclass(frozen=True, slots=True)
class VariantFrame:
    """A frame of one of several replies from one prompt. ``variant``: its number, from 0. A TurnEnd in it ends that
    reply; one without a number follows the last of them."""

    variant: int
    frame: ReplyText | ThinkingText | EngineError | TurnEnd | PrefillProgress | ReplyFigures


Frame = (
    Ready
    | ReplyText
    | ThinkingText
    | EngineError
    | TurnEnd
    | PrefillProgress
    | ReplyFigures
    | VariantFrame
    | UnexpectedOutput
)
"""Any frame."""


class Framer(Protocol):
    """A parser of the output of one kind of engine."""

    @property
    def kind(self) -> str:
        """Name of the format in recordings: ``modern``, ``ordered``, ``unordered``, ``logged``, ``logged, ordered`` or
        ``native``."""

    @property
    def reply(self) -> str:
        """The reply to the last message as it was printed, thinking included; empty if not available."""

    def feed(self, text: str) -> list[Frame]:
        """Return the frames that the next text of the output completes."""

    def logged(self, line: str) -> bool:
        """Process a line of the log, without its prefix.

        Returns True if it reports that the engine waits for input. Call :meth:`waiting` after all output up to then was
        fed.
        """

    def waiting(self) -> list[Frame]:
        """Return the frames at the point where the engine waits for input, see :meth:`logged`."""

    def sent(self, data: bytes = b"") -> None:
        """A message was sent to the engine as ``data``; its reply follows."""

    def continued(self, data: bytes = b"") -> None:
        """The engine was instructed by ``data`` to continue its last reply; the rest of it follows."""

    def commanded(self, data: bytes = b"") -> None:
        """Input other than a message was sent as ``data``. Output up to the next prompt is dropped, which becomes
        Ready."""

    def interrupted(self) -> None:
        """The reply was interrupted, so its end may have another form."""

    def settle(self) -> list[Frame]:
        """Return the frames after seconds of silence: a probable end of a turn is then accepted."""

    def eof(self, *, clean: bool) -> list[Frame]:
        """Return the frames after the end of the engine, including text that was held back. ``clean``: its exit code is
        0."""


def held_length(text: str, endings: Iterable[str]) -> int:
    """Return the length of the longest suffix of ``text`` that is a proper prefix of one of ``endings``.

    This suffix must be held back, since it may be the beginning of an ending; the text before it can be shown.
    """
    longest = 0
    for ending in endings:
        first = ending[0]
        # An ending can begin only at its first character; the earliest position that matches is the longest suffix.
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
