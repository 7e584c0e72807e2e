"""Tools for a backend without them: tools are written into the prompt, and calls are parsed from the reply."""

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
from bitnet_chat.events import Completed, Event, Failed, Started, Stats, TextDelta
from bitnet_chat.filters.continuation import paragraph_break
from bitnet_chat.filters.tool_call_repair import CallProgress, InvalidToolCall, ToolCallRepair
from bitnet_chat.filters.tool_calls import OPENING, MalformedCall, Piece, PlainText, ToolCallSplitter
from bitnet_chat.templates.tool_format import RawToolTurn, ToolFormat, inline_tools, responses
from bitnet_chat.text.utf8 import rejoined
from bitnet_chat.util.threads import run_beside_loop, run_in_daemon_thread

if TYPE_CHECKING:
    from bitnet_chat.templates.chat_template import ChatTemplate

_REMEMBERED = 256
"""Number of replies whose exact text is kept."""

Replies = Callable[[Conversation, ReplyOptions], AsyncGenerator[Event]]


class PromptToolAdapter:
    """Translates between tools of a front end and plain messages of an engine.

    The exact text of each reply with calls is kept, so that an engine with this text in its cache does not prefill it
    again in the form of the template. For an independent request it is found by the ids of the calls, which only the
    client of that reply has. Invalid calls are repaired as in :mod:`bitnet_chat.filters.tool_call_repair`.
    """

    def __init__(
        self,
        template: Callable[[], ChatTemplate],
        replies: Replies,
        interrupt: Callable[[], None],
        *,
        continues: bool = True,
    ) -> None:
        """``template``: reads the header of the model, and may take time. ``replies`` and ``interrupt``: those of the
        engine. ``continues``: whether the engine can continue a given beginning of a reply, which forces a call."""
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
        """The tools of the last reply, probably also of the next one."""

    def prepare(self, history: Conversation, prepare: Callable[[Conversation], None]) -> None:
        """Call ``prepare`` with the plain form of ``history``, at once if it has no tools."""
        self.cancel()
        if self.tools or has_tools(history):
            self._preparing = asyncio.ensure_future(self._prepare_later(history, prepare))
        else:
            prepare(self._plain(history, self.tools, self._alone))

    async def _prepare_later(self, history: Conversation, prepare: Callable[[Conversation], None]) -> None:
        await self._known()
        with contextlib.suppress(BitnetChatError):  # the next reply reports the error
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
        self.tools = options.offered
        return ReplyPipeline(None).then(_ToolCallFilter(self, conversation, options))

    async def plain(self, conversation: Conversation, options: ReplyOptions) -> tuple[Conversation, ReplyOptions]:
        """The plain form of a request. Raises UnsupportedError for tools that the template does not support."""
        tools = options.offered
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
        # A stop text must not end a call.
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
    """Separates calls from text. Its first step makes the plain form of the conversation; a further one repeats the
    request after invalid calls."""

    def __init__(self, adapter: PromptToolAdapter, conversation: Conversation, options: ReplyOptions) -> None:
        self._adapter, self._conversation, self._options = adapter, conversation, options
        self._begun = _beginning(options)
        self._repair = ToolCallRepair(adapter.tools)
        self._reading = _ReplyParser(self._repair, self._begun, has_tools=bool(adapter.tools))
        self._progress = CallProgress()
        self._plain, self._asked = conversation, options
        self._turns: tuple[Message, ...] = ()
        """The complete answers of the engine in this reply, and the messages between them."""
        self._is_parsed = False
        """Whether the next events are in their final form."""
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
        return ReplyPipeline(self._adapter.replies(self._plain, self._asked))

    async def _ask_again(self) -> ReplyPipeline:
        """Report the faults to the model, within the same reply."""
        reading, plain = self._reading, self._plain
        if self._adapter.was_interrupted and reading.end is not None:
            self._is_parsed = True
            return ReplyPipeline(only(reading.end))
        reports = [fault.report for fault in self._repair.reported]
        self._turns = (*self._turns, Message("user", responses(reports)))
        earlier = plain.messages[:-1] if self._goes_on else plain.messages
        self._asked = self._asked.after(reading.stats)
        reading.begin_again()
        again = _begun(Conversation((*earlier, *self._turns)), self._begun)
        return ReplyPipeline(self._adapter.replies(again, self._asked))

    def _parsed(self, text: str) -> list[Event]:
        events, was_stopped = self._reading.feed(text), self._progress.is_too_long
        now = asyncio.get_running_loop().time()
        events += self._progress.feed(self._reading.call_size, now, has_text=bool(events))
        if self._progress.is_too_long and not was_stopped:
            joined = self._options.joined
            (self._adapter.stop if joined is None else joined.stop)()
        return events

    @property
    def _goes_on(self) -> bool:
        """Whether the request continues an incomplete reply."""
        last = self._plain.last
        return last is not None and last.role == "assistant"

    def _ended(self, event: Completed | Failed) -> list[Event]:
        reading, events = self._reading, list[Event]()
        if not self._is_parsed:
            events = reading.finish(event, was_stopped=self._progress.is_too_long)
            last = self._plain.last
            cut = last.content if last is not None and self._goes_on else ""
            answer = Message("assistant", (self._begun if self._turns else cut) + reading.raw)
            self._turns = (*self._turns, answer)
            if reading.is_whole and self._repair.is_needed and not self._adapter.was_interrupted:
                if self._repair.begin_answer():
                    self.step = self._ask_again
                    return events
                events.append(self._repair.failure)
        if reading.end is not None:
            events.append(self._as_told(reading.end))
        return events

    def _as_told(self, end: Completed | Failed) -> Completed | Failed:
        """``end`` for the front end. Keeps the exact text of the engine for a later request with this reply."""
        if not isinstance(end, Completed):
            return end
        calls = tuple(self._repair.calls) if end.reason is FinishReason.STOP else ()
        if calls:
            end = replace(end, reason=FinishReason.TOOL_CALLS)
        if calls or (len(self._turns) > 1 and not self._begun):
            cut = self._conversation.messages[-1]
            before = cut.content if cut.role == "assistant" else ""
            message = Message("assistant", rejoined(before + end.text), tool_calls=calls)
            faults = tuple(fault.report for fault in self._repair.faults) if calls else ()
            self._adapter.remember(message, RawToolTurn(self._turns, faults))
        elif self._begun and end.reason is FinishReason.STOP:
            why = "the model began the requested call, but the call cannot be read"
            return Failed(UnsupportedError("tool_choice", why, remedy="use auto"), end.text)
        return end


class _ReplyParser:
    """Separates text and calls of a reply, and keeps the exact text of the engine."""

    def __init__(self, repair: ToolCallRepair, begun: str, *, has_tools: bool) -> None:
        """``repair``: gets the calls. ``begun``: the given beginning of each answer, which the engine does not
        repeat."""
        self._repair, self._begun = repair, begun
        self._splitter = self._new_splitter() if has_tools else None
        self._raw: list[str] = []
        self._said: list[str] = []
        self._before = ""
        """The text of earlier answers, until the present one has text."""
        self._earlier: Stats | None = None
        self.end: Completed | Failed | None = None

    def begin_again(self) -> None:
        """Begin another answer within the same reply."""
        self._earlier, self._before = self.stats, "".join(self._said)
        self._splitter = self._new_splitter()
        self._raw, self.end = [], None

    def _new_splitter(self) -> ToolCallSplitter:
        splitter = ToolCallSplitter()
        splitter.feed(self._begun)
        return splitter

    @property
    def raw(self) -> str:
        """The exact text of the present answer."""
        return "".join(self._raw)

    @property
    def is_whole(self) -> bool:
        """Whether the model has ended its answer."""
        return isinstance(self.end, Completed) and self.end.reason is FinishReason.STOP

    @property
    def stats(self) -> Stats:
        return self.end.stats if isinstance(self.end, Completed) else Stats()

    @property
    def call_size(self) -> int:
        """Characters of an unfinished call."""
        return self._splitter.call_size if self._splitter is not None else 0

    def feed(self, text: str) -> list[Event]:
        self._raw.append(text)
        return self._events(self._splitter.feed(text) if self._splitter is not None else [PlainText(text)])

    def finish(self, end: Completed | Failed, *, was_stopped: bool) -> list[Event]:
        """The last events of the answer. ``was_stopped``: a call was too long."""
        if was_stopped and isinstance(end, Completed):
            end = replace(end, reason=FinishReason.LENGTH)
        whole = isinstance(end, Completed) and end.reason is FinishReason.STOP
        events = self._events(self._splitter.flush(whole=whole) if self._splitter is not None else [])
        self.end = replace(end, text="".join(self._said))
        if self._earlier is not None and isinstance(self.end, Completed):
            self.end = replace(self.end, stats=self._earlier + self.end.stats)
        return events

    def _events(self, pieces: Sequence[Piece]) -> list[Event]:
        events: list[Event] = []
        for piece in pieces:
            if isinstance(piece, PlainText):
                text, self._before = paragraph_break(self._before) + piece.text, ""
                self._said.append(text)
                events.append(TextDelta(text))
                continue
            known = len(self._repair.calls)
            if isinstance(piece, MalformedCall):
                self._repair.add(InvalidToolCall.of("", "", piece.why))
            else:
                self._repair.add(ToolCall(f"call_{secrets.token_hex(8)}", piece.name, piece.arguments))
            events += self._repair.calls[known:]
        return events


def _beginning(options: ReplyOptions) -> str:
    """The beginning of a reply that forces a call, of one tool or of any; empty: no call is required."""
    tools = options.offered
    if not tools or options.tool_choice == "auto":
        return ""
    name = tools[0].name if len(tools) == 1 else options.tool_choice
    if len(tools) > 1 and options.tool_choice == "required":
        return f'{OPENING}\n{{"name": "'
    return f'{OPENING}\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments":'


def _begun(conversation: Conversation, text: str) -> Conversation:
    """``conversation`` with ``text`` as the beginning of the reply."""
    if not text:
        return conversation
    *earlier, last = conversation.messages
    if last.role != "assistant":
        return Conversation((*conversation.messages, Message("assistant", text, FinishReason.LENGTH)))
    return Conversation((*earlier, replace(last, content=f"{last.content}\n{text}")))


def has_tools(conversation: Conversation) -> bool:
    """Whether the conversation has tool calls or results."""
    return any(message.role == "tool" or message.tool_calls for message in conversation.messages)


def _key(message: Message, alone: bool) -> tuple[object, ...]:
    """The part of a reply that a later request contains. White space around the text and in the arguments may differ,
    and, unless the request is independent (``alone``), the ids of calls as well."""
    calls = ((call.id if alone else "", call.name, _canonical(call.arguments)) for call in message.tool_calls)
    return alone, message.content.strip(), *calls


def _canonical(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments
