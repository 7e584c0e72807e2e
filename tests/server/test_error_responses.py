"""Unknown paths, unknown methods and failures: each API reports them in its own format."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from program import TIMEOUT
from serving import serving

from bitnet_chat.server.error_responses import api_of


def openai(message: str, kind: str = "invalid_request_error", code: str = "method_not_allowed") -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def chats(message: str, remedy: str = "", code: str = "method_not_allowed") -> dict[str, object]:
    return {"error": {"message": message, "remedy": remedy, "type": code}}


def other(message: str, code: str) -> dict[str, object]:
    kind = "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code, "remedy": ""}}


UNKNOWN = [
    (
        "/v1/embeddings",
        404,
        openai("/v1/embeddings is not served here; use another server for embeddings", code="not_found"),
    ),
    (
        "/v1/responses/x",
        404,
        openai(
            "/v1/responses/x is not served here; set the client to chat completions, /v1/chat/completions",
            code="not_found",
        ),
    ),
    ("/v1/chat/completions/x", 404, openai("/v1/chat/completions/x is not served here", code="not_found")),
    ("/api/none", 404, {"error": "/api/none is not served here"}),
    ("/api/push/x", 501, {"error": "/api/push/x is not supported here: models are not published through this API"}),
    ("/api", 404, {"error": "path /api does not exist"}),
    ("/v1", 404, other("path /v1 does not exist", "not_found")),
    ("/chats/1/none", 404, other("path /chats/1/none does not exist", "not_found")),
    ("/props/x", 404, other("path /props/x does not exist", "not_found")),
    ("/none", 404, other("path /none does not exist", "not_found")),
]
WRONG = [
    ("GET", "/v1/chat/completions", "POST", openai("GET is not allowed at /v1/chat/completions; use POST")),
    ("PUT", "/v1/models/a/b", "GET, HEAD", openai("PUT is not allowed at /v1/models/a/b; use GET, HEAD")),
    ("POST", "/models", "GET, HEAD", openai("POST is not allowed at /v1/models; use GET, HEAD")),
    ("HEAD", "/api/chat", "POST", None),
    ("DELETE", "/api/tags", "GET, HEAD", {"error": "DELETE is not allowed at /api/tags; use GET, HEAD"}),
    ("PUT", "/chats", "GET, POST, HEAD", chats("PUT is not allowed", "use GET, POST, HEAD")),
    ("POST", "/chats/1", "GET, PATCH, DELETE, HEAD", chats("POST is not allowed", "use GET, PATCH, DELETE, HEAD")),
    ("GET", "/replies", "POST", chats("GET is not allowed", "use POST")),
    ("POST", "/props", "GET, HEAD", openai("method POST is not supported by /props; use GET")),
    ("GET", "/tokenize", "POST", openai("method GET is not supported by /tokenize; use POST")),
    ("POST", "/health", "GET, HEAD", other("method POST is not supported by /health", "method_not_allowed")),
    ("TRACE", "/", "GET, HEAD", other("method TRACE is not supported by /", "method_not_allowed")),
]


def answers(*requests: tuple[str, str]) -> list[httpx.Response]:
    async def main() -> list[httpx.Response]:
        async with serving() as served, httpx.AsyncClient(base_url=served.url, timeout=TIMEOUT) as client:
            return [await client.request(method, path) for method, path in requests]

    return asyncio.run(main())


@pytest.mark.parametrize("method", ["GET", "POST", "TRACE"])
def test_unknown_paths(method: str) -> None:
    found = answers(*((method, path) for path, _, _ in UNKNOWN))
    for (path, status, body), answer in zip(UNKNOWN, found, strict=True):
        assert (answer.status_code, json.dumps(answer.json())) == (status, json.dumps(body)), path
        assert "allow" not in answer.headers


def test_unknown_methods() -> None:
    found = answers(*((method, path) for method, path, _, _ in WRONG))
    for (method, path, allowed, body), answer in zip(WRONG, found, strict=True):
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed), (method, path)
        assert answer.content == b"" if body is None else json.dumps(answer.json()) == json.dumps(body)


def test_internal_faults_have_the_format_of_the_api_and_no_details() -> None:
    message = "internal server error; see the log of the server"

    async def main() -> None:
        async with serving() as served, httpx.AsyncClient(base_url=served.url, timeout=TIMEOUT) as client:

            def broken(*arguments: object, **named: object) -> None:
                raise ValueError("a secret")

            served.scheduler.begin = broken  # type: ignore[method-assign]
            served.scheduler.model_manager.choose = broken  # type: ignore[method-assign]
            asked = {"model": "x", "messages": [{"role": "user", "content": "hello"}]}
            for path, body in (
                ("/v1/chat/completions", openai(message, "server_error", "usage")),
                ("/api/chat", {"error": message}),
                ("/replies", chats(message, code="usage")),
            ):
                answer = await client.post(path, json=asked)
                assert (answer.status_code, answer.json()) == (500, body)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "api"),
    [
        ("/v1/models", "openai"),
        ("/api/tags", "ollama"),
        ("/chats/1", "chats"),
        ("/replies", "chats"),
        ("/tokenize", "llama"),
        ("/", "page"),
        ("/page/page.js", "page"),
        ("/health", "health"),
        ("/v1x", "other"),
    ],
)
def test_the_api_of_a_path(path: str, api: str) -> None:
    assert api_of(path) == api
