#!/usr/bin/env python3
"""Time of several replies to one message, against the time of one reply.

``python bench/variants.py [--count 3] [--tokens 60] [--words 200] [--runs N] [--backend engine|llama-server]
[--engine PATH] [--model NAME]``. Each run asks for one reply, several, several, and one. A reply has a new seed and
``--tokens`` tokens, unless the model ends it. "read" includes the evaluation of a new prompt; "again" is another reply
to a message that the engine has evaluated, as with /regen. Quote figures of a computer that does nothing else. The
output is Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import time
from collections import defaultdict
from contextlib import aclosing
from random import Random

from bitnet_chat.backend import Backend, ReplyOptions, Sampling
from bitnet_chat.backends.factory import open_backend
from bitnet_chat.backends.variants import variants_of
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.install import packages
from bitnet_chat.events import Completed, Failed

_WORDS = "engine model token prompt journal terminal window message answer question table letter river garden".split()  # noqa: SIM905
_ONE, _SEVERAL = "one", "several"


class Bench:
    """One backend. ``times``: seconds of a reply, or of all replies of a request; ``rates``: tokens/s of them."""

    def __init__(self, backend: Backend, count: int, tokens: int, words: int) -> None:
        self._backend, self._count, self._tokens, self._words = backend, count, tokens, words
        self._seeds = itertools.count(1)
        self.times: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        self.rates: defaultdict[tuple[str, str], list[float]] = defaultdict(list)

    async def measure(self) -> None:
        """One run."""
        for what in (_ONE, _SEVERAL, _SEVERAL, _ONE):
            asked = self._conversation()
            await self._ask(asked, what, "read")
            await self._ask(asked, what, "again")

    def _conversation(self) -> Conversation:
        random = Random(next(self._seeds))
        words = " ".join(random.choice(_WORDS) for _ in range(self._words))
        return Conversation().with_user(f"{words}\n\nWrite a long story with these words.")

    async def _ask(self, asked: Conversation, what: str, kind: str) -> None:
        seed, count = next(self._seeds) * 10, 1 if what == _ONE else self._count
        options = ReplyOptions(max_tokens=self._tokens, sampling=Sampling(temperature=0.8, seed=seed))
        began, made = time.perf_counter(), 0
        async with aclosing(variants_of(self._backend, asked, options, count)) as events:
            async for each in events:
                if isinstance(each.event, Failed):
                    raise SystemExit(str(each.event.error))
                if isinstance(each.event, Completed):
                    made += each.event.stats.tokens
        seconds = time.perf_counter() - began
        self.times[kind, what].append(seconds)
        self.rates[kind, what].append(made / seconds)


async def _run(settings: Settings, flags: argparse.Namespace) -> Bench:
    backend = open_backend(settings, "")
    bench = Bench(backend, flags.count, flags.tokens, flags.words)
    try:
        async with aclosing(backend.reply(Conversation().with_user("Hello."), ReplyOptions(max_tokens=4))) as events:
            async for _ in events:  # loads the model
                pass
        for _ in range(flags.runs):
            await bench.measure()
    finally:
        await backend.close()
    return bench


def _report(bench: Bench, flags: argparse.Namespace) -> None:
    print(f"\n{flags.count} replies of {flags.tokens} tokens against one, {flags.words} words of prompt\n")
    print(
        "| prompt | one, s | several, s | ratio | one, tokens/s | several, tokens/s in all |\n|---|---|---|---|---|---|"
    )
    for kind in ("read", "again"):
        one, several = (statistics.median(bench.times[kind, what]) for what in (_ONE, _SEVERAL))
        rates = [statistics.median(bench.rates[kind, what]) for what in (_ONE, _SEVERAL)]
        print(f"| {kind} | {one:.2f} | {several:.2f} | {several / one:.2f} | {rates[0]:.1f} | {rates[1]:.1f} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--tokens", type=int, default=60, help="tokens of a reply (default: %(default)s)")
    parser.add_argument("--words", type=int, default=200, help="words of the prompt (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--backend", default="engine", choices=("engine", "llama-server"), help="default: %(default)s")
    parser.add_argument("--engine", default="", help="path (default: the prebuilt llama.cpp)")
    parser.add_argument("--model", default="smollm2-135m", help="name or file (default: %(default)s)")
    parser.add_argument("--ctx", type=int, default=0, help="tokens of the window (default: that of the model)")
    parser.add_argument("--threads", type=int, default=0, help="default: as the program chooses")
    flags = parser.parse_args()
    engine = flags.engine
    if not engine and flags.backend == "engine":
        native = (str(each.path) for each in packages.installed() if packages.name_of(each) == "llama.cpp")
        engine = next(native, "llama.cpp")
    settings = Settings(
        backend=flags.backend,
        engine=engine,
        model=flags.model,
        ctx=flags.ctx,
        threads=flags.threads,
        journal=False,
        guard=False,
    )
    _report(asyncio.run(_run(settings, flags)), flags)
    return 0


if __name__ == "__main__":
    sys.exit(main())
