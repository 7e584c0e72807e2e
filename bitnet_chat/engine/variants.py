"""Several replies to one message from one prefill of a native engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.conversation import Conversation
from bitnet_chat.conversation.stdin_encoding import normalise
from bitnet_chat.engine.log import LogStatsParser
from bitnet_chat.engine.process import EngineProcess, ProcessState
from bitnet_chat.engine.prompt import EnginePrompt
from bitnet_chat.engine.protocols import EncodedMessage
from bitnet_chat.engine.reply import ReplyAccumulator
from bitnet_chat.engine.session import Attempts, Session, turn_events
from bitnet_chat.engine_output import Frame, ReplyFigures, TurnEnd, VariantFrame
from bitnet_chat.errors import BitnetChatError, EmptyMessageError, FinishReason, UnsupportedError, UsageError
from bitnet_chat.events import Completed, Event, Failed, Notice, TextDelta, ThinkingDelta, VariantEvent


@dataclass(slots=True)
class _Variants:
    """The state of several replies."""

    pending: list[int]
    """The numbers of those that have not ended."""
    run: tuple[int, ...] = ()
    """The numbers of those of the present turn, which are consecutive."""
    turns: dict[int, ReplyAccumulator] = field(default_factory=dict)
    meters: dict[int, LogStatsParser] = field(default_factory=dict)
    """The figures of the engine for each variant of the present turn."""
    stopped: set[int] = field(default_factory=set)
    one_by_one: bool = False
    """Whether the library generates only one reply at a time."""
    last: VariantEvent | None = None

    def begin_run(self) -> None:
        """Choose the variants of the next turn: all, unless some have ended before the engine died."""
        first = self.pending[0]
        consecutive = (number for place, number in enumerate(self.pending) if number == first + place)
        self.run = tuple(consecutive)[: 1 if self.one_by_one else None]
        self.turns.clear()
        self.meters.clear()

    def ended(self, number: int, end: Completed | Failed) -> list[VariantEvent]:
        """Note the end of a variant. Returns its event; that of the last variant is kept in ``last``."""
        self.pending.remove(number)
        if self.pending:
            return [VariantEvent(number, end)]
        self.last = VariantEvent(number, end)
        return []


class VariantSession(Session):
    """A session that can also generate several replies at once, which share the context window. The engine knows none
    of them as part of the conversation: the next request contains the one that is kept."""

    _variants: _Variants | None = None

    def stop_variant(self, number: int) -> None:
        """Stop one of the running variants."""
        variants, process = self._variants, self.process
        if variants is None or number not in variants.pending:
            return
        variants.stopped.add(number)
        if process is not None and process.state is ProcessState.GENERATING and number in variants.turns:
            if len(variants.run) > 1:
                process.stop_variant(variants.run.index(number))
            else:
                process.stop()

    async def variants(
        self, conversation: Conversation, options: ReplyOptions, count: int
    ) -> AsyncGenerator[VariantEvent]:
        """The events of ``count`` replies to a conversation that ends with a message; see
        :func:`bitnet_chat.backends.variants.variants_of`. A death of the engine costs a variant that has no text yet
        only time."""
        if self.supervisor.busy:
            raise UsageError("a reply is under way already")
        attempts = self._begin(conversation, None, options)
        variants = self._variants = _Variants(list(range(count)))
        try:
            for each in self._opening(attempts, variants, conversation):
                yield each
            while variants.pending:
                for each in await self._begin_variants(attempts, variants, options):
                    yield each
                while self._is_running(attempts, variants) and (frames := await attempts.process.frames()):
                    for each in self._read_variants(attempts, variants, frames):
                        yield each
                for each in await self._end_variants(attempts, variants):
                    yield each
            for each in self._told(variants):
                yield each
            # Before the end is reported: the next question may follow it at once.
            self._release(attempts)
            if variants.last is not None:
                yield variants.last
        finally:
            self._variants = None
            if self._release(attempts):  # the caller has left
                self.supervisor.abandon()

    def _opening(self, attempts: Attempts, variants: _Variants, conversation: Conversation) -> list[VariantEvent]:
        cleaned = normalise(conversation.messages[-1].content)
        if not cleaned.text:
            attempts.end = Failed(EmptyMessageError())
        notes = [VariantEvent(0, Notice(cleaned.note))] if cleaned.note else []
        return [*notes, *self._told(variants)]

    def _told(self, variants: _Variants) -> list[VariantEvent]:
        """Notices, with one variant that has not ended."""
        number = variants.pending[0] if variants.last is None else variants.last.variant
        return [VariantEvent(number, notice) for notice in self.supervisor.take_notices(of_launch=False)]

    def _input(self, process: EngineProcess, prompt: EnginePrompt, options: ReplyOptions) -> EncodedMessage:
        if self._variants is None or len(self._variants.run) == 1:
            return super()._input(process, prompt, options)
        found = process.variants_for(prompt.kept, prompt.text, options, len(self._variants.run))
        assert found is not None, "only a native engine has variants"
        return found

    async def _begin_variants(
        self, attempts: Attempts, variants: _Variants, options: ReplyOptions
    ) -> list[VariantEvent]:
        """Send the message for the variants that have not ended."""
        is_refused = attempts.end is not None
        if is_refused:
            return []
        variants.begin_run()
        attempts.options = options.for_variant(variants.run[0])
        events: list[VariantEvent] = []
        for event in await self._begin_turn(attempts):
            numbers = variants.pending[: 1 if isinstance(event, Notice) else None]
            events += [VariantEvent(number, event) for number in numbers]
        if attempts.end is not None:
            return events
        protocol, process, prompt = await self.supervisor.protocol(), attempts.process, attempts.prompt
        assert prompt is not None, "a turn has begun"
        for number in variants.run:
            if len(variants.run) == 1:
                variants.turns[number] = attempts.turn
                continue
            meter = variants.meters[number] = LogStatsParser()
            meter.context_size = process.meter.context_size
            estimate, tags = self._estimate(protocol, prompt), process.thinking_tags
            variants.turns[number] = ReplyAccumulator(meter, attempts.began, estimate=estimate, tags=tags)
        for number in variants.stopped.intersection(variants.run):
            self.stop_variant(number)
        return events

    @staticmethod
    def _is_running(attempts: Attempts, variants: _Variants) -> bool:
        return attempts.end is None and any(turn.end is None for turn in variants.turns.values())

    def _read_variants(
        self, attempts: Attempts, variants: _Variants, frames: Iterable[Frame]
    ) -> Iterator[VariantEvent]:
        """The events of ``frames``."""
        for frame in frames:
            place, inner = (frame.variant, frame.frame) if isinstance(frame, VariantFrame) else (0, frame)
            if frame is inner and len(variants.run) > 1:
                continue  # the end of the last one has been read
            number = variants.run[place]
            turn = variants.turns[number]
            if isinstance(inner, ReplyFigures):
                variants.meters[number].told(inner)
            for event in turn_events(turn, [inner]):
                self._note_text(attempts, event)
                yield from self._told(variants)
                yield VariantEvent(number, event)
            if turn.end is not None and turn.error is None:
                turn.over(natural=turn.end.natural)
                yield from variants.ended(number, self._completed_variant(attempts, turn, turn.end))

    def _note_text(self, attempts: Attempts, event: Event) -> None:
        is_text = isinstance(event, TextDelta | ThinkingDelta)
        if is_text and not attempts.has_read and attempts.prompt is not None:
            attempts.has_read = True
            self.supervisor.has_read(attempts.prompt)

    def _completed_variant(self, attempts: Attempts, turn: ReplyAccumulator, end: TurnEnd) -> Completed:
        reason = end.reason or FinishReason.STOP
        if self._stop_reason is not None and reason is FinishReason.INTERRUPTED:
            reason = self._stop_reason
        return Completed(reason, turn.text, turn.stats(), attempts.origin)

    async def _end_variants(self, attempts: Attempts, variants: _Variants) -> list[VariantEvent]:
        """Handle the end of a turn, failures, and the death of the child. Variants that stay pending are repeated."""
        ends: Mapping[int, Completed | Failed] = {}
        if attempts.end is not None:
            ends = dict.fromkeys(variants.pending, attempts.end)
        elif left := {number: turn for number, turn in variants.turns.items() if number in variants.pending}:
            try:
                ends = await self._ends(attempts, variants, left)
            except BitnetChatError as error:
                if self.state is ProcessState.DEAD:
                    self.supervisor.discard()
                ends = dict.fromkeys(variants.pending, Failed(error))
        events = [event for number, end in ends.items() for event in variants.ended(number, end)]
        if not variants.pending and attempts.prompt is not None and attempts.has_started:
            if self.state is ProcessState.DEAD:
                self.supervisor.try_spawn(attempts.prompt.history)
            else:
                self.supervisor.expect(attempts.prompt.history)
        return events

    async def _ends(
        self, attempts: Attempts, variants: _Variants, left: Mapping[int, ReplyAccumulator]
    ) -> Mapping[int, Completed | Failed]:
        """The ends of variants of a turn that failed, or in which the child died. Empty: they are repeated."""
        process, prompt, options = attempts.process, attempts.prompt, attempts.options
        assert prompt is not None, "a turn has begun"
        for turn in left.values():
            turn.over()
        await process.log_is_level()
        turn = next((turn for turn in left.values() if turn.text), next(iter(left.values())))
        if turn.error is not None:
            end = await self._error(process, prompt, turn, turn.error, options)
            is_refused = isinstance(end, Failed) and isinstance(end.error, UnsupportedError)
            if is_refused and options.format is None and len(variants.run) > 1:
                variants.one_by_one = True
                return {}
            if end is None:
                return {}
            return {each: replace(end, text=turn.text) for each, turn in left.items()}
        reason = await self._reason_of_death(process, prompt, turn)
        if reason is None:
            return {}
        return {
            each: Completed(reason, turn.text, turn.stats(), attempts.origin)
            for each, turn in left.items()
            if turn.text or reason is not FinishReason.ENGINE_DIED
        }
