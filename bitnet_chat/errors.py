"""Every error of the project, and the one table of finish reasons and exit codes.

::

    BitnetChatError            what happened, to what, what to do next
    ├── UsageError        (2)  a flag, a file, a JSON line or a setting that cannot be used
    │   ├── Unsupported   (2)  something that a backend cannot do
    │   └── RefusedFlag   (2)  a flag behind ``--`` that the engine does not take
    ├── EngineNotFound    (3)  no binary that can talk, or one that is no engine
    │   ├── EngineMissing (3)  no engine at hand that can run the model
    │   └── BuildError    (3)  an engine that could not be built
    ├── ModelError        (4)  no model, or one that cannot be read, rendered or loaded
    ├── EngineDied        (5)  the engine process ended without being asked to
    │   └── EngineStalled (124) the engine does nothing more, and was ended for it
    ├── ContextOverflow   (6)  a prompt that is larger than the context window
    ├── JournalError      (9)  a journal that cannot be read or written
    └── Busy            (124)  more at once than a server or a pool lets wait

The numbers are exit codes. A reply that ends carries a :class:`FinishReason`; both come from the same table, so
that a script may look at either.
"""

from __future__ import annotations

from enum import StrEnum


class FinishReason(StrEnum):
    """Why a reply ended. The value is what JSON output says, ``exit_code`` is what the process returns."""

    STOP = "stop"
    LENGTH = "length"
    ROLE_MARKER = "role_marker"
    """The model began to speak for the user; what it said before that is whole."""
    CUT_OFF = "cut_off"
    """The program ended before the reply did; only the journal knows such a reply."""
    TOOL_CALLS = "tool_calls"
    """The model asks for tools to be called; their results are what it goes on with."""
    USAGE = "usage"
    NO_ENGINE = "no_engine"
    BAD_MODEL = "bad_model"
    ENGINE_DIED = "engine_died"
    CONTEXT_OVERFLOW = "context_overflow"
    EMPTY = "empty"
    """The model ended its reply before it said, thought or called anything, mostly since its chat template is wrong; or
    a script asked, and got thoughts alone."""
    JOURNAL = "journal"
    """The journal could not be read, or did not keep what was said; no reply ends for this."""
    REPETITION = "repetition"
    """The reply had begun to repeat itself without end."""
    STALLED = "stalled"
    """The engine made nothing for longer than the stall timeout."""
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"

    @property
    def exit_code(self) -> int:
        return _EXIT_CODES[self]


# 124 is what timeout(1) returns, 130 what a shell reports for SIGINT (128 + 2).
_EXIT_CODES = {
    FinishReason.STOP: 0,
    FinishReason.LENGTH: 0,
    FinishReason.ROLE_MARKER: 0,
    FinishReason.TOOL_CALLS: 0,
    FinishReason.CUT_OFF: 1,
    FinishReason.USAGE: 2,
    FinishReason.NO_ENGINE: 3,
    FinishReason.BAD_MODEL: 4,
    FinishReason.ENGINE_DIED: 5,
    FinishReason.CONTEXT_OVERFLOW: 6,
    FinishReason.REPETITION: 7,
    FinishReason.EMPTY: 8,
    FinishReason.JOURNAL: 9,
    FinishReason.STALLED: 124,
    FinishReason.TIMEOUT: 124,
    FinishReason.INTERRUPTED: 130,
}


class BitnetChatError(Exception):
    """Base of the tree. ``str(error)`` is fit to be shown; ``reason`` is its finish reason."""

    reason = FinishReason.USAGE

    def __init__(self, what: str, *, remedy: str = "", detail: str = "") -> None:
        """``what``: what happened, to what. ``remedy``: what to do next. ``detail``: evidence, such as a log tail."""
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.detail = detail

    def __str__(self) -> str:
        text = self.what
        if self.remedy:
            text += f"\n  {self.remedy}"
        if self.detail:
            text += "\n" + "\n".join(f"  | {line}" for line in self.detail.splitlines())
        return text


class UsageError(BitnetChatError):
    reason = FinishReason.USAGE


class UnsupportedError(UsageError):
    """What was asked for is right, and this backend cannot do it. ``option``: its name, as the caller wrote it."""

    def __init__(self, option: str, why: str, *, remedy: str = "") -> None:
        super().__init__(f"{option} is not supported here: {why}", remedy=remedy)
        self.option = option


class RefusedFlagError(UsageError):
    """No question can be answered with this flag."""


class BusyError(BitnetChatError):
    """More is asked for at once than may wait. ``retry_after``: seconds after which it is worth another try."""

    reason = FinishReason.TIMEOUT

    def __init__(self, what: str, *, retry_after: float, remedy: str = "") -> None:
        super().__init__(what, remedy=remedy)
        self.retry_after = retry_after


class EngineNotFoundError(BitnetChatError):
    reason = FinishReason.NO_ENGINE


class EngineMissingError(EngineNotFoundError):
    """No engine at hand can run the model; ``package``: the one that can, which can be installed."""

    def __init__(self, what: str, *, package: str, remedy: str = "", detail: str = "") -> None:
        super().__init__(what, remedy=remedy, detail=detail)
        self.package = package


class BuildError(EngineNotFoundError):
    """The engine build failed; ``detail`` is the tail of its log."""


class ModelError(BitnetChatError):
    reason = FinishReason.BAD_MODEL


class EngineDiedError(BitnetChatError):
    """``detail`` is the tail of the engine's log."""

    reason = FinishReason.ENGINE_DIED


class EngineStalledError(EngineDiedError):
    """Ended from here, since nothing came from it for longer than the stall timeout."""

    reason = FinishReason.STALLED


class ContextOverflowError(BitnetChatError):
    """``needed``: tokens of all that would have been sent; ``reserve``: those that are kept for the reply; ``size``:
    those of the window. None where they are not known."""

    reason = FinishReason.CONTEXT_OVERFLOW

    def __init__(
        self,
        what: str,
        *,
        remedy: str = "",
        detail: str = "",
        needed: int | None = None,
        reserve: int = 0,
        size: int | None = None,
    ) -> None:
        super().__init__(what, remedy=remedy, detail=detail)
        self.needed, self.reserve, self.size = needed, reserve, size


class JournalError(BitnetChatError):
    reason = FinishReason.JOURNAL
