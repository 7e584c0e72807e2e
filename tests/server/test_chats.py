"""The chats API: conversations of the journal over HTTP."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from event_source import EventSource, Told, words
from program import TIMEOUT
from scripted_backend import STATS, Gate, Script, by_message, say
from serving import Served, serving

from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.errors import EngineDiedError, FinishReason
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, TextDelta, ThinkingDelta
from bitnet_chat.journal import Journal
from bitnet_chat.server.settings import ServeSettings


class Client:
    """What a program sees of the API."""

    def __init__(self, session: aiohttp.ClientSession, served: Served) -> None:
        self.session, self.served = session, served

    async def call(self, method: str, path: str, body: object = None, *, status: int = 200) -> Any:
        async with self.session.request(method, self.served.url + path, json=body) as response:
            text = await response.text()
            assert response.status == status, text
            return await response.json() if text else None

    async def new(self, **body: object) -> int:
        return int((await self.call("POST", "/chats", body, status=201))["id"])

    async def ask(self, chat: int, query: str = "", **body: object) -> list[Told]:
        source = EventSource(self.session, f"{self.served.url}/chats/{chat}/messages{query}")
        told = [each async for each in source.connect(method="POST", body=body)]
        assert source.status == 200
        return told

    async def begin(self, chat: int, **body: object) -> dict[str, Any]:
        return dict(await self.call("POST", f"/chats/{chat}/messages", {"stream": False} | body, status=202))

    def events(self, chat: int, query: str = "") -> EventSource:
        return EventSource(self.session, f"{self.served.url}/chats/{chat}/events{query}")

    async def messages(self, chat: int) -> list[tuple[str, str]]:
        return [(each["role"], each["content"]) for each in (await self.call("GET", f"/chats/{chat}"))["messages"]]


@asynccontextmanager
async def client(
    script: Script = by_message, journal: Journal | None = None, settings: ServeSettings | None = None
) -> AsyncIterator[Client]:
    async with serving(script, journal=journal, settings=settings) as served, aiohttp.ClientSession() as session:
        yield Client(session, served)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(TIMEOUT):
            await test()

    asyncio.run(bounded())


@pytest.fixture(params=["file", "memory"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal | None:
    return Journal(tmp_path / "journal.db") if request.param == "file" else None


def test_a_chat_is_made_answered_listed_found_renamed_and_removed(journal: Journal | None) -> None:
    async def main() -> None:
        async with client(journal=journal) as api:
            chat = await api.new(system="Be brief.")
            told = await api.ask(chat, content="Hello")
            assert [each.event for each in told] == ["start", "chunk", "complete"]
            start, complete = told[0].data, told[-1].data
            assert start["chat"] == chat and start["user"]["content"] == "Hello" and start["model"] == "scripted"
            assert words(told) == "You said 'Hello'."
            assert complete["finish_reason"] == "stop" and complete["usage"]["completion_tokens"] == 11
            assert (complete["user"], complete["message"]) == (start["user"]["id"], start["message"])
            assert complete["context_size"] == 2048 and complete["tokens_per_second"] == 10.0
            found = await api.call("GET", f"/chats/{chat}")
            assert [each["id"] for each in found["messages"]][1:] == [complete["user"], complete["message"]]
            assert found["system"] == "Be brief." and found["live"] is None and found["state"] == "whole"
            assert found["messages"][2]["stats"]["tokens"] == 11 and found["messages"][2]["model"] == "scripted"
            other = await api.new(title="Tea")
            listed = (await api.call("GET", "/chats"))["chats"]
            assert [each["id"] for each in listed] == [other, chat] and listed[1]["title"] == "Hello"
            assert (await api.call("GET", "/chats?limit=1"))["chats"] == listed[:1]
            hits = (await api.call("GET", "/chats?q=said"))["chats"]
            assert [each["id"] for each in hits] == [chat] and "You said" in hits[0]["snippet"]
            assert (await api.call("PATCH", f"/chats/{chat}", {"title": " Good\n day "}))["title"] == "Good day"
            await api.call("DELETE", f"/chats/{chat}", status=204)
            gone = await api.call("GET", f"/chats/{chat}", status=404)
            assert gone["error"]["type"] == "chat_not_found" and gone["error"]["remedy"]
            assert [each["id"] for each in (await api.call("GET", "/chats"))["chats"]] == [other]

    run(main)


def test_another_branch_is_made_the_current_one(journal: Journal | None) -> None:
    def script(conversation: Conversation) -> list[Event | Gate]:
        last = conversation.last
        assert last is not None
        if last.content == "wait":
            return [Started(), TextDelta("so"), Gate(), Completed(FinishReason.STOP, "so")]
        return say(f"{len(conversation.turns)}:{last.content}")

    async def main() -> None:
        async with client(script, journal) as api:
            chat = await api.new()
            complete = (await api.ask(chat, content="one"))[-1].data
            first, reply = complete["user"], complete["message"]
            again = (await api.ask(chat, regenerate=True))[-1].data["message"]
            edited = (await api.ask(chat, content="uno", edit=first))[-1].data["user"]
            found = await api.call("GET", f"/chats/{chat}")
            assert [(each["siblings"], each["position"]) for each in found["messages"]] == [
                ([first, edited], 2),
                ([], 1),
            ]
            follower = api.events(chat, "?follow=1").connect()
            assert "head" not in (await anext(follower)).data
            switched = await api.call("POST", f"/chats/{chat}/head?render=html", {"message": first})
            assert [each["id"] for each in switched["messages"]] == [first, again], "down to the newest"
            assert switched["messages"][1]["html"] and switched["title"] == "one"
            told = await anext(follower)
            assert told.event == "chat" and told.data == {"id": chat, "title": "one", "deleted": False, "head": again}
            switched = await api.call("POST", f"/chats/{chat}/head", {"message": reply})
            assert [(each["siblings"], each["position"]) for each in switched["messages"]] == [
                ([first, edited], 1), ([reply, again], 1),
            ]  # fmt: skip
            assert (await anext(follower)).data["head"] == reply
            assert await api.call("POST", f"/chats/{chat}/head", {"message": first}) == switched, "already there"
            await api.ask(chat, content="two")
            assert await api.messages(chat) == [
                ("user", "one"), ("assistant", "1:one"), ("user", "two"), ("assistant", "3:two"),
            ]  # fmt: skip
            tree = await api.call("GET", f"/chats/{chat}/tree")
            assert [each["content"] for each in tree["messages"]] == [
                *("one", "1:one", "1:one", "uno", "1:uno", "two", "3:two"),
            ]
            assert [each["parent"] for each in tree["messages"]][:4] == [None, first, first, None]
            assert tree["head"] == tree["messages"][-1]["id"] and tree["messages"][2]["siblings"] == [reply, again]
            await api.call("GET", "/chats/99/tree", status=404)
            for body, status, code in (
                ({"message": 99}, 400, "message_not_found"),
                ({"message": 0}, 400, "invalid_value"),
                ({}, 400, "missing_required_parameter"),
            ):
                error = (await api.call("POST", f"/chats/{chat}/head", body, status=status))["error"]
                assert (error["type"], error["param"]) == (code, "message")
            await api.call("POST", "/chats/99/head", {"message": 1}, status=404)
            await api.begin(chat, content="wait")
            refused = await api.call("POST", f"/chats/{chat}/head", {"message": edited}, status=409)
            assert refused["error"]["type"] == "chat_is_answering"
            api.served.backend.open_gate()
            await follower.aclose()

    run(main)


def test_regenerate_edit_continue_and_messages_branch(journal: Journal | None) -> None:
    def script(conversation: Conversation) -> list[Event | Gate]:
        last = conversation.last
        assert last is not None
        if last.role == "assistant":
            return [Started(), TextDelta(" and on"), Completed(FinishReason.STOP, " and on")]
        if last.content == "cut":
            return say("It goes on", reason=FinishReason.LENGTH)
        return say(f"{len(conversation.turns)}:{last.content}")

    async def main() -> None:
        async with client(script, journal) as api:
            chat = await api.new()
            first = (await api.ask(chat, content="one"))[0].data
            second = (await api.ask(chat, content="two"))[0].data
            assert second["parent"] == first["message"] and first["parent"] is None
            again = (await api.ask(chat, regenerate=True))[0].data
            assert again["user"] == second["user"] and again["message"] != second["message"]
            assert again["parent"] == first["message"] and not again["continues"]
            edited = (await api.ask(chat, edit=first["user"]["id"], content="ONE"))[0].data
            assert edited["parent"] is None and edited["user"]["id"] != first["user"]["id"]
            assert await api.messages(chat) == [("user", "ONE"), ("assistant", "1:ONE")]
            cut = (await api.ask(chat, content="cut"))[0].data
            more = await api.ask(chat, **{"continue": True})
            assert more[0].data["continues"] and more[0].data["user"] is None
            assert more[0].data["parent"] == edited["message"] or more[0].data["parent"] == cut["user"]["id"]
            assert (await api.messages(chat))[-1] == ("assistant", "It goes on and on")
            refused = await api.call("POST", f"/chats/{chat}/messages", {"continue": True}, status=400)
            assert "is complete" in refused["error"]["message"]
            whole = [{"role": "user", "content": "ONE"}, {"role": "assistant", "content": "1:ONE"}]
            asked = (await api.ask(chat, messages=[*whole, {"role": "user", "content": "else"}]))[0].data
            assert asked["parent"] == edited["message"], "it branches at the first difference"
            assert (await api.messages(chat))[-1] == ("assistant", "3:else")
            again = (await api.ask(chat, system="Sys", content="new"))[0].data
            assert (await api.messages(chat))[0] == ("system", "Sys")

    run(main)


GATED = "a gated réply, 数据 and 👩‍💻 "


def gated(conversation: Conversation) -> list[Event | Gate]:
    """Thoughts, text with a byte that is no UTF-8, a notice, a call and text again; a gate after each."""
    call = ToolCall("c1", "add", '{"a": 1}')
    parts: list[Event] = [
        ThinkingDelta("let me "),
        ThinkingDelta("see"),
        TextDelta(GATED),
        TextDelta("raw \udcf0\udc9f end"),
        Notice("a line"),
        call,
        TextDelta(" more" * 50),
    ]
    steps: list[Event | Gate] = [Started()]
    for part in parts:
        steps += [part, Gate()]
    text = "".join(part.text for part in parts if isinstance(part, TextDelta))
    return [*steps, Completed(FinishReason.TOOL_CALLS, text, STATS)]


GATES = 7
ALL_OF_IT = f"{GATED}raw \ufffd\ufffd end{' more' * 50}"


def kinds(told: list[Told]) -> list[str]:
    """The events of a reply, text of one kind joined."""
    found: list[str] = []
    for each in told:
        if each.event not in ("chunk", "thinking") or found[-1:] != [each.event]:
            found.append(each.event)
    return found


WHOLE = ["start", "thinking", "chunk", "notice", "tool_call", "chunk", "complete"]


def test_each_piece_leaves_before_the_next_is_made() -> None:
    async def main() -> None:
        async with client(gated) as api:
            chat = await api.new()
            source = EventSource(api.session, f"{api.served.url}/chats/{chat}/messages")
            told: list[Told] = []
            async for each in source.connect(method="POST", body={"content": "go"}):
                told.append(each)
                if each.event not in ("start", "complete"):
                    api.served.backend.open_gate()
            assert kinds(told) == WHOLE and words(told) == ALL_OF_IT
            assert "".join(each.data["text"] for each in told if each.event == "thinking") == "let me see"

    run(main)


@pytest.mark.parametrize("follow", ["", "&follow=1"])
@pytest.mark.parametrize("seed", range(4))
def test_a_stream_that_breaks_anywhere_goes_on_without_a_gap(seed: int, follow: str) -> None:
    chance = random.Random(seed)

    async def main() -> None:
        async with client(gated) as api:
            chat = await api.new()
            begun = await api.begin(chat, content="go")
            source = api.events(chat, f"?render=html{follow}")
            told: list[Told] = []
            opened, blocks = 0, {}
            while not (told and told[-1].event == "complete"):
                async for each in source.connect(cut=chance.randrange(1, 900)):
                    if each.event == "html":
                        blocks[each.data["block"]] = each.data["html"]
                        assert each.data["message"] == begun["message"]
                    elif each.event != "chat":
                        told.append(each)
                    if each.event == "complete":
                        break
                    if opened < GATES and each.event not in ("chat", "start"):
                        opened += 1
                        api.served.backend.open_gate()
                assert source.status == 200
            assert kinds(told) == WHOLE and words(told) == ALL_OF_IT, "nothing is lost and nothing comes twice"
            assert "".join(each.data["text"] for each in told if each.event == "thinking") == "let me see"
            html = "".join(text for _, text in sorted(blocks.items()))
            whole = await api.call("GET", f"/chats/{chat}?render=html")
            assert whole["messages"][-1]["html"] == html
            if not follow:  # complete was seen: there is nothing more, and a browser stops to come back
                assert [each async for each in source.connect()] == [] and source.status == 204

    run(main)


def test_who_missed_only_the_end_gets_it() -> None:
    async def main() -> None:
        async with client() as api:
            chat = await api.new()
            told = await api.ask(chat, content="Hello")
            chunk, complete = told[1], told[2]
            source = api.events(chat)
            source.last_id = chunk.id
            assert [(each.event, each.data) for each in [each async for each in source.connect()]] == [
                ("complete", complete.data)
            ]
            half = chunk.id.rpartition(".")[0] + ".4"
            source.last_id = half
            assert words([each async for each in source.connect()]) == "said 'Hello'."
            for unknown in ("", "nonsense", "0123.5", chunk.id.rpartition(".")[0] + ".99999", complete.id):
                source.last_id = unknown
                assert [each async for each in source.connect()] == []
                assert source.status == 204

    run(main)


def test_an_id_that_means_nothing_gets_the_live_reply_from_its_beginning() -> None:
    async def main() -> None:
        async with client() as api:
            chat = await api.new()
            earlier = (await api.ask(chat, content="Hello"))[-1].id
            await api.begin(chat, content="wait")
            await api.served.backend.generating.wait()
            for last_id in ("", "nonsense", "0123.5", earlier, "%0a"):
                source = api.events(chat, f"?last_event_id={last_id}")
                async for each in source.connect():
                    assert each.event == "start" and each.data["user"]["content"] == "wait"
                    break
            api.served.backend.open_gate()

    run(main)


def test_two_watch_the_same_reply_and_a_third_sees_it_in_the_chat() -> None:
    async def main() -> None:
        async with client() as api:
            chat = await api.new()

            async def watch(source: EventSource) -> list[Told]:
                told = []
                async for each in source.connect():
                    told.append(each)
                    if each.event == "chunk":
                        here.release()
                return told

            here = asyncio.Semaphore(0)
            begun = await api.begin(chat, content="wait")
            both = [asyncio.ensure_future(watch(api.events(chat))) for _ in range(2)]
            await here.acquire()
            await here.acquire()
            found = await api.call("GET", f"/chats/{chat}")
            assert found["live"] == {
                "generation": begun["generation"], "message": begun["message"], "place": 15,
                "variants": [], "compare": None,
            }  # fmt: skip
            assert found["state"] == "answering" and found["messages"][-1]["content"] == "Before the gate"
            assert found["messages"][-1]["finish_reason"] is None
            assert [each["live"] for each in (await api.call("GET", "/chats"))["chats"]] == [True]
            busy = await api.call("POST", f"/chats/{chat}/messages", {"content": "x"}, status=409)
            assert busy["error"]["type"] == "chat_is_answering"
            api.served.backend.open_gate()
            first, second = await asyncio.gather(*both)
            assert words(first) == words(second) == "Before the gate, after the gate."
            assert first[-1] == second[-1]

    run(main)


def test_followers_hear_of_all_that_happens_in_a_chat() -> None:
    async def main() -> None:
        async with client() as api:
            chat = await api.new(title="A")
            told: list[Told] = []
            news = asyncio.Condition()

            async def follow() -> None:
                async for each in api.events(chat, "?follow=1").connect():
                    told.append(each)
                    async with news:
                        news.notify_all()

            async def until(event: str) -> None:
                async with news:
                    await news.wait_for(lambda: bool(told) and told[-1].event == event)

            following = asyncio.ensure_future(follow())
            await until("chat")
            await api.ask(chat, content="Hello")
            await until("complete")
            await api.ask(chat, regenerate=True)
            async with news:
                await news.wait_for(lambda: sum(each.event == "complete" for each in told) == 2)
            await api.call("PATCH", f"/chats/{chat}", {"title": "B"})
            await until("chat")
            assert told[-1].data == {"id": chat, "title": "B", "deleted": False}
            await api.begin(chat, content="hang")
            await until("start")
            await api.call("DELETE", f"/chats/{chat}", status=204)
            await following
            assert [each.event for each in told[-2:]] == ["complete", "chat"]
            assert told[-2].data["finish_reason"] == "interrupted" and told[-1].data["deleted"]
            assert api.served.scheduler.running == 0

    run(main)


def test_stop_ends_a_reply_with_what_it_has() -> None:
    async def main() -> None:
        async with client() as api:
            chat = await api.new()
            source = EventSource(api.session, f"{api.served.url}/chats/{chat}/messages")
            told: list[Told] = []
            async for each in source.connect(method="POST", body={"content": "wait"}):
                told.append(each)
                if each.event == "chunk":
                    assert (await api.call("POST", f"/chats/{chat}/stop"))["stopped"]
            assert told[-1].data["finish_reason"] == "interrupted"
            assert await api.messages(chat) == [("user", "wait"), ("assistant", "Before the gate")]
            assert not (await api.call("POST", f"/chats/{chat}/stop"))["stopped"]
            await api.call("POST", "/chats/12345/stop", status=404)
            more = await api.ask(chat, **{"continue": True})
            assert more[0].data["continues"]

    run(main)


def test_a_reply_goes_on_without_watchers_and_stops_when_none_comes_back() -> None:
    def script(conversation: Conversation) -> Iterator[Event | Gate]:
        try:
            yield from by_message(conversation)
        finally:
            ended.set()

    ended = asyncio.Event()

    async def main() -> None:
        settings = ServeSettings(port=0, grace=0.0, linger=0.0)
        async with client(script, settings=settings) as api:
            chat = await api.new()
            source = EventSource(api.session, f"{api.served.url}/chats/{chat}/messages")
            async for each in source.connect(method="POST", body={"content": "wait"}):
                if each.event == "chunk":
                    break
            # Nobody watches, and nobody comes back in no time at all.
            await ended.wait()
            assert (await api.messages(chat))[-1] == ("assistant", "Before the gate")

    run(main)


def test_what_fails_before_the_first_word_has_a_status_and_leaves_the_message() -> None:
    def script(conversation: Conversation) -> list[Event | Gate]:
        assert conversation.last is not None
        if conversation.last.content == "late":
            return [Started(), TextDelta("so far"), Failed(EngineDiedError("it died"), "so far")]
        if conversation.last.content == "fail" and not failed:
            failed.append(True)
            return [Started(), Failed(EngineDiedError("it died", remedy="again"))]
        return say("Now.")

    failed: list[bool] = []

    async def main() -> None:
        async with client(script) as api:
            chat = await api.new()
            error = await api.call("POST", f"/chats/{chat}/messages", {"content": "fail"}, status=503)
            assert error["error"] == {"message": "it died", "remedy": "again", "type": "engine_died"}
            found = await api.call("GET", f"/chats/{chat}")
            assert found["state"] == "unanswered" and [each["content"] for each in found["messages"]] == ["fail"]
            again = await api.ask(chat, regenerate=True)
            assert again[0].data["user"]["id"] == found["messages"][0]["id"], "it is asked again, and not doubled"
            told = await api.ask(chat, content="late")
            assert told[-1].event == "error" and told[-1].data["finish_reason"] == "engine_died"
            assert told[-1].data["message"] == told[0].data["message"]

    run(main)


def test_a_message_without_a_reply_stays_where_it_is() -> None:
    """It is told apart, no model sees it, and it can be edited."""

    def script(conversation: Conversation) -> list[Event | Gate]:
        assert conversation.last is not None
        if conversation.last.content.startswith("fail"):
            return [Started(), Failed(EngineDiedError("it died"))]
        return say(f"{len(conversation.messages)}.")

    async def main() -> None:
        async with client(script) as api:
            chat = await api.new()

            async def found() -> tuple[list[str], list[str]]:
                told = await api.call("GET", f"/chats/{chat}")
                return [each["content"] for each in told["messages"]], [each["content"] for each in told["passed_over"]]

            for failing in ("fail 1", "fail 2"):
                await api.call("POST", f"/chats/{chat}/messages", {"content": failing}, status=503)
            assert await found() == (["fail 2"], ["fail 1"])
            [second] = (await api.call("GET", f"/chats/{chat}"))["messages"]
            told = await api.ask(chat, content="Hello")
            assert told[0].data["parent"] == second["id"]
            assert [message.content for message in api.served.backend.asked[-1].messages] == ["Hello"]
            assert await found() == (["Hello", "1."], ["fail 1", "fail 2"])
            assert (await api.call("GET", f"/chats/{chat}"))["state"] == "whole"
            told = await api.ask(chat, regenerate=True)
            hello = told[0].data["user"]["id"]
            assert told[0].data["parent"] == second["id"]
            await api.ask(chat, content="Hello again", edit=hello)
            assert await found() == (["Hello again", "1."], ["fail 1", "fail 2"])
            await api.ask(chat, content="And you?")
            assert await found() == (["Hello again", "1.", "And you?", "3."], ["fail 1", "fail 2"])
            told = await api.ask(chat, content="Now it works", edit=second["id"])
            assert told[0].data["parent"] == (await api.call("GET", f"/chats/{chat}"))["passed_over"][0]["id"]
            assert await found() == (["Now it works", "1."], ["fail 1"])
            await api.call("POST", f"/chats/{chat}/messages", {"content": "fail 3"}, status=503)
            pending = (await api.call("GET", f"/chats/{chat}"))["messages"][-1]["id"]
            await api.ask(chat, content="Better", edit=pending)
            assert await found() == (["Now it works", "1.", "Better", "3."], ["fail 1"]), "what is edited is replaced"

    run(main)


BAD = [
    ({}, "content"),
    ({"content": ""}, "content"),
    ({"content": 5}, "content"),
    ({"content": "x", "regenerate": True}, "content"),
    ({"content": "x", "temperature": 9}, "temperature"),
    ({"content": "x", "edit": 4711}, "edit"),
    ({"edit": 1}, "content"),
    ({"regenerate": True}, "regenerate"),
    ({"continue": True}, "continue"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, "messages[1].role"),
    ({"messages": [{"role": "assistant", "content": "y"}], "continue": True}, "messages[0].role"),
]


def test_what_cannot_be_used_is_refused_by_name() -> None:
    async def main() -> None:
        async with client() as api:
            chat = await api.new()
            for body, param in BAD:
                error = await api.call("POST", f"/chats/{chat}/messages", body, status=400)
                assert error["error"]["param"] == param, body
            await api.call("POST", f"/chats/{chat}/messages", {"content": "x", "model": "none"}, status=404)
            await api.call("POST", "/chats", {"model": "none"}, status=404)
            await api.call("POST", "/chats", {"title": "x" * 300}, status=400)
            await api.call("PATCH", f"/chats/{chat}", {"title": "  "}, status=400)
            await api.call("PUT", f"/chats/{chat}", {}, status=405)
            for path in ("0", "-1", "x", "9" * 30, str(2**63), "4711", "1e3"):
                for method, rest in (("GET", ""), ("DELETE", ""), ("GET", "/events"), ("POST", "/stop")):
                    await api.call(method, f"/chats/{path}{rest}", status=404)
            for query in ("?limit=0", "?limit=x", "?limit=99999999999"):
                await api.call("GET", f"/chats{query}", status=400)
            await api.call("GET", f"/chats/{chat}?render=pdf", status=400)
            await api.call("GET", f"/chats/{chat}/events?follow=yes", status=400)
            assert (await api.call("GET", f"/chats/{chat}"))["messages"] == [], "none of it left a trace"
            assert (await api.call("GET", "/chats?q=%00%22*"))["chats"] == []

    run(main)


def test_a_field_without_effect_is_told_to_its_client() -> None:
    async def main() -> None:
        async with client() as api:
            chat = await api.new()
            line = "without effect here: nonsense"
            told = await api.ask(chat, content="x", nonsense=1)
            assert [(each.event, each.data) for each in told[:1]] == [("notice", {"text": line})]
            assert [each.event for each in told].count("notice") == 1
            assert (await api.begin(chat, content="y", nonsense=1))["notices"] == [line]
            source = EventSource(api.session, f"{api.served.url}/replies")
            body = {"messages": [{"role": "user", "content": "x"}], "nonsense": 1}
            told = [each async for each in source.connect(method="POST", body=body)]
            assert told[0].data == {"text": line}

    run(main)


def test_options_and_urgency_reach_the_backend() -> None:
    async def main() -> None:
        async with client() as api:
            chat = await api.new()
            tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
            await api.ask(chat, content="x", max_tokens=5, temperature=0.5, seed=7, stop=["END"], tools=[tool])
            options = api.served.backend.options[-1]
            assert (options.max_tokens, options.sampling.temperature, options.sampling.seed) == (5, 0.5, 7)
            assert options.stop == ("END",) and options.tools[0].name == "add"

    run(main)


def test_a_reply_without_a_chat_is_kept_nowhere_and_ends_with_its_reader() -> None:
    def script(conversation: Conversation) -> Iterator[Event | Gate]:
        try:
            yield from by_message(conversation)
        finally:
            ended.set()

    ended = asyncio.Event()

    async def main() -> None:
        async with client(script) as api:
            source = EventSource(api.session, f"{api.served.url}/replies")
            asked = {"messages": [{"role": "user", "content": "Hello"}]}
            told = [each async for each in source.connect(method="POST", body=asked)]
            assert kinds(told) == ["start", "chunk", "complete"] and told[0].data["chat"] is None
            assert (await api.call("GET", "/chats"))["chats"] == []
            asked = {"messages": [{"role": "user", "content": "hang"}]}
            backend = api.served.backend
            async for each in source.connect(method="POST", body=asked):
                assert each.event == "start"
                ended.clear()
                break
            await ended.wait()
            assert "interrupt" in backend.calls

    run(main)


def test_two_servers_on_one_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")

    async def main() -> None:
        async with client(journal=journal) as one, client(journal=Journal(journal.path)) as other:
            chat = await one.new()
            await one.ask(chat, content="one")
            await other.ask(chat, content="two")
            await one.ask(chat, content="three")
            assert [content for role, content in await other.messages(chat) if role == "user"] == [
                "one",
                "two",
                "three",
            ]
            await asyncio.gather(one.ask(chat, content="four"), other.ask(chat, content="4"))
            assert len(await one.messages(chat)) in (8, 10), "each has a branch of its own, or one came after the other"

    run(main)
