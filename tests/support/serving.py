"""A server for tests: in the test's own loop over scripted backends, or the program itself as a process.

::

    async def main() -> None:
        async with serving(script) as served:          # a real uvicorn on a free port
            served.url, served.desk, served.backends   # the ScriptedBackends, in the order they were made
    asyncio.run(main())

    with served_process("--temp", "0") as process:     # bitnet-chat serve, the bundled model, a real engine
        process.url, process.pid, process.end()
"""

from __future__ import annotations

import contextlib
import io
import queue
import signal
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from program import TIMEOUT, engines_of, opened
from scripted_backend import Script, ScriptedBackend, by_message

from bitnet_chat.backends.pool import BackendFactory
from bitnet_chat.engine.binary import Dialect, EngineBinary
from bitnet_chat.engine.discovery import find
from bitnet_chat.errors import EngineNotFoundError
from bitnet_chat.journal import Journal
from bitnet_chat.server.app import application, running
from bitnet_chat.server.middleware import RequestMiddleware
from bitnet_chat.server.model_manager import ModelManager
from bitnet_chat.server.reply_cache import ReplyCache
from bitnet_chat.server.scheduler import ReplyScheduler
from bitnet_chat.server.settings import ServeSettings

# Found before any test changes the environment, as those of conftest are.
ENGINE: EngineBinary | None = None
with contextlib.suppress(EngineNotFoundError):
    ENGINE = find(dialect=Dialect.CLASSIC)


@dataclass
class Served:
    url: str
    app: RequestMiddleware
    scheduler: ReplyScheduler
    backends: list[ScriptedBackend]
    """Those of scripts, in the order in which they were made: none before it is needed."""

    @property
    def backend(self) -> ScriptedBackend:
        assert len(self.backends) == 1, f"there are {len(self.backends)}"
        return self.backends[0]


def scripted_source(
    script: Script, backends: list[ScriptedBackend], *, name: str = "scripted", parallel: int = 1, **options: bool
) -> BackendFactory:
    """``options``: those of ScriptedBackend. Each backend that is made is put into ``backends``."""

    def make() -> ScriptedBackend:
        backends.append(ScriptedBackend(script, name=name, **options))
        return backends[-1]

    return BackendFactory(name, parallel, make)


@asynccontextmanager
async def serving(
    what: Script | BackendFactory | Mapping[str, BackendFactory] = by_message,
    *,
    parallel: int = 1,
    settings: ServeSettings | None = None,
    journal: Journal | None = None,
    **options: bool,
) -> AsyncIterator[Served]:
    """``what``: a script for backends that play it, a source, or several by the names of their models. ``options``:
    those of ScriptedBackend. At the end replies have no time left."""
    settings = settings or ServeSettings(port=0, grace=0.0)
    backends: list[ScriptedBackend] = []
    if isinstance(what, BackendFactory):
        sources: Mapping[str, BackendFactory] = {what.name: what}
    elif isinstance(what, Mapping):
        sources = what
    else:
        sources = {"scripted": scripted_source(what, backends, parallel=parallel, **options)}
    model_manager = ModelManager(sources, queue=settings.queue, memory_limit=settings.memory_limit)
    scheduler = ReplyScheduler(model_manager, cache=ReplyCache() if settings.cache else None)
    app = application(scheduler, settings, journal)
    async with running(scheduler, settings, journal, app) as url:
        yield Served(url, app, scheduler, backends)


class ServedProcess:
    """``bitnet-chat serve`` as a process, with a classic engine. ``url``: where it listens; ``lines``: what it has
    written to stderr."""

    def __init__(self, *arguments: str, **more: str) -> None:
        engine = ("--engine", str(ENGINE.path)) if ENGINE else ()
        self._child, self._stderr = opened("serve", "--port", "0", *engine, *arguments, **more)
        self.lines: list[str] = []
        self._heard: queue.Queue[str | None] = queue.Queue()
        self._ear = threading.Thread(target=self._listen, daemon=True)
        self._ear.start()
        self.url = ""
        while not self.url:
            line = self._heard.get(timeout=TIMEOUT)
            if line is None:
                self.wait()
                raise AssertionError(f"it ended before it listened: {''.join(self.lines)}")
            _, found, address = line.partition("listening on ")
            self.url = address.strip() if found else ""

    @property
    def pid(self) -> int:
        return self._child.pid

    def send_signal(self, number: int) -> None:
        self._child.send_signal(number)

    def wait(self) -> int:
        """Until it has ended; gives its exit code, or minus the number of the signal."""
        code = self._child.wait(TIMEOUT)
        self._ear.join(TIMEOUT)
        return code

    def end(self, number: int = signal.SIGTERM) -> int:
        self.send_signal(number)
        return self.wait()

    def line(self) -> str:
        """The next line that it writes to stderr; empty at its end."""
        return self._heard.get(timeout=TIMEOUT) or ""

    def close(self) -> None:
        children = engines_of(self.pid)
        if self._child.poll() is None:
            self._child.kill()
        self.wait()
        for each in children:
            with contextlib.suppress(Exception):
                each.kill()

    def _listen(self) -> None:
        with io.TextIOWrapper(self._stderr, encoding="utf-8", errors="replace") as stderr:
            for line in stderr:
                self.lines.append(line)
                self._heard.put(line)
        self._heard.put(None)


@contextmanager
def served_process(*arguments: str, home: Path | None = None, **more: str) -> Iterator[ServedProcess]:
    """The program, listening; its engine may still be loading. ``home``: a folder for journal and settings of its own,
    for one that outlives a test (those of one test have the test's). Ended and cleaned up behind the block."""
    if home is not None:
        more = {
            "BITNET_CHAT_DATA": str(home / "data"),
            "BITNET_CHAT_CACHE": str(home / "cache"),
            "BITNET_CHAT_CONFIG": str(home / "config.toml"),
        } | more
    process = ServedProcess(*arguments, **more)
    try:
        yield process
    finally:
        process.close()
