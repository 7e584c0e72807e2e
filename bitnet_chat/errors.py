"""All errors that reach a caller, and the table of finish reasons and exit codes.

::

    BitnetChatError                       subject, verb, value; ``remedy``: what to do
    ├── UsageError                    (2) a flag, a file, a JSON line or a setting that cannot be used
    │   ├── UnsupportedError          (2) an option that the backend does not support
    │   ├── RefusedFlagError          (2) a flag after ``--`` that the engine does not accept
    │   ├── EmptyMessageError         (2) a message without text
    │   ├── EmptyFileError            (2) an attachment without content
    │   ├── UnknownModelError         (2) a model name that the server does not serve
    │   ├── ChatNotFoundError         (2) a chat that the attached server does not have
    │   └── InvalidFieldError         (2) a field of a request that cannot be used
    │       ├── NoSuchChatError       (2) a chat id that the server does not have
    │       └── ReplyRunningError     (2) a second reply to one chat at the same time
    ├── EngineNotFoundError           (3) an engine that was not found, or cannot chat
    │   ├── EngineMissingError        (3) a prebuilt engine that is not installed
    │   ├── BuildError                (3) an engine that could not be built or installed
    │   └── ServerUnreachableError    (3) an attached server that does not answer
    ├── ModelError                    (4) a model that is missing, or cannot be read, rendered or loaded
    │   └── TemplateError             (4) a chat template that cannot be used
    ├── EngineDiedError               (5) an engine process that ended unexpectedly
    │   └── EngineStalledError      (124) an engine process that was ended because it made no progress
    ├── ContextOverflowError          (6) a prompt that is larger than the context window
    ├── RepetitionError               (7) a reply that was stopped because it repeated itself
    ├── EmptyReplyError               (8) a reply without text
    ├── JournalError                  (9) a journal that cannot be read or written
    │   ├── JournalSetAsideError      (9) a damaged journal file, in whose place another one begins
    │   └── JournalTooNewError        (9) a journal file of a later release
    ├── BusyError                   (124) more waiting requests than a server or a pool permits
    │   └── ShuttingDownError       (124) a request to a server that is shutting down
    ├── RequestTimeoutError         (124) a time limit that was reached before the end of a reply
    ├── ReplyCancelledError         (130) a reply that was stopped before its first token
    └── InternalError                 (2) a bug in the program
        └── InvalidTransitionError    (2) a signal that a state machine does not accept in its state

Errors within the package, which the module above the one that raises them handles, so that no caller sees them::

    NativeClientError                     the child of a native engine has refused a request, or ended
    NativeRequestError                    in the child: a request that cannot be processed
    NativeLoadError                       in the child: a library or a model that cannot be loaded
    ContextFullError                      in the child: a batch without room in the cache
    NativeProtocolError                   a line that is not of the protocol between both
    GrammarSchemaError                    a JSON schema that cannot be converted to a grammar
    HTTPStatusError                       a server has refused a request
    ConnectionLostError                   a connection that ended during a request or a response
    RequestCancelledError                 a request that was stopped while it waited
    InvalidToolCallsError                 a complete reply without a valid tool call
    OtherReplyError                       a server that generates another reply than the one that was cut
    DownloadInterruptedError              a connection that ended during a download
    StalePartError                        a part of a download that does not belong to the file on the server
    StateRecordError                      the record of a saved state that is damaged
    TemplateFaultError                    a template that has failed, in the process that renders it
    TemplateRaisedError                   ``raise_exception`` of a template
    NotTextError, PdfError                an attachment without readable text
    ClientDisconnectedError               a client that has closed its connection during its request
    BodyTooLargeError                     a body of a request beyond the limit
    TooManyAttemptsError                  wrong API keys, too many from one address

The numbers are exit codes. Each reply ends with a :class:`FinishReason`, whose exit code is from the same table, so
that a script can use either. :class:`BitnetChatError` has no reason; each branch of the tree defines one.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Generic, Literal, TypeVar


class FinishReason(StrEnum):
    """Why a reply ended. The values appear in JSON output."""

    STOP = "stop"
    LENGTH = "length"
    ROLE_MARKER = "role_marker"
    """The model began to generate the turn of the user; its text before that is complete."""
    CUT_OFF = "cut_off"
    """The program ended before the reply; only the journal contains such a reply."""
    TOOL_CALLS = "tool_calls"
    """The model requests tool calls, and continues with their results."""
    USAGE = "usage"
    NO_ENGINE = "no_engine"
    BAD_MODEL = "bad_model"
    ENGINE_DIED = "engine_died"
    CONTEXT_OVERFLOW = "context_overflow"
    EMPTY = "empty"
    """The model ended its reply before any text, thinking or call, usually because of a wrong chat template; or in
    batch mode, the reply has only thinking."""
    JOURNAL = "journal"
    """The journal could not be read or written. An exit reason only; no reply ends with it."""
    REPETITION = "repetition"
    """The reply repeated itself without end."""
    STALLED = "stalled"
    """The engine made no progress for longer than the stall timeout."""
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"

    @property
    def exit_code(self) -> int:
        """Exit code of the program for this reason."""
        return _EXIT_CODES[self]


# 124 is the exit code of timeout(1), 130 that of a shell for SIGINT (128 + 2).
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
    """Base class of all errors. ``str(error)`` is the text for display, in several lines, not sanitized for a
    terminal."""

    reason: ClassVar[FinishReason]
    """The finish reason; ``reason.exit_code`` is the exit code of the program."""

    def __init_subclass__(cls) -> None:
        if not hasattr(cls, "reason"):  # no default, which could be the exit code of another error
            raise TypeError(f"{cls.__name__} has no reason")

    def __init__(self, what: str, *, remedy: str = "", detail: str = "") -> None:
        """Make an error. ``what``: subject, verb, value. ``remedy``: what to do. ``detail``: evidence, such as the end
        of a log."""
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
    """A flag, a file, a JSON line or a setting is invalid."""

    reason = FinishReason.USAGE


class UnsupportedError(UsageError):
    """The backend does not support an option. ``option``: its name, as given by the caller."""

    def __init__(self, option: str, why: str, *, remedy: str = "") -> None:
        super().__init__(f"{option} is not supported here: {why}", remedy=remedy)
        self.option = option


class RefusedFlagError(UsageError):
    """The engine does not accept a flag, so that every reply would fail."""


class EmptyMessageError(UsageError):
    """A message without text: an engine cannot be asked with it."""

    def __init__(self) -> None:
        super().__init__("an empty message cannot be sent")


class EmptyFileError(UsageError):
    """The attachment has no content."""


class UnknownModelError(UsageError):
    """The server does not serve a model with this name."""


class ChatNotFoundError(UsageError):
    """The attached server no longer has the chat."""


class InvalidFieldError(UsageError):
    """A request is invalid.

    ``param``: path of the invalid field, such as ``messages[2].role``. ``code``: error code of the OpenAI API.
    ``status``: HTTP status.
    """

    def __init__(self, what: str, *, param: str = "", code: str = "", status: int = 400, remedy: str = "") -> None:
        super().__init__(what, remedy=remedy)
        self.param, self.code, self.status = param, code, status


class NoSuchChatError(InvalidFieldError):
    """The server does not have a chat with the number ``id``."""

    def __init__(self, id: int) -> None:
        super().__init__(
            f"chat {id} does not exist", status=404, code="chat_not_found", remedy="GET /chats lists the chats"
        )


class ReplyRunningError(InvalidFieldError):
    """A chat can have one running reply only."""

    def __init__(self) -> None:
        super().__init__(
            "this chat already has a running reply",
            status=409,
            code="chat_is_answering",
            remedy="wait until it ends, or stop it",
        )


class EngineNotFoundError(BitnetChatError):
    """An engine was not found, or cannot chat."""

    reason = FinishReason.NO_ENGINE


class EngineMissingError(EngineNotFoundError):
    """No installed engine can run the model. ``package``: name of the prebuilt engine that can."""

    def __init__(self, what: str, *, package: str, remedy: str = "", detail: str = "") -> None:
        super().__init__(what, remedy=remedy, detail=detail)
        self.package = package


class BuildError(EngineNotFoundError):
    """An engine could not be built or installed. ``detail``: the end of the build log."""


class ServerUnreachableError(EngineNotFoundError):
    """The attached server does not answer at its address."""


class ModelError(BitnetChatError):
    """A model is missing, or cannot be read, rendered or loaded."""

    reason = FinishReason.BAD_MODEL


class FaultKind(StrEnum):
    """Kinds of faults of a chat template."""

    UNREADABLE = "unreadable"
    """The text is not valid Jinja. Other programs may accept it."""
    REFUSED = "refused"
    """The template itself rejects this conversation."""
    FAILED = "failed"
    """The template raised an error."""
    LIMIT = "limit"
    """The template exceeds a limit of time, memory or output."""


class TemplateFaultError(Exception):
    """A template failed. Callers of the library get a :class:`TemplateError`. ``text``: one line."""

    def __init__(self, kind: FaultKind, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


_FAULTS = {
    FaultKind.UNREADABLE: "cannot be read",
    FaultKind.REFUSED: "refused this conversation",
    FaultKind.FAILED: "fails",
    FaultKind.LIMIT: "fails",
}


class TemplateError(ModelError):
    """A chat template is invalid, or cannot render a conversation. ``fault``: the reason in one line."""

    def __init__(self, name: str, fault: TemplateFaultError) -> None:
        self.kind, self.fault = fault.kind, f"{_FAULTS[fault.kind]}: {fault.text}"
        super().__init__(f"the chat template {name} {self.fault}", remedy="select another with --chat-template NAME")


class EngineDiedError(BitnetChatError):
    """The engine process ended unexpectedly. ``detail``: the end of its log."""

    reason = FinishReason.ENGINE_DIED


class EngineStalledError(EngineDiedError):
    """The engine process was ended because it made no progress for longer than the stall timeout."""

    reason = FinishReason.STALLED


class ContextOverflowError(BitnetChatError):
    """A prompt is larger than the context window.

    Numbers of tokens: ``needed`` for the whole prompt, ``reserve`` for the reply, ``size`` of the window; None if
    unknown. ``by_policy``: it would fit without its oldest turns, and the policy is "stop".
    """

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
        by_policy: bool = False,
    ) -> None:
        super().__init__(what, remedy=remedy, detail=detail)
        self.needed, self.reserve, self.size, self.by_policy = needed, reserve, size, by_policy


class EmptyReplyError(BitnetChatError):
    """The model ended its reply without text; it may have generated thinking."""

    reason = FinishReason.EMPTY


class RepetitionError(BitnetChatError):
    """The reply was stopped because it repeated itself."""

    reason = FinishReason.REPETITION


class JournalError(BitnetChatError):
    """The journal cannot be read or written."""

    reason = FinishReason.JOURNAL


class JournalSetAsideError(JournalError):
    """A damaged journal file was set aside. The next call uses the new file, with what could be recovered."""


class JournalTooNewError(JournalError):
    """The journal file is from a later release; it is left unchanged."""


class BusyError(BitnetChatError):
    """Too many requests are waiting. ``retry_after``: seconds after which a retry may succeed."""

    reason = FinishReason.TIMEOUT

    def __init__(self, what: str, *, retry_after: float, remedy: str = "") -> None:
        super().__init__(what, remedy=remedy)
        self.retry_after = retry_after


class ShuttingDownError(BusyError):
    """The server is shutting down and does not start replies."""


class RequestTimeoutError(BitnetChatError):
    """The time limit of a reply was reached: on a server before the first token, in a library call before the end."""

    reason = FinishReason.TIMEOUT


class ReplyCancelledError(BitnetChatError):
    """The reply was stopped by the caller before its first token."""

    reason = FinishReason.INTERRUPTED


class InternalError(BitnetChatError):
    """A bug in the program; its log has the details."""

    reason = FinishReason.USAGE


class InvalidTransitionError(InternalError):
    """A state machine received a signal that is invalid in its state. ``state`` and ``signal``: their names."""

    def __init__(self, machine: str, state: str, signal: str) -> None:
        super().__init__(f"{machine} does not accept {signal} in the state {state}")
        self.state, self.signal = state, signal


# Errors within the package.

NativeFailureKind = Literal["usage", "unsupported", "context_full", "model", "failed"]
"""Why the child of a native engine has refused a request, see
:class:`bitnet_chat.engine.native.protocol.NativeFailed`."""
Refusal = TypeVar("Refusal")


class NativeClientError(Exception):
    """The child of a native engine has refused a request, or ended. ``why``: the kind of refusal; empty without one.
    ``log``: its stderr so far.
    """

    def __init__(self, what: str, why: NativeFailureKind | Literal[""] = "", log: str = "") -> None:
        super().__init__(what)
        self.why, self.log = why, log


class NativeRequestError(Exception):
    """A request that the child cannot process. It becomes a ``NativeFailed`` with the same message."""

    def __init__(self, why: NativeFailureKind, what: str) -> None:
        super().__init__(what)
        self.why: NativeFailureKind = why


class NativeLoadError(Exception):
    """The model or the library cannot be loaded. The child ends."""

    def __init__(self, what: str, why: NativeFailureKind = "model") -> None:
        super().__init__(what)
        self.why: NativeFailureKind = why


class ContextFullError(Exception):
    """The cache of a native engine has no contiguous free cells for a batch."""


class NativeProtocolError(ValueError):
    """A line that is not part of the protocol of native engines. ``id``: that of the request or message, if it can be
    read.
    """

    def __init__(self, what: str, id: int | None = None) -> None:
        super().__init__(what)
        self.id = id


class GrammarSchemaError(ValueError):
    """A JSON schema cannot be converted to a grammar."""


class HTTPStatusError(Exception, Generic[Refusal]):
    """A server refused a request. ``refusal``: its error response, a
    :class:`bitnet_chat.backends.http.errors.ErrorResponse`.
    """

    def __init__(self, message: str, refusal: Refusal) -> None:
        super().__init__(message)
        self.refusal = refusal


class ConnectionLostError(Exception):
    """A connection ended during a request or a response. The text gives the reason."""


class RequestCancelledError(Exception):
    """A reply was interrupted, or reached its time limit, during a wait."""


class InvalidToolCallsError(Exception):
    """A reply is complete, and none of its tool calls is valid."""


class OtherReplyError(Exception):
    """A server generates another reply instead of the one that was cut."""


class DownloadInterruptedError(Exception):
    """The connection of a download was lost; a retry is useful."""


class StalePartError(Exception):
    """The part file of a download does not belong to the file on the server."""


class StateRecordError(ValueError):
    """The record of a saved state is damaged, or has another format."""


class TemplateRaisedError(Exception):
    """Raised by ``raise_exception`` in a template."""


class NotTextError(Exception):
    """The data is not a text. The message is the apparent format: ``a PNG picture``."""


class PdfError(Exception):
    """The text of a PDF cannot be extracted. ``what``: a predicate of the file. ``remedy``: what to do."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


class ClientDisconnectedError(Exception):
    """A client of the server has closed its connection."""


class BodyTooLargeError(Exception):
    """The body of a request exceeds the limit."""


class TooManyAttemptsError(Exception):
    """Too many wrong keys from one address. ``retry_after``: seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many wrong keys came from this address")
        self.retry_after = retry_after
