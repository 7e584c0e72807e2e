"""Our server over a synthetic engine of known rate. Run by load.py: ``python load_server.py STREAMS RATE SECONDS``.

Each token is as long as one of a real model, about six characters: its number and the moment at which it was made, in
base 36, and a semicolon. White space at the end would wait for what follows, since it may belong to a role marker. The
last one is a checksum of all that was said before it. The address is the first line on stdout.
"""

from __future__ import annotations

import asyncio
import sys
import time
import zlib
from collections.abc import AsyncIterator

from bitnet_chat.backend import BackendState, BackendStatus, ReplyOptions
from bitnet_chat.backends.pool import BackendFactory
from bitnet_chat.backends.wrappers.runaway_guard import GuardedBackend, GuardLimits
from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Event, Started, Stats, TextDelta
from bitnet_chat.server.app import running
from bitnet_chat.server.model_manager import ModelManager
from bitnet_chat.server.scheduler import ReplyScheduler
from bitnet_chat.server.settings import ServeSettings
from bitnet_chat.text.utf8 import TextBuffer

TICK = 0.0002
"""Seconds: the unit of the moments."""
NUMBERS, CLOCK = 36, 36**4
"""Numbers and moments are told modulo these."""
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def written(moment: float) -> str:
    """A moment of the monotonic clock, in four digits."""
    ticks, text = int(moment / TICK) % CLOCK, ""
    for _ in range(4):
        ticks, digit = divmod(ticks, 36)
        text = DIGITS[digit] + text
    return text


def _break(number: int) -> str:
    """What a token begins with: now and then a new line, and a character of more than one byte."""
    return "\n\u00e9 " if number % 20 == 19 else ""


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
        begun, said, check = loop.time(), TextBuffer(), 0
        # A place of its own within the interval: a hundred engines do not speak in one voice.
        begun += self._interval * (hash(id(self)) % 997) / 997
        for number in range(self._count):
            await asyncio.sleep(begun + number * self._interval - loop.time())
            if self._stopped.is_set():
                yield Completed(FinishReason.INTERRUPTED, said.text)
                return
            token = f"{_break(number)}{DIGITS[number % NUMBERS]}{written(time.monotonic())};"
            check = zlib.crc32(token.encode(), check)
            said.add(token)
            yield TextDelta(token)
        token = f"checksum {check};"
        yield TextDelta(token)
        yield Completed(FinishReason.STOP, said.text + token, Stats(tokens=self._count + 1))

    def prepare(self, history: Conversation) -> None:
        pass

    def count(self, text: str) -> TokenCount | None:
        return None

    def interrupt(self) -> None:
        self._stopped.set()

    def status(self) -> BackendStatus:
        return BackendStatus("synthetic", "synthetic", BackendState.IDLE)

    async def close(self) -> None:
        pass


async def main(streams: int, rate: float, seconds: float) -> None:
    def make() -> GuardedBackend:
        # The guard is on, but for repetitions, of which this engine makes nothing else.
        return GuardedBackend(SyntheticBackend(rate, seconds), GuardLimits(repeat_limit=0))

    scheduler = ReplyScheduler(ModelManager({"synthetic": BackendFactory("synthetic", streams, make)}))
    async with running(scheduler, ServeSettings(port=0), None) as url:
        print(url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
