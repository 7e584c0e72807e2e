"""bitnet-chat as a library: chats with local models in a resident engine process.

::

    import bitnet_chat

    print(bitnet_chat.ask("Hello"))

:func:`ask` is for scripts, :class:`Chat` for conversations, :func:`open_backend` for direct access to a backend,
:class:`Journal` for saved conversations, and :func:`missing` finds what must be installed first. There are examples in
``docs/library.md``.

The public names are imported at their first use, so that ``import bitnet_chat`` takes almost no time.
"""

from __future__ import annotations

from bitnet_chat.version import __version__

TYPE_CHECKING = False  # instead of that of typing, whose import takes 7 ms
if TYPE_CHECKING:
    from typing import Any

    from bitnet_chat.attachments import Attachment, with_attachments
    from bitnet_chat.attachments.reading import attach
    from bitnet_chat.backend import Backend, BackendState, BackendStatus, ReplyOptions, ResponseFormat, Sampling
    from bitnet_chat.backends.variants import variants_of
    from bitnet_chat.chat import Chat, ToolFunction, ask, open_backend
    from bitnet_chat.config import Settings
    from bitnet_chat.context.token_count import TokenCount
    from bitnet_chat.conversation import Conversation, Message, Role, Tool, ToolCall
    from bitnet_chat.conversation.export import export
    from bitnet_chat.errors import (
        BitnetChatError,
        BuildError,
        BusyError,
        ChatNotFoundError,
        ContextOverflowError,
        EmptyFileError,
        EmptyMessageError,
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
        JournalSetAsideError,
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
        VariantEvent,
    )
    from bitnet_chat.journal import (
        Journal,
        JournalEntry,
        MessageRecord,
        MessageTree,
        SearchHit,
        StoredConversation,
    )
    from bitnet_chat.journal.votes import Vote
    from bitnet_chat.requirements import Requirement, missing
    from bitnet_chat.util.progress import Progress
    from bitnet_chat.verification import ReplyCheck, Verdict, verify

_MODULES = {
    "Attachment": "attachments",
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
    "EmptyMessageError": "errors",
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
    "Journal": "journal",
    "JournalEntry": "journal",
    "JournalError": "errors",
    "JournalSetAsideError": "errors",
    "JournalTooNewError": "errors",
    "Message": "conversation",
    "MessageRecord": "journal",
    "MessageTree": "journal",
    "ModelError": "errors",
    "NoSuchChatError": "errors",
    "Notice": "events",
    "Progress": "util.progress",
    "PromptProgress": "events",
    "RefusedFlagError": "errors",
    "RepetitionError": "errors",
    "ReplyCancelledError": "errors",
    "ReplyCheck": "verification",
    "ReplyOptions": "backend",
    "ReplyRunningError": "errors",
    "RequestTimeoutError": "errors",
    "Requirement": "requirements",
    "ResponseFormat": "backend",
    "Role": "conversation",
    "Sampling": "backend",
    "SearchHit": "journal",
    "ServerUnreachableError": "errors",
    "Settings": "config",
    "ShuttingDownError": "errors",
    "Started": "events",
    "Stats": "events",
    "StoredConversation": "journal",
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
    "VariantEvent": "events",
    "Verdict": "verification",
    "Vote": "journal.votes",
    "ask": "chat",
    "attach": "attachments.reading",
    "export": "conversation.export",
    "missing": "requirements",
    "open_backend": "chat",
    "variants_of": "backends.variants",
    "verify": "verification",
    "with_attachments": "attachments",
}

__all__ = [
    "Attachment",
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
    "EmptyMessageError",
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
    "Journal",
    "JournalEntry",
    "JournalError",
    "JournalSetAsideError",
    "JournalTooNewError",
    "Message",
    "MessageRecord",
    "MessageTree",
    "ModelError",
    "NoSuchChatError",
    "Notice",
    "Progress",
    "PromptProgress",
    "RefusedFlagError",
    "RepetitionError",
    "ReplyCancelledError",
    "ReplyCheck",
    "ReplyOptions",
    "ReplyRunningError",
    "RequestTimeoutError",
    "Requirement",
    "ResponseFormat",
    "Role",
    "Sampling",
    "SearchHit",
    "ServerUnreachableError",
    "Settings",
    "ShuttingDownError",
    "Started",
    "Stats",
    "StoredConversation",
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
    "VariantEvent",
    "Verdict",
    "Vote",
    "__version__",
    "ask",
    "attach",
    "export",
    "missing",
    "open_backend",
    "variants_of",
    "verify",
    "with_attachments",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        from importlib import import_module

        found = globals()[name] = getattr(import_module(f"bitnet_chat.{_MODULES[name]}"), name)
        return found
    raise AttributeError(f"module 'bitnet_chat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
