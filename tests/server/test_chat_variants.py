"""Several variants of a reply, and comparisons of two models, over the chats API."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from event_source import EventSource, Told, words
from program import fake_engine
from replies import is_story
from scripted_backend import STATS, Gate, JointBackend, ScriptedBackend, say
from serving import ServedProcess, scripted_source, served_process, serving
from test_chats import Client, client, run

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.attached_server.messages import ChatEventParser
from bitnet_chat.backends.pool import BackendFactory
from bitnet_chat.backends.variants import VariantEvent
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.errors import EngineDiedError, FinishReason
from bitnet_chat.events import Completed, Event, Failed, Started, TextDelta
from bitnet_chat.journal import Journal, MessageTree
from bitnet_chat.text.sse import ServerSentEvent


@pytest.fixture(params=["file", "memory"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal | None:
    return Journal(tmp_path / "journal.db") if request.param == "file" else None


def counted() -> Iterator[list[Event | Gate]]:
    """Replies that differ: the first two words of each before a gate."""
    for number in range(100):
        first, rest = f"Reply {number} ", f"to all of it, {number} times."
        yield [Started(), TextDelta(first), Gate(), TextDelta(rest), Completed(FinishReason.STOP, first + rest, STATS)]


class TogetherBackend(JointBackend):
    """Generates variants together: a piece of each, in turn. ``fails``: the number of one that fails."""

    fails = -1

    async def together(
        self, conversation: Conversation, options: ReplyOptions, count: int
    ) -> AsyncGenerator[VariantEvent]:
        self._stop.clear()
        for number in range(count):
            yield VariantEvent(number, Started())
        texts = [""] * count
        for piece in range(3):
            await self._or_stopped(self._gates.acquire())
            if self._stop.is_set():
                break
            for number in range(count):
                if number == self.fails and piece == 1:
                    yield VariantEvent(number, Failed(EngineDiedError("it broke"), texts[number]))
                elif number != self.fails or piece == 0:
                    texts[number] += f"{number}:{piece} "
                    yield VariantEvent(number, TextDelta(f"{number}:{piece} "))
                    await asyncio.sleep(0)
        reason = FinishReason.INTERRUPTED if self._stop.is_set() else FinishReason.STOP
        for number in range(count):
            if number != self.fails:
                yield VariantEvent(number, Completed(reason, texts[number], STATS))


@asynccontextmanager
async def together(journal: Journal | None, fails: int = -1) -> AsyncIterator[tuple[Client, TogetherBackend]]:
    backend = TogetherBackend(lambda conversation: say("The first."))
    backend.fails = fails
    factory = BackendFactory("scripted", 1, lambda: backend)
    async with serving(factory, journal=journal) as served, aiohttp.ClientSession() as session:
        yield Client(session, served), backend


def by_variant(told: list[Told]) -> list[str]:
    """The text of each variant."""
    texts: dict[int, str] = {}
    for each in told:
        if each.event == "chunk":
            texts[each.data["variant"]] = texts.get(each.data["variant"], "") + each.data["text"]
    return [texts[number] for number in sorted(texts)]


async def siblings(api: Client, chat: int) -> tuple[list[str], str]:
    """The texts of the variants of the last reply, and the current one."""
    tree = await api.call("GET", f"/chats/{chat}/tree")
    texts = {each["id"]: each["content"] for each in tree["messages"]}
    last = next(each for each in tree["messages"] if each["id"] == tree["head"])
    return [texts[row] for row in last["siblings"]], last["content"]


WHOLE = [f"{number}:0 {number}:1 {number}:2 " for number in range(3)]


def test_variants_are_generated_streamed_together_and_kept(journal: Journal | None) -> None:
    async def main() -> None:
        async with together(journal) as (api, backend):
            chat = await api.new()
            await api.ask(chat, content="Hello")
            source, told = EventSource(api.session, f"{api.served.url}/chats/{chat}/messages"), list[Told]()
            async for each in source.connect(method="POST", body={"regenerate": True, "variants": 3}):
                told.append(each)
                if each.event in ("start", "chunk") and each.data["variant"] == 2:
                    backend.open_gate()
            starts = [each.data for each in told if each.event == "start"]
            assert [(each["variant"], each["variants"], each["compare"]) for each in starts] == [
                (0, 3, None), (1, 3, None), (2, 3, None),
            ]  # fmt: skip
            rows = [each["message"] for each in starts]
            assert len(set(rows)) == 3 and len({each["generation"] for each in starts}) == 1
            order = [each.data["variant"] for each in told if each.event == "chunk"]
            assert order == [0, 1, 2] * 3, "a piece of each, as they are made"
            assert by_variant(told) == WHOLE
            ends = [(each.data["variant"], each.data["message"]) for each in told if each.event == "complete"]
            assert ends == list(enumerate(rows))
            assert await siblings(api, chat) == (["The first.", *WHOLE], WHOLE[0])
            chosen = await api.call("POST", f"/chats/{chat}/head", {"message": rows[1]})
            assert chosen["messages"][-1]["content"] == WHOLE[1] and chosen["messages"][-1]["position"] == 3
            shown = await api.call("GET", f"/chats/{chat}?message={rows[2]}")
            assert [each["content"] for each in shown["messages"]] == ["Hello", WHOLE[2]]
            assert (await api.messages(chat))[-1] == ("assistant", WHOLE[1]), "shown, and not switched to"
            await api.call("GET", f"/chats/{chat}?message=99", status=400)

    run(main)


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_of_variants_that_breaks_anywhere_goes_on_without_a_gap(seed: int) -> None:
    chance = random.Random(seed)

    async def main() -> None:
        async with together(None) as (api, backend):
            chat = await api.new()
            await api.begin(chat, content="Hello", variants=3)
            source, told = api.events(chat, "?render=html"), list[Told]()
            while sum(each.event == "complete" for each in told) < 3:
                async for each in source.connect(cut=chance.randrange(900, 1500)):
                    told.append(each)
                    if each.event == "start":
                        backend.open_gate()
            assert by_variant(told) == WHOLE
            assert sum(each.event == "start" for each in told) == 3
            assert sorted(each.data["variant"] for each in told if each.event == "complete") == [0, 1, 2]
            blocks = {each.data["variant"]: each.data["html"] for each in told if each.event == "html"}
            assert {number: text.strip() for number, text in enumerate(WHOLE)} == {
                number: html.removeprefix("<p>").split("</p>")[0] for number, html in blocks.items()
            }

    run(main)


def test_a_client_that_comes_later_sees_all_variants_in_the_chat() -> None:
    async def main() -> None:
        async with together(None) as (api, backend):
            chat = await api.new()
            begun = await api.begin(chat, content="Hello", variants=2)
            source = api.events(chat).connect()
            backend.open_gate()
            while (await anext(source)).event != "chunk" or (await anext(source)).event != "chunk":
                pass
            found = await api.call("GET", f"/chats/{chat}?render=html")
            live = found["live"]
            assert [each["id"] for each in live["variants"]] == begun["messages"] and live["message"] == begun[
                "message"
            ]
            assert [each["content"] for each in live["variants"]] == ["0:0 ", "1:0 "]
            assert [(each["place"], each["html"].strip()) for each in live["variants"]] == [
                (4, "<p>0:0</p>"), (4, "<p>1:0</p>"),
            ]  # fmt: skip
            assert [each["content"] for each in found["messages"]] == ["Hello", "0:0 "]
            assert (await api.call("POST", f"/chats/{chat}/stop", {}))["stopped"]
            rest = [each async for each in source]
            assert [each.data["finish_reason"] for each in rest if each.event == "complete"] == ["interrupted"] * 2
            assert "interrupt" in backend.calls
            assert await siblings(api, chat) == (["0:0 ", "1:0 "], "0:0 ")

    run(main)


def test_one_of_several_fails(journal: Journal | None) -> None:
    async def main() -> None:
        async with together(journal, fails=1) as (api, backend):
            chat = await api.new()
            for _ in range(3):
                backend.open_gate()
            told = await api.ask(chat, content="Hello", variants=3)
            ends = {each.data["variant"]: each for each in told if each.event in ("complete", "error")}
            assert [ends[number].event for number in range(3)] == ["complete", "error", "complete"]
            assert "it broke" in ends[1].data["error"]["message"]
            assert await siblings(api, chat) == ([WHOLE[0], "1:0 ", WHOLE[2]], WHOLE[0])

    run(main)


def test_a_backend_without_variants_makes_them_one_after_another_and_a_stop_ends_them_all() -> None:
    async def main() -> None:
        replies = counted()
        async with client(lambda conversation: next(replies)) as api:
            chat = await api.new()
            source = EventSource(api.session, f"{api.served.url}/chats/{chat}/messages")
            told = list[Told]()
            async for each in source.connect(method="POST", body={"content": "Hello", "variants": 3}):
                told.append(each)
                if each.event == "chunk" and each.data["text"] == "Reply 0 ":
                    api.served.backend.open_gate()
                elif each.event == "chunk" and each.data["variant"] == 1:
                    assert (await api.call("POST", f"/chats/{chat}/stop", {}))["stopped"]
            assert by_variant(told)[0] == "Reply 0 to all of it, 0 times."
            reasons = [each.data["finish_reason"] for each in told if each.event == "complete"]
            assert reasons == ["stop", "interrupted", "interrupted"]
            assert len(api.served.backend.asked) == 2
            assert (await api.messages(chat))[-1] == ("assistant", "Reply 0 to all of it, 0 times.")
            assert api.served.scheduler.running == 0

    run(main)


@asynccontextmanager
async def two_models(journal: Journal | None) -> AsyncIterator[Client]:
    backends: list[ScriptedBackend] = []
    sources = {
        name: scripted_source(lambda conversation, name=name: say(f"I am {name}."), backends, name=name)
        for name in ("small", "large")
    }
    async with serving(sources, journal=journal) as served, aiohttp.ClientSession() as session:
        yield Client(session, served)


def test_a_reply_is_compared_with_that_of_another_model_and_the_choice_is_kept(journal: Journal | None) -> None:
    async def main() -> None:
        async with two_models(journal) as api:
            chat = await api.new()
            first = (await api.ask(chat, content="Hello"))[0].data["message"]
            told = await api.ask(chat, regenerate=True, compare=True, blind=True, model="large")
            start = told[0].data
            assert start["compare"] == {"message": first, "blind": True} and start["variants"] == 1
            assert words(told) == "I am large." and "variant" not in told[1].data
            second = start["message"]
            follower = api.events(chat, "?follow=1").connect()
            assert (await anext(follower)).event == "chat"
            body: dict[str, Any] = {"replies": [second, first], "chosen": first, "blind": True}
            after = await api.call("POST", f"/chats/{chat}/votes?render=html", body)
            assert after["messages"][-1]["content"] == "I am small." and after["messages"][-1]["html"]
            (vote,) = after["votes"]
            assert (vote["chosen"], vote["blind"], vote["conversation"]) == (first, True, chat)
            assert [(each["message"], each["model"]) for each in vote["replies"]] == [
                (second, "large"), (first, "small"),
            ]  # fmt: skip
            assert (await anext(follower)).data["head"] == first
            after = await api.call("POST", f"/chats/{chat}/votes", {"replies": [first, second]})
            assert [each["chosen"] for each in after["votes"]] == [first, None]
            assert after["messages"][-1]["id"] == first, "no choice, no other branch"
            other = await api.new()
            assert (await api.call("GET", f"/chats/{other}"))["votes"] == []
            await follower.aclose()

    run(main)


def test_what_cannot_be_varied_compared_or_chosen_is_refused_by_name() -> None:
    async def main() -> None:
        async with client() as api:
            chat = await api.new()
            complete = (await api.ask(chat, content="Hello"))[-1].data
            user, reply = complete["user"], complete["message"]
            again = (await api.ask(chat, regenerate=True))[-1].data["message"]
            for body, param in (
                ({"regenerate": True, "variants": 9}, "variants"),
                ({"continue": True, "variants": 2}, "variants"),
                ({"content": "x", "compare": True}, "compare"),
                ({"regenerate": True, "compare": True, "variants": 2}, "compare"),
                ({"regenerate": True, "blind": True}, "blind"),
            ):
                refused = await api.call("POST", f"/chats/{chat}/messages", body, status=400)
                assert refused["error"]["param"] == param
            for vote, param in (
                ({"replies": [reply]}, "replies"),
                ({"replies": [reply, reply]}, "replies"),
                ({"replies": [reply, None]}, "replies[1]"),
                ({"replies": [reply, user]}, "replies"),
                ({"replies": [reply, 99]}, "replies"),
                ({"replies": [reply, again], "chosen": user}, "chosen"),
                ({}, "replies"),
            ):
                refused = await api.call("POST", f"/chats/{chat}/votes", vote, status=400)
                assert refused["error"]["param"] == param, vote
            await api.call("POST", "/chats/99/votes", {"replies": [1, 2]}, status=404)
            empty = await api.new()
            refused = await api.call(
                "POST", f"/chats/{empty}/messages", {"regenerate": True, "compare": True}, status=400
            )
            assert refused["error"]["param"] == "compare"

    run(main)


def test_an_attached_terminal_shows_the_first_variant() -> None:
    parser = ChatEventParser()
    shown = [
        heard
        for name, data in (
            ("start", '{"generation": "g", "variant": 0, "user": null}'),
            ("start", '{"generation": "g", "variant": 1, "user": null}'),
            ("chunk", '{"text": "one", "variant": 0}'),
            ("chunk", '{"text": "two", "variant": 1}'),
            ("complete", '{"finish_reason": "stop", "variant": 1}'),
            ("complete", '{"finish_reason": "stop", "variant": 0}'),
        )
        for heard in parser.heard(ServerSentEvent(data, name), set())
    ]
    assert [type(each).__name__ for each in shown] == ["RemoteReplyStarted", "TextDelta", "Completed"]
    assert shown[1] == TextDelta("one")


def test_a_source_that_ends_after_all_variants_gets_nothing_more() -> None:
    async def main() -> None:
        async with together(None) as (api, backend):
            chat = await api.new()
            await api.begin(chat, content="Hello", variants=2)
            source, ends = api.events(chat), 0
            async for each in source.connect():
                ends += each.event == "complete"
                if each.event == "start" or each.id.endswith(".4,4"):
                    backend.open_gate()
            assert ends == 2
            assert [each async for each in source.connect()] == [] and source.status == 204
            generation, _, places = source.last_id.rpartition(".")
            assert len(places.split(",")) == 2
            source.last_id = f"{generation}.{places.split(',')[0]},0"
            missed = [each async for each in source.connect()]
            assert {each.data["variant"] for each in missed} == {1} and words(missed) == WHOLE[1]
            for unknown in (f"{generation}.0", f"{generation}.0,0,0", f"{generation}.0,x"):
                source.last_id = unknown
                assert [each async for each in source.connect()] == []

    run(main)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_server_that_is_killed_in_the_middle_of_variants_has_kept_them(tmp_path: Path) -> None:
    arguments = ("--engine", str(fake_engine(tmp_path)))
    fakes = {"FAKE_ENGINE_RECORD": str(tmp_path / "record")}
    journal = Journal(tmp_path / "data" / "journal.db")

    async def until_killed(process: ServedProcess) -> None:
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{process.url}/chats", json={}) as response:
                assert response.status == 201
            source = EventSource(session, f"{process.url}/chats/1/messages")
            body = {"content": "story", "variants": 2, "max_tokens": 1000}
            with contextlib.suppress(aiohttp.ClientError):
                async for each in source.connect(method="POST", body=body):
                    if each.data.get("variant") == 1 and len(replies(journal.tree(1))) == 2:
                        process.send_signal(signal.SIGKILL)  # a part of the second is kept

    def replies(tree: MessageTree) -> list[Message]:
        return [node.record.message for node in tree.nodes.values() if node.record.message.role == "assistant"]

    async def shown() -> None:
        async with client(journal=journal) as api:
            messages = (await api.call("GET", "/chats/1/tree"))["messages"]
            first, second = (each for each in messages if each["role"] == "assistant")
            assert first["siblings"] == second["siblings"] == [first["id"], second["id"]]
            assert (first["finish_reason"], second["finish_reason"]) == ("length", "cut_off")
            assert is_story(first["content"]) and is_story(second["content"]) and second["content"]

    with served_process(*arguments, home=tmp_path, **fakes) as process:
        asyncio.run(until_killed(process))
        process.wait()
    run(shown)


@pytest.mark.engine
def test_variants_of_a_real_engine() -> None:
    async def ask_for(url: str) -> None:
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{url}/chats", json={}) as response:
                chat = (await response.json())["id"]
            source = EventSource(session, f"{url}/chats/{chat}/messages")
            body = {"content": "Tell me a story.", "variants": 3, "max_tokens": 8}
            told = [each async for each in source.connect(method="POST", body=body)]
            ends = [each.data for each in told if each.event == "complete"]
            assert sorted(each["variant"] for each in ends) == [0, 1, 2] and all(
                each["stats"]["tokens"] for each in ends
            )
            async with session.get(f"{url}/chats/{chat}/tree") as response:
                messages = (await response.json())["messages"]
            kept = [each for each in messages if each["role"] == "assistant"]
            assert [each["content"] for each in kept] == by_variant(told) and len(kept[0]["siblings"]) == 3

    with served_process() as process:
        asyncio.run(ask_for(process.url))
