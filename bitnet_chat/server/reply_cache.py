"""A cache of deterministic replies in memory, which are replayed as streams.

A reply is stored if it is repeatable (temperature 0 or a seed), complete, and without notices. The least recently used
replies are removed first.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass

from bitnet_chat.backend import BackendStatus, ReplyOptions, Sampling
from bitnet_chat.backends.pipeline import ReplyFilter
from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, TextDelta, ThinkingDelta

LIMIT = 64_000_000
"""Bytes."""
_EVENT = 200
"""Approximate bytes of an event besides its text."""
_OWN_ENDS = (FinishReason.STOP, FinishReason.LENGTH, FinishReason.ROLE_MARKER, FinishReason.TOOL_CALLS)


@dataclass(frozen=True, slots=True)
class _CachedReply:
    status: BackendStatus
    pieces: tuple[Event, ...]
    end: Completed
    size: int


class ReplyCache:
    """All methods belong to the event loop."""

    def __init__(self, defaults: Sampling | None = None, *, limit: int = LIMIT) -> None:
        """``defaults``: the default sampling of the server. ``limit``: bytes of all replies."""
        self._defaults, self.limit = defaults or Sampling(), limit
        self._kept: OrderedDict[bytes, _CachedReply] = OrderedDict()
        self.size = 0
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._kept)

    def entry(self, key: bytes | None) -> CacheEntry | None:
        """Return the entry of a request; None if ``key`` is None. Counts a hit or a miss."""
        if key is None:
            return None
        kept = self._kept.get(key)
        if kept is None:
            self.misses += 1
            return CacheEntry(self, key, None)
        self._kept.move_to_end(key)
        self.hits += 1
        return CacheEntry(self, key, CachedBackend(kept))

    def key(self, model: str, conversation: Conversation, options: ReplyOptions) -> bytes | None:
        """Return the key of a request, or None if the reply is not repeatable.

        The cost grows with the conversation, so this may be called in a thread.
        """
        sampling, defaults = options.sampling, self._defaults
        temperature = sampling.temperature if sampling.temperature is not None else defaults.temperature
        seed = sampling.seed if sampling.seed is not None else defaults.seed
        if not Sampling(temperature=temperature, seed=seed).repeats:
            return None
        asked = asdict(options)
        del asked["timeout"], asked["place"]  # a reply that a timeout has cut is not stored
        said = [
            (
                each.role,
                each.content,
                each.finish,
                [asdict(call) for call in each.tool_calls],
                each.call_id,
                each.tool_name,
            )
            for each in conversation.messages
        ]
        return hashlib.sha256(json.dumps([model, said, asked], sort_keys=True).encode("ascii")).digest()

    def keep(self, key: bytes, kept: _CachedReply) -> None:
        if kept.size > self.limit:
            return
        before = self._kept.pop(key, None)
        self.size += kept.size - (before.size if before is not None else 0)
        self._kept[key] = kept
        while self.size > self.limit:
            _, oldest = self._kept.popitem(last=False)
            self.size -= oldest.size


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """The entry of one request. ``replay``: the stored reply, or None."""

    cache: ReplyCache
    key: bytes
    replay: CachedBackend | None

    def filter(self, status: BackendStatus) -> ReplyFilter:
        """Return a filter that stores the reply that passes it. ``status``: of the backend of the reply."""
        return _CacheFilter(self, status)


class _CacheFilter(ReplyFilter):
    def __init__(self, entry: CacheEntry, status: BackendStatus) -> None:
        self._entry, self._status, self._limit = entry, status, entry.cache.limit
        self._pieces: list[Event] = []
        self._size = len(entry.key)

    def feed(self, event: Event) -> Sequence[Event]:
        if isinstance(event, (TextDelta, ThinkingDelta)):
            self._size += _EVENT + len(event.text.encode("utf-8", "surrogatepass"))
            self._pieces.append(event)
        elif isinstance(event, ToolCall):
            self._size += _EVENT + 4 * len(event.arguments)
            self._pieces.append(event)
        elif isinstance(event, (Notice, Failed)):
            self._size = self._limit + 1  # a notice or an error may not apply to the next request: do not store
        elif isinstance(event, Completed) and event.reason in _OWN_ENDS:
            size = self._size + 4 * len(event.text)
            kept = _CachedReply(self._status, tuple(self._pieces), event, size)
            self._entry.cache.keep(self._entry.key, kept)
        if self._size > self._limit:
            self._pieces.clear()
        return (event,)


class CachedBackend:
    """A backend that replays one stored reply (see :class:`bitnet_chat.backend.Backend`)."""

    def __init__(self, kept: _CachedReply) -> None:
        self._kept = kept
        self._stopped = False

    def start(self) -> None:
        pass

    async def reply(self, conversation: Conversation, options: ReplyOptions | None = None) -> AsyncGenerator[Event]:
        """Yield the stored events; other tasks run after each."""
        yield Started()
        text: list[str] = []
        for piece in self._kept.pieces:
            await asyncio.sleep(0)
            if self._stopped:
                yield Completed(FinishReason.INTERRUPTED, "".join(text))
                return
            if isinstance(piece, TextDelta):
                text.append(piece.text)
            yield piece
        yield self._kept.end

    def prepare(self, history: Conversation) -> None:
        pass

    def count(self, text: str) -> TokenCount | None:
        return None

    def interrupt(self) -> None:
        self._stopped = True

    def status(self) -> BackendStatus:
        return self._kept.status

    async def close(self) -> None:
        pass
