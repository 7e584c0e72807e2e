"""The line between one reply and its server: what is waited for on it, and how the waiting is ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from bitnet_chat.backends.remote.connection import Lost, chunk
from bitnet_chat.errors import FinishReason

if TYPE_CHECKING:
    import aiohttp

_T = TypeVar("_T")


class Stopped(Exception):
    """The reply was interrupted, or its time is over, while something was waited for."""


class Line:
    """Has to be closed. ``timeout``: seconds until it is stopped, None: no limit."""

    def __init__(self, timeout: float | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._patience: asyncio.Timeout | None = None
        self._request: asyncio.Task[aiohttp.ClientResponse] | None = None
        self._response: aiohttp.ClientResponse | None = None
        self._timer = None if timeout is None else self._loop.call_later(timeout, self.stop, FinishReason.TIMEOUT)
        self.reason: FinishReason | None = None
        """Why it was stopped, if it was."""

    @property
    def is_open(self) -> bool:
        """The server has begun to answer."""
        return self._response is not None

    def stop(self, reason: FinishReason) -> None:
        """What is waited for is waited for no longer, at once."""
        if self.reason is not None:
            return
        self.reason = reason
        if self._patience is not None:
            self._patience.reschedule(self._loop.time())
        else:
            self.hang_up()

    async def within(self, work: Awaitable[_T]) -> _T:
        """What ``work`` gives. Raises Stopped when the line is stopped before that."""
        if self.reason is not None:
            if asyncio.iscoroutine(work):
                work.close()
            elif isinstance(work, asyncio.Future):
                work.add_done_callback(_heard)
            raise Stopped
        try:
            async with asyncio.timeout(None) as self._patience:
                return await work
        except TimeoutError:
            if self._patience is None or not self._patience.expired():
                raise
            raise Stopped from None
        except Lost:
            if self.reason is None:
                raise
            raise Stopped from None  # both at a time: what was wanted counts
        finally:
            self._patience = None

    async def ask(self, request: Callable[[asyncio.Event], Coroutine[Any, Any, aiohttp.ClientResponse]]) -> None:
        """Begins ``request``, which sets the event when it is on its way: then this returns, or when it has failed.
        Raises Stopped."""
        sent = asyncio.Event()
        self._request = asyncio.ensure_future(request(sent))
        self._request.add_done_callback(lambda task: sent.set())
        await self.within(sent.wait())

    async def heard(self, patience: float) -> aiohttp.ClientResponse | None:
        """As ``answer``; None where the server has said nothing within ``patience`` seconds."""
        if self._request is not None:
            await self.within(asyncio.wait([self._request], timeout=patience))
            return await self.answer() if self._request.done() else None
        return None

    async def answer(self) -> aiohttp.ClientResponse:
        """The response to what was asked, which is heard from now on. Raises Stopped, and what the request does."""
        if self._request is None:
            raise Stopped
        self._response = await self.within(self._request)
        return self._response

    async def chunk(self) -> bytes:
        """The next bytes of the response, whatever has arrived; empty at its end. Raises Stopped and Lost."""
        # No timeout, which would be made anew for each token: hanging up ends the wait.
        if self.reason is None and self._response is not None:
            try:
                return await chunk(self._response)
            except Lost:
                if self.reason is None:
                    raise
        raise Stopped

    def take(self) -> aiohttp.ClientResponse | None:
        """The response, of which nothing more is to be heard, instead of hanging up."""
        response, self._response, self._request = self._response, None, None
        return response

    def hang_up(self) -> None:
        """The server stops generating when nobody listens any more."""
        request, self._request, self._response = self._request, None, None
        if request is None or request.cancel() or request.cancelled() or request.exception() is not None:
            return
        request.result().close()

    def close(self) -> None:
        self.hang_up()
        if self._timer is not None:
            self._timer.cancel()


def _heard(work: asyncio.Future[Any]) -> None:
    """Nobody waits for it: an error of its is not one that somebody has forgotten."""
    if not work.cancelled():
        work.exception()
