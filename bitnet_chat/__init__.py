"""bitnet-chat as a library: a chat with a local model through a resident engine.

::

    import bitnet_chat

    print(bitnet_chat.ask("Hello"))

:func:`ask` is for scripts, :class:`Chat` for several turns, :func:`open_backend` for all that a backend can do, and
:func:`missing` for what has to be installed first. ``docs/library.md`` has examples.

The public names are imported on first use, so that ``import bitnet_chat`` costs next to nothing.
"""

from __future__ import annotations

from bitnet_chat.version import __version__

TYPE_CHECKING = False  # as that of typing, which takes 7 ms to import
if TYPE_CHECKING:
    from typing import Any

    from bitnet_chat.backend import Backend, BackendState, BackendStatus, ReplyOptions, ResponseFormat, Sampling
    from bitnet_chat.chat import Chat, ToolFunction, ask, open_backend
    from bitnet_chat.config import Settings
    from bitnet_chat.context.token_count import TokenCount
    from bitnet_chat.conversation import Conversation, Message, Role, Tool, ToolCall
    from bitnet_chat.errors import (
        BitnetChatError,
        BuildError,
        BusyError,
        ChatNotFoundError,
        ContextOverflowError,
        EmptyFileError,
        EmptyReplyError,
        EngineDiedError,
        EngineMissingError,
        EngineNotFoundError,
        EngineStalledError,
        FaultKind,
        FinishReason,
        InternalError,
        InvalidFieldError,
        InvalidTransitionError,
        JournalError,
        JournalTooNewError,
        ModelError,
        NoSuchChatError,
        RefusedFlagError,
        RepetitionError,
        ReplyCancelledError,
        ReplyRunningError,
        RequestTimeoutError,
        ServerUnreachableError,
        ShuttingDownError,
        TemplateError,
        UnknownModelError,
        UnsupportedError,
        UsageError,
    )
    from bitnet_chat.events import (
        Completed,
        Event,
        Failed,
        Notice,
        PromptProgress,
        Started,
        Stats,
        TextDelta,
        ThinkingDelta,
    )
    from bitnet_chat.requirements import Requirement, missing
    from bitnet_chat.util.progress import Progress

_HOMES = {
    "Backend": "backend",
    "BackendState": "backend",
    "BackendStatus": "backend",
    "BitnetChatError": "errors",
    "BuildError": "errors",
    "BusyError": "errors",
    "Chat": "chat",
    "ChatNotFoundError": "errors",
    "Completed": "events",
    "ContextOverflowError": "errors",
    "Conversation": "conversation",
    "EmptyFileError": "errors",
    "EmptyReplyError": "errors",
    "EngineDiedError": "errors",
    "EngineMissingError": "errors",
    "EngineNotFoundError": "errors",
    "EngineStalledError": "errors",
    "Event": "events",
    "Failed": "events",
    "FaultKind": "errors",
    "FinishReason": "errors",
    "InternalError": "errors",
    "InvalidFieldError": "errors",
    "InvalidTransitionError": "errors",
    "JournalError": "errors",
    "JournalTooNewError": "errors",
    "Message": "conversation",
    "ModelError": "errors",
    "NoSuchChatError": "errors",
    "Notice": "events",
    "Progress": "util.progress",
    "PromptProgress": "events",
    "RefusedFlagError": "errors",
    "RepetitionError": "errors",
    "ReplyCancelledError": "errors",
    "ReplyOptions": "backend",
    "ReplyRunningError": "errors",
    "RequestTimeoutError": "errors",
    "Requirement": "requirements",
    "ResponseFormat": "backend",
    "Role": "conversation",
    "Sampling": "backend",
    "ServerUnreachableError": "errors",
    "Settings": "config",
    "ShuttingDownError": "errors",
    "Started": "events",
    "Stats": "events",
    "TemplateError": "errors",
    "TextDelta": "events",
    "ThinkingDelta": "events",
    "TokenCount": "context.token_count",
    "Tool": "conversation",
    "ToolCall": "conversation",
    "ToolFunction": "chat",
    "UnknownModelError": "errors",
    "UnsupportedError": "errors",
    "UsageError": "errors",
    "ask": "chat",
    "missing": "requirements",
    "open_backend": "chat",
}

__all__ = [
    "Backend",
    "BackendState",
    "BackendStatus",
    "BitnetChatError",
    "BuildError",
    "BusyError",
    "Chat",
    "ChatNotFoundError",
    "Completed",
    "ContextOverflowError",
    "Conversation",
    "EmptyFileError",
    "EmptyReplyError",
    "EngineDiedError",
    "EngineMissingError",
    "EngineNotFoundError",
    "EngineStalledError",
    "Event",
    "Failed",
    "FaultKind",
    "FinishReason",
    "InternalError",
    "InvalidFieldError",
    "InvalidTransitionError",
    "JournalError",
    "JournalTooNewError",
    "Message",
    "ModelError",
    "NoSuchChatError",
    "Notice",
    "Progress",
    "PromptProgress",
    "RefusedFlagError",
    "RepetitionError",
    "ReplyCancelledError",
    "ReplyOptions",
    "ReplyRunningError",
    "RequestTimeoutError",
    "Requirement",
    "ResponseFormat",
    "Role",
    "Sampling",
    "ServerUnreachableError",
    "Settings",
    "ShuttingDownError",
    "Started",
    "Stats",
    "TemplateError",
    "TextDelta",
    "ThinkingDelta",
    "TokenCount",
    "Tool",
    "ToolCall",
    "ToolFunction",
    "UnknownModelError",
    "UnsupportedError",
    "UsageError",
    "__version__",
    "ask",
    "missing",
    "open_backend",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        found = globals()[name] = getattr(import_module(f"bitnet_chat.{_HOMES[name]}"), name)
        return found
    raise AttributeError(f"module 'bitnet_chat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
