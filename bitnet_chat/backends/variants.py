"""Several replies to one conversation: at the same time from one prefill where the backend can, else in sequence."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from bitnet_chat.backend import Backend, ReplyOptions
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import UsageError
from bitnet_chat.events import Event

MOST = 8
"""Maximum number of variants of one request."""


@dataclass(frozen=True, slots=True)
class VariantEvent:
    """An event of one of several replies. ``variant``: its number, from 0."""

    variant: int
    event: Event


@runtime_checkable
class VariantsBackend(Protocol):
    """A backend that generates several replies from one prefill."""

    def variants(
        self, conversation: Conversation, options: ReplyOptions, count: int
    ) -> AsyncGenerator[VariantEvent] | None:
        """See :func:`variants_of`. None: not with this conversation and these options."""


def variants_of(
    backend: Backend, conversation: Conversation, options: ReplyOptions, count: int
) -> AsyncGenerator[VariantEvent]:
    """The events of ``count`` replies. Those of each variant are the events of a reply: they end with one Completed or
    Failed. Closing the generator, and ``backend.interrupt``, stop all of them.

    With a seed in ``options``, the seed of each variant is its own, see :func:`options_of`. Raises UsageError for a
    count below 1 or above :data:`MOST`.
    """
    if not 1 <= count <= MOST:
        raise UsageError(f"the number of variants must be from 1 to {MOST}, not {count}")
    if count > 1 and isinstance(backend, VariantsBackend):
        together = backend.variants(conversation, options, count)
        if together is not None:
            return together
    return _in_sequence(backend, conversation, options, count)


def options_of(options: ReplyOptions, variant: int) -> ReplyOptions:
    """The options of one variant: its seed is that of the request plus its number."""
    if options.sampling.seed is None:
        return options
    return replace(options, sampling=replace(options.sampling, seed=options.sampling.seed + variant))


async def _in_sequence(
    backend: Backend, conversation: Conversation, options: ReplyOptions, count: int
) -> AsyncGenerator[VariantEvent]:
    for variant in range(count):
        async with aclosing(backend.reply(conversation, options_of(options, variant))) as events:
            async for event in events:
                yield VariantEvent(variant, event)
