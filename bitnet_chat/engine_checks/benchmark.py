"""Prefill and decode speed of an engine, measured with the backend that conversations use."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_chat.backend import ReplyOptions, Sampling
from bitnet_chat.context.token_count import by_length
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.selection import EngineOption
from bitnet_chat.engine.speeds import EngineSpeed
from bitnet_chat.errors import EngineDiedError
from bitnet_chat.events import Completed, Failed, Stats, TextDelta, ThinkingDelta
from bitnet_chat.util.progress import ProgressClock

if TYPE_CHECKING:
    from bitnet_chat.backends.local_engine import LocalEngineBackend
    from bitnet_chat.config import Settings

_SECONDS = 4.0
"""Maximum duration of decoding, in seconds."""
_SHORT, _LONG = "hello", "Tell me a long story about all of the animals that you know and where they live. " * 11
"""The question of the warm-up, and that of the measurement: about 200 tokens."""
_REPLY = 64
"""Maximum tokens of the measured reply."""
_TIMEOUT = 120.0
"""Time limit of a reply, in seconds."""


def measure(contender: EngineOption, model: Path, settings: Settings, clock: ProgressClock) -> EngineSpeed:
    """Measure an engine with a model, which is converted if necessary. Takes some seconds in addition to loading.
    Raises BitnetChatError.
    """
    changed = replace(
        settings,
        engine=str(contender.engine.path),
        model=str(model),
        journal=False,
        spare=False,
        system="",
        persona="",
        temperature=0.0,
    )
    return asyncio.run(_measured(changed, contender.name, clock))


async def _measured(settings: Settings, name: str, clock: ProgressClock) -> EngineSpeed:
    from bitnet_chat.backends.local_engine import LocalEngineBackend

    backend = LocalEngineBackend(settings)
    try:
        clock.step(f"Loading {name}")
        if backend.awaits_conversion:
            await asyncio.to_thread(backend.convert, clock.tell)
        await _reply(backend, _SHORT, 1)
        clock.step(f"Measuring {name}")
        return _speed(await _reply(backend, _LONG, _REPLY))
    finally:
        await backend.close()


async def _reply(backend: LocalEngineBackend, text: str, tokens: int) -> Stats:
    options = ReplyOptions(max_tokens=tokens, timeout=_TIMEOUT, sampling=Sampling(temperature=0.0))
    stop: asyncio.TimerHandle | None = None
    stats = Stats()
    try:
        async for event in backend.reply(Conversation().with_user(text), options):
            if isinstance(event, TextDelta | ThinkingDelta) and stop is None:
                stop = asyncio.get_running_loop().call_later(_SECONDS, backend.interrupt)
            elif isinstance(event, Failed):
                raise event.error
            elif isinstance(event, Completed):
                stats = event.stats
    finally:
        if stop is not None:
            stop.cancel()
    return stats


def _speed(stats: Stats) -> EngineSpeed:
    decode, first = stats.tokens_per_second, stats.time_to_first_token
    if not decode or not first:
        raise EngineDiedError("it wrote nothing that could be measured")
    # The time to the first token includes the decoding of that token.
    reading = max(first - 1 / decode, first / 10)
    return EngineSpeed(prefill=(stats.prompt_tokens or by_length(_LONG).count) / reading, decode=decode)
