"""A stream of events that has nothing to say tells so, and ends with its client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import pytest

from bitnet_chat.server import responses


def test_silence_is_broken_by_comments_until_the_client_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "PING", 0.01)

    async def main() -> None:
        pinged, left = asyncio.Event(), []

        async def events() -> AsyncIterator[bytes]:
            yield b"data: first\n\n"
            await asyncio.Event().wait()

        async def receive() -> MutableMapping[str, Any]:
            await pinged.wait()
            return {"type": "http.disconnect"}

        sent: list[bytes] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message.get("body", b""))
            if sum(body.startswith(b":") for body in sent) == 2:
                pinged.set()

        stream = responses.EventStream(events(), gone=lambda: left.append(True))
        await asyncio.wait_for(stream({"type": "http", "method": "GET"}, receive, send), 60)
        assert left == [True] and b"data: first\n\n" in sent
        assert all(body == b": \n\n" for body in sent if body.startswith(b":"))

    asyncio.run(main())
