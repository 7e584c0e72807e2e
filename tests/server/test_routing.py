"""The way of a request through the server is short."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import httpx
import pytest
from program import TIMEOUT
from serving import serving

from bitnet_chat.server.routing import plain

HELLO = [{"role": "user", "content": "hello"}]


def frames() -> list[str]:
    """The functions from that of uvicorn which calls the application to the caller of the caller."""
    found, frame = [], sys._getframe(2)
    while frame is not None and frame.f_code.co_name != "run_asgi":
        found.append(frame.f_code.co_name)
        frame = frame.f_back  # type: ignore[assignment]
    assert frame is not None, found
    return found


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HELLO}),
        ("/api/chat", {"model": "scripted", "messages": HELLO}),
        ("/replies", {"messages": HELLO}),
    ],
)
def test_a_handler_is_a_few_frames_from_uvicorn(path: str, body: dict[str, object]) -> None:
    """The middleware, three frames of Starlette, the choice of the method, the handler; and what it calls."""
    seen: list[list[str]] = []

    async def main() -> None:
        async with serving() as served, httpx.AsyncClient(base_url=served.url, timeout=TIMEOUT) as client:

            def watched(begin: Callable[..., object]) -> Callable[..., object]:
                def noted(*arguments: object, **named: object) -> object:
                    seen.append(frames())
                    return begin(*arguments, **named)

                return noted

            for name in ("begin", "begin_variants"):
                setattr(served.scheduler, name, watched(getattr(served.scheduler, name)))
            assert (await client.post(path, json=body)).status_code == 200

    asyncio.run(main())
    assert len(seen[0]) <= 7, seen


@pytest.mark.parametrize(
    ("path", "expected"),
    [("//v1//models/", "/v1/models"), ("/models/", "/v1/models"), ("/v1/health", "/health"), ("//", "/"), ("*", "*")],
)
def test_the_plain_form_of_a_path(path: str, expected: str) -> None:
    assert plain(path) == expected
