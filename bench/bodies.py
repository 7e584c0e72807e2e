#!/usr/bin/env python3
"""``/health`` beside the largest request bodies: ``python bench/bodies.py [--runs N] [--model FILE]``.

A request body of nearly the limit is sent while another connection asks for ``/health`` without a pause. The figure is
the longest time that one of these took, per kind of body.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from report import Figure, Goal, Section
from subject import INSTALLED, home

_LIMIT = 7_990_000
"""Bytes of a body: a little less than the limit of the server."""
_MESSAGES = 10_000
"""The most messages of a request."""
_WORDS = "The quick brown fox, 42 of them, jumps over the lazy dog and is not seen again. "


def _text(size: int) -> str:
    return (_WORDS * (size // len(_WORDS) + 1))[:size]


def _conversation(count: int, size: int) -> list[dict[str, Any]]:
    each = max(1, size // count - 45)
    roles = ("user", "assistant")
    return [{"role": roles[at % 2], "content": _text(each)} for at in range(count - 1)] + [
        {"role": "user", "content": "And now?"}
    ]


def _tools(size: int) -> list[dict[str, Any]]:
    names = [f"tool_{at}" for at in range(size // 1000)]
    schema = {"type": "object", "properties": {"a": {"type": "string", "description": _text(800)}}}
    return [{"type": "function", "function": {"name": name, "parameters": schema}} for name in names]


_BODIES: dict[str, Callable[[], dict[str, Any]]] = {
    "one message": lambda: {"messages": _conversation(2, _LIMIT)},
    "10,000 messages": lambda: {"messages": _conversation(_MESSAGES, _LIMIT)},
    "240,001 short messages": lambda: {"messages": [{"role": "user", "content": "a"}] * 240_001},
    "tools": lambda: {"messages": _conversation(2, 100), "tools": _tools(_LIMIT)},
    "an unknown field of 90,000 numbers": lambda: {"messages": _conversation(2, 100), "x": list(range(90_000))},
    "90,000 unknown fields": lambda: {"messages": _conversation(2, 100)} | {f"x{at}": at for at in range(90_000)},
}


def _poll(address: str, stopped: threading.Event, delays: list[float]) -> None:
    connection = http.client.HTTPConnection(address, timeout=60)
    while not stopped.is_set():
        begun = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        delays.append(1000 * (time.perf_counter() - begun))
        time.sleep(0.001)


def _longest(address: str, path: str, body: bytes) -> tuple[float, float, int]:
    """The longest and the median delay of ``/health`` in milliseconds, and the status of the request."""
    delays: list[float] = []
    stopped = threading.Event()
    poll = threading.Thread(target=_poll, args=(address, stopped, delays))
    poll.start()
    try:
        time.sleep(0.2)
        connection = http.client.HTTPConnection(address, timeout=120)
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
    finally:
        stopped.set()
        poll.join()
    return max(delays), statistics.median(delays), response.status


def _model_name(address: str) -> str:
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", "/v1/models")
    name: str = json.loads(connection.getresponse().read())["data"][0]["id"]
    return name


def measure(runs: int, model: str) -> Section:
    section = Section("The longest /health beside a large body", notes=["one server, replies of one token"])
    with home() as environment:
        command = [str(INSTALLED), "serve", "--port", "0", *(("-m", model) if model else ())]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(environment)) as server:
            try:
                assert server.stderr is not None
                url = ""
                while not url and (line := server.stderr.readline()):
                    url = line.partition("listening on ")[2].strip()
                threading.Thread(target=server.stderr.read, daemon=True).start()
                address = urlsplit(url).netloc
                common = {"model": _model_name(address), "max_tokens": 1, "options": {"num_predict": 1}}
                bodies = {name: json.dumps(make() | common).encode() for name, make in _BODIES.items()}
                for path in ("/v1/chat/completions", "/api/chat"):
                    for name, body in bodies.items():
                        found = [_longest(address, path, body) for _ in range(runs)]
                        status = "/".join(sorted({str(each[2]) for each in found}))
                        longest = [each[0] for each in found]
                        section.figures.append(Figure.of(f"{path}, {name} ({status})", "ms", longest))
                        section.goals.append(Goal(f"{path}, {name}: longest of {runs}", max(longest), "ms", 100))
            finally:
                server.terminate()
    return section


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", default="", help="a model file or name (default: that of a new home)")
    flags = parser.parse_args()
    section = measure(flags.runs, flags.model)
    print(section)
    print(*section.goals, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
