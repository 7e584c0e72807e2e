"""The library: :func:`open_backend`, :class:`Chat` and :func:`ask`. Nothing here prints, and nothing is downloaded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from bitnet_chat.backend import Backend, ReplyOptions
from bitnet_chat.backends import factory
from bitnet_chat.config import Settings, from_keywords
from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.errors import (
    BitnetChatError,
    ContextOverflowError,
    EmptyReplyError,
    EngineDiedError,
    EngineStalledError,
    FinishReason,
    RepetitionError,
    ReplyCancelledError,
    RequestTimeoutError,
    UsageError,
)
from bitnet_chat.events import Completed, Event, Failed, Notice, TextDelta, ThinkingDelta
from bitnet_chat.util.threads import run_in_daemon_thread

if TYPE_CHECKING:
    from bitnet_chat.journal import JournalRecorder
    from bitnet_chat.tools import Toolbox

ToolFunction = Callable[..., object]
"""A function with type hints and a docstring, sync or async; its result is a string or anything that JSON can hold."""

_OF_A_CHAT = frozenset({"system", "max_tokens", "timeout"})
"""Settings that a chat needs beside its backend."""
_ENDS: dict[FinishReason, tuple[Callable[[str], BitnetChatError], str]] = {
    FinishReason.ENGINE_DIED: (EngineDiedError, "the engine process ended during the reply"),
    FinishReason.STALLED: (EngineStalledError, "the engine made no progress during the reply"),
    FinishReason.TIMEOUT: (RequestTimeoutError, "the reply reached its time limit"),
    FinishReason.CONTEXT_OVERFLOW: (ContextOverflowError, "the reply filled the context window"),
    FinishReason.REPETITION: (RepetitionError, "the reply was stopped because it repeated itself"),
    FinishReason.EMPTY: (EmptyReplyError, "the reply has no text"),
    FinishReason.INTERRUPTED: (ReplyCancelledError, "the reply was stopped"),
}


@asynccontextmanager
async def open_backend(settings: Settings | None = None, /, **keywords: object) -> AsyncIterator[Backend]:
    """A backend that loads its model in the background, for the length of an ``async with`` block; the block leaves no
    process behind.

    ``keywords``: settings by their names in :class:`Settings`, such as ``model="x.gguf"``, ``ctx=4096`` (tokens) or
    ``timeout=60.0`` (seconds); a path may be given for a text. They take precedence over ``BITNET_CHAT_*`` variables, a
    persona and ``config.toml``. ``settings``: in place of these three. ``journal`` is False unless it is a keyword, and
    ``install`` has no effect: :func:`bitnet_chat.missing` finds missing requirements and installs them.

    ``system``, ``max_tokens`` and ``timeout`` belong to a chat: a backend takes them with each reply.

    :raises UsageError: a setting that does not exist or cannot be used.
    :raises EngineNotFoundError: no engine; :class:`EngineMissingError` names the prebuilt one that is needed.
    :raises ModelError: no model, or one that cannot be read or converted.

    Errors of loading come with the first reply, as :class:`Failed`.
    """
    found, configured = from_keywords(settings, keywords)
    factory.refuse_for_an_engine(keywords, found, str)
    backend = await _opened(found, configured)
    try:
        backend.start()
        yield backend
    finally:
        await backend.close()


async def _opened(settings: Settings, configured: str) -> Backend:
    """In a thread: a conversion takes minutes, and to find an engine may start one."""

    def opened() -> Backend:
        journal = factory.open_journal(settings)
        return factory.open_interactive(settings, configured, journal, advice="nothing")

    return await run_in_daemon_thread(opened)


class Chat:
    """A conversation of several turns, for the length of an ``async with`` block. All methods belong to the event loop.

    ::

        async with Chat(model="x.gguf", system="Be brief.") as chat:
            print(await chat.send("Hello"))
            async for event in chat.stream("And now?"):
                if isinstance(event, TextDelta):
                    print(event.text, end="")
    """

    def __init__(
        self,
        backend: Backend | None = None,
        /,
        *,
        conversation: Conversation | None = None,
        tools: Sequence[ToolFunction] = (),
        **settings: object,
    ) -> None:
        """``backend``: one that is open already and stays open, for several chats one after the other; without it the
        chat opens one of its own from ``settings``, as :func:`open_backend` does. ``conversation``: the turns before
        the first message; the setting ``system`` replaces its system prompt. ``tools``: functions that the model may
        call, at any time and without a question. ``settings``: with a ``backend``, only ``system``, ``max_tokens``
        (tokens) and ``timeout`` (seconds).

        With ``journal=True`` the turns are kept in the journal of the program.

        :raises UsageError: a setting or a tool that cannot be used.
        """
        self._settings, self._configured = from_keywords(Settings() if backend is not None else None, settings)
        if backend is not None and (wrong := sorted(settings.keys() - _OF_A_CHAT)):
            raise UsageError(
                f"{', '.join(wrong)} does not go with a backend that is open", remedy="give it to open_backend"
            )
        factory.refuse_for_an_engine(settings, self._settings, str)
        self._tools = _toolbox(tools) if tools else None
        self._toolbox: Toolbox | None = None
        self._given = backend
        self._backend = backend
        self._exits = AsyncExitStack()
        self._recorder: JournalRecorder | None = None
        self._complaints: list[str] = []
        self._events: AsyncGenerator[Event] | None = None
        self.conversation = conversation or Conversation()
        """All turns so far. Assign another one between two replies to take turns back or to go on elsewhere."""
        if self._settings.system:
            self.conversation = self.conversation.with_system(self._settings.system)

    async def __aenter__(self) -> Self:
        """Raises as :func:`open_backend` does."""
        if self._given is None:
            self._backend = await self._open()
        if self.conversation.turns:
            self.backend.prepare(self.conversation)
        return self

    async def _open(self) -> Backend:
        backend = await _opened(self._settings, self._configured)
        self._exits.push_async_callback(backend.close)
        factory.expect(backend, self._tools)
        if self._settings.journal and not self._settings.attach:  # a server keeps its chats itself
            self._recorder = factory.open_local_journal(self._settings).recorder(self._complaints.append)
            self._exits.push_async_callback(self._recorder.close)
        backend.start()
        return backend

    async def __aexit__(self, *_: object) -> None:
        """Stops a reply that is under way, and closes the backend that the chat has opened."""
        try:
            if self._events is not None and not self._is_awaited:
                await self._events.aclose()
        finally:
            self._events, self._backend = None, self._given
            await self._exits.aclose()

    @property
    def backend(self) -> Backend:
        """The backend of the chat. Raises UsageError outside of the ``async with`` block."""
        if self._backend is None:
            raise UsageError("the chat is not open", remedy="use it inside of: async with Chat(...) as chat")
        return self._backend

    @property
    def _is_awaited(self) -> bool:
        """Whether another task waits for the next event."""
        return getattr(self._events, "ag_running", False)

    def stream(self, text: str, options: ReplyOptions | None = None) -> AsyncGenerator[Event]:
        """Send a message, and yield the events of the reply as they come: see :data:`Event`.

        With tools: each :class:`ToolCall` is yielded before its function is called, a :class:`Notice` has its result,
        and the text of the :class:`Completed` is that of all replies of the turn.

        A loop that is left early stops the reply, at the latest with the next message; what had arrived stays in
        ``conversation``. After a :class:`Failed`, or where nothing had arrived, the turn is not kept.

        ``options``: of this reply; those of the settings unless given.

        :raises UsageError: an empty message, or a chat that is not open or has a reply under way in another task.
        """
        if self._is_awaited:
            raise UsageError("the chat has a reply under way", remedy="wait for its end, or stop() it")
        if not text.strip():
            raise UsageError("the message is empty")
        earlier, backend = self._events, self.backend
        self._events = self._turn(backend, text, options or factory.reply_options(self._settings), earlier)
        return self._events

    async def send(self, text: str, options: ReplyOptions | None = None) -> str:
        """Send a message and return the text of the reply. A reply that a token limit cut is returned as it is:
        ``conversation.last.finish`` is then ``FinishReason.LENGTH``.

        :raises UsageError: as :meth:`stream`.
        :raises BitnetChatError: the reply failed, or did not come to its end: :class:`EngineDiedError`,
            :class:`EngineStalledError`, :class:`RequestTimeoutError`, :class:`ContextOverflowError`,
            :class:`RepetitionError`, :class:`EmptyReplyError`, and :class:`ReplyCancelledError` after :meth:`stop`.
            What had arrived is the last message of ``conversation``.
        """
        async with aclosing(self.stream(text, options)) as events:
            async for event in events:
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Completed):
                    if event.reason in _ENDS:
                        error, what = _ENDS[event.reason]
                        raise error(what)
                    return event.text
        raise AssertionError("a reply ended without Completed or Failed")

    def stop(self) -> None:
        """Stops the reply and the tool that is under way, if any; the events of the reply still end with a
        :class:`Completed`, of the reason ``interrupted``."""
        if self._toolbox is not None:
            self._toolbox.stop()
        if self._backend is not None:
            self._backend.interrupt()

    async def _turn(
        self, backend: Backend, text: str, options: ReplyOptions, earlier: AsyncGenerator[Event] | None
    ) -> AsyncGenerator[Event]:
        if earlier is not None:
            await earlier.aclose()
        before = self.conversation
        conversation = before.with_user(text)
        events: Any
        if self._tools is None:
            events = self._reply(backend, conversation, options)
        else:
            from bitnet_chat.tools.loop import ResultBudget, rounds

            toolbox = self._toolbox = self._tools.only(self._tools.names)  # one that nothing has stopped
            options = replace(options, tools=toolbox.tools)

            def space(conversation: Conversation) -> ResultBudget:
                return ResultBudget(conversation, toolbox.tools, backend.status().context_size, backend.count)

            events = rounds(partial(self._reply, backend, options=options), conversation, toolbox, space)
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Failed):
                    self.conversation = before
                while self._complaints:
                    yield Notice(self._complaints.pop(0))
                yield event

    async def _reply(
        self, backend: Backend, conversation: Conversation, options: ReplyOptions
    ) -> AsyncGenerator[Event]:
        """The events of one reply, which is in ``self.conversation`` before its end is yielded."""
        events: Any
        if self._recorder is None:
            events = backend.reply(conversation, options)
        else:
            from bitnet_chat.backends.wrappers.recording import record_reply

            events = record_reply(backend, self._recorder, conversation, options)
        text, thoughts, calls = list[str](), list[str](), list[ToolCall]()
        end: Completed | Failed | None = None
        try:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, TextDelta):
                        text.append(event.text)
                    elif isinstance(event, ThinkingDelta):
                        thoughts.append(event.text)
                    elif isinstance(event, ToolCall):
                        calls.append(event)
                    elif isinstance(event, Completed | Failed):
                        end = event
                        continue
                    yield event
        finally:
            reason = end.reason if isinstance(end, Completed) else FinishReason.INTERRUPTED
            answers_tools = conversation.messages[-1].role == "tool"
            if not isinstance(end, Failed) and (text or thoughts or calls or answers_tools):
                kept = tuple(calls) if reason is FinishReason.TOOL_CALLS else ()
                self.conversation = conversation.with_assistant("".join(text), reason, "".join(thoughts), kept)
        if end is not None:
            yield end


def ask(question: str, /, *, tools: Sequence[ToolFunction] = (), **settings: Any) -> str:
    """The reply to one question, for scripts without an event loop: ``print(bitnet_chat.ask("Hello"))``.

    The model is loaded anew for each call: use a :class:`Chat` for several questions. ``tools``, ``settings``: as
    :class:`Chat` takes them.

    :raises UsageError: as :class:`Chat`, and inside of a running event loop.
    :raises BitnetChatError: as :func:`open_backend` and :meth:`Chat.send`.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise UsageError("ask() cannot wait inside of a running event loop", remedy="use Chat, and await chat.send()")

    async def answer() -> str:
        async with Chat(tools=tools, **settings) as chat:
            return await chat.send(question)

    return asyncio.run(answer())


def _toolbox(functions: Sequence[ToolFunction]) -> Toolbox:
    from bitnet_chat.tools.loading import toolbox_of

    return toolbox_of(functions)
