"""The least of a client for streams of an OpenAI-style server: one reply, each piece with the moment it came."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlsplit


async def stream(url: str, body: Mapping[str, object], key: str = "") -> AsyncIterator[tuple[float, str]]:
    """``(moment, text)`` for each piece of the reply; moments of the monotonic clock, as they come off the socket."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
    try:
        data = json.dumps(body).encode()
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        head += f"Authorization: Bearer {key}\r\n" if key else ""
        writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
        status = await reader.readline()
        if b" 200 " not in status:
            rest = await reader.read(2000)
            raise ConnectionError(f"{url}: {status.decode().strip()} {rest.decode(errors='replace')}")
        async for line in _lines(reader):
            now = time.monotonic()
            if line == b"data: [DONE]":
                return
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    raise ConnectionError(event["error"])
                for choice in event.get("choices", ()):
                    if text := choice["delta"].get("content"):
                        yield now, text
        raise ConnectionError(f"{url}: the stream ended without [DONE]")
    finally:
        writer.close()


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Lines of the body, whose chunks (RFC 9112, 7.1) may end anywhere."""
    while (await reader.readline()).strip():
        pass
    rest = b""
    while size := int(await reader.readline() or b"0", 16):
        rest += (await reader.readexactly(size + 2))[:-2]
        *lines, rest = rest.split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r")
