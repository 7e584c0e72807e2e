"""``/metrics`` and ``/health``: true, bounded, and in the words of those who read them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families as families
from scripted_backend import Gate, ScriptedBackend, say
from serving import Served, serving

from bitnet_chat.backend import BackendState, BackendStatus, ReplyOptions
from bitnet_chat.backends.pool import BackendFactory
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import EngineDiedError
from bitnet_chat.events import Completed, Event, Failed, Started
from bitnet_chat.server.scheduler import ReplyRequest
from bitnet_chat.server.settings import ServeSettings


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(whole())


async def figures(client: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families(answer.text)
        for sample in family.samples
    }


def script(conversation: Conversation) -> Iterable[Event | Gate]:
    assert conversation.last is not None
    match conversation.last.content:
        case "fail":
            return [Started(), Failed(EngineDiedError("it died"))]
        case "wait":
            return [*say("Hel")[:2], Gate(), *say("lo")[1:]]
        case _:
            return say("Hello")


async def ask(served: Served, text: str) -> None:
    await served.scheduler.begin(ReplyRequest(Conversation().with_user(text), ReplyOptions())).ended()


def test_what_is_counted() -> None:
    async def main() -> None:
        async with serving(script) as served, httpx.AsyncClient(base_url=served.url) as client:
            before = await figures(client)
            assert before["bitnet_chat_generated_tokens_total", "scripted"] == 0
            await ask(served, "hi")
            await ask(served, "fail")
            await client.get("/a/path/that/somebody/made/up")
            now = await figures(client)
            assert now["bitnet_chat_replies_total", "scripted", "stop"] == 1
            assert now["bitnet_chat_replies_total", "scripted", "engine_died"] == 1
            assert now["bitnet_chat_generated_tokens_total", "scripted"] == 11
            assert now["bitnet_chat_prompt_tokens_total", "scripted"] == 7
            assert now["bitnet_chat_time_to_first_token_seconds_count", "scripted"] == 1
            assert now["bitnet_chat_queue_wait_seconds_count", "scripted"] == 2
            assert now["bitnet_chat_tokens_per_second_sum", "scripted"] == 10.0
            assert now["bitnet_chat_http_requests_total", "other", "404"] == 1
            assert now["bitnet_chat_http_requests_total", "metrics", "200"] == 1
            assert now["bitnet_chat_backend_memory_bytes", "scripted"] == 123_456_789
            assert now["process_resident_memory_bytes",] > 1e6
            assert not any("made" in label for labels in now for label in labels)
            answer = await client.get("/metrics", headers={"accept": "application/openmetrics-text"})
            assert list(open_families(answer.text)), "Prometheus asks for this one"

    run(main)


def test_what_runs_and_waits() -> None:
    async def main() -> None:
        async with serving(script) as served, httpx.AsyncClient(base_url=served.url) as client:
            tasks = [asyncio.ensure_future(ask(served, "wait")) for _ in range(3)]
            while served.scheduler.model_manager.pools["scripted"].waiting < 2:  # noqa: ASYNC110
                await asyncio.sleep(0)
            now = await figures(client)
            assert now["bitnet_chat_queue_length", "scripted"] == 2
            assert now["bitnet_chat_replies_running",] == 3
            assert now["bitnet_chat_backends_busy", "scripted"] == 1
            health = (await client.get("/health")).json()
            assert (health["busy"], health["waiting"], health["parallel"]) == (1, 2, 1)
            for _ in tasks:
                served.backend.open_gate()
            await asyncio.gather(*tasks)
            now = await figures(client)
            assert now["bitnet_chat_queue_length", "scripted"] == now["bitnet_chat_replies_running",] == 0

    run(main)


class Mortal(ScriptedBackend):
    restarts = 0

    def status(self) -> BackendStatus:
        return replace(super().status(), restarts=self.restarts)


def test_restarts_are_counted_once_whether_anybody_asks_or_not() -> None:
    async def main() -> None:
        backend = Mortal(script)
        async with (
            serving(BackendFactory("scripted", 1, lambda: backend)) as served,
            httpx.AsyncClient(base_url=served.url) as client,
        ):
            name = ("bitnet_chat_engine_restarts_total", "scripted")
            assert (await figures(client))[name] == 0
            backend.restarts = 2
            assert (await figures(client))[name] == (await figures(client))[name] == 2
            backend.restarts = 3
            await ask(served, "hi")
            assert (await figures(client))[name] == 3

    run(main)


def test_a_process_that_several_share_is_counted_once() -> None:
    made: list[Mortal] = []

    def make() -> Mortal:
        made.append(Mortal(script))
        return made[-1]

    async def main() -> None:
        async with (
            serving(BackendFactory("shared", 2, make, shared=True)) as served,
            httpx.AsyncClient(base_url=served.url) as client,
        ):
            replies = [served.scheduler.begin(ReplyRequest(Conversation().with_user("wait"))) for _ in range(2)]
            for reply in replies:
                await reply.started.wait()
            restarts, memory = "bitnet_chat_engine_restarts_total", "bitnet_chat_backend_memory_bytes"
            assert len(made) == 2
            one = made[0].status().memory or 0
            for count in (1, 1, 3):
                for each in made:
                    each.restarts = count
                found = await figures(client)
                assert found[restarts, "shared"] == count and found[memory, "shared"] == one > 0
            for each in made:
                each.open_gate()
            for reply in replies:
                assert isinstance(await reply.ended(), Completed)
            assert (await figures(client))[restarts, "shared"] == 3

    run(main)


def test_health_is_that_of_the_engine() -> None:
    async def main() -> None:
        async with serving(script, gated=True) as served, httpx.AsyncClient(base_url=served.url) as client:
            loading = await client.get("/health")
            assert (loading.status_code, loading.json()["state"]) == (503, "starting")
            assert "retry-after" in loading.headers
            served.backend.open_gate()
            while (ready := await client.get("/health")).status_code == 503:  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert ready.json()["status"] == "ok" and ready.json()["model"] == "scripted"
            head = await client.head("/health")
            assert (head.status_code, head.content) == (200, b"")
            served.backend._state = BackendState.DEAD
            dead = await client.get("/health")
            assert (dead.status_code, dead.json()["state"]) == (503, "dead")
            served.backend._state = BackendState.IDLE
            await ask(served, "hi")
            served.scheduler.model_manager.unload("scripted")
            while (unloaded := await client.get("/health")).json()["state"] == "idle":  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert (unloaded.status_code, unloaded.json()["state"]) == (200, "unloaded")
            served.scheduler.ending.set()
            ending = await client.get("/health")
            assert (ending.status_code, ending.json()["state"]) == (503, "ending")

    run(main)


def test_health_needs_no_key_and_metrics_does() -> None:
    async def main() -> None:
        settings = ServeSettings(port=0, api_key="key", grace=0.0)
        async with serving(script, settings=settings) as served, httpx.AsyncClient(base_url=served.url) as client:
            assert (await client.get("/health")).status_code == 200
            assert (await client.get("/metrics")).status_code == 401
            assert (await client.get("/metrics", headers={"x-api-key": "key"})).status_code == 200

    run(main)
