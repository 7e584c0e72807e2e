"""The library interface: :func:`open_backend`, :class:`Chat` and :func:`ask`. It neither prints nor downloads
anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from bitnet_chat.backend import Backend, ReplyOptions
from bitnet_chat.backends import factory
from bitnet_chat.backends.variants import check_count, variants_of
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
from bitnet_chat.events import Completed, Event, Failed, Notice, TextDelta, ThinkingDelta, VariantEvent
from bitnet_chat.util.threads import run_in_daemon_thread

if TYPE_CHECKING:
    from bitnet_chat.journal import Journal, JournalRecorder
    from bitnet_chat.tools import Toolbox

ToolFunction = Callable[..., object]
"""A function with type hints and a docstring, sync or async. Its result is a string or a JSON value."""

_CHAT_SETTINGS = frozenset({"system", "max_tokens", "timeout"})
"""Settings that a chat uses in addition to its backend."""
_INCOMPLETE: dict[FinishReason, tuple[Callable[[str], BitnetChatError], str]] = {
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
    """Open a backend for an ``async with`` block. It loads its model in the background, and leaves no process behind.

    ``keywords``: settings by their names in :class:`Settings`, such as ``model="x.gguf"``, ``ctx=4096`` (tokens) or
    ``timeout=60.0`` (seconds); a path can be a ``Path``. They take precedence over ``BITNET_CHAT_*`` variables, a
    persona and ``config.toml``. ``settings`` replaces these three sources. ``journal`` is False unless given as a
    keyword, and ``install`` has no effect: :func:`bitnet_chat.missing` finds missing requirements and installs them.

    ``system``, ``max_tokens`` and ``timeout`` are settings of a chat: a backend takes them with each reply.

    :raises UsageError: a setting does not exist or is invalid. :raises EngineNotFoundError: an engine was not found;
    :class:`EngineMissingError` names the prebuilt one to install. :raises ModelError: a model was not found, or cannot
    be read or converted.

    Errors while loading are reported with the first reply, as :class:`Failed`.
    """
    found, configured = from_keywords(settings, keywords)
    factory.refuse_for_an_engine(keywords, found, str)
    backend = await _open_backend(found, configured)
    try:
        backend.start()
        yield backend
    finally:
        await backend.close()


async def _open_backend(settings: Settings, configured: str) -> Backend:
    """Open the backend in a thread, because a conversion takes minutes, and finding an engine may start one."""

    def opened() -> Backend:
        journal = factory.open_journal(settings)
        return factory.open_interactive(settings, configured, journal, advice="nothing")

    return await run_in_daemon_thread(opened)


class Chat:
    """A conversation of several turns in an ``async with`` block. All methods must be called on the event loop.

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
        """Prepare a chat; the ``async with`` block opens it.

        ``backend``: an open backend, which stays open, so that several chats can use it one after the other. Without
        it, the chat opens a backend from ``settings`` like :func:`open_backend`. ``conversation``: the turns before the
        first message; the setting ``system`` replaces its system prompt. ``tools``: functions that the model may call
        at any time without approval. ``settings``: with a ``backend``, only ``system``, ``max_tokens`` (tokens) and
        ``timeout`` (seconds).

        With ``journal=True`` the turns are saved in the journal of the program.

        :raises UsageError: a setting or a tool is invalid.
        """
        self._settings, self._configured = from_keywords(Settings() if backend is not None else None, settings)
        if backend is not None and (wrong := sorted(settings.keys() - _CHAT_SETTINGS)):
            raise UsageError(f"{', '.join(wrong)} cannot be set for an open backend", remedy="pass it to open_backend")
        factory.refuse_for_an_engine(settings, self._settings, str)
        self._tools = _toolbox(tools) if tools else None
        self._toolbox: Toolbox | None = None
        self._shared_backend = backend
        self._backend = backend
        self._exits = AsyncExitStack()
        self._journal: Journal | None = None
        self._recorder: JournalRecorder | None = None
        self._complaints: list[str] = []
        self._events: AsyncGenerator[Any] | None = None
        self._variants: list[Conversation | None] = []
        """The conversation with each of several replies to its last message; None: it cannot be continued."""
        self.conversation = conversation or Conversation()
        """All turns so far. Assign another conversation between two replies to undo turns or to continue elsewhere."""
        if self._settings.system:
            self.conversation = self.conversation.with_system(self._settings.system)

    async def __aenter__(self) -> Self:
        """Open the chat. Raises the errors of :func:`open_backend`."""
        if self._shared_backend is None:
            self._backend = await self._open()
        if self.conversation.turns:
            self.backend.prepare(self.conversation)
        return self

    async def _open(self) -> Backend:
        backend = await _open_backend(self._settings, self._configured)
        self._exits.push_async_callback(backend.close)
        factory.expect(backend, self._tools)
        if self._settings.journal and not self._settings.attach:  # a server saves its chats itself
            self._journal = factory.open_local_journal(self._settings)
            self._recorder = self._journal.recorder(self._complaints.append)
            self._exits.push_async_callback(self._recorder.close)
        backend.start()
        return backend

    async def __aexit__(self, *_: object) -> None:
        """Stop a running reply, and close the backend that the chat has opened."""
        try:
            if self._events is not None and not self._is_awaited:
                await self._events.aclose()
        finally:
            self._events, self._backend = None, self._shared_backend
            await self._exits.aclose()

    @property
    def backend(self) -> Backend:
        """The backend of the chat. Raises UsageError outside the ``async with`` block."""
        if self._backend is None:
            raise UsageError("the chat is not open", remedy="use it inside: async with Chat(...) as chat")
        return self._backend

    @property
    def _is_awaited(self) -> bool:
        """Whether another task is waiting for the next event."""
        return getattr(self._events, "ag_running", False)

    def stream(self, text: str, options: ReplyOptions | None = None) -> AsyncGenerator[Event]:
        """Send a message, and yield the events of the reply as they arrive: see :data:`Event`.

        With tools, each :class:`ToolCall` is yielded before its function is called, a :class:`Notice` has its result,
        and the text of :class:`Completed` is that of all replies of the turn.

        Leaving the loop early stops the reply, at the latest with the next message; the text that arrived stays in
        ``conversation``. After :class:`Failed`, or if nothing arrived, the turn is dropped.

        ``options``: options of this reply; by default those of the settings.

        :raises UsageError: the message is empty, the chat is not open, or another task is waiting for a reply.
        """
        earlier, backend = self._check(text), self.backend
        self._events = self._turn(backend, text, options or factory.reply_options(self._settings), earlier)
        return self._events

    def _check(self, text: str) -> AsyncGenerator[Any] | None:
        """Raise UsageError if the message cannot be sent. Returns the events of the message before it."""
        if self._is_awaited:
            raise UsageError("the chat has a running reply", remedy="wait for its end, or stop() it")
        if not text.strip():
            raise UsageError("the message is empty")
        return self._events

    async def send(self, text: str, options: ReplyOptions | None = None) -> str:
        """Send a message and return the text of the reply.

        A reply that was cut off by a token limit is returned too; ``conversation.last.finish`` is then
        ``FinishReason.LENGTH``.

        :raises UsageError: see :meth:`stream`.
        :raises BitnetChatError: the reply failed or is incomplete: :class:`EngineDiedError`,
            :class:`EngineStalledError`, :class:`RequestTimeoutError`, :class:`ContextOverflowError`,
            :class:`RepetitionError`, :class:`EmptyReplyError`, and :class:`ReplyCancelledError` after :meth:`stop`.
            The text that arrived is in the last message of ``conversation``.
        """
        async with aclosing(self.stream(text, options)) as events:
            async for event in events:
                if isinstance(event, Completed | Failed):
                    return _text_of(event)
        raise AssertionError("a reply ended without Completed or Failed")

    def stream_variants(
        self, text: str, count: int, options: ReplyOptions | None = None
    ) -> AsyncGenerator[VariantEvent]:
        """Send a message, and yield the events of ``count`` replies as they arrive: see
        :func:`bitnet_chat.variants_of`.

        The first reply that is not empty and has not failed is then in ``conversation``; :meth:`choose` continues with
        another one. Without such a reply the turn is dropped. Leaving the loop early stops all replies.

        :raises UsageError: see :meth:`stream`; also for a count below 1 or above 8, and for a chat with tools.
        """
        earlier, backend = self._check(text), self.backend
        if self._tools is not None:
            raise UsageError("several replies cannot call tools", remedy="use a Chat without tools")
        check_count(count)
        options = options or factory.reply_options(self._settings)
        self._events = self._several(backend, text, options, count, earlier)
        return self._events

    async def send_variants(self, text: str, count: int, options: ReplyOptions | None = None) -> list[str]:
        """Send a message and return the texts of ``count`` replies. The chat continues with the first one, or with
        that of :meth:`choose`.

        :raises UsageError: see :meth:`stream_variants`.
        :raises BitnetChatError: after the end of all replies, for the first one that failed or is incomplete: see
            :meth:`send`. :meth:`stream_variants` has the text of the others.
        """
        ends: dict[int, Completed | Failed] = {}
        async with aclosing(self.stream_variants(text, count, options)) as events:
            async for each in events:
                if isinstance(each.event, Completed | Failed):
                    ends[each.variant] = each.event
        return [_text_of(ends[variant]) for variant in range(count)]

    async def choose(self, variant: int) -> None:
        """Continue with another one of several replies to the last message, counted from 0. Stops those that are still
        running.

        :raises UsageError: the reply does not exist or cannot be continued, or another task is waiting for the replies.
        """
        if self._is_awaited:
            raise UsageError("the chat has a running reply", remedy="wait for its end, or stop() it")
        if self._events is not None:
            await self._events.aclose()
        chosen = self._variants[variant] if 0 <= variant < len(self._variants) else None
        if chosen is None:
            raise UsageError(f"the last message has no reply {variant} that can be continued")
        self.conversation = chosen
        if self._recorder is not None and self._journal is not None:
            rows = await self._recorder.rows()
            row = rows.replies[variant] if rows is not None and variant < len(rows.replies) else None
            with suppress(BitnetChatError):  # of the journal: the chosen reply is then saved with the next message
                if row is not None and self._recorder.id is not None:
                    self._recorder.set_head(await asyncio.to_thread(self._journal.load, self._recorder.id, row))

    def stop(self) -> None:
        """Stop the running replies and the running tool, if any. The events of each reply then end with a
        :class:`Completed` with the reason ``interrupted``."""
        if self._toolbox is not None:
            self._toolbox.stop()
        if self._backend is not None:
            self._backend.interrupt()

    async def _turn(
        self, backend: Backend, text: str, options: ReplyOptions, earlier: AsyncGenerator[Event] | None
    ) -> AsyncGenerator[Event]:
        """Yield the events of one turn, including tool calls."""
        if earlier is not None:
            await earlier.aclose()
        self._variants = []
        before = self.conversation
        conversation = before.with_user(text)
        events: Any
        if self._tools is None:
            events = self._reply(backend, conversation, options)
        else:
            from bitnet_chat.tools.loop import ResultBudget, rounds

            toolbox = self._toolbox = self._tools.only(self._tools.names)  # a new toolbox, which is not stopped
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
        """Yield the events of one reply. It is in ``self.conversation`` before its last event is yielded."""
        events: Any
        if self._recorder is None:
            events = backend.reply(conversation, options)
        else:
            from bitnet_chat.backends.wrappers.recording import record_reply

            events = record_reply(backend, self._recorder, conversation, options)
        received = _PartialReply()
        try:
            async with aclosing(events):
                async for event in events:
                    received.add(event)
                    if received.end is None:
                        yield event
        finally:
            self.conversation = received.after(conversation) or self.conversation
        if received.end is not None:
            yield received.end

    async def _several(
        self, backend: Backend, text: str, options: ReplyOptions, count: int, earlier: AsyncGenerator[Any] | None
    ) -> AsyncGenerator[VariantEvent]:
        """Yield the events of several replies. They are in ``self._variants`` before their last event is yielded."""
        if earlier is not None:
            await earlier.aclose()
        before, received = self.conversation, [_PartialReply() for _ in range(count)]
        conversation = before.with_user(text)
        if self._recorder is None:
            events = variants_of(backend, conversation, options, count)
        else:
            from bitnet_chat.backends.wrappers.recording import record_variants

            events = record_variants(backend, self._recorder, conversation, options, count)
        try:
            async with aclosing(events):
                async for each in events:
                    received[each.variant].add(each.event)
                    if received[each.variant].end is not None:
                        self._keep(received, conversation, before)
                    while self._complaints:
                        yield VariantEvent(each.variant, Notice(self._complaints.pop(0)))
                    yield each
        finally:
            self._keep(received, conversation, before)

    def _keep(self, received: Sequence[_PartialReply], conversation: Conversation, before: Conversation) -> None:
        """Continue with the first of several replies that can be continued."""
        self._variants = [each.after(conversation) for each in received]
        self.conversation = next((each for each in self._variants if each is not None), before)


class _PartialReply:
    """What was received of a reply."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[ToolCall] = []
        self.end: Completed | Failed | None = None

    def add(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self._text.append(event.text)
        elif isinstance(event, ThinkingDelta):
            self._thoughts.append(event.text)
        elif isinstance(event, ToolCall):
            self._calls.append(event)
        elif isinstance(event, Completed | Failed):
            self.end = event

    def after(self, conversation: Conversation) -> Conversation | None:
        """The conversation with this reply, or with what has arrived of it. None: it is empty or has failed."""
        reason = self.end.reason if isinstance(self.end, Completed) else FinishReason.INTERRUPTED
        answers_tools = conversation.messages[-1].role == "tool"
        if isinstance(self.end, Failed) or not (self._text or self._thoughts or self._calls or answers_tools):
            return None
        kept = tuple(self._calls) if reason is FinishReason.TOOL_CALLS else ()
        return conversation.with_assistant("".join(self._text), reason, "".join(self._thoughts), kept)


def _text_of(end: Completed | Failed) -> str:
    """The text of a reply. Raises the error of one that failed or is incomplete."""
    if isinstance(end, Failed):
        raise end.error
    if end.reason in _INCOMPLETE:
        error, what = _INCOMPLETE[end.reason]
        raise error(what)
    return end.text


def ask(question: str, /, *, tools: Sequence[ToolFunction] = (), **settings: Any) -> str:
    """Return the reply to one question, for scripts without an event loop: ``print(bitnet_chat.ask("Hello"))``.

    Each call loads the model again: use a :class:`Chat` for several questions. ``tools``, ``settings``: see
    :class:`Chat`.

    :raises UsageError: see :class:`Chat`; also in a running event loop. :raises BitnetChatError: see
    :func:`open_backend` and :meth:`Chat.send`.
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
