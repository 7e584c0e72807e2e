"""A llama-server for tests, without any code of this program in between: a compiled one, or the one in the prebuilt
library of llama.cpp, in a process of its own."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx

from bitnet_chat.conversation import Conversation
from bitnet_chat.conversation.openai_codec import encode_message

_LISTENING = re.compile(r"listening on (http://[\d.]+:\d+)")
_PREBUILT = """
import sys
sys.path.insert(0, sys.argv[1])
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.port = sys.argv[2], 4096, 1, 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print("listening on " + server.listening_address, file=sys.stderr, flush=True)
sys.stdin.read()
"""


class BareServer:
    """One conversation at a time; nothing is remembered between two."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=60)

    def until_ready(self) -> None:
        """It says where it listens before it does, and may load then."""
        status = 0
        while status != 200:
            with contextlib.suppress(httpx.ConnectError):
                status = self._client.get("/health").status_code

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self._client.post(path, json=body).raise_for_status().json()
        return answer

    def said(self, conversation: Conversation, limit: int) -> tuple[str, int]:
        """The reply at temperature 0, and the tokens of the prompt."""
        body: dict[str, Any] = {"messages": [encode_message(each) for each in conversation.messages]}
        body |= {"temperature": 0, "max_tokens": limit, "cache_prompt": False}
        answer = self._post("/v1/chat/completions", body)
        return answer["choices"][0]["message"]["content"], answer["usage"]["prompt_tokens"]

    def count(self, conversation: Conversation) -> int:
        """Tokens of the prompt for a reply to a conversation."""
        rendered = self._post("/apply-template", {"messages": [encode_message(m) for m in conversation.messages]})
        content = {"content": rendered["prompt"], "parse_special": True, "add_special": True}
        return len(self._post("/tokenize", content)["tokens"])

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer of llama.cpp's own ``/completion``."""
        return self._post("/completion", body)

    def close(self) -> None:
        self._client.close()


@contextmanager
def compiled(engine: Path, model: Path) -> Iterator[BareServer]:
    """The llama-server beside an engine."""
    program = engine.with_name("llama-server" + engine.suffix)
    with _running(
        [str(program), "-m", str(model), "--port", "0", "-t", "1", "-c", "4096", "--jinja", "-np", "1"]
    ) as it:
        yield it


@contextmanager
def prebuilt(package: Path, model: Path) -> Iterator[BareServer]:
    """The server in the library of a package's folder."""
    with _running([sys.executable, "-c", _PREBUILT, str(package / "site"), str(model)]) as server:
        yield server


@contextmanager
def _running(argv: Sequence[str]) -> Iterator[BareServer]:
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        url = next(match[1] for line in process.stderr if (match := _LISTENING.search(line.decode(errors="replace"))))
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        server = BareServer(url)
        try:
            server.until_ready()
            yield server
        finally:
            server.close()
            drain.kill()
            drain.wait()
    finally:
        process.kill()
        for stream in (process.stdin, process.stderr):
            with contextlib.suppress(OSError):
                _close(stream)
        process.wait()


def _close(stream: IO[bytes] | None) -> None:
    if stream is not None:
        stream.close()
