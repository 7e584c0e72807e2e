"""The models that are served, and the pools that answer for them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from bitnet_chat.backends.pool import Pool
from bitnet_chat.backends.source import Source
from bitnet_chat.errors import UsageError


class UnknownModel(UsageError):
    """There is no such model here."""


class Catalogue:
    """By name; the first one is the default."""

    def __init__(self, sources: Mapping[str, Source], *, queue: int = 64) -> None:
        self._pools = {name: Pool(source, queue=queue) for name, source in sources.items()}
        self.created = time.time()

    @property
    def names(self) -> list[str]:
        return list(self._pools)

    @property
    def pools(self) -> Mapping[str, Pool]:
        """Those that are loaded or were."""
        return self._pools

    def choose(self, name: str) -> str:
        """The name of the model that answers; empty: the default. Raises UnknownModel."""
        if not name:
            return self.names[0]
        if name not in self._pools:
            raise UnknownModel(f"there is no model {name!r} here", remedy=f"there are: {', '.join(self.names)}")
        return name

    def start(self) -> None:
        """Loads the default model in the background."""
        self._pools[self.names[0]].start()

    @asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[Pool]:
        """The pool of a model, loaded and not to be unloaded in the block."""
        yield self._pools[name]

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.close()
