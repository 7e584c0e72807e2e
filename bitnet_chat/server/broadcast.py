"""A running reply with any number of readers.

The reply is stored as text, not as pieces: a slow, late or reconnected reader receives all unread text in one piece,
and its only state is its position. A position counts the characters, tool calls and notices before it.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass

from bitnet_chat.conversation import ToolCall
from bitnet_chat.errors import BitnetChatError, FinishReason
from bitnet_chat.events import (
    Completed,
    Event,
    Failed,
    Notice,
    PromptProgress,
    Started,
    TextDelta,
    ThinkingDelta,
)
from bitnet_chat.server.errors import failure_of

DROPPED = "x-messages-dropped"
"""Header with the number of oldest messages that did not fit into the context window."""
_BLOCK = 1024
"""Characters up to which pieces are joined. Appending copies the text, so it must stay short."""


@dataclass(slots=True)
class _Segment:
    """A part of the reply: text of one kind, or one event."""

    start: int
    event: Event
    """A TextDelta or ThinkingDelta holds the joined text."""

    @property
    def size(self) -> int:
        return len(self.event.text) if isinstance(self.event, TextDelta | ThinkingDelta) else 1


@dataclass(frozen=True, slots=True)
class Cursor:
    """An event, and the position after it."""

    event: Event
    place: int


class ReplyBroadcast:
    """The events of one reply: :meth:`put` adds them, and :meth:`watch` reads them, any number of times."""

    def __init__(self, id: str, model: str) -> None:
        """``model``: the name of the model of the reply."""
        self.id = id
        self.model = model
        self.created = time.time()
        self.started = asyncio.Event()
        """Set when the response can begin: the reply has begun, or has failed."""
        self.end: Completed | Failed | None = None
        self.cached = False
        """Whether it is a replay of a cached reply."""
        self.seen = False
        """Whether a reader has received any of it."""
        self._stop: Callable[[], object] | None = None
        self._stopping = False
        self._blocks: list[_Segment] = []
        self._place = 0
        self._progress: PromptProgress | None = None
        """Progress of the prefill, before the first text."""
        self._watchers: set[asyncio.Event] = set()
        self._ended = asyncio.Event()

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    @property
    def dropped(self) -> int:
        """Number of messages of the conversation that the prompt leaves out, as far as known."""
        return max((each.event.dropped for each in self._blocks if isinstance(each.event, Notice)), default=0)

    @property
    def headers(self) -> dict[str, str]:
        """Response headers."""
        told = {"x-request-id": self.id, **({"x-cache": "hit"} if self.cached else {})}
        return {**told, **({DROPPED: str(self.dropped)} if self.dropped else {})}

    @property
    def notices(self) -> list[str]:
        """The notices so far."""
        return [block.event.text for block in self._blocks if isinstance(block.event, Notice)]

    @property
    def failure(self) -> BitnetChatError | None:
        """The error of a reply that has ended and is not usable."""
        return None if self.end is None else failure_of(self.end)

    @property
    def is_empty(self) -> bool:
        """Whether the reply has no text, thoughts and tool calls so far."""
        return not (self.text or self.thinking or self.calls)

    @property
    def place(self) -> int:
        """The position after all text so far."""
        return self._place

    def put(self, event: Event) -> None:
        """Add an event. The last one is Completed or Failed; later ones are ignored."""
        if self.end is not None:
            return
        if isinstance(event, Completed | Failed):
            self.end = event
            self._ended.set()
        elif isinstance(event, Started):
            pass
        elif isinstance(event, PromptProgress):
            self._progress = event
        else:
            self._progress = None
            self._keep(event)
        if not isinstance(event, Notice):
            self.started.set()
        for watcher in self._watchers:
            watcher.set()

    def reset(self) -> None:
        """Discard the text so far, which no reader has received: the reply is generated again."""
        assert not self.seen and self.end is None
        self._blocks.clear()
        self._place = 0

    def _keep(self, event: Notice | TextDelta | ThinkingDelta | ToolCall) -> None:
        last = self._blocks[-1] if self._blocks else None
        if (
            last is not None
            and isinstance(event, TextDelta | ThinkingDelta)
            and type(last.event) is type(event)
            and last.size < _BLOCK
        ):
            last.event = type(event)(last.event.text + event.text)
            self._place += len(event.text)
            return
        block = _Segment(self._place, event)
        self._blocks.append(block)
        self._place += block.size

    async def watch(self, place: int = 0) -> AsyncGenerator[Cursor]:
        """Yield the events after the position ``place``, stored ones first; the last one is Completed or Failed."""
        reader, news = _Reader(self, place), asyncio.Event()
        self._watchers.add(news)
        try:
            while not reader.is_over:
                news.clear()
                for seen in reader.unread():
                    yield seen
                if not reader.is_over:
                    await news.wait()
        finally:
            self._watchers.discard(news)

    def _since(self, place: int) -> list[Cursor]:
        """Return the events after ``place``; text of one kind is joined."""
        if place >= self._place:
            return []
        last = self._blocks[-1]
        if place >= last.start and isinstance(last.event, TextDelta | ThinkingDelta):  # the usual case
            return [Cursor(type(last.event)(last.event.text[place - last.start :]), self._place)]
        first = max(0, bisect_right(self._blocks, place, key=lambda block: block.start) - 1)
        found: list[Cursor] = []
        texts: list[str] = []
        kind: type[TextDelta | ThinkingDelta] = TextDelta

        def join(end: int) -> None:
            if texts:
                found.append(Cursor(kind("".join(texts)), end))
                texts.clear()

        for block in self._blocks[first:]:
            event = block.event
            if not isinstance(event, TextDelta | ThinkingDelta):
                join(block.start)
                if block.start >= place:
                    found.append(Cursor(event, block.start + 1))
                continue
            if type(event) is not kind:
                join(block.start)
                kind = type(event)
            texts.append(event.text[max(0, place - block.start) :])
        join(self._place)
        return found

    @property
    def is_stopping(self) -> bool:
        return self._stopping

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(block.event.text for block in self._blocks if isinstance(block.event, TextDelta))

    @property
    def thinking(self) -> str:
        return "".join(block.event.text for block in self._blocks if isinstance(block.event, ThinkingDelta))

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tool calls; none if the reply ended for another reason, since they must not be executed then."""
        if isinstance(self.end, Failed) or (self.end is not None and self.end.reason is not FinishReason.TOOL_CALLS):
            return ()
        return tuple(block.event for block in self._blocks if isinstance(block.event, ToolCall))

    async def ended(self) -> Completed | Failed:
        await self._ended.wait()
        assert self.end is not None
        return self.end

    # Stopping

    def stop(self) -> None:
        """Stop the reply and keep its text. The backend still ends it with Completed."""
        self._stopping = True
        if self._stop is not None and self.end is None:
            self._stop()

    def on_stop(self, stop: Callable[[], object]) -> bool:
        """Register ``stop`` as the function that ends the reply. Return False if the reply is already stopped."""
        self._stop = stop
        return not self._stopping


class _Reader:
    """What one reader of a reply has not read yet."""

    def __init__(self, generation: ReplyBroadcast, place: int, *, progress: bool = False) -> None:
        """``progress``: include the progress of the prefill, of which only the newest event is kept."""
        self._generation, self._place, self._progress = generation, place, progress
        self._told: PromptProgress | None = None
        self.is_over = False
        """Whether it has read the end."""

    def unread(self) -> Iterator[Cursor]:
        generation = self._generation
        for seen in generation._since(self._place):
            self._place, generation.seen = seen.place, True
            yield seen
        told = generation._progress if self._progress and generation.end is None else None
        if told is not None and told != self._told:
            self._told = told
            yield Cursor(told, self._place)
        if generation.end is not None and self._place >= generation.place:
            self.is_over = True
            yield Cursor(generation.end, self._place)


async def watch_all(generations: Sequence[ReplyBroadcast], places: Sequence[int]) -> AsyncGenerator[tuple[int, Cursor]]:
    """Yield the events of several replies as they come, each with the number of its reply: of each reply those after
    its position in ``places``, and the progress of its prefill.
    """
    readers = [_Reader(each, place, progress=True) for each, place in zip(generations, places, strict=True)]
    news = asyncio.Event()
    for generation in generations:
        generation._watchers.add(news)
    try:
        while running := [number for number, reader in enumerate(readers) if not reader.is_over]:
            news.clear()
            for number in running:
                for seen in readers[number].unread():
                    yield number, seen
            if not any(readers[number].is_over for number in running):
                await news.wait()
    finally:
        for generation in generations:
            generation._watchers.discard(news)
