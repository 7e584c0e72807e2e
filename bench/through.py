#!/usr/bin/env python3
"""A real llama-server alone and through our server, side by side: ``python bench/through.py [--runs N] [-m MODEL]``.

Both serve the same model with the same flags. They are asked in turn (A B B A …) for the same reply, which goes
on until its limit, and a client in this process notes when each piece comes off its socket. Each round has a question
of its own, so that no prompt is found in a cache, once a short one and once behind a page of text. Then the same with
a model at the pace of those that people use: the bundled one is so small that engine, server and client, each on its
own, take about as long.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import heavy
import sse
from report import Figure, Goal, Section, ratios
from subject import INSTALLED, QUESTION, home

from bitnet_chat import paths
from bitnet_chat.engine.discovery import find

_PATIENCE = 120.0
_STARTS = 8
"""So often both servers are started anew: one and the same is up to a tenth faster in one process than in the next."""
_LONG = 100
"""Characters of a reply whose rate can be measured."""
_IDLE = 156
"""Layers that do nothing but take their time: with them the bundled model makes about a hundred tokens a second, and
not 2,400, as models of a billion weights do on such a machine."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Seconds from sending to the first piece; characters a second from there on."""

    first: float
    rate: float
    text: str


_LINE = "The engine reads what stands before the question, and the reader waits for the first word of the reply. "


@dataclass(frozen=True, slots=True)
class Subject:
    """``lines``: before the question, in the second part. ``runs``: rounds. ``tokens``: the most of a reply."""

    name: str
    model: Path
    lines: int
    runs: int
    tokens: int


async def _ask(url: str, model: str, tokens: int, question: str) -> Reply:
    body = {
        "model": model,
        "stream": True,
        "temperature": 0,
        "max_tokens": tokens,
        "messages": [{"role": "user", "content": question}],
    }
    begun, moments, text = time.monotonic(), [], []
    async for moment, piece in sse.stream(f"{url}/v1/chat/completions", body):
        moments.append(moment)
        text.append(piece)
    said = "".join(text)
    return Reply(moments[0] - begun, (len(said) - len(text[0])) / (moments[-1] - moments[0]), said)


@contextlib.contextmanager
def _direct(model: Path, threads: int, environment: Mapping[str, str]) -> Iterator[str]:
    binary = find().path.with_name("llama-server")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [str(binary), "-m", str(model), "--host", "127.0.0.1", "--port", str(port), "-t", str(threads)]
    command += ["-c", "2048", "-np", "1", "--jinja", "--log-disable"]
    with _running(command, environment):
        url = f"http://127.0.0.1:{port}"
        _wait(url)
        yield url


@contextlib.contextmanager
def _ours(model: Path, threads: int, environment: Mapping[str, str], backend: str) -> Iterator[str]:
    command = [str(INSTALLED), "serve", "--port", "0", "--backend", backend, "-m", str(model), "-t", str(threads)]
    command += ["-c", "2048", "--repeat-limit", "0"]
    with _running(command, environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        url = ""
        while not url and (line := process.stderr.readline().decode()):
            url = line.partition("listening on ")[2].strip()
        _wait(url)
        yield url


@contextlib.contextmanager
def _running(
    command: Sequence[str], environment: Mapping[str, str], stderr: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, env=dict(environment)) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)


def _wait(url: str) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        with contextlib.suppress(OSError), urlopen(f"{url}/health", timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise TimeoutError(f"{url} is not ready")


async def _rounds(
    runs: int, tokens: int, model: str, direct: str, ours: str, before: str
) -> tuple[list[Reply], list[Reply]]:
    theirs, through = [], []
    for number in range(runs + 1):
        question = f"{number}. {before}{QUESTION}"
        order = (direct, ours) if number % 2 else (ours, direct)  # the second one finds the caches warm, or full
        replies = {url: await _ask(url, model, tokens, question) for url in order}
        one, other = replies[direct], replies[ours]
        if one.text != other.text:
            raise AssertionError(f"not the same reply:\n{one.text!r}\n{other.text!r}")
        if number:  # the first of each warms up
            theirs.append(one)
            through.append(other)
    return theirs, through


def measure(subject: Subject, threads: int, backend: str) -> list[Section]:
    parts = {"a question": "", "a page": _LINE * subject.lines}
    replies: dict[str, tuple[list[Reply], list[Reply]]] = {what: ([], []) for what in parts}
    for _ in range(_STARTS):
        with (
            home() as environment,
            _direct(subject.model, threads, environment) as direct,
            _ours(subject.model, threads, environment, backend) as ours,
        ):
            for what, before in parts.items():
                rounds = _rounds(
                    max(1, subject.runs // _STARTS), subject.tokens, subject.model.stem, direct, ours, before
                )
                for all_of, found in zip(replies[what], asyncio.run(rounds), strict=True):
                    all_of += found
    return [_section(f"{subject.name}, {what}", found, backend) for what, found in replies.items()]


def _section(what: str, replies: tuple[list[Reply], list[Reply]], backend: str) -> Section:
    theirs, through = replies
    section = Section(
        f"llama-server alone and through serve --backend {backend}: {what}", notes=[f"load {os.getloadavg()[0]:.1f}"]
    )
    first = Figure.of(
        "time to first token, direct / through us",
        "%",
        ratios([each.first for each in theirs], [each.first for each in through]),
    )
    section.figures = [
        Figure.of("llama-server: time to first token", "ms", [1000 * each.first for each in theirs]),
        Figure.of("through us: time to first token", "ms", [1000 * each.first for each in through]),
        first,
    ]
    section.goals = [Goal(f"{what}: time to first token against direct", first.median, "%", 95, at_least=True)]
    if min(len(each.text) for each in theirs) < _LONG:  # nothing to measure a rate by
        return section
    rate = Figure.of(
        "rate, through us / direct", "%", ratios([each.rate for each in through], [each.rate for each in theirs])
    )
    section.figures += [
        Figure.of("llama-server: characters a second", "", [each.rate for each in theirs]),
        Figure.of("through us: characters a second", "", [each.rate for each in through]),
        rate,
    ]
    section.goals.append(Goal(f"{what}: tokens a second against direct", rate.median, "%", 95, at_least=True))
    return section


def _subjects(model: Path | None, folder: Path, runs: int, tokens: int) -> list[Subject]:
    if model is not None:
        return [Subject(model.stem, model, 30, runs, tokens)]
    bundled, slow = paths.bundled_model(), folder / "slow.gguf"
    assert bundled is not None
    heavy.write(bundled, slow, _IDLE)
    return [
        Subject("the bundled model", bundled, 30, runs, tokens),
        Subject("the same made slow", slow, 8, runs, tokens // 3),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40, help="rounds (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=300, help="of a reply; of the slow model a third (default: 300)")
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("-m", "--model", type=Path, help="default: the bundled one, then the same made slow")
    parser.add_argument("--backend", default="llama-server", choices=("llama-server", "engine"))
    flags = parser.parse_args()
    sections: list[Section] = []
    with tempfile.TemporaryDirectory() as folder:
        for subject in _subjects(flags.model, Path(folder), flags.runs, flags.tokens):
            for section in measure(subject, flags.threads, flags.backend):
                print(section, flush=True)
                sections.append(section)
    for section in sections:
        print(*section.goals, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
