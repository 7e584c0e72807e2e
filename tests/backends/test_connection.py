"""HTTP to one server: connections that are kept, and what becomes of them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest

from bitnet_chat.backends.http import client
from bitnet_chat.backends.http.client import CancellableRequest, HTTPConnection, chunk
from bitnet_chat.errors import ConnectionLostError, FinishReason, HTTPStatusError, RequestCancelledError

TIMEOUT = 60
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
WORD = b"3\r\none\r\n"
END = b"0\r\n\r\n"


class Server:
    """Answers each request with ``answer``; closes a connection without a word after ``most`` of them."""

    def __init__(self, answer: Callable[[asyncio.StreamWriter], Awaitable[None]], most: int = 100) -> None:
        self.answer, self.most = answer, most
        self.connections = self.requests = 0
        self.heard = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Server:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        for _ in range(self.most):
            try:
                await reader.readuntil(b"{}")
            except asyncio.IncompleteReadError:
                break
            self.requests += 1
            self.heard.set()
            await self.answer(writer)
        writer.close()


async def whole(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + WORD + END)


def run(
    server: Callable[[], Server],
    body: Callable[[HTTPConnection, Server], Awaitable[None]],
    ours: bool = True,
    keeps: bool | None = True,
) -> None:
    async def main() -> None:
        async with asyncio.timeout(TIMEOUT), server() as there:
            here = HTTPConnection(there.url, is_ours=ours, keeps=keeps)
            try:
                await body(here, there)
            finally:
                await here.close()

    asyncio.run(main())


async def heard(here: HTTPConnection) -> bytes:
    response = await here.post("/", {})
    data = await chunk(response)
    here.spend(response)
    return data


async def spent(here: HTTPConnection) -> None:
    """Until nothing is read for nothing any more."""
    while here._spent:
        await asyncio.wait(here._spent)


def test_a_connection_is_used_again() -> None:
    async def body(here: HTTPConnection, there: Server) -> None:
        for _ in range(5):
            assert await heard(here) == b"one"
            await spent(here)
        assert (there.requests, there.connections) == (5, 1)

    run(lambda: Server(whole), body)


def test_on_this_computer_each_request_has_one_of_its_own() -> None:
    async def body(here: HTTPConnection, there: Server) -> None:
        for count in (1, 2, 3):
            assert await heard(here) == b"one"
            assert (there.requests, there.connections) == (count, count)

    run(lambda: Server(whole), body, keeps=None)


@pytest.mark.parametrize("ours", [True, False])
def test_one_that_was_closed_without_a_word_is_not_missed(ours: bool) -> None:
    async def body(here: HTTPConnection, there: Server) -> None:
        for _ in range(5):  # each request goes out before anybody could have read that the connection is gone
            assert await heard(here) == b"one"
        assert there.requests == 5

    run(lambda: Server(whole, most=1), body, ours=ours)


@pytest.mark.parametrize("ours", [True, False])
def test_what_breaks_off_on_a_new_connection_was_read(ours: bool) -> None:
    async def body(here: HTTPConnection, there: Server) -> None:
        with pytest.raises(ConnectionLostError):
            await here.post("/", {})
        assert there.requests == 1

    async def nothing(writer: asyncio.StreamWriter) -> None:
        writer.close()

    run(lambda: Server(nothing), body, ours=ours)


class Forgetful:
    """Answers ``many`` connections once, when all of them are there; whoever comes a second time is sent away without
    a word."""

    def __init__(self, many: int) -> None:
        self.many = many
        self.all = asyncio.Event()
        self.known: set[asyncio.StreamWriter] = set()

    async def __call__(self, writer: asyncio.StreamWriter) -> None:
        if writer in self.known:
            writer.close()
            return
        self.known.add(writer)
        if len(self.known) == self.many:
            self.all.set()
        await self.all.wait()
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\n"one"')


@pytest.mark.parametrize("ours", [True, False])
def test_as_many_as_were_kept_are_tried(ours: bool) -> None:
    many = 4

    async def body(here: HTTPConnection, there: Server) -> None:
        await asyncio.gather(*(here.ask("/", {}) for _ in range(many)))
        assert (there.requests, there.connections) == (many, many)
        assert await here.ask("/", {}) == "one"
        assert (there.requests, there.connections) == (many * 2 + 1, many + 1)

    run(lambda: Server(Forgetful(many)), body, ours=ours)


@pytest.mark.parametrize("and_then", ["it hangs up", "nothing"])
def test_a_refusal_that_is_not_whole_is_one(monkeypatch: pytest.MonkeyPatch, and_then: str) -> None:
    if and_then == "nothing":
        monkeypatch.setattr(client, "_REFUSING", 0.01)

    async def half(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Type: text/plain\r\nContent-Length: 500\r\n\r\nNo.")
        if and_then != "nothing":
            writer.close()

    async def body(here: HTTPConnection, there: Server) -> None:
        with pytest.raises(HTTPStatusError) as refused:
            await here.post("/", {})
        assert refused.value.refusal.status == 413
        if and_then != "nothing":
            assert refused.value.refusal.message == "No."
        assert there.requests == 1

    run(lambda: Server(half), body)


def test_what_is_closed_opens_nothing() -> None:
    async def body(here: HTTPConnection, there: Server) -> None:
        await heard(here)
        await here.close()
        with pytest.raises(ConnectionLostError):
            await here.post("/", {})
        assert here._session is None and there.requests == 1

    run(lambda: Server(whole), body)


def test_an_answer_that_is_no_http_is_told_in_few_words() -> None:
    async def other(writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-Server\r\n")

    async def body(here: HTTPConnection, there: Server) -> None:
        with pytest.raises(ConnectionLostError) as lost:
            await here.post("/", {})
        assert "SSH-2.0-Server" in str(lost.value)
        assert "url=" not in str(lost.value) and "\\n" not in str(lost.value)

    run(lambda: Server(other), body)


def test_a_response_whose_end_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_SPENDING", 0.01)

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + WORD)

    async def body(here: HTTPConnection, there: Server) -> None:
        for count in (1, 2):
            assert await heard(here) == b"one"
            await spent(here)
            assert there.connections == count
        assert await heard(here) == b"one"  # and is closed meanwhile

    run(lambda: Server(endless), body)


def test_a_request_is_told_to_be_on_its_way_before_it_is_answered() -> None:
    guard = asyncio.Event()

    async def late(writer: asyncio.StreamWriter) -> None:
        await guard.wait()
        await whole(writer)

    async def body(here: HTTPConnection, there: Server) -> None:
        line = CancellableRequest()
        await line.ask(lambda sent: here.post("/", {}, sent))
        await there.heard.wait()
        assert not line.is_open
        guard.set()
        await line.answer()
        assert line.is_open and await line.chunk() == b"one"
        line.close()

    run(lambda: Server(late), body)


@pytest.mark.parametrize("when", ["before it is sent", "before the answer", "in the answer", "behind it"])
def test_a_line_can_be_stopped_at_any_time(when: str) -> None:
    async def never(writer: asyncio.StreamWriter) -> None:
        if when in ("in the answer", "behind it"):
            writer.write(HEAD + WORD)

    async def body(here: HTTPConnection, there: Server) -> None:
        line = CancellableRequest()
        loop = asyncio.get_running_loop()
        if when == "before it is sent":
            line.stop(FinishReason.INTERRUPTED)
        with pytest.raises(RequestCancelledError):
            await line.ask(lambda sent: here.post("/", {}, sent))
            if when == "before the answer":
                loop.call_soon(line.stop, FinishReason.TIMEOUT)
            await line.answer()
            assert await line.chunk() == b"one"
            if when == "in the answer":
                loop.call_soon(line.stop, FinishReason.TIMEOUT)
            else:
                line.stop(FinishReason.TIMEOUT)
            await line.chunk()
        line.stop(FinishReason.STALLED)  # what was first counts
        assert line.reason is (FinishReason.INTERRUPTED if when == "before it is sent" else FinishReason.TIMEOUT)
        line.close()

    run(lambda: Server(never), body)


def test_a_line_that_is_stopped_and_lost_at_a_time_was_stopped() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        line, work = CancellableRequest(), loop.create_future()

        def both() -> None:
            work.set_exception(ConnectionLostError("it has ended"))
            line.stop(FinishReason.INTERRUPTED)

        loop.call_soon(both)
        with pytest.raises(RequestCancelledError):
            await line.within(work)
        line.close()

    asyncio.run(main())


def test_what_is_begun_behind_a_stop_may_fail_unheard() -> None:
    complaints: list[object] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: complaints.append(context))
        line, work = CancellableRequest(), loop.create_future()
        line.stop(FinishReason.INTERRUPTED)
        with pytest.raises(RequestCancelledError):
            await line.within(work)
        work.set_exception(ValueError("too long"))
        await asyncio.sleep(0)
        line.close()

    asyncio.run(main())
    gc.collect()
    assert not complaints


def test_a_line_has_a_limit() -> None:
    async def never(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + WORD)

    async def body(here: HTTPConnection, there: Server) -> None:
        line = CancellableRequest(timeout=0.01)
        with pytest.raises(RequestCancelledError):
            await line.ask(lambda sent: here.post("/", {}, sent))
            await line.answer()
            while await line.chunk():
                pass
        assert line.reason is FinishReason.TIMEOUT
        line.close()

    run(lambda: Server(never), body)
