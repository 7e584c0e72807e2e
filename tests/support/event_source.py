"""A reader of server-sent events that shares no code with the server: by the rules of the standard, as in browsers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp


@dataclass
class Told:
    """One event. ``data`` is what its JSON says."""

    event: str
    data: Any
    id: str


class EventSource:
    """``last_id`` is what a browser would send when it comes back; ``status`` what the last connection was answered."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url
        self.last_id = ""
        self.retry = 0
        self.status = 0

    async def connect(self, *, method: str = "GET", body: object = None, cut: int | None = None) -> AsyncIterator[Told]:
        """The events of one connection. ``cut``: it breaks after so many bytes."""
        headers = {"Last-Event-ID": self.last_id} if self.last_id else {}
        async with self._session.request(method, self._url, json=body, headers=headers) as response:
            self.status = response.status
            if response.status != 200:
                return
            assert response.content_type == "text/event-stream"
            buffer, count, id, event, data = b"", 0, self.last_id, "", []
            async for chunk in response.content.iter_any():
                if cut is not None:
                    chunk = chunk[: cut - count]
                    count += len(chunk)
                buffer += chunk
                while b"\n" in buffer:
                    raw, _, buffer = buffer.partition(b"\n")
                    line = raw.decode("utf-8").removesuffix("\r")
                    name, _, value = line.partition(":")
                    value = value.removeprefix(" ")
                    if not line:
                        self.last_id = id
                        if data:
                            yield Told(event or "message", json.loads("\n".join(data)), id)
                        event, data = "", []
                    elif name == "id":
                        id = value
                    elif name == "event":
                        event = value
                    elif name == "data":
                        data.append(value)
                    elif name == "retry":
                        self.retry = int(value)
                if cut is not None and count >= cut:
                    return


def words(told: list[Told]) -> str:
    return "".join(each.data["text"] for each in told if each.event == "chunk")
