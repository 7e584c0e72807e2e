"""One reply: the backend's events on the display, with a spinner before the first token, and an interrupt."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from bitnet_chat.backend import Backend, BackendState, ReplyOptions
from bitnet_chat.backends.wrappers.recording import record_reply
from bitnet_chat.context.token_count import by_length
from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.errors import BitnetChatError, EngineDiedError, FinishReason
from bitnet_chat.events import Completed, Event, Failed, Notice, PromptProgress, Started, TextDelta, ThinkingDelta
from bitnet_chat.repl.display import ReplyDisplay
from bitnet_chat.repl.pacing import PacedWriter
from bitnet_chat.repl.statistics import LiveRate

if TYPE_CHECKING:
    from bitnet_chat.journal import JournalRecorder

SPIN = 0.1
"""Seconds between two frames of the spinner."""
READING = 1.0
"""Seconds of prefill after which its progress is shown; a shorter display could not be read."""
PATIENCE = 1.0
"""Seconds after which a second interrupt no longer waits for the backend."""


class ReplyView:
    """The view of one reply: ``await run()`` shows it and returns its end; ``interrupt()`` stops it."""

    def __init__(
        self,
        backend: Backend,
        conversation: Conversation,
        options: ReplyOptions,
        display: ReplyDisplay,
        pace: float | None = None,
        recorder: JournalRecorder | None = None,
    ) -> None:
        self._backend = backend
        self._recorder = recorder
        self._conversation = conversation
        self._options = options
        self._display = display
        self._writer = PacedWriter(self._show, pace) if pace and pace > 0 else None
        self._loop = asyncio.get_running_loop()
        self._sent = self._loop.time()
        self._spinner: asyncio.TimerHandle | None = None
        self._reading: asyncio.Task[Completed | Failed] | None = None
        self._interrupted: float | None = None
        self._asked = False
        self._abandoned = False
        self._loading = backend.status().state is BackendState.STARTING
        self._progress: PromptProgress | None = None
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[ToolCall] = []
        self._thinking: tuple[float, int] | None = None
        """Start of the present thinking, and the number of earlier pieces; None while the model does not think."""
        self._news = False
        """Text was shown since the spinner's last frame."""
        self._gauge = LiveRate(backend.count)

    @property
    def thinking(self) -> str:
        """The model's thinking so far."""
        return "".join(self._thoughts)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tool calls of the reply. They are made only if the reply ended for that reason."""
        return tuple(self._calls)

    async def run(self) -> Completed | Failed:
        """Show the reply and return its end. Errors of the backend become Failed. Cancelling stops the reply."""
        last = self._conversation.last
        self._display.begin(last.content if last is not None and last.role == "assistant" else "")
        self._spin()
        self._reading = asyncio.create_task(self._read())
        try:
            return await self._reading
        except asyncio.CancelledError:
            if not self._abandoned:
                raise
            return self._end(Completed(FinishReason.INTERRUPTED, "".join(self._text)))
        finally:
            self._stop_spinner()

    def interrupt(self) -> None:
        """Stop the reply and keep its text. A second call, a second later, abandons a backend that hangs."""
        now = self._loop.time()
        if self._writer is not None:
            self._writer.hurry()
        if self._interrupted is None:
            self._interrupted = now
            if self._asked:
                self._backend.interrupt()
        elif now - self._interrupted >= PATIENCE and self._reading is not None:
            self._abandoned = True
            self._reading.cancel()

    async def _read(self) -> Completed | Failed:
        if self._interrupted is not None:  # before the request: both keys arrived together
            return self._end(Completed(FinishReason.INTERRUPTED, ""))
        # From here to the backend's first await no other code runs, so that an interrupt cannot come in between.
        stream = (
            self._backend.reply(self._conversation, self._options)
            if self._recorder is None
            else record_reply(self._backend, self._recorder, self._conversation, self._options)
        )
        self._asked = True
        try:
            async with aclosing(stream):
                async for event in stream:
                    if isinstance(event, (Completed, Failed)):
                        if self._writer is not None:
                            await self._writer.drain()
                        return self._end(event)
                    self._heard(event)
        except BitnetChatError as error:
            return self._end(Failed(error, "".join(self._text)))
        broken = EngineDiedError("the reply ended without a reason", remedy="send the message again")
        return self._end(Failed(broken, "".join(self._text)))

    def _heard(self, event: Event) -> None:
        """Show any event but the last one."""
        if isinstance(event, TextDelta):
            self._said(event.text)
        elif isinstance(event, ThinkingDelta):
            self._thought(event.text)
        elif isinstance(event, ToolCall):
            self._flush()
            self._end_thinking()
            self._calls.append(event)
            self._display.call(event)
        elif isinstance(event, Started):
            self._loading = False
        elif isinstance(event, PromptProgress):
            self._progress = event
        elif isinstance(event, Notice):
            self._flush()
            self._end_thinking()
            self._display.notice(event.text)

    def _said(self, text: str) -> None:
        self._end_thinking()
        self._text.append(text)
        self._gauge.feed(text, self._loop.time())
        if self._writer is None:
            self._show(text)
        else:
            self._writer.feed(text)

    def _show(self, text: str) -> None:
        self._news = True
        self._display.words(text)

    def _thought(self, text: str) -> None:
        self._flush()
        if self._thinking is None:
            self._thinking = self._loop.time(), len(self._thoughts)
        self._thoughts.append(text)
        self._gauge.feed(text, self._loop.time())
        self._display.thoughts(text)

    def _end_thinking(self) -> None:
        if self._thinking is not None:
            (since, before), self._thinking = self._thinking, None
            thoughts = "".join(self._thoughts[before:])
            count = self._backend.count(thoughts) or by_length(thoughts)
            self._display.thought(self._loop.time() - since, count.count)

    def _end(self, event: Completed | Failed) -> Completed | Failed:
        self._stop_spinner()
        self._flush()
        self._end_thinking()
        if isinstance(event, Completed):
            self._display.completed(event)
        else:
            self._display.error(event.error)
        return event

    def _flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def _spin(self) -> None:
        """Run until the reply ends: it may pause, think or hold back a table at any time."""
        if not self._news:
            self._display.pause()
        self._news = False
        since, what = (self._thinking[0], "thinking") if self._thinking is not None else (self._sent, "")
        elapsed, progress = self._loop.time() - since, self._progress
        if self._loading:
            what = "loading the model"
        elif progress is not None and not what and elapsed >= READING and progress.done < progress.total:
            what = f"reading {progress.done:,} of {progress.total:,} tokens"
        self._display.spin(elapsed, what, self._gauge.read(self._loop.time()))
        self._spinner = self._loop.call_later(SPIN, self._spin)

    def _stop_spinner(self) -> None:
        if self._spinner is not None:
            self._spinner.cancel()
            self._spinner = None
