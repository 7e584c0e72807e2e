"""The view of one reply: it requests the reply, shows its events on the display, and can interrupt it."""

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
PROGRESS_AFTER = 1.0
"""Seconds after the request from which the progress of the prefill is shown; a shorter display could not be read."""
ABANDON_AFTER = 1.0
"""Seconds after the first interrupt from which a second one ends the reply without the backend."""


class ReplyPresenter:
    """Shows the events of one reply on ``display``, and keeps what it consists of. ``pace``: see :class:`ReplyView`."""

    def __init__(self, backend: Backend, display: ReplyDisplay, pace: float | None = None) -> None:
        self._backend = backend
        self._display = display
        self.writer = PacedWriter(self._show, pace) if pace and pace > 0 else None
        self._loop = asyncio.get_running_loop()
        self._sent = self._loop.time()
        self._loading = backend.status().state is BackendState.STARTING
        self._progress: PromptProgress | None = None
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[ToolCall] = []
        self._thinking: tuple[float, int] | None = None
        """The start time of the current thoughts, and the number of pieces before them; None outside of thoughts."""
        self._text_since_frame = False
        """Whether text was shown since the last frame of the spinner."""
        self._live_rate = LiveRate(backend.count)

    @property
    def text(self) -> str:
        """The text received so far."""
        return "".join(self._text)

    @property
    def thinking(self) -> str:
        """The thoughts received so far."""
        return "".join(self._thoughts)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tool calls received so far. They are valid only if the finish reason is TOOL_CALLS."""
        return tuple(self._calls)

    def handle(self, event: Event) -> None:
        """Show an event that does not end the reply."""
        if isinstance(event, TextDelta):
            self._add_text(event.text)
        elif isinstance(event, ThinkingDelta):
            self._add_thought(event.text)
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

    def end(self, event: Completed | Failed) -> None:
        """Show the end of the reply."""
        self._flush()
        self._end_thinking()
        if isinstance(event, Completed):
            self._display.completed(event)
        else:
            self._display.error(event.error)

    def activity(self) -> tuple[float, str, str]:
        """Return the arguments of :meth:`ReplyDisplay.spin`, for each frame of the spinner: the model may pause or
        think at any time, and text may be held back."""
        if not self._text_since_frame:
            self._display.pause()
        self._text_since_frame = False
        since, what = (self._thinking[0], "thinking") if self._thinking is not None else (self._sent, "")
        elapsed, progress = self._loop.time() - since, self._progress
        if self._loading:
            what = "loading the model"
        elif progress is not None and not what and elapsed >= PROGRESS_AFTER and progress.done < progress.total:
            verb = "repeating" if progress.repeats else "reading"
            what = f"{verb} {progress.done:,} of {progress.total:,} tokens"
        return elapsed, what, self._live_rate.read(self._loop.time())

    def _add_text(self, text: str) -> None:
        self._end_thinking()
        self._text.append(text)
        self._live_rate.feed(text, self._loop.time())
        if self.writer is None:
            self._show(text)
        else:
            self.writer.feed(text)

    def _show(self, text: str) -> None:
        self._text_since_frame = True
        self._display.words(text)

    def _add_thought(self, text: str) -> None:
        self._flush()
        if self._thinking is None:
            self._thinking = self._loop.time(), len(self._thoughts)
        self._thoughts.append(text)
        self._live_rate.feed(text, self._loop.time())
        self._display.thoughts(text)

    def _end_thinking(self) -> None:
        if self._thinking is not None:
            (since, before), self._thinking = self._thinking, None
            thoughts = "".join(self._thoughts[before:])
            count = self._backend.count(thoughts) or by_length(thoughts)
            self._display.thought(self._loop.time() - since, count.count)

    def _flush(self) -> None:
        if self.writer is not None:
            self.writer.flush()


class ReplyView:
    """Shows one reply of ``backend``. ``pace``: grapheme clusters per second; None or 0 shows text at once.
    ``recorder``: stores the reply; None does not.
    """

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
        self._presenter = ReplyPresenter(backend, display, pace)
        self._loop = asyncio.get_running_loop()
        self._spinner: asyncio.TimerHandle | None = None
        self._reading: asyncio.Task[Completed | Failed] | None = None
        self._interrupted: float | None = None
        self._requested = False
        self._abandoned = False

    @property
    def thinking(self) -> str:
        """The thoughts received so far."""
        return self._presenter.thinking

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tool calls received so far. They are valid only if the finish reason is TOOL_CALLS."""
        return self._presenter.calls

    async def run(self) -> Completed | Failed:
        """Show the reply and return its last event. A BitnetChatError of the backend becomes Failed. Cancelling the
        task stops the reply.
        """
        last = self._conversation.last
        self._display.begin(last.content if last is not None and last.role == "assistant" else "")
        self._spin()
        self._reading = asyncio.create_task(self._read())
        try:
            return await self._reading
        except asyncio.CancelledError:
            if not self._abandoned:
                raise
            return self._end(Completed(FinishReason.INTERRUPTED, self._presenter.text))
        finally:
            self._stop_spinner()

    def interrupt(self) -> None:
        """Stop the reply and keep its text. A second call, at least ABANDON_AFTER seconds later, ends the reply even if
        the backend does not respond.
        """
        now = self._loop.time()
        if self._presenter.writer is not None:
            self._presenter.writer.hurry()
        if self._interrupted is None:
            self._interrupted = now
            if self._requested:
                self._backend.interrupt()
        elif now - self._interrupted >= ABANDON_AFTER and self._reading is not None:
            self._abandoned = True
            self._reading.cancel()

    async def _read(self) -> Completed | Failed:
        if self._interrupted is not None:  # Enter and Ctrl-C arrived together, before the request
            return self._end(Completed(FinishReason.INTERRUPTED, ""))
        # No other code runs between here and the first await of the backend, so an interrupt cannot be lost.
        stream = (
            self._backend.reply(self._conversation, self._options)
            if self._recorder is None
            else record_reply(self._backend, self._recorder, self._conversation, self._options)
        )
        self._requested = True
        try:
            async with aclosing(stream):
                async for event in stream:
                    if isinstance(event, (Completed, Failed)):
                        if self._presenter.writer is not None:
                            await self._presenter.writer.drain()
                        return self._end(event)
                    self._presenter.handle(event)
        except BitnetChatError as error:
            return self._end(Failed(error, self._presenter.text))
        broken = EngineDiedError("the reply ended without a reason", remedy="send the message again")
        return self._end(Failed(broken, self._presenter.text))

    def _end(self, event: Completed | Failed) -> Completed | Failed:
        self._stop_spinner()
        self._presenter.end(event)
        return event

    def _spin(self) -> None:
        """Draw the spinner until the reply ends."""
        self._display.spin(*self._presenter.activity())
        self._spinner = self._loop.call_later(SPIN, self._spin)

    def _stop_spinner(self) -> None:
        if self._spinner is not None:
            self._spinner.cancel()
            self._spinner = None
