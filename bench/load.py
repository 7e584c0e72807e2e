#!/usr/bin/env python3
"""Many streams at once through our server, from a synthetic engine of known rate: ``python bench/load.py``.

What is added to each chunk is the time from the moment at which the engine made it to the one at which a client in
another process has it off its socket. Nothing may be missing or come twice.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import sse
from load_server import CLOCK, DIGITS, NUMBERS, TICK
from report import Figure, Goal, Section

_SERVER = Path(__file__).with_name("load_server.py")
_WARM_UP = 3


@dataclass(slots=True)
class Stream:
    """What one client got."""

    delays: list[float] = field(default_factory=list)
    """Seconds, one for each token."""
    wrong: list[str] = field(default_factory=list)
    _rest: str = ""
    _check: int = 0
    _next: int = 0
    _whole: bool = False

    def feed(self, moment: float, text: str) -> None:
        *tokens, self._rest = (self._rest + text).split(";")
        for token in tokens:
            self._token(moment, token)

    def _token(self, moment: float, token: str) -> None:
        if token.startswith("checksum "):
            self._whole = token == f"checksum {self._check}"
            return
        number, stamp = token[-5:-4], token[-4:]
        if number != DIGITS[self._next % NUMBERS]:
            self.wrong.append(f"token {self._next}: {token!r}")
        self._next += 1
        self._check = zlib.crc32(f"{token};".encode(), self._check)
        self.delays.append((moment / TICK - int(stamp, 36)) % CLOCK * TICK)

    def end(self, count: int) -> None:
        if not self._whole or self._rest or self._next != count:
            self.wrong.append(f"{self._next} of {count} tokens, checksum {'right' if self._whole else 'wrong'}")


async def _one(url: str, count: int) -> Stream:
    stream = Stream()
    body = {"model": "synthetic", "stream": True, "messages": [{"role": "user", "content": "go"}]}
    async for moment, text in sse.stream(f"{url}/v1/chat/completions", body):
        stream.feed(moment, text)
    stream.end(count)
    return stream


async def _watch(process: psutil.Process, sizes: list[int]) -> None:
    while True:
        sizes.append(process.memory_info().rss)
        await asyncio.sleep(0.25)


async def _load(url: str, process: psutil.Process, streams: int, count: int) -> tuple[list[Stream], list[int]]:
    sizes: list[int] = []
    watch = asyncio.ensure_future(_watch(process, sizes))
    try:
        return await asyncio.gather(*(_one(url, count) for _ in range(streams))), sizes
    finally:
        watch.cancel()


def measure(streams: int, rate: float, seconds: float) -> Section:
    count = round(rate * seconds)
    command = [sys.executable, str(_SERVER), str(streams), str(rate), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url, process = server.stdout.readline().strip(), psutil.Process(server.pid)
            # Imports and first uses do not count as memory of a stream.
            short = [
                sys.executable,
                str(Path(__file__)),
                "--warm-up",
                url,
                "--seconds",
                str(seconds),
                "--rate",
                str(rate),
            ]
            subprocess.run(short, check=True)
            before, used = process.memory_info().rss, sum(process.cpu_times()[:2])
            results, sizes = asyncio.run(_load(url, process, streams, count))
            used = sum(process.cpu_times()[:2]) - used
        finally:
            server.terminate()
    delays = sorted(1000 * delay for each in results for delay in each.delays)
    wrong = [line for each in results for line in each.wrong]
    p99 = delays[int(len(delays) * 0.99)]
    memory = (max(sizes) - before) / streams / 1000
    return Section(
        f"{streams} streams at once, {rate:g} tokens a second each, for {seconds:g} s",
        notes=[f"{len(delays):,} chunks; our processor time for each: {1e6 * used / len(delays):.0f} µs", *wrong[:5]],
        figures=[
            Figure.of("added time per chunk", "ms", delays),
            Figure.of("of these the 99th percentile", "ms", [p99]),
            Figure.of("memory per stream", "KB", [memory]),
            Figure.of("lost, repeated or wrong", "tokens", [len(wrong)]),
        ],
        goals=[
            Goal("added time per chunk, 99th percentile", p99, "ms", 10),
            Goal("memory per stream", memory, "KB", 100),
            Goal("lost, repeated or wrong", len(wrong), "tokens", 0),
        ],
    )


async def _warm_up(url: str) -> None:
    async def begin() -> None:
        body = {"model": "synthetic", "stream": True, "messages": [{"role": "user", "content": "go"}]}
        number = 0
        async for _ in sse.stream(f"{url}/v1/chat/completions", body):
            number += 1
            if number == 5:
                return

    await asyncio.gather(*(begin() for _ in range(_WARM_UP)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--rate", type=float, default=20.0, metavar="N", help="tokens a second of each (default: 20)")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--warm-up", metavar="URL", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.warm_up:
        asyncio.run(_warm_up(flags.warm_up))
        return 0
    section = measure(flags.streams, flags.rate, flags.seconds)
    print(section)
    for goal in section.goals:
        print(goal)
    return 0


if __name__ == "__main__":
    sys.exit(main())
