"""A backend that stops the replies of another one, whichever that is: runaways, and those that reach a stop text.

What is a runaway is decided in ``stream/guard.py``; here the reply is stopped, and ended in order. A reply that the
model ended before it said anything is told here as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from bitnet_chat.backend import Backend, BackendStatus, ReplyOptions, refusal_of
from bitnet_chat.config import Settings
from bitnet_chat.context.token_count import TokenCount, by_length
from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.errors import BitnetChatError, FinishReason
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
from bitnet_chat.text.utf8 import TextBuffer
from bitnet_chat.util.threads import run_beside_loop

if TYPE_CHECKING:
    from bitnet_chat.filters.guard import ReplyGuard

GRACE = 6.0
"""Seconds that a backend has to end a reply it was told to stop. A session replaces a deaf engine after two."""
Advice = Literal["commands", "flags", "nothing"]
TOLD = frozenset(
    {
        FinishReason.ROLE_MARKER,
        FinishReason.EMPTY,
        FinishReason.REPETITION,
        FinishReason.STALLED,
        FinishReason.LENGTH,
        FinishReason.TIMEOUT,
    }
)
"""A reply that ends for one of these comes with a notice that says so."""
_WITH_TEMPLATE = ("engine", "llama-server")
_FIRST_TOKEN = 10
"""So many times the stall timeout may pass before the first token: a long message takes its time to be read."""
_LARGEST = 1 << 18
"""Tokens of a reply from a server that does not tell its window."""
_EMPTY = "the model ended its reply at once, before the first word: its chat template may be wrong"


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """``markers``: whether a reply ends where the model speaks as the user. ``repeat_limit``: repetitions, 0: no limit.
    ``stall_timeout``: seconds, 0: no limit. ``own_template``: whether the chat template is chosen here."""

    markers: bool = True
    repeat_limit: int = 12
    stall_timeout: float = 120.0
    own_template: bool = True

    @classmethod
    def of(cls, settings: Settings) -> GuardLimits:
        """``--no-guard`` leaves the stall timeout, which has a flag of its own."""
        repeat_limit, own = settings.repeat_limit if settings.guard else 0, settings.backend in _WITH_TEMPLATE
        return cls(settings.guard, repeat_limit, settings.stall_timeout, own)


class GuardedBackend:
    """See :class:`bitnet_chat.backend.Backend`. All but the replies is that of ``inner``."""

    def __init__(
        self,
        inner: Backend,
        limits: GuardLimits,
        markers: Callable[[], tuple[str, ...]] = lambda: (),
        *,
        advice: Advice = "commands",
        grace: float = GRACE,
    ) -> None:
        """``markers``: the role markers of the chat template in use
        (:func:`~bitnet_chat.filters.role_markers.markers_of`). They are asked for when a reply begins: before the
        model is loaded its template may not be known. ``advice``: what the user is told that helps: commands and
        flags, flags alone, or nothing at all.
        """
        self.inner = inner
        self._limits, self._markers, self._grace = limits, markers, grace
        self._advice = advice
        self._watch: _EventWatcher | None = None

    def start(self) -> None:
        self.inner.start()

    async def reply(self, conversation: Conversation, options: ReplyOptions | None = None) -> AsyncIterator[Event]:
        options = options or ReplyOptions()
        watch = self._watch = _EventWatcher(self.inner, self._limits.stall_timeout, self._grace)
        events = self.inner.reply(conversation, options)
        guard: ReplyGuard | None = None
        said = TextBuffer()
        # Of a reply that goes on there may be nothing more to say.
        last = conversation.last
        is_empty = last is None or last.role != "assistant" or not last.content
        try:
            while (event := await watch.next(events)) is not None:
                if isinstance(event, Completed | Failed):
                    break
                if isinstance(event, Notice | PromptProgress):
                    yield event
                elif isinstance(event, Started):
                    yield event
                    guard = guard or await self._guard(conversation, options)  # while the engine reads the message
                elif isinstance(event, ToolCall):
                    is_empty = False
                    if watch.finding is None:
                        if guard is not None and (rest := guard.flush()):
                            said.add(rest)
                            yield TextDelta(rest)
                        yield event
                elif watch.finding is None:
                    is_empty = False
                    guard = guard or await self._guard(conversation, options)
                    passed = _passed(event, guard)
                    if guard.finding is not None:
                        watch.stop(guard.finding)
                    for each in passed:
                        if isinstance(each, TextDelta):
                            said.add(each.text)
                        yield each
            if guard is not None and (rest := guard.flush()):
                said.add(rest)
                yield TextDelta(rest)
            end = _end(event, watch, guard, said.text)
            if isinstance(end, Completed):
                if is_empty and end.reason is FinishReason.STOP and not end.text:
                    end = replace(end, reason=FinishReason.EMPTY)
                line = self._line(end, options, guard, watch.limit)
                if line:
                    yield Notice(line)
            if end is not None:
                yield end
        finally:
            watch.close()
            # An async generator has something to close; an iterator without aclose has nothing.
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()

    async def refusal(self, conversation: Conversation, options: ReplyOptions) -> BitnetChatError | None:
        return await refusal_of(self.inner, conversation, options)

    def prepare(self, history: Conversation) -> None:
        self.inner.prepare(history)

    def count(self, text: str) -> TokenCount | None:
        return self.inner.count(text)

    def interrupt(self) -> None:
        self.inner.interrupt()
        if self._watch is not None:
            self._watch.interrupted()

    def status(self) -> BackendStatus:
        return self.inner.status()

    async def close(self) -> None:
        await self.inner.close()

    async def _guard(self, conversation: Conversation, options: ReplyOptions) -> ReplyGuard:
        # Here and not above: a prompt is on the screen 5 ms earlier.
        from bitnet_chat.filters.guard import LengthLimit, ReplyGuard
        from bitnet_chat.filters.role_markers import relevant

        last = conversation.last
        before = last.content if last is not None and last.role == "assistant" else ""
        markers: tuple[str, ...] = ()
        if self._limits.markers:
            markers = await run_beside_loop(conversation, relevant, self._markers(), conversation)
        length = LengthLimit(self._window, lambda text: self._tokens(text).at_least)
        count = self._tokens
        return ReplyGuard(
            markers, self._limits.repeat_limit, before, options.stop, lambda text: count(text).count, length
        )

    def _tokens(self, text: str) -> TokenCount:
        return self.inner.count(text) or by_length(text)

    def _window(self) -> int:
        return self.inner.status().context_size or _LARGEST

    def _line(self, end: Completed, options: ReplyOptions, guard: ReplyGuard | None, silence: float) -> str:
        """What happened, and how to go on; empty where nobody need be told."""
        if self._advice == "nothing":
            return _EMPTY if end.reason is FinishReason.EMPTY else ""
        limits, with_commands = self._limits, self._advice == "commands"
        go_on, again = "/continue goes on" if end.text else "", "/regen tries again"
        match end.reason:
            case FinishReason.ROLE_MARKER:
                what = "the reply was ended where the model began to speak in another role"
                ways = [again, "--no-guard lets it speak on"]
            case FinishReason.EMPTY:
                another = "--chat-template NAME takes another" if limits.own_template else ""
                what, ways = _EMPTY, [again, another, "bitnet-chat doctor looks at the model"]
            case FinishReason.REPETITION:
                repetitions = guard.repetitions if guard is not None else 0
                what = f"the reply was stopped: it had said the same {repetitions} times in a row"
                fewer = ", fewer for what is long" if repetitions < limits.repeat_limit else ""
                ways = [again, go_on, f"--repeat-limit N (now {limits.repeat_limit}{fewer}) allows more"]
            case FinishReason.CONTEXT_OVERFLOW if guard is not None and guard.finding is end.reason:
                size = self._window()
                what, ways = f"the reply was stopped: the context window of {size:,} tokens holds no more", [again]
            case FinishReason.STALLED:
                what = f"the reply was stopped: nothing had come from the engine for {silence:g} s"
                longer = f", {_FIRST_TOKEN} times that for the first token" if silence != limits.stall_timeout else ""
                now = f"(now {limits.stall_timeout:g}{longer})"
                ways = [go_on or again, f"--stall-timeout SECONDS {now} waits longer"]
            case FinishReason.LENGTH:
                limit = f" of {options.max_tokens} tokens" if options.max_tokens is not None else ""
                what, ways = f"the reply was cut at its limit{limit}", [go_on or again, "--max-tokens N allows more"]
            case FinishReason.TIMEOUT:
                limit = f" of {options.timeout:g} s" if options.timeout is not None else ""
                what = f"the reply was stopped at its time limit{limit}"
                ways = [go_on or again, "--timeout SECONDS allows more"]
            case FinishReason.ENGINE_DIED if go_on and with_commands:
                what, ways = "the reply is not whole", [go_on]
            case _:
                return ""
        return f"{what}; {', '.join(way for way in ways if way and (with_commands or not way.startswith('/')))}"


def _passed(event: TextDelta | ThinkingDelta, guard: ReplyGuard) -> list[TextDelta | ThinkingDelta]:
    """What may be shown now that ``event`` is there."""
    if isinstance(event, TextDelta):
        text = guard.feed(event.text)
        return [TextDelta(text)] if text else []
    text, thoughts = guard.flush(), guard.think(event.text)
    return [*([TextDelta(text)] if text else ()), *([ThinkingDelta(thoughts)] if thoughts else ())]


def _end(
    event: Completed | Failed | None, watch: _EventWatcher, guard: ReplyGuard | None, text: str
) -> Completed | Failed | None:
    """How the reply ended; ``event`` is what the inner backend says, None where it said nothing more."""
    reason = watch.finding
    if reason is None and isinstance(event, Completed):
        reason = event.reason
        # In the very last characters, which had waited for what follows.
        if guard is not None and guard.finding is not None and reason in (FinishReason.STOP, FinishReason.LENGTH):
            reason = guard.finding
    if reason is None and watch.abandoned:
        reason = FinishReason.INTERRUPTED
    if reason is None:
        return event
    return Completed(reason, text, event.stats if isinstance(event, Completed) else Stats())


class _EventWatcher:
    """Waits for the next event of ``inner``, and not for ever."""

    def __init__(self, inner: Backend, stall_timeout: float, grace: float) -> None:
        self._inner, self._grace = inner, grace
        self.limit = stall_timeout * _FIRST_TOKEN
        """Seconds of silence that are too long at this moment; 0: none are."""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._since: float | None = None
        """Since when an event is waited for; None while the last one is dealt with, which is not the engine's fault."""
        self._spoken = False
        self._deadline: float | None = None
        self._patience = asyncio.timeout(None)
        self.finding: FinishReason | None = None
        """Why the reply was stopped, if it was from here."""
        self.abandoned = False
        """Whether ``inner`` was left, since it did not end in time."""

    async def next(self, events: AsyncIterator[Event]) -> Event | None:
        """None: there is none any more."""
        self._since = self._loop.time()
        try:
            async with asyncio.timeout_at(self._deadline) as self._patience:
                event = await anext(events, None)
        except TimeoutError:
            if not self._patience.expired():
                raise
            self.abandoned = True
            return None
        finally:
            self._since = None
        if isinstance(event, Started):
            self._arm(self.limit)
        elif isinstance(event, TextDelta | ThinkingDelta) and not self._spoken:
            self._spoken = True
            self.limit /= _FIRST_TOKEN
            self._arm(self.limit)
        return event

    def stop(self, reason: FinishReason) -> None:
        """Ends the reply; what ``inner`` still says is not heard."""
        self.finding = reason
        self._inner.interrupt()
        self.interrupted()

    def interrupted(self) -> None:
        """``inner`` was told to stop, and has so much time to do so."""
        self.close()
        if self._deadline is None:
            self._deadline = self._loop.time() + self._grace
            if self._since is not None:
                self._patience.reschedule(self._deadline)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, delay: float) -> None:
        self.close()
        if self.limit and self._deadline is None:
            self._due = self._loop.time() + delay
            self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        """Once in a while, not at each event: what is to be done if nothing came in all this time."""
        now = self._loop.time()
        slept = now - self._due > self.limit / 2  # Ctrl-Z, a busy computer: the engine's words may be waiting
        if self._since is None or slept:
            self._arm(self.limit)
        elif now - self._since < self.limit:
            self._arm(self._since + self.limit - now)
        else:
            self.stop(FinishReason.STALLED)
