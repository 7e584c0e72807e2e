"""Who may use the server: browsers with pages of strangers may not, nor who has no key, nor who sends too much."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_backend import Gate as Pause
from scripted_backend import ScriptedBackend, say
from serving import scripted_source, serving
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from bitnet_chat.errors import FinishReason, TooManyAttemptsError, UsageError
from bitnet_chat.events import Completed, TextDelta
from bitnet_chat.server import uvicorn_server
from bitnet_chat.server.api_key import COOKIE, SESSION, ApiKeyAuth, key_in
from bitnet_chat.server.app import application
from bitnet_chat.server.auth import CSP, RequestGuard, RequestInfo
from bitnet_chat.server.model_manager import ModelManager
from bitnet_chat.server.scheduler import ReplyScheduler
from bitnet_chat.server.settings import ServeSettings
from bitnet_chat.util.loopback import is_loopback_host

HERE = "http://127.0.0.1:8033"
KEY = "right-key"
STRANGER = "https://evil.example"
SAID = "what the user said"


def facts(method: str = "GET", path: str = "/v1/models", *, address: str = "127.0.0.1", **headers: str) -> RequestInfo:
    named = {"host": "127.0.0.1:8033"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return RequestInfo(method, path, "http", address, named)


def guard(**changes: object) -> RequestGuard:
    settings = ServeSettings(**changes)  # type: ignore[arg-type]
    return RequestGuard(settings, ApiKeyAuth(settings.api_key))


def status(guard: RequestGuard, facts: RequestInfo) -> int:
    refusal = guard.refusal(facts)
    return refusal.status if refusal is not None else 200


# What a server may be started with


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.com"])
def test_other_computers_are_let_in_with_a_key_only(host: str) -> None:
    with pytest.raises(UsageError, match="an API key is required"):
        ServeSettings(host=host).checked()
    ServeSettings(host=host, api_key=KEY).checked()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.9.1"])
def test_this_computer_needs_none(host: str) -> None:
    assert is_loopback_host(host)
    ServeSettings(host=host).checked()


@pytest.mark.parametrize(
    "changes",
    [
        {"port": 70000},
        {"port": -1},
        {"parallel": 0},
        {"queue": -1},
        {"linger": float("nan")},
        {"api_key": "with space"},
        {"api_key": "schlüssel"},
        {"cors": ("*",)},
        {"allow_host": ("*",)},
        {"cors": ("localhost:3000",)},
        {"cors": ("http://localhost:3000/path",)},
        {"cors": ("http://*",)},
        {"cors": ("https://*:*",)},
        {"cors": ("http://",)},
        {"cors": ("http://a*b",)},
        {"allow_host": ("http://chat.example",)},
        {"allow_host": ("chat.example:80",)},
        {"allow_host": (".",)},
    ],
    ids=str,
)
def test_what_does_not_go_is_said_at_the_start(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ServeSettings(**changes).checked()  # type: ignore[arg-type]


# Host and Origin


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8033",
        "LOCALHOST.:1",
        "127.0.0.1:8033",
        "[::1]:8033",
        "127.1.2.3",
        "0.0.0.0:1",
        "a.localhost",
    ],
)
def test_names_of_this_computer(host: str) -> None:
    assert status(guard(), facts(host=host)) == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "169.254.1.1", "192.168.1.7:8033", "127.0.0.1.nip.io"]
)
def test_a_strangers_name_that_points_here_is_refused(host: str) -> None:
    assert status(guard(), facts(host=host)) == 403


@pytest.mark.parametrize(
    "host", ["", "a b", "localhost:8033:1", "user@localhost", "localhost/path", "[::1", "loc\x00alhost"]
)
def test_what_is_no_host_is_refused(host: str) -> None:
    assert status(guard(), facts(host=host)) == 400


def test_two_hosts_are_none() -> None:
    assert status(guard(), RequestInfo("GET", "/", "http", "", {"host": "localhost"}, hosts=2)) == 400


def test_more_names() -> None:
    proxied = guard(allow_host=("chat.example",))
    assert status(proxied, facts(host="Chat.Example")) == 200
    assert status(proxied, facts(host="evil.example")) == 403
    below = guard(allow_host=(".chat.example", "*.internal"))
    for host, expected in (
        *(("chat.example", 200), ("a.b.chat.example:80", 200), ("host.docker.internal:8033", 200)),
        *(("evilchat.example", 403), ("chat.example.evil.example", 403), ("chat.exampl", 403)),
    ):
        assert status(below, facts(host=host)) == expected
    assert status(guard(allow_host=("[::2]",)), facts(host="[::2]:1")) == 200
    assert status(guard(allow_host=("*",), api_key=KEY), facts(path="/health", host="any.example")) == 200
    network = guard(host="0.0.0.0", api_key=KEY)
    assert status(network, facts(path="/health", host="192.168.1.7:8033")) == 200
    assert status(network, facts(path="/health", host="evil.example")) == 403
    assert status(guard(host="10.0.0.5", api_key=KEY), facts(path="/health", host="10.0.0.5:8033")) == 200


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "origin",
    [
        *(
            STRANGER,
            "null",
            "",
            "http://localhost.evil.example:8033",
            "http://127.0.0.1.nip.io",
            "http://evil.example:80",
        ),
        *(
            "http://localhost@evil.example",
            "http://evil.example/http://localhost:1",
            "http://xlocalhost",
            "moz-extension://a",
        ),
        *("http://127.0.0.1:1/x", "http://192.168.1.7:8033", "http://[::2]:1", "apps://x", "http://localhost:123456"),
    ],
)
def test_a_page_of_another_origin_is_refused(method: str, origin: str) -> None:
    assert status(guard(), facts(method, origin=origin)) == 403


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "0.0.0.0", "[::1]", "tauri.localhost"])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("port", ["", ":3000"])
def test_pages_of_this_computer_may(scheme: str, host: str, port: str) -> None:
    origin = f"{scheme}://{host}{port}"
    assert status(guard(), facts("POST", origin=origin, sec_fetch_site="same-site")) == 200
    assert status(guard(cors=("none",)), facts("POST", origin=origin)) == 403
    assert status(guard(), facts("POST", origin=origin, host="evil.example")) == 403, "rebound name"


@pytest.mark.parametrize(
    "origin",
    ["app://obsidian.md", "app://", "file://", "tauri://localhost", "vscode-webview://1ab2", "vscode-file://a"],
)
def test_pages_of_applications_may(origin: str) -> None:
    assert status(guard(), facts("POST", origin=origin)) == 200
    assert status(guard(cors=("none", "file://")), facts("POST", origin=origin)) == (
        200 if origin == "file://" else 403
    )


@pytest.mark.parametrize(
    ("pattern", "may", "may_not"),
    [
        (
            "http://box:*",
            ("http://box", "http://box:80", "HTTP://BOX:3000"),
            ("https://box", "http://abox", "http://box:x"),
        ),
        (
            "https://*.a.example",
            ("https://b.a.example", "https://c.b.a.example"),
            ("https://a.example", "https://ba.example"),
        ),
        ("https://a.example/", ("https://a.example",), ("https://a.example:8443", "http://a.example")),
        ("chrome-extension://", ("chrome-extension://abc",), ("moz-extension://abc",)),
        ("moz-extension://*", ("moz-extension://0-1",), ("chrome-extension://abc",)),
        ("http://[::2]:*", ("http://[::2]:9",), ("http://[::3]:9",)),
    ],
)
def test_patterns_of_origins(pattern: str, may: tuple[str, ...], may_not: tuple[str, ...]) -> None:
    named = guard(cors=(ServeSettings(cors=(pattern,)).checked().cors))
    assert [status(named, facts("POST", origin=each)) for each in may] == [200] * len(may)
    assert [status(named, facts("POST", origin=each)) for each in (*may_not, STRANGER)] == [403] * (len(may_not) + 1)


def test_the_cookie_of_the_page_is_worth_nothing_to_another_page_of_this_computer() -> None:
    settings = ServeSettings(api_key=KEY)
    keys = ApiKeyAuth(KEY)
    locked, cookies = RequestGuard(settings, keys), {COOKIE: keys.session()}
    for origin, expected in ((HERE, 200), ("http://localhost:3000", 401), ("app://x", 401)):
        headers = {"host": "127.0.0.1:8033", "origin": origin}
        assert status(locked, RequestInfo("POST", "/chats/1/stop", "http", "", headers, cookies=cookies)) == expected


def test_our_own_page_may() -> None:
    assert status(guard(), facts("POST", origin=HERE)) == 200
    assert status(guard(), facts("POST", origin="http://localhost:8033", host="localhost:8033")) == 200
    behind_tls = guard(allow_host=("chat.example",))
    assert status(behind_tls, facts("POST", origin="https://chat.example", host="chat.example")) == 200


def test_a_page_that_hides_its_origin_may_change_nothing() -> None:
    assert status(guard(), facts("POST", sec_fetch_site="cross-site")) == 403
    assert status(guard(), facts("GET", sec_fetch_site="cross-site")) == 200
    assert status(guard(), facts("POST", sec_fetch_site="same-origin")) == 200


def test_pages_that_were_named_may() -> None:
    named = guard(cors=("http://localhost:3000",))
    assert status(named, facts("POST", origin="http://localhost:3000", sec_fetch_site="cross-site")) == 200
    assert status(named, facts("POST", origin=STRANGER)) == 403
    anybody = guard(cors=("*",), api_key=KEY)
    assert status(anybody, facts("POST", origin=STRANGER, x_api_key=KEY)) == 200
    assert status(anybody, facts("POST", origin=STRANGER)) == 401
    assert status(anybody, facts("POST", origin="null", x_api_key=KEY)) == 200  # a page in a file


# Keys


def test_what_needs_no_key() -> None:
    locked = guard(api_key=KEY)
    for path in ("/", "/health", "/login", "/sw.js", "/manifest.webmanifest", "/page/page.js"):
        assert status(locked, facts(path=path)) == 200
    for path in ("/v1/models", "/api/tags", "/chats", "/metrics", "/openapi.json", "/page", "//health", "/health/"):
        assert status(locked, facts(path=path)) == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer   {KEY} "},
        {"x_api_key": KEY},
        {"x_api_key": KEY, "authorization": "Basic dXNlcg=="},
    ],
    ids=str,
)
def test_ways_to_bring_the_key(headers: dict[str, str]) -> None:
    assert status(guard(api_key=KEY), facts(**headers)) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": KEY},
        {"authorization": "Bearer"},
        {"x_api_key": KEY + "x"},
        {"x_api_key": "schl\xfcssel"},
        {},
    ],
    ids=str,
)
def test_a_wrong_key_is_none(headers: dict[str, str]) -> None:
    assert status(guard(api_key=KEY), facts(**headers)) == 401


def test_without_a_key_any_key_will_do() -> None:
    assert status(guard(), facts(authorization="Bearer whatever")) == 200


def test_a_session_is_worth_its_time_and_its_key() -> None:
    now = [1000.0]
    keys = ApiKeyAuth(KEY, lambda: now[0])
    session = keys.session()
    assert keys.is_session(session) and keys.session() != session and KEY not in session
    assert ApiKeyAuth(KEY, lambda: now[0]).is_session(session), "a restart logs nobody out"
    assert not ApiKeyAuth("another", lambda: now[0]).is_session(session)
    expires, rest = session.split(".", 1)
    for forged in ("", "..", session + "0", session[:-1], f"{int(expires) + 1}.{rest}", "9" * 30 + ".a.b", "é.é"):
        assert not keys.is_session(forged)
    now[0] += SESSION
    assert not keys.is_session(session)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.text(max_size=80))
def test_no_text_is_a_session_or_a_key_by_chance(text: str) -> None:
    keys = ApiKeyAuth(KEY)
    assert not keys.is_session(text)
    key_in(text, text)


def test_wrong_keys_have_to_wait_and_the_right_one_never_does() -> None:
    now = [0.0]
    keys = ApiKeyAuth(KEY, lambda: now[0])
    for _ in range(20):
        assert not keys.is_right("guess", "10.0.0.9")
        now[0] += 1
    with pytest.raises(TooManyAttemptsError) as refused:
        keys.is_right("guess", "10.0.0.9")
    assert refused.value.retry_after == 40.0
    assert keys.is_right(KEY, "10.0.0.9"), "others may share the address"
    assert not keys.is_right("guess", "10.0.0.1")
    now[0] += 40
    assert not keys.is_right("guess", "10.0.0.9")
    for number in range(10_000):
        keys.is_right("guess", f"address {number}")
    assert len(keys._wrong) <= 4096


# The whole


@pytest.fixture
def app_of() -> Iterator[Callable[..., httpx.AsyncClient]]:
    def make(**changes: object) -> httpx.AsyncClient:
        backends: list[ScriptedBackend] = []
        scheduler = ReplyScheduler(ModelManager({"m": scripted_source(lambda _: say("hi"), backends)}))
        app = application(scheduler, ServeSettings(**changes), None)  # type: ignore[arg-type]

        async def echo(request: Request) -> Response:
            return PlainTextResponse(str(len(await request.body())))

        async def broken(request: Request) -> Response:
            raise ValueError(SAID)

        async def half(request: Request) -> Response:
            async def parts() -> AsyncIterator[str]:
                yield "half"
                raise ValueError(SAID)

            return StreamingResponse(parts())

        for path, endpoint in (("/echo", echo), ("/api/echo", echo), ("/broken", broken), ("/half", half)):
            app.router.routes.insert(0, Route(path, endpoint, methods=["GET", "POST"]))
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url=HERE)

    yield make


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await main()

    asyncio.run(whole())


def test_headers_stand_on_every_reply(app_of: Callable[..., httpx.AsyncClient]) -> None:
    async def main() -> None:
        async with app_of(api_key=KEY) as client:
            for path in ("/health", "/nothing", "/v1/models", "/api/nothing", "/broken"):
                for key in ({}, {"x-api-key": KEY}):
                    headers = (await client.get(path, headers=key)).headers
                    assert headers["content-security-policy"] == CSP and "unsafe" not in CSP
                    assert headers["x-content-type-options"] == "nosniff"
                    assert headers["referrer-policy"] == "no-referrer"
                    assert headers["cross-origin-opener-policy"] == "same-origin"
                    assert headers["cross-origin-resource-policy"] == "same-origin"
                    assert headers["cache-control"] == "no-store"
                    assert "permissions-policy" in headers and "date" in headers
                    assert "access-control-allow-origin" not in headers

    run(main)


def test_a_page_elsewhere_is_asked_for_leave_first(app_of: Callable[..., httpx.AsyncClient]) -> None:
    async def main() -> None:
        origin = "http://localhost:3000"
        asks = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, content-type, x-stainless-lang, b@d",
        }
        async with app_of(cors=(origin,), api_key=KEY) as client:
            answer = await client.options("/v1/chat/completions", headers=asks)
            assert answer.status_code == 204
            assert answer.headers["access-control-allow-origin"] == origin
            assert answer.headers["access-control-allow-headers"] == "authorization, content-type, x-stainless-lang"
            assert "origin" in answer.headers["vary"].lower()
            assert "access-control-allow-credentials" not in answer.headers
            refused = await client.get("/v1/models", headers={"origin": origin})
            assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, origin)
            stranger = await client.options("/v1/models", headers=asks | {"origin": STRANGER})
            assert stranger.status_code == 403 and "access-control-allow-origin" not in stranger.headers

    run(main)


def test_a_refusal_speaks_as_the_api_does(app_of: Callable[..., httpx.AsyncClient]) -> None:
    async def main() -> None:
        async with app_of(api_key=KEY) as client:
            refused = await client.get("/v1/models", headers={"authorization": "Bearer wrong"})
            error = refused.json()["error"]
            assert (refused.status_code, error["code"]) == (401, "invalid_api_key")
            assert "Authorization: Bearer" in error["message"] and "wrong-" not in refused.text
            assert refused.headers["www-authenticate"] == "Bearer"
            assert isinstance((await client.get("/api/tags")).json()["error"], str)

    run(main)


def test_logging_in(app_of: Callable[..., httpx.AsyncClient]) -> None:
    async def main() -> None:
        async with app_of(api_key=KEY) as client:
            assert (await client.get("/metrics")).status_code == 401
            for body in (b"", b"[]", b"{}", b'{"key": 1}', b"[" * 4000):
                answer = await client.post("/login", content=body, headers={"content-type": "application/json"})
                assert answer.status_code == 400
            half = {"content": rb'{"key": "\ud800"}', "headers": {"content-type": "application/json"}}
            assert (await client.post("/login", **half)).status_code == 401  # type: ignore[arg-type]
            assert (await client.post("/login", json={"key": "x" * 5000})).status_code == 413
            wrong = await client.post("/login", json={"key": "wrong"})
            assert wrong.status_code == 401 and "set-cookie" not in wrong.headers
            right = await client.post("/login", json={"key": KEY}, headers={"origin": HERE})
            assert right.status_code == 204
            cookie = right.headers["set-cookie"]
            assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and "Secure" not in cookie
            assert KEY not in cookie and COOKIE in cookie
            assert (await client.get("/metrics")).status_code == 200
            assert (await client.get("/metrics", headers={"host": "evil.example"})).status_code == 403
            assert (await client.post("/echo", json={}, headers={"origin": STRANGER})).status_code == 403
            out = await client.post("/logout")
            assert out.status_code == 204
            assert (await client.get("/metrics")).status_code == 401
        async with app_of(api_key=KEY) as client:
            client.base_url = httpx.URL("https://127.0.0.1")
            assert "Secure" in (await client.post("/login", json={"key": KEY})).headers["set-cookie"]
            await client.post("/logout")
            for _ in range(20):
                await client.post("/login", json={"key": "wrong"})
            tired = await client.post("/login", json={"key": "wrong"})
            assert tired.status_code == 429 and int(tired.headers["retry-after"]) > 0
            assert (await client.get("/metrics", headers={"x-api-key": "wrong"})).status_code == 429
            for mine in ({"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}):
                assert (await client.get("/metrics", headers=mine)).status_code == 200
            assert (await client.post("/login", json={"key": KEY})).status_code == 204

    run(main)


def test_too_large_a_body_is_not_read_to_its_end(app_of: Callable[..., httpx.AsyncClient]) -> None:
    async def main() -> None:
        sent = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal sent
            for _ in range(100):
                sent += 1
                yield bytes(1 << 20)

        async with app_of(body_limit=3 << 20) as client:
            json_body = {"content-type": "application/json"}
            assert (await client.post("/echo", content=bytes(3 << 20), headers=json_body)).text == str(3 << 20)
            told = await client.post("/echo", content=bytes((3 << 20) + 1), headers=json_body)
            assert told.status_code == 413 and "larger than" in told.json()["error"]["message"]
            chunked = await client.post("/api/echo", content=body(), headers=json_body)
            assert chunked.status_code == 413 and isinstance(chunked.json()["error"], str)
            assert sent < 40  # it is taken so far that most clients come to read the answer

    run(main)


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/echo", {"content-type": "application/json; charset=utf-8"}, 200),
        ("/echo", {"content-type": "application/vnd.api+json"}, 200),
        ("/echo", {}, 200),
        ("/echo", {"content-type": "text/plain"}, 200),
        ("/echo", {"content-type": "application/x-www-form-urlencoded"}, 200),
        ("/api/echo", {"content-type": "application/x-www-form-urlencoded"}, 200),
        ("/api/echo", {"content-type": "text/plain", "origin": HERE}, 415),
        ("/api/echo", {"content-type": "text/plain", "sec-fetch-site": "same-origin"}, 415),
        ("/echo", {"origin": HERE}, 415),
    ],
    ids=str,
)
def test_what_kinds_of_body_are_read(
    app_of: Callable[..., httpx.AsyncClient], path: str, headers: dict[str, str], expected: int
) -> None:
    async def main() -> None:
        async with app_of() as client:
            assert (await client.post(path, content=b"{}", headers=headers)).status_code == expected
            assert (await client.post(path, headers=headers)).status_code == 200, "there is no body to be anything"

    run(main)


def test_a_path_has_one_name_however_its_slashes_are_written(app_of: Callable[..., httpx.AsyncClient]) -> None:
    """And none of them goes around the key."""

    async def main() -> None:
        async with app_of() as client:
            for path in ("/v1/models", "//v1//models", "/v1/models/", "/v1/models//", "/models", "/models/"):
                answer = await client.get(HERE + path)
                assert answer.status_code == 200 and answer.json()["data"], path
            for path in (
                "//api/tags",
                "/api//tags/",
                "/chats/",
                "//health",
                "/v1/health/",
                "/metrics/",
                "/openapi.json/",
            ):
                assert (await client.get(HERE + path)).status_code in (200, 503), path
            said = {"messages": [{"role": "user", "content": "hi"}]}
            for path in ("//v1/chat/completions", "/v1/chat/completions/", "/chat/completions"):
                answer = await client.post(HERE + path, json=said)
                assert answer.json()["choices"][0]["message"]["content"] == "hi", path
            assert (await client.get(HERE + "/v1//nothing/")).json()["error"][
                "message"
            ] == "/v1/nothing is not served here"
        async with app_of(api_key=KEY) as client:
            for path in ("//v1/models", "/models", "/page/../v1/models/", "//metrics/"):
                assert (await client.get(HERE + path)).status_code == 401, path
            assert (await client.get(HERE + "//health//")).status_code in (200, 503)

    run(main)


def test_the_root_is_a_page_for_browsers_and_a_greeting_for_programs(app_of: Callable[..., httpx.AsyncClient]) -> None:
    async def main() -> None:
        async with app_of() as client:
            for headers in ({}, {"accept": "application/json"}):
                answer = await client.get("/", headers=headers)
                assert (answer.status_code, answer.text) == (200, "Ollama is running")
                assert answer.headers["content-type"].startswith("text/plain")
                assert (await client.head("/", headers=headers)).status_code == 200
            page = await client.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
            assert "<title>bitnet-chat</title>" in page.text
            version = (await client.get("/api/version")).json()["version"]
            assert tuple(map(int, version.split("."))) >= (0, 35, 0)

    run(main)


def test_a_fault_is_told_without_what_was_said(
    app_of: Callable[..., httpx.AsyncClient], caplog: pytest.LogCaptureFixture
) -> None:
    from bitnet_chat.cli.serve import LogLine

    async def main() -> None:
        async with app_of() as client:
            broken = await client.get("/broken")
            assert broken.status_code == 500 and SAID not in broken.text
            assert json.loads(broken.text)["error"]["type"] == "server_error"

    with caplog.at_level(logging.INFO):
        run(main)
    shown = "\n".join(map(LogLine(prompts=False).format, caplog.records))
    assert "ValueError" in shown and SAID not in shown
    assert SAID in "\n".join(map(LogLine(prompts=True).format, caplog.records))


def test_the_log_has_a_line_for_each_request_and_no_secrets(
    app_of: Callable[..., httpx.AsyncClient], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with app_of(api_key=KEY) as client:
            await client.post("/echo?q=secret", json={"prompt": "secret"}, headers={"authorization": f"Bearer {KEY}"})
            await client.get("/nothing", headers={"x-api-key": KEY})

    with caplog.at_level(logging.INFO, "bitnet_chat.server"):
        run(main)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.rsplit(" ", 2)[0] for line in lines] == ["POST /echo 200", "GET /nothing 404"]
    assert all(line.endswith(" ms") for line in lines) and "secret" not in caplog.text and KEY not in caplog.text


# On the wire


async def spoken(url: str, *data: bytes, last: bool = False) -> bytes:
    """All that comes until the connection ends. ``last``: the first bytes of it, once all of ``data`` was sent."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(60):
            writer.transport.set_write_buffer_limits(0)  # all of it is sent when it is drained
            for each in data:
                writer.write(each)
                await writer.drain()
            return await (reader.read(100) if last else reader.read())
    finally:
        writer.close()


def test_heads_of_requests_have_limits_too() -> None:
    async def main() -> None:
        async with serving(lambda _: say("hi")) as served:
            endless = b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"x: " + b"y" * 70_000
            assert (await spoken(served.url, endless)).startswith(b"HTTP/1.1 431 ")
            many = b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"x: y\r\n" * 20_000
            assert (await spoken(served.url, many)).startswith(b"HTTP/1.1 431 ")
            long = b"GET /" + b"a" * 70_000
            assert (await spoken(served.url, long)).startswith(b"HTTP/1.1 431 ")
            assert (await spoken(served.url, b"\x16\x03\x01garbage\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
            last = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            assert (await spoken(served.url, last)).startswith(b"HTTP/1.1 200 ")
            assert (await spoken(served.url, b"GET /health HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 400 ")

    run(main)


def head(path: str, length: int, *more: str) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Content-Length: {length}")
    return "\r\n".join((*lines, *more, "", "")).encode()


def test_the_head_of_the_next_request_has_limits_while_a_reply_streams() -> None:
    asked = b'{"messages": [{"role": "user", "content": "x"}], "stream": true}'

    async def main() -> None:
        async with serving(lambda _: [TextDelta("half"), Pause(), Completed(FinishReason.STOP, "half")]) as served:
            reader, writer = await asyncio.open_connection(*served.url.removeprefix("http://").split(":"))
            async with asyncio.timeout(60):
                writer.write(head("/v1/chat/completions", len(asked)) + asked)
                assert (await reader.readuntil(b"half")).startswith(b"HTTP/1.1 200 ")
                ((generation,),) = served.scheduler._tasks.values()
                writer.write(b"GET / HTTP/1.1\r\nx: " + b"y" * 100_000)
                end = await generation.ended()  # its client was cut off
            writer.close()
            assert isinstance(end, Completed) and end.reason is FinishReason.INTERRUPTED

    run(main)


def test_who_never_comes_to_the_point_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_server, "_HEAD_TIMEOUT", 0.01)
    monkeypatch.setattr(uvicorn_server, "_BODY_TIMEOUT", 0.01)

    async def main() -> None:
        async with serving(lambda _: say("hi")) as served:
            for begun in (b"", b"GET /health HTTP/1.1\r\nHost: loc", head("/login", 9), head("/chats", 9) + b"{"):
                assert (await spoken(served.url, begun)).startswith(b"HTTP/1.1 408 ")

    run(main)


def test_requests_that_never_get_whole_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those with half a head, nor with half a body, nor connections that were used once: a newcomer takes the
    place of the one that has waited longest for its client. A reply that is under way is never cut for another one."""
    monkeypatch.setattr(uvicorn_server, "_CONNECTIONS", 8)
    begun = (b"", b"GET /health HTTP/1.1\r\nHost: loc", head("/login", 9), head("/chats", 9, "X-Api-Key: no") + b"{")
    asked = b'{"messages": [{"role": "user", "content": "x"}], "stream": true}'
    health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"

    async def main() -> None:
        script = lambda _: [TextDelta("half"), Pause(), Completed(FinishReason.STOP, "half")]  # noqa: E731
        async with serving(script, parallel=8) as served:
            where = served.url.removeprefix("http://").split(":")
            open_ones: list[asyncio.StreamWriter] = []

            async def opened(data: bytes) -> asyncio.StreamReader:
                reader, writer = await asyncio.open_connection(*where)
                open_ones.append(writer)
                writer.write(data)
                await writer.drain()
                return reader

            async with asyncio.timeout(60):
                streams = [await opened(head("/v1/chat/completions", len(asked)) + asked)]
                await streams[0].readuntil(b"half")
                for data in begun * 4:
                    await opened(data)
                used = await opened(health + b"\r\n")
                assert (await used.readuntil(b"}")).startswith(b"HTTP/1.1 ")
                for _ in range(12):
                    await opened(begun[1])
                last = await spoken(served.url, health + b"Connection: close\r\n\r\n")
                assert last.startswith(b"HTTP/1.1 200 ")
                while len(streams) < 8:
                    streams.append(await opened(head("/v1/chat/completions", len(asked)) + asked))
                    await streams[-1].readuntil(b"half")
                full = await spoken(served.url, health + b"Connection: close\r\n\r\n")
                assert full.startswith(b"HTTP/1.1 503 ")
                assert len(served.scheduler._tasks) == 8 and not any(stream.at_eof() for stream in streams)
            for writer in open_ones:
                writer.close()

    run(main)


def test_who_is_refused_hears_so_though_he_sends_all_of_it_first() -> None:
    limit, size = 1000, 12_000_000

    async def main() -> None:
        settings = ServeSettings(port=0, api_key=KEY, body_limit=limit)
        async with serving(lambda _: say("hi"), settings=settings) as served:
            key, body = f"Authorization: Bearer {KEY}", b"x" * size
            refused = (("/chats", key, 413), ("/chats", "X-Key: none", 401), ("/login", key, 413))
            for closes in ("Connection: close", "X-Close: no"):
                for path, mine, expected in refused:
                    said = await spoken(served.url, head(path, size, mine, closes), body, last=True)
                    assert said.startswith(b"HTTP/1.1 %d " % expected)
            said = await spoken(served.url, head("/chats", 900, "X-Key: none", "Expect: 100-continue"))
            assert said.startswith(b"HTTP/1.1 401 ") and b"connection: close" in said

    run(main)


def test_a_reply_that_breaks_in_the_middle_is_cut_and_not_ended() -> None:
    async def main() -> None:
        async with serving(lambda _: say("hi")) as served:

            async def half(request: Request) -> Response:
                async def parts() -> AsyncIterator[str]:
                    yield "half"
                    raise ValueError("a fault")

                return StreamingResponse(parts())

            served.app.router.routes.append(Route("/half", half))
            answer = await spoken(served.url, b"GET /half HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"half" in answer and not answer.endswith(b"0\r\n\r\n")
            last = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            assert (await spoken(served.url, last)).startswith(b"HTTP/1.1 200 ")

    run(main)
