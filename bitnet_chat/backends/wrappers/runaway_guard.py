"""A backend that stops runaway replies of another backend, and replies that reach a stop text.

``filters/runaway_guard.py`` decides; this module interrupts the reply and yields its end. A reply that the model ends
before its first token gets its finish reason here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from bitnet_chat.backend import Backend, ReplyOptions
from bitnet_chat.backends.pipeline import (
    FIRST_TOKEN,
    BackendWrapper,
    ReplyFilter,
    ReplyPipeline,
    StallWatch,
    pipeline_of,
)
from bitnet_chat.config import Settings
from bitnet_chat.context.token_count import TokenCount, by_length
from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, Stats, TextDelta, ThinkingDelta
from bitnet_chat.text.utf8 import TextBuffer
from bitnet_chat.util.threads import run_beside_loop

if TYPE_CHECKING:
    from bitnet_chat.filters.runaway_guard import ReplyGuard

GRACE = 6.0
"""Seconds for a backend to end a reply after an interrupt. A session replaces an engine that ignores one after 2 s."""
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
"""Finish reasons that are reported by a notice."""
_WITH_TEMPLATE = ("engine", "llama-server")
_LARGEST = 1 << 18
"""Maximum tokens of a reply from a server with an unknown context window."""
_EMPTY = "the model ended its reply at once, before the first word: its chat template may be wrong"


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """``markers``: whether a reply ends where the model writes as the user. ``repeat_limit``: repetitions; 0: no limit.
    ``stall_timeout``: seconds; 0: no limit. ``own_template``: whether this program chooses the chat template."""

    markers: bool = True
    repeat_limit: int = 12
    stall_timeout: float = 120.0
    own_template: bool = True

    @classmethod
    def of(cls, settings: Settings) -> GuardLimits:
        """The limits of ``settings``. ``--no-guard`` keeps the stall timeout, which has a flag of its own."""
        repeat_limit, own = settings.repeat_limit if settings.guard else 0, settings.backend in _WITH_TEMPLATE
        return cls(settings.guard, repeat_limit, settings.stall_timeout, own)


class GuardedBackend(BackendWrapper):
    """See :class:`bitnet_chat.backend.Backend`."""

    def __init__(
        self,
        inner: Backend,
        limits: GuardLimits,
        markers: Callable[[], tuple[str, ...]] = lambda: (),
        *,
        advice: Advice = "commands",
        grace: float = GRACE,
    ) -> None:
        """``markers``: gives the role markers of the chat template
        (:func:`~bitnet_chat.filters.role_markers.markers_of`); called at the beginning of each reply, since the
        template may be unknown before the model is loaded. ``advice``: the remedies in notices: commands and flags,
        flags only, or no notices. ``grace``: see :data:`GRACE`."""
        super().__init__(inner)
        self._limits, self._markers, self._grace = limits, markers, grace
        self._advice = advice
        self._watches: set[StallWatch] = set()
        """Those of the running reply, or of its variants."""

    def pipeline(self, conversation: Conversation, options: ReplyOptions) -> ReplyPipeline:
        stop = self.inner.interrupt if options.joined is None else options.joined.stop
        watch = StallWatch(stop, self._limits.stall_timeout, self._grace)
        self._watches.add(watch)
        guard = _GuardFilter(self, conversation, options, watch)
        return pipeline_of(self.inner, conversation, options).then(guard, watch)

    def interrupt(self) -> None:
        super().interrupt()
        for watch in self._watches:
            watch.interrupted()

    def forget(self, watch: StallWatch) -> None:
        """A reply has ended."""
        self._watches.discard(watch)

    async def guard(self, conversation: Conversation, options: ReplyOptions) -> ReplyGuard:
        return await run_beside_loop(conversation, self.guard_now, conversation, options)

    def guard_now(self, conversation: Conversation, options: ReplyOptions) -> ReplyGuard:
        """Linear in ``conversation``; may run in a thread."""
        # Imported here: the REPL's prompt appears 5 ms earlier.
        from bitnet_chat.filters.role_markers import relevant
        from bitnet_chat.filters.runaway_guard import LengthLimit, ReplyGuard

        last = conversation.last
        before = last.content if last is not None and last.role == "assistant" else ""
        markers = relevant(self._markers(), conversation) if self._limits.markers else ()
        length = LengthLimit(self._window, lambda text: self._tokens(text).at_least)
        count = self._tokens
        return ReplyGuard(
            markers, self._limits.repeat_limit, before, options.stop, lambda text: count(text).count, length
        )

    def _tokens(self, text: str) -> TokenCount:
        return self.inner.count(text) or by_length(text)

    def _window(self) -> int:
        return self.inner.status().context_size or _LARGEST

    def line(self, end: Completed, options: ReplyOptions, guard: ReplyGuard | None, silence: float) -> str:
        """The reason of the end and the ways to continue; empty for an ordinary end."""
        if self._advice == "nothing":
            return _EMPTY if end.reason is FinishReason.EMPTY else ""
        limits, with_commands = self._limits, self._advice == "commands"
        go_on, again = "/continue goes on" if end.text else "", "/regen tries again"
        match end.reason:
            case FinishReason.ROLE_MARKER:
                what = "the reply was ended where the model began to speak in another role"
                ways = [again, "--no-guard disables this check"]
            case FinishReason.EMPTY:
                another = "--chat-template NAME takes another" if limits.own_template else ""
                what, ways = _EMPTY, [again, another, "bitnet-chat doctor checks the model"]
            case FinishReason.REPETITION:
                repetitions = guard.repetitions if guard is not None else 0
                what = f"the reply was stopped: it had said the same {repetitions} times in a row"
                other = ", fewer for what is long" if repetitions < limits.repeat_limit else ""
                other = ", more for what is short" if repetitions > limits.repeat_limit else other
                ways = [again, go_on, f"--repeat-limit N (now {limits.repeat_limit}{other}) allows more"]
            case FinishReason.CONTEXT_OVERFLOW if guard is not None and guard.finding is end.reason:
                size = self._window()
                what = f"the reply was stopped: the context window of {size:,} tokens holds no more"
                ways = [again, "--ctx N allows more" if limits.own_template else ""]
            case FinishReason.STALLED:
                what = f"the reply was stopped: the engine made no progress for {silence:g} s"
                longer = f", {FIRST_TOKEN} times that for the first token" if silence != limits.stall_timeout else ""
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
                what, ways = "the reply is incomplete", [go_on]
            case _:
                return ""
        ways = [way for way in ways if way and (with_commands or not way.startswith("/"))]
        return f"{what}; {', '.join(ways)}" if ways else what


class _GuardFilter(ReplyFilter):
    """Passes on the text that :class:`~bitnet_chat.filters.runaway_guard.ReplyGuard` allows, and ends the reply."""

    def __init__(
        self, backend: GuardedBackend, conversation: Conversation, options: ReplyOptions, watch: StallWatch
    ) -> None:
        self._backend, self._watch = backend, watch
        self._conversation, self._options = conversation, options
        self._guard: ReplyGuard | None = None
        self._text = TextBuffer()
        # The rest of a continued reply may be empty.
        last = conversation.last
        self._is_empty = last is None or last.role != "assistant" or not last.content
        self._is_over = False

    def feed(self, event: Event) -> Sequence[Event]:
        if isinstance(event, (TextDelta, ThinkingDelta)):
            return self._tokens(event)
        if isinstance(event, Started):
            self._watch.started()
            if self._guard is None:
                self.step = self._prepare  # while the engine reads the message
        elif isinstance(event, ToolCall):
            self._is_empty = False
            return [*self._rest(), event] if self._watch.finding is None else []
        elif isinstance(event, (Completed, Failed)):
            return self._finished(event)
        return (event,)

    def flush(self) -> Sequence[Event]:
        return () if self._is_over else self._finished(None)

    def close(self) -> None:
        self._watch.close()
        self._backend.forget(self._watch)

    async def _prepare(self) -> None:
        self._guard = await self._backend.guard(self._conversation, self._options)

    def _tokens(self, event: TextDelta | ThinkingDelta) -> Sequence[Event]:
        self._watch.has_spoken()
        if self._watch.finding is not None:
            return ()
        self._is_empty = False
        guard = self._guard = self._guard or self._backend.guard_now(self._conversation, self._options)
        passed: list[Event] = []
        if isinstance(event, TextDelta):
            text = guard.feed(event.text)
        else:
            text, thoughts = guard.flush(), guard.think(event.text)
            if thoughts:
                passed.append(ThinkingDelta(thoughts))
        if text:
            self._text.add(text)
            passed.insert(0, TextDelta(text))
        if guard.finding is not None:
            self._watch.stop(guard.finding)
        return passed

    def _rest(self) -> list[Event]:
        """The characters that were held back."""
        if self._guard is None or not (rest := self._guard.flush()):
            return []
        self._text.add(rest)
        return [TextDelta(rest)]

    def _finished(self, event: Completed | Failed | None) -> list[Event]:
        """The last events. ``event``: the end from the source; None: the source gave none."""
        self._is_over = True
        last = self._rest()
        end = _end(event, self._watch, self._guard, self._text.text)
        if isinstance(end, Completed):
            if self._is_empty and end.reason is FinishReason.STOP and not end.text:
                end = replace(end, reason=FinishReason.EMPTY)
            if line := self._backend.line(end, self._options, self._guard, self._watch.limit):
                last.append(Notice(line))
        return last if end is None else [*last, end]


def _end(
    event: Completed | Failed | None, watch: StallWatch, guard: ReplyGuard | None, text: str
) -> Completed | Failed | None:
    """The end of the reply. ``event``: the end from the source; None: the source gave none."""
    reason = watch.finding
    if reason is None and isinstance(event, Completed):
        reason = event.reason
        # A finding in the last characters, which were held back.
        if guard is not None and guard.finding is not None and reason in (FinishReason.STOP, FinishReason.LENGTH):
            reason = guard.finding
    if reason is None and watch.is_abandoned:
        reason = FinishReason.INTERRUPTED
    if reason is None:
        return event
    if isinstance(event, Completed):
        return replace(event, reason=reason, text=text)
    return Completed(reason, text, Stats())
