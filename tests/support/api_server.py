"""A server that speaks HTTP by script: whatever an API may send, whole or cut, and whatever it should not.

A script gets each request and gives the steps of its answer. Nothing in it depends on time: it waits at gates, and it
says when the other side has hung up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """``parts``: bytes, each written and flushed by itself; an event that is waited for; ``CUT``, which breaks off
    without a proper end; or something awaitable that makes any of these."""

    parts: Iterable[Any] | AsyncIterator[bytes] = ()
    status: int = 200
    type: str = "text/event-stream"
    headers: dict[str, str] = field(default_factory=dict)


class _Cut:
    pass


CUT = _Cut()
Script = Callable[[Request], Answer]


def sse(*objects: object, done: bool = True, end: str = "\n") -> list[bytes]:
    """Each object as an event of its own."""
    events = [f"data: {json.dumps(each)}{end}{end}".encode() for each in objects]
    return [*events, f"data: [DONE]{end}{end}".encode()] if done else events


def piece(text: str = "", finish: str | None = None, **delta: object) -> dict[str, Any]:
    """A chunk as OpenAI's API has it."""
    content = ({"content": text} if text else {}) | delta
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": content, "finish_reason": finish}],
    }


def usage(prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
    details = {"prompt_tokens_details": {"cached_tokens": cached}}
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion} | details}


def lines(*objects: object) -> list[bytes]:
    return [json.dumps(each).encode() + b"\n" for each in objects]


def whole(content: object, status: int = 200, **headers: str) -> Answer:
    return Answer([json.dumps(content).encode()], status, "application/json", headers)


class ApiServer:
    """``async with ApiServer(script) as server``: on a free loopback port while it lasts. ``requests``: all that came;
    ``hung_up``: set when a client leaves before its answer is whole."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.hung_up = asyncio.Event()
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    async def __aenter__(self) -> ApiServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while (request := await _read(reader)) is not None:
                self.requests.append(request)
                if not await self._answer(self.script(request), reader, writer):
                    break
        writer.close()

    async def _answer(self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = [f"HTTP/1.1 {answer.status} Whatever", f"Content-Type: {answer.type}", "Transfer-Encoding: chunked"]
        head.append("Connection: close")
        head += [f"{name}: {value}" for name, value in answer.headers.items()]
        writer.write("\r\n".join([*head, "", ""]).encode())
        gone = asyncio.ensure_future(reader.read(1))
        sending = asyncio.ensure_future(self._send(answer, writer))
        try:
            await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                self.hung_up.set()
                return False
            return sending.result()
        finally:
            for task in (gone, sending):
                task.cancel()
            await asyncio.wait({gone, sending})
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                gone.exception()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                sending.exception()

    async def _send(self, answer: Answer, writer: asyncio.StreamWriter) -> bool:
        async for part in _each(answer.parts):
            if isinstance(part, asyncio.Event):
                await part.wait()
            elif part is CUT:
                writer.transport.abort()
                return False
            elif part:  # an empty one would be the end
                writer.write(b"%x\r\n%s\r\n" % (len(part), part))
                await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return False  # one answer for each connection: whatever the client still sends is no request


async def _each(parts: Any) -> AsyncIterator[Any]:
    if hasattr(parts, "__aiter__"):
        async for part in parts:
            yield part
    else:
        for part in parts:
            yield part


async def _read(reader: asyncio.StreamReader) -> Request | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").rstrip().split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, path, headers, body)


# An Ollama, as far as a conversation needs one

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def ollama(request: Request) -> Answer:
    """A model that says what a message of the form ``say N words`` asks for, and words without end to ``数据``, as the
    bundled model does."""
    if request.path == "/api/tags":
        return whole({"models": [{"name": "words:latest", "model": "words:latest"}]})
    if request.path == "/api/ps":
        return whole({"models": [{"name": "words:latest", "model": "words:latest", "context_length": 4096}]})
    if request.path != "/api/chat":
        return whole({"error": "not found"}, 404)
    body = request.json
    if body["model"] not in ("words", "words:latest"):
        return whole({"error": f"model {body['model']!r} not found"}, 404)
    if not body["messages"]:
        return whole({"model": body["model"], "done": True, "done_reason": "load"})
    return Answer(_said(body), type="application/x-ndjson")


async def _said(body: dict[str, Any]) -> AsyncIterator[bytes]:
    asked = body["messages"][-1]["content"]
    wanted = int(next((word for word in asked.split() if word.isdigit()), "10"))
    limit = body["options"].get("num_predict", 1 << 30)
    stop = tuple(body["options"].get("stop", ()))
    made, text, reason = 0, "", "stop"
    while "数据" in asked or made < wanted:
        if made >= limit:
            reason = "length"
            break
        word = (" " if made else "") + WORDS[made % len(WORDS)]
        made += 1
        if stop:  # it holds back what may become one
            text += word
            continue
        yield lines({"message": {"role": "assistant", "content": word}, "done": False})[0]
        await asyncio.sleep(0)
    if stop:
        said = text[: min((text.find(each) for each in stop if each in text), default=None)]
        yield lines({"message": {"role": "assistant", "content": said}, "done": False})[0]
    count = {"prompt_eval_count": 5 + len(asked.split()), "eval_count": made, "eval_duration": 1000}
    yield lines({"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": reason} | count)[0]


class Threaded:
    """A server in a thread of its own, for tests that run loops of theirs: ``with Threaded(script) as url``."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._started = threading.Event()
        self.url = ""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    async def _run(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with ApiServer(self._script) as server:
            self.url = server.url
            self._started.set()
            await self._end.wait()

    def __enter__(self) -> Threaded:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


Body = Callable[..., Awaitable[None]]
