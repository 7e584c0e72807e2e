"""Tools on a backend for text alone: tools are written into the prompt, and calls are parsed from the reply."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.pipeline import ReplyFilter, ReplyPipeline, only, run
from bitnet_chat.conversation import Conversation, Message, Tool, ToolCall
from bitnet_chat.errors import BitnetChatError, FinishReason, UnsupportedError
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, Stats, TextDelta
from bitnet_chat.filters.tool_calls import (
    CALL_LIMIT,
    OPENING,
    MalformedCall,
    ParsedCall,
    Piece,
    PlainText,
    ToolCallSplitter,
)
from bitnet_chat.templates.tool_format import RawToolTurn, ToolFormat, inline_tools, responses
from bitnet_chat.text.utf8 import rejoined
from bitnet_chat.util.threads import run_beside_loop, run_in_daemon_thread

if TYPE_CHECKING:
    from bitnet_chat.templates.chat_template import ChatTemplate

_REMEMBERED = 256
"""Number of replies whose exact text is kept."""
_SIGN_OF_LIFE = 20.0
"""Seconds of a tool call after which a notice reports that the model is still generating it."""

Replies = Callable[[Conversation, ReplyOptions], AsyncGenerator[Event]]


class PromptToolAdapter:
    """Translates between tools of a front end and plain messages of an engine.

    The engine's exact text of each reply with calls is kept, so that an engine with this text in its cache need not
    prefill it again in the form of the template. For an independent request it is found by the ids of the calls, which
    cannot be guessed: only a client that got that reply has them. The model is told once of a call that cannot be
    read, within the same reply; the front end gets a notice only if the model fails again.
    """

    def __init__(
        self,
        template: Callable[[], ChatTemplate],
        replies: Replies,
        interrupt: Callable[[], None],
        *,
        continues: bool = True,
    ) -> None:
        """``template``: reads the model's header, and may take time. ``replies`` and ``interrupt``: those of the
        engine. ``continues``: whether it goes on with a reply that was begun for it, so that it can be made to call."""
        self._continues = continues
        self._template = template
        self.replies = replies
        self.stop = interrupt
        self._format: ToolFormat | BitnetChatError | None = None
        self._spoken: OrderedDict[tuple[object, ...], RawToolTurn] = OrderedDict()
        self._preparing: asyncio.Task[None] | None = None
        self.was_interrupted = False
        self._alone = False
        """Whether the request is independent of others."""
        self.tools: tuple[Tool, ...] = ()
        """The tools of the last reply, and most likely of the next one."""

    def prepare(self, history: Conversation, prepare: Callable[[Conversation], None]) -> None:
        """``prepare`` is called with the plain form of ``history``: at once where there is nothing of tools in it."""
        self.cancel()
        if self.tools or has_tools(history):
            self._preparing = asyncio.ensure_future(self._prepare_later(history, prepare))
        else:
            prepare(self._plain(history, self.tools, self._alone))

    async def _prepare_later(self, history: Conversation, prepare: Callable[[Conversation], None]) -> None:
        await self._known()
        with contextlib.suppress(BitnetChatError):  # the next reply reports it
            prepare(await run_in_daemon_thread(lambda: self._plain(history, self.tools, self._alone)))

    def cancel(self) -> None:
        """Cancel a preparation that has not begun."""
        if self._preparing is not None:
            self._preparing.cancel()
            self._preparing = None

    def interrupt(self) -> None:
        self.was_interrupted = True
        self.stop()

    def reply(self, conversation: Conversation, options: ReplyOptions) -> AsyncGenerator[Event]:
        """See :meth:`bitnet_chat.backend.Backend.reply`."""
        return run(lambda: self.pipeline(conversation, options))

    def pipeline(self, conversation: Conversation, options: ReplyOptions) -> ReplyPipeline:
        """See :class:`bitnet_chat.backends.pipeline.PipelineBackend`."""
        self.cancel()
        self.was_interrupted, self._alone = False, options.alone
        self.tools = _offered(options)
        return ReplyPipeline(None).then(_ToolCallFilter(self, conversation, options))

    async def plain(self, conversation: Conversation, options: ReplyOptions) -> tuple[Conversation, ReplyOptions]:
        """The plain form of a request. Raises UnsupportedError for tools that the template has no form for."""
        tools = _offered(options)
        format = await self._known()
        if tools and isinstance(format, BitnetChatError):
            raise format
        begun = _beginning(options)
        if begun and not self._continues:
            why = "this engine cannot begin its reply with a given text"
            raise UnsupportedError("tool_choice", why, remedy="use auto, or --backend llama-server")
        if tools or has_tools(conversation):  # rendered by the template, which may take its whole time limit
            plain = await run_in_daemon_thread(lambda: self._plain(conversation, tools, options.alone))
        else:
            plain = await run_beside_loop(conversation, self._plain, conversation, tools, options.alone)
        # A stop text ends text, but not a call.
        return _begun(plain, begun), replace(options, tools=(), tool_choice="auto", stop=() if tools else options.stop)

    async def _known(self) -> ToolFormat | BitnetChatError:
        """The template's tool format, or the reason for its absence."""
        if self._format is None:
            self._format = await run_in_daemon_thread(self._look)
        return self._format

    def _look(self) -> ToolFormat | BitnetChatError:
        try:
            return ToolFormat(self._template())
        except BitnetChatError as error:
            return error

    def _plain(self, conversation: Conversation, tools: Sequence[Tool], alone: bool) -> Conversation:
        format = self._format if isinstance(self._format, ToolFormat) else None
        return inline_tools(conversation, tools, format, lambda message: self._spoken.get(_key(message, alone)))

    def remember(self, message: Message, spoken: RawToolTurn) -> None:
        if self._alone and not message.tool_calls:
            return
        key = _key(message, self._alone)
        self._spoken[key] = spoken
        self._spoken.move_to_end(key)
        if len(self._spoken) > _REMEMBERED:
            self._spoken.popitem(last=False)


class _ToolCallFilter(ReplyFilter):
    """Separates calls from text. Begins with the plain form of the conversation, and asks the model once more after a
    call that cannot be read."""

    def __init__(self, adapter: PromptToolAdapter, conversation: Conversation, options: ReplyOptions) -> None:
        self._adapter, self._conversation, self._options = adapter, conversation, options
        self._begun = _beginning(options)
        self._reading = _ReplyParser(adapter.tools, self._begun)
        self._plain, self._asked = conversation, options
        self._turns: tuple[Message, ...] = ()
        """The engine's answers and the messages to it in this reply, once its first answer has ended."""
        self._is_parsed = False
        """The events to come are those of the front end already."""
        self._loop = asyncio.get_running_loop()
        self._delivered = self._loop.time()
        self.step = self._ask

    def feed(self, event: Event) -> Sequence[Event]:
        if isinstance(event, TextDelta):
            return self._parsed(event.text)
        if isinstance(event, (Completed, Failed)):
            return self._ended(event)
        if isinstance(event, Started) and self._turns:
            return ()
        return (event,)

    async def _ask(self) -> ReplyPipeline:
        try:
            self._plain, self._asked = await self._adapter.plain(self._conversation, self._options)
        except BitnetChatError as error:
            return ReplyPipeline(only(Failed(error)))
        if self._adapter.was_interrupted:
            return ReplyPipeline(only(Completed(FinishReason.INTERRUPTED, "")))
        return self._source(self._plain)

    async def _ask_again(self) -> ReplyPipeline:
        """Report the fault to the model, once, within the same reply."""
        reading, plain = self._reading, self._plain
        if self._adapter.was_interrupted and reading.end is not None:
            self._is_parsed = True
            return ReplyPipeline(only(reading.end))
        self._turns = (*self._turns, Message("user", responses(reading.told)))
        earlier = plain.messages[:-1] if self._goes_on else plain.messages
        self._asked = _left(self._asked, reading.stats)
        reading.begin_again()
        return self._source(_begun(Conversation((*earlier, *self._turns)), self._begun))

    def _source(self, plain: Conversation) -> ReplyPipeline:
        self._delivered = self._loop.time()
        return ReplyPipeline(self._adapter.replies(plain, self._asked))

    def _parsed(self, text: str) -> list[Event]:
        reading = self._reading
        events = reading.feed(text)
        if events:
            self._delivered = self._loop.time()
        if reading.is_too_long and not reading.is_stopped:
            reading.is_stopped = True
            events.append(Notice(f"a tool call was stopped: it was longer than {CALL_LIMIT:,} characters"))
            self._adapter.stop()
        elif reading.is_in_call and self._loop.time() - self._delivered > _SIGN_OF_LIFE:
            self._delivered = self._loop.time()
            events.append(Notice("the model is generating a long tool call"))
        return events

    @property
    def _goes_on(self) -> bool:
        """Whether the reply continues one that was cut."""
        last = self._plain.last
        return last is not None and last.role == "assistant"

    def _ended(self, event: Completed | Failed) -> list[Event]:
        reading, is_first = self._reading, not self._turns
        events = [] if self._is_parsed else reading.finish(event)
        if is_first:
            last = self._plain.last
            before = last.content if last is not None and self._goes_on else ""
            self._turns = (Message("assistant", before + reading.raw),)
            if reading.is_faulty and not self._adapter.was_interrupted:
                self.step = self._ask_again
                return events
        elif not self._is_parsed:
            self._turns = (*self._turns, Message("assistant", self._begun + reading.raw))
            if reading.is_faulty:
                why = reading.faults[-1].why
                events.append(Notice(f"the model twice asked for a tool in a form that cannot be read: {why}"))
        if reading.end is not None:
            events.append(self._as_told(reading.end))
        return events

    def _as_told(self, end: Completed | Failed) -> Completed | Failed:
        """``end`` for the front end. Remembers the engine's own words for what the front end gives back of them."""
        if not isinstance(end, Completed):
            return end
        calls = tuple(self._reading.calls) if end.reason is FinishReason.STOP else ()
        if calls:
            end = replace(end, reason=FinishReason.TOOL_CALLS)
        if calls or (len(self._turns) > 1 and not self._begun):
            cut = self._conversation.messages[-1]
            before = cut.content if cut.role == "assistant" else ""
            message = Message("assistant", rejoined(before + end.text), tool_calls=calls)
            self._adapter.remember(message, RawToolTurn(self._turns, self._reading.told if calls else ()))
        elif self._begun and end.reason is FinishReason.STOP:
            why = "the model began the requested call, but the call cannot be read"
            return Failed(UnsupportedError("tool_choice", why, remedy="use auto"), end.text)
        return end


class _ReplyParser:
    """The content of a reply: text and calls, separated, and the engine's exact text."""

    def __init__(self, tools: Sequence[Tool], begun: str = "") -> None:
        """``begun``: the given beginning of each answer, which the engine does not repeat."""
        self._names = [tool.name for tool in tools]
        self._begun = begun
        self._splitter = self._new_splitter() if tools else None
        self._raw: list[str] = []
        self._said: list[str] = []
        self._apart = False
        """The next text is another paragraph."""
        self._earlier = Stats()
        self._began_again = False
        self.is_stopped = False
        """The end of a call that was longer than the limit."""
        self.calls: list[ToolCall] = []
        self.faults: list[MalformedCall] = []
        self.end: Completed | Failed | None = None

    def begin_again(self) -> None:
        """The same reply goes on with another answer of the engine."""
        self._earlier, self._began_again = self.stats, True
        self._splitter = self._new_splitter()
        self._raw, self.faults, self.end = [], [], None
        self._apart = bool(self._said)

    def _new_splitter(self) -> ToolCallSplitter:
        splitter = ToolCallSplitter()
        splitter.feed(self._begun)
        return splitter

    @property
    def raw(self) -> str:
        """The engine's last answer, unchanged."""
        return "".join(self._raw)

    @property
    def is_faulty(self) -> bool:
        """Whether the reply is complete, and none of its calls can be read."""
        whole = isinstance(self.end, Completed) and self.end.reason is FinishReason.STOP
        return whole and bool(self.faults) and not self.calls

    @property
    def told(self) -> tuple[str, ...]:
        """The messages to the model about its faults."""
        return tuple(f"error: this call cannot be read: {fault.why}. Write it again." for fault in self.faults)

    @property
    def stats(self) -> Stats:
        return self.end.stats if isinstance(self.end, Completed) else Stats()

    @property
    def is_in_call(self) -> bool:
        return self._splitter is not None and self._splitter.is_in_call

    @property
    def is_too_long(self) -> bool:
        return self._splitter is not None and self._splitter.is_too_long

    def feed(self, text: str) -> list[Event]:
        self._raw.append(text)
        return self._events(self._splitter.feed(text) if self._splitter is not None else [PlainText(text)])

    def finish(self, end: Completed | Failed) -> list[Event]:
        """The engine has ended its answer."""
        if self.is_stopped and isinstance(end, Completed):
            end = replace(end, reason=FinishReason.LENGTH)
        whole = isinstance(end, Completed) and end.reason is FinishReason.STOP
        events = self._events(self._splitter.flush(whole=whole) if self._splitter is not None else [])
        self.end = replace(end, text="".join(self._said))
        if self._began_again and isinstance(self.end, Completed):
            self.end = replace(self.end, stats=_sum(self._earlier, self.end.stats))
        return events

    def _events(self, pieces: Sequence[Piece]) -> list[Event]:
        events: list[Event] = []
        for piece in pieces:
            if isinstance(piece, PlainText):
                text, self._apart = ("\n\n" if self._apart else "") + piece.text, False
                self._said.append(text)
                events.append(TextDelta(text))
            elif isinstance(piece, MalformedCall):
                self.faults.append(piece)
            elif piece.name in self._names:
                call = ToolCall(f"call_{secrets.token_hex(8)}", piece.name, piece.arguments)
                self.calls.append(call)
                events.append(call)
            else:
                self.faults.append(_unknown(piece, self._names))
        return events


def _offered(options: ReplyOptions) -> tuple[Tool, ...]:
    return options.tools if options.tool_choice != "none" else ()


def _beginning(options: ReplyOptions) -> str:
    """The beginning of a reply that can only be a call, where one is asked for: of one tool, or of any."""
    tools = _offered(options)
    if not tools or options.tool_choice == "auto":
        return ""
    name = tools[0].name if len(tools) == 1 else options.tool_choice
    if len(tools) > 1 and options.tool_choice == "required":
        return f'{OPENING}\n{{"name": "'
    return f'{OPENING}\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments":'


def _begun(conversation: Conversation, text: str) -> Conversation:
    """The same where the reply begins with ``text``."""
    if not text:
        return conversation
    *earlier, last = conversation.messages
    if last.role != "assistant":
        return Conversation((*conversation.messages, Message("assistant", text, FinishReason.LENGTH)))
    return Conversation((*earlier, replace(last, content=f"{last.content}\n{text}")))


def has_tools(conversation: Conversation) -> bool:
    """Whether the conversation has tool calls or results."""
    return any(message.role == "tool" or message.tool_calls for message in conversation.messages)


def _unknown(call: ParsedCall, names: Sequence[str]) -> MalformedCall:
    return MalformedCall(call.arguments, f"there is no tool {call.name!r}; there are: {', '.join(names)}")


def _left(options: ReplyOptions, used: Stats) -> ReplyOptions:
    """The limits that are left for another answer."""
    return replace(
        options,
        max_tokens=None if options.max_tokens is None else max(1, options.max_tokens - used.tokens),
        timeout=None if options.timeout is None else max(0.1, options.timeout - used.seconds),
    )


def _sum(first: Stats, second: Stats) -> Stats:
    """The figures of a reply in two parts."""
    return replace(
        second,
        prompt_tokens=first.prompt_tokens,
        prompt_size=first.prompt_size,
        tokens=first.tokens + second.tokens,
        time_to_first_token=first.time_to_first_token,
        first_tokens=first.first_tokens,
        seconds=first.seconds + second.seconds,
        exact=first.exact and second.exact,
    )


def _key(message: Message, alone: bool) -> tuple[object, ...]:
    """What a front end gives back of a reply. White space around the text and in the arguments may be another; so may
    be the ids of calls, but for a request that stands ``alone``."""
    calls = ((call.id if alone else "", call.name, _canonical(call.arguments)) for call in message.tool_calls)
    return alone, message.content.strip(), *calls


def _canonical(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments
