"""Our server over a synthetic engine of known rate. Run by load.py: ``python load_server.py STREAMS RATE SECONDS``.

Each token is a line with the moment at which it was made, its number and some text; the last line is a checksum of all
that was said before it. The address is the first line on stdout.
"""

from __future__ import annotations

import asyncio
import sys
import time
import zlib
from collections.abc import AsyncIterator

import uvicorn

from bitnet_chat.backends import BackendStatus, ReplyOptions
from bitnet_chat.backends.guarded import GuardedBackend, GuardLimits
from bitnet_chat.backends.source import Source
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Event, Started, Stats, TextDelta
from bitnet_chat.prompt.tokens import TokenCount
from bitnet_chat.serve.app import application
from bitnet_chat.serve.catalogue import Catalogue
from bitnet_chat.serve.desk import Desk
from bitnet_chat.serve.settings import ServeSettings

FILLING = "words, wörter, 言葉 "


class SyntheticBackend:
    """Says ``rate`` tokens a second for ``seconds``, on time: one that was late does not delay the next."""

    def __init__(self, rate: float, seconds: float) -> None:
        self._interval, self._count = 1 / rate, round(rate * seconds)
        self._stopped = asyncio.Event()

    def start(self) -> None:
        pass

    async def reply(self, conversation: Conversation, options: ReplyOptions | None = None) -> AsyncIterator[Event]:
        self._stopped.clear()
        yield Started()
        loop = asyncio.get_running_loop()
        begun, said, check = loop.time(), [], 0
        # A place of its own within the interval: a hundred engines do not speak in one voice.
        begun += self._interval * (hash(id(self)) % 997) / 997
        for number in range(self._count):
            await asyncio.sleep(begun + number * self._interval - loop.time())
            if self._stopped.is_set():
                yield Completed(FinishReason.INTERRUPTED, "".join(said))
                return
            line = f"{time.monotonic():.6f} {number} {FILLING}\n"
            check = zlib.crc32(line.encode(), check)
            said.append(line)
            yield TextDelta(line)
        line = f"checksum {check}\n"
        yield TextDelta(line)
        yield Completed(FinishReason.STOP, "".join((*said, line)), Stats(tokens=self._count + 1))

    def prepare(self, history: Conversation) -> None:
        pass

    def count(self, text: str) -> TokenCount | None:
        return None

    def interrupt(self) -> None:
        self._stopped.set()

    def status(self) -> BackendStatus:
        return BackendStatus("synthetic", "synthetic", "idle")

    async def close(self) -> None:
        pass


async def main(streams: int, rate: float, seconds: float) -> None:
    def make() -> GuardedBackend:
        # The guard is on, but for repetitions, of which this engine makes nothing else.
        return GuardedBackend(SyntheticBackend(rate, seconds), GuardLimits(repeat_limit=0))

    desk = Desk(Catalogue({"synthetic": Source("synthetic", streams, make)}))
    app = application(desk, ServeSettings(), None)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", http="httptools"))
    task = asyncio.ensure_future(server.serve())
    while not server.started:  # noqa: ASYNC110 -- before anything is measured
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    print(f"http://127.0.0.1:{port}", flush=True)
    await task


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
