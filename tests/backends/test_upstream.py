"""``serve`` in front of another server: all models of that are offered, by their own names."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from api_server import Answer, ApiServer, Request, ollama, piece, sse, whole
from program import TIMEOUT

from bitnet_chat.cli.parser import parse
from bitnet_chat.cli.serve import open_server, parser, read
from bitnet_chat.server import model_manager

HELLO = {"messages": [{"role": "user", "content": "hi"}]}


def test_all_models_of_an_openai_server_answer_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that it gets later too, and those of one that was not there at the start."""
    monkeypatch.setattr(model_manager, "_OFTEN", 0.0)
    models: list[str] = []

    def script(request: Request) -> Answer:
        if request.path == "/v1/models":
            return whole({"data": [{"id": each} for each in models]}) if models else whole({}, 503)
        return Answer(sse(piece(f"I am {request.json['model']}"), piece(finish="stop")))

    async def main() -> None:
        async with ApiServer(script) as upstream:
            flags = ["--port", "0", "--backend", "openai", "--base-url", upstream.url]

            async def said(client: httpx.AsyncClient, model: str) -> str:
                answer = await client.post("/v1/chat/completions", json=HELLO | {"model": model})
                if answer.status_code == 404:
                    return "404"
                return str(answer.json()["choices"][0]["message"]["content"])

            async def listed(client: httpx.AsyncClient) -> list[str]:
                return [each["id"] for each in (await client.get("/v1/models")).json()["data"]]

            for early in (False, True):
                models[:] = ["b/Two", "a-one"] if early else []
                async with (
                    open_server(*read(*parse(flags, parser()), {})) as server,
                    httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client,
                ):
                    if not early:
                        assert await said(client, "a-one") == "404"
                        models[:] = ["b/Two", "a-one"]
                    while "a-one" not in await listed(client):
                        pass
                    assert [await said(client, each) for each in ("a-one", "B/two:latest")] == [
                        "I am a-one",
                        "I am b/Two",
                    ]
                    assert early or await said(client, "") == "I am b/Two"
                    assert not early or await listed(client) == ["b/Two", "a-one", "auto"]
                    models.append("new")
                    while await said(client, "new") == "404":
                        pass
                    assert 'model="new"' in (await client.get("/metrics")).text
            async with (
                open_server(*read(*parse([*flags, "-m", "a-one"], parser()), {})) as server,
                httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client,
            ):
                assert await listed(client) == ["a-one"], "it was named"

    asyncio.run(main())


def test_all_models_of_an_ollama(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with ApiServer(ollama) as upstream:
            flags = ["--port", "0", "--backend", "ollama", "--base-url", upstream.url]
            async with (
                open_server(*read(*parse(flags, parser()), {})) as server,
                httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client,
            ):
                for model in ("words", "words:latest"):
                    answer = await client.post("/api/chat", json=HELLO | {"model": model, "stream": False})
                    assert answer.json()["message"]["content"].startswith("one two"), answer.text

    asyncio.run(main())
