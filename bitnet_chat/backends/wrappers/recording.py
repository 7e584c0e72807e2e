"""Recording of replies in the journal while they stream, for every backend."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, replace
from random import randrange
from typing import TYPE_CHECKING

from bitnet_chat.backend import Backend, BackendStatus, EngineFacts, ReplyOptions, Sampling
from bitnet_chat.backends.pipeline import ReplyFilter, ReplyPipeline, pipeline_of, run
from bitnet_chat.backends.variants import MOST, VariantEvent, options_of, variants_of
from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Event, Failed, TextDelta, ThinkingDelta
from bitnet_chat.prompt_cache.model_hash import known_hash

if TYPE_CHECKING:
    from bitnet_chat.journal import JournalRecorder
    from bitnet_chat.journal.recorder import ReplyWriter


_SEEDS = (1 << 31) - MOST
"""Number of seeds that every engine takes, with those of variants after them."""


def record_reply(
    backend: Backend, recorder: JournalRecorder, conversation: Conversation, options: ReplyOptions
) -> AsyncGenerator[Event]:
    """The unchanged events of ``backend.reply``; ``recorder`` gets each of them before the caller."""
    return run(lambda: recorded(backend, recorder, conversation, options))


def recorded(
    backend: Backend, recorder: JournalRecorder, conversation: Conversation, options: ReplyOptions
) -> ReplyPipeline:
    """The pipeline of a recorded reply. Recording begins at once."""
    status = backend.status()
    options = replace(_with_seed(options, status, conversation, recorder), place=recorder.place())
    pipeline = pipeline_of(backend, conversation, options)
    made = made_with(options, status)
    (reply,) = recorder.begin_replies(conversation, [made], model=status.model, engine=status.engine)
    return pipeline.then(_JournalFilter(backend, reply, options))


async def record_variants(
    backend: Backend, recorder: JournalRecorder, conversation: Conversation, options: ReplyOptions, count: int
) -> AsyncGenerator[VariantEvent]:
    """The unchanged events of :func:`bitnet_chat.backends.variants.variants_of`; ``recorder`` gets each of them before
    the caller. The replies are siblings in the journal, each with its own seed. Raises UsageError for a wrong count.
    """
    status = backend.status()
    options = replace(_with_seed(options, status, conversation, recorder), place=recorder.place())
    events = variants_of(backend, conversation, options, count)
    each = [options_of(options, variant) for variant in range(count)]
    made = [made_with(of_one, status) for of_one in each]
    replies = recorder.begin_replies(conversation, made, model=status.model, engine=status.engine)
    filters = [_JournalFilter(backend, reply, of_one) for reply, of_one in zip(replies, each, strict=True)]
    try:
        async with aclosing(events):
            async for event in events:
                filters[event.variant].feed(event.event)
                yield event
    finally:
        for of_reply in filters:
            of_reply.close()


def _with_seed(
    options: ReplyOptions, status: BackendStatus, conversation: Conversation, recorder: JournalRecorder
) -> ReplyOptions:
    """Add a random seed to options without one, so that the reply can be made again; for the rest of a reply, that of
    its beginning, if it is known."""
    sampling, last = options.sampling.over(status.sampling), conversation.last
    if not status.facts.takes_seeds or sampling.repeats:
        return options
    is_rest = last is not None and last.role == "assistant"
    seed = seed_of(recorder.options_of(last), sampling) if is_rest and last is not None else randrange(_SEEDS)
    return options if seed is None else replace(options, sampling=replace(options.sampling, seed=seed))


def seed_of(made_with: Mapping[str, object], sampling: Sampling) -> int | None:
    """The seed of a reply with the options ``made_with``, if its rest is sampled in the same way."""
    seed, wanted = made_with.get("seed"), asdict(sampling)
    is_same = all(value in (None, made_with.get(name, value)) for name, value in wanted.items())
    return seed if is_same and isinstance(seed, int) and 0 <= seed < _SEEDS else None


class _JournalFilter(ReplyFilter):
    def __init__(self, backend: Backend, reply: ReplyWriter, options: ReplyOptions) -> None:
        self._backend, self._reply, self._options = backend, reply, options
        self._is_over = False

    def feed(self, event: Event) -> Sequence[Event]:
        if isinstance(event, TextDelta):
            self._reply.text(event.text)
        elif isinstance(event, ThinkingDelta):
            self._reply.thinking(event.text)
        elif isinstance(event, ToolCall):
            self._reply.tool_call(event)
        elif isinstance(event, Completed):
            self._is_over = True
            made = made_with(self._options, self._backend.status(), event)  # more is known once the model is loaded
            self._reply.end(event.reason, event.stats, text=event.text, options=made)
        elif isinstance(event, Failed):
            self._is_over = True
            self._reply.end(event.error.reason, text=event.text)
        return (event,)

    def close(self) -> None:
        if not self._is_over:  # the generator was closed, or the backend raised an error
            self._reply.end(FinishReason.INTERRUPTED)


def made_with(options: ReplyOptions, status: BackendStatus, end: Completed | None = None) -> dict[str, object]:
    """The options of a reply for the journal, without those that are left to the engine, and what it was made with."""
    facts: dict[str, object] = {"max_tokens": options.max_tokens, "timeout": options.timeout}
    facts |= asdict(options.sampling.over(status.sampling))
    facts |= {"engine_version": status.engine_version or None, "window": status.context_size}
    facts |= {"stop": list(options.stop) or None, "tools": [tool.name for tool in options.tools] or None}
    if options.tools and options.tool_choice != "auto":
        facts["tool_choice"] = options.tool_choice
    if options.format is not None:
        facts["response_format"] = options.format.schema or "json"
    facts |= _provenance(status.facts)
    if end is not None and end.origin is not None:
        read = {"from": end.origin.source.value, "restored": end.origin.restored, "evaluated": end.stats.prompt_tokens}
        read |= {"begun": end.origin.begun, "state": end.origin.state}
        facts["read"] = {name: value for name, value in read.items() if value}
    return {name: value for name, value in facts.items() if value is not None}


def _provenance(facts: EngineFacts) -> dict[str, object]:
    model = None if facts.model_file is None else known_hash(facts.model_file)
    return {"model_hash": model, "template": facts.template or None, "threads": facts.threads}
