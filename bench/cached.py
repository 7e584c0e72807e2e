#!/usr/bin/env python3
"""The first byte of a reply that ``serve --cache`` gives again: ``python bench/cached.py [--runs N]``."""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import time
from urllib.parse import urlsplit

from report import Figure, Goal, Section
from subject import INSTALLED, QUESTION, home

_MESSAGES = [{"role": "user", "content": QUESTION}]
_REQUESTS = {
    "/v1/chat/completions": {"messages": _MESSAGES, "temperature": 0, "stream": True},
    "/api/chat": {"model": "bitnet-demo", "messages": _MESSAGES, "options": {"temperature": 0}},
}


def _first_byte(connection: http.client.HTTPConnection, path: str) -> tuple[float, bytes, bool]:
    """Milliseconds, the whole reply, and whether it came out of the cache."""
    begun = time.perf_counter()
    connection.request("POST", path, json.dumps(_REQUESTS[path]), {"Content-Type": "application/json"})
    response = connection.getresponse()
    first = response.read1(1)
    return 1000 * (time.perf_counter() - begun), first + response.read(), response.headers["X-Cache"] == "hit"


def measure(runs: int) -> Section:
    section = Section("A reply from the cache", notes=["one connection, a whole stream each time"])
    with home() as environment:
        command = [str(INSTALLED), "serve", "--port", "0", "--cache"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(environment)) as server:
            try:
                assert server.stderr is not None
                url = ""
                while not url and (line := server.stderr.readline()):
                    url = line.partition("listening on ")[2].strip()
                connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
                for path in _REQUESTS:
                    _first_byte(connection, path)
                    samples = [_first_byte(connection, path) for _ in range(runs)]
                    if not all(hit for _, _, hit in samples):
                        raise AssertionError(f"{path}: not every reply came out of the cache")
                    times = sorted(each for each, _, _ in samples)
                    section.figures.append(Figure.of(f"{path}: first byte", "ms", times))
                    late = times[int(len(times) * 0.99)]
                    section.goals.append(Goal(f"{path}: first byte, 99th percentile", late, "ms", 5))
            finally:
                server.terminate()
                server.stderr.read()  # type: ignore[union-attr]
    return section


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    section = measure(parser.parse_args().runs)
    print(section)
    print(*section.goals, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
