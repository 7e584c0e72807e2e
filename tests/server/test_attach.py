"""A running server in place of an engine of one's own: ``--attach``."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from event_source import EventSource
from program import CTRL_C, CTRL_D, ENTER, TIMEOUT, Start, run, start
from repl_console import RecordedOutput, ScriptedConsole
from scripted_backend import Gate, Script, by_message, say
from serving import Served, ServedProcess, scripted_source, served_process, serving
from test_chats import ALL_OF_IT, gated
from test_chats import run as run_test

from bitnet_chat import batch
from bitnet_chat.backend import BackendState, ReplyOptions, Sampling
from bitnet_chat.backends.attached_server.backend import AttachedBackend
from bitnet_chat.backends.attached_server.client import ServerClient
from bitnet_chat.backends.attached_server.journal import ServerJournal
from bitnet_chat.backends.attached_server.messages import (
    BranchSwitched,
    ChatRemoved,
    ChatRenamed,
    Heard,
    RemoteReplyStarted,
)
from bitnet_chat.cli.parser import parse
from bitnet_chat.conversation import Conversation, Tool, ToolCall
from bitnet_chat.errors import (
    BitnetChatError,
    EngineDiedError,
    FinishReason,
    ServerUnreachableError,
    UnsupportedError,
    UsageError,
)
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, TextDelta, ThinkingDelta
from bitnet_chat.journal import ReplyState
from bitnet_chat.repl import ReplSettings
from bitnet_chat.repl.controller import ReplController
from bitnet_chat.repl.display import ReplyDisplay
from bitnet_chat.server.settings import ServeSettings

__all__ = ["start"]
HELLO = Conversation().with_user("Hello")


@asynccontextmanager
async def attached(
    script: Script = by_message, *, kept: bool = True, url: str = "", parallel: int = 1, urgent: bool = True
) -> AsyncIterator[tuple[Served, AttachedBackend, ServerJournal]]:
    """``url``: another way to the server."""
    async with serving(script, parallel=parallel) as served:
        journal = await asyncio.to_thread(ServerJournal.at, ServerClient(url or served.url))
        backend = AttachedBackend(journal.server, journal.facts, journal.place if kept else None, urgent=urgent)
        try:
            yield served, backend, journal
        finally:
            await backend.close()


async def all_of(backend: AttachedBackend, conversation: Conversation, **options: Any) -> list[Event]:
    return [event async for event in backend.reply(conversation, ReplyOptions(**options))]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def until(condition: Callable[[], bool]) -> None:
    """Of the server, which is in this loop."""
    for _ in range(int(TIMEOUT * 1000)):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("in vain")


@pytest.mark.parametrize("kept", [True, False])
def test_a_reply_of_a_server_is_like_any_other(kept: bool) -> None:
    async def main() -> None:
        async with attached(gated, kept=kept) as (served, backend, _):
            events: list[Event] = []
            async for event in backend.reply(HELLO):
                events.append(event)
                served.backend.open_gate()
            assert text_of(events) == ALL_OF_IT
            found = [type(event) for event in events if not isinstance(event, TextDelta | ThinkingDelta)]
            assert found == [Started, Notice, ToolCall, Completed]
            end = events[-1]
            assert isinstance(end, Completed) and end.text == ALL_OF_IT and end.reason is FinishReason.TOOL_CALLS
            assert end.stats.tokens == 11 and end.stats.exact
            assert backend.status().context_size == 2048 and backend.status().state is BackendState.IDLE

    run_test(main)


def test_what_is_wished_for_gets_there() -> None:
    async def main() -> None:
        async with attached() as (served, backend, _):
            tool = Tool("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}})
            wished = {"max_tokens": 5, "stop": ("END",), "tools": (tool,), "tool_choice": "add"}
            await all_of(backend, HELLO, sampling=Sampling(temperature=0, seed=3), **wished)
            options = served.backend.options[-1]
            assert (options.sampling.temperature, options.sampling.seed) == (0, 3)
            assert (options.max_tokens, options.stop, options.tools, options.tool_choice) == (
                5,
                ("END",),
                (tool,),
                "add",
            )

    run_test(main)


def test_the_branches_are_those_of_the_server() -> None:
    async def main() -> None:
        async with attached() as (served, backend, journal):
            recorder = journal.recorder(pytest.fail)
            await all_of(backend, HELLO)
            chat = recorder.id
            assert chat is not None
            async with aiohttp.ClientSession() as session:
                source = EventSource(session, f"{served.url}/chats/{chat}/messages")
                for body in ({"regenerate": True}, {"content": "Ho", "edit": 1}, {"content": "And?"}):
                    [_ async for _ in source.connect(method="POST", body=body)]
            tree = await asyncio.to_thread(journal.tree, chat)
            assert [(row, node.parent) for row, node in tree.nodes.items()] == [
                *((1, None), (2, 1), (3, 1), (4, None), (5, 4), (6, 5), (7, 6)),
            ]
            assert (tree.head, str(tree.position(3)), tree.newest_leaf(4)) == (7, "< 2/2 >", 7)
            stored = await asyncio.to_thread(journal.load, chat, 2)
            assert ([record.row for record in stored.records], stored.head) == ([1, 2], 2)
            assert (str(stored.position(1)), str(stored.turn_position)) == ("< 1/2 >", "< 1/2 >")
            pending = await asyncio.to_thread(journal.load, chat, 6)
            assert (pending.unanswered, pending.state) == ("And?", ReplyState.UNANSWERED)
            recorder.set_head(stored)
            assert await recorder.settled()
            assert (await asyncio.to_thread(journal.load, chat)).conversation == stored.conversation
            complaints: list[str] = []
            recorder = journal.recorder(complaints.append)
            recorder.set_head(replace(stored, head=99))
            assert await recorder.settled() and "message 99 does not exist" in complaints[0]
            with pytest.raises(BitnetChatError, match="unknown form"):
                await asyncio.to_thread(journal.load, chat, 99)

    run_test(main)


def test_the_history_is_that_of_the_server() -> None:
    async def main() -> None:
        async with attached() as (_, backend, journal):
            recorder = journal.recorder(pytest.fail)
            recorder.begin_reply(HELLO)
            reply = text_of(await all_of(backend, HELLO))
            first = recorder.id
            assert first is not None and recorder.title == "Hello"
            longer = HELLO.with_assistant(reply, FinishReason.STOP).with_user("And?")
            await all_of(backend, longer)
            recorder.rename("A title")
            await recorder.settled()
            stored = await asyncio.to_thread(journal.load, first)
            assert stored.title == "A title" and stored.state is ReplyState.WHOLE
            assert [each.content for each in stored.conversation.turns][:3] == ["Hello", reply, "And?"]
            recorder.fork()
            await all_of(backend, longer.with_assistant("x").with_user("Else"))
            assert (
                recorder.id != first
                and [each.title for each in await asyncio.to_thread(journal.list)] == ["A title"] * 2
            )
            recorder.resume(stored)
            assert recorder.id == first
            assert [hit.entry.id for hit in await asyncio.to_thread(journal.search, "Else")] == [first + 1]
            await asyncio.to_thread(journal.remove, [first])
            with pytest.raises(UsageError, match="does not exist"):
                await asyncio.to_thread(journal.load, first)
            await all_of(backend, longer)  # removed elsewhere: it goes into another one
            assert recorder.id == first + 2

    run_test(main)


def test_several_replies_from_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """In sequence; the server has each as a variant, and the chosen one as the last message."""

    async def main() -> None:
        async with attached() as (_, backend, journal):
            output, console = RecordedOutput(), ScriptedConsole()
            display = ReplyDisplay(output, colour=False, spinner=False)
            talk = ReplController(backend, ReplSettings(model="m"), display, console, None, journal)
            await talk.submit("hello")
            console.choices = [2]
            await talk.submit("/regen 3")
            assert str(talk.variant) == "< 3/4 >"
            chat = talk._recorder.id
            assert chat is not None and await talk._recorder.settled()
            tree = await asyncio.to_thread(journal.tree, chat)
            assert (len(tree.nodes), tree.head) == (5, 4)
            await talk.close()
            assert console.complaints == []

    run_test(main)


def test_models_of_a_server_are_compared() -> None:
    """The server has both replies and the vote; the next reply is that of the present model, whichever was chosen."""

    async def main() -> None:
        sources = {name: scripted_source(by_message, [], name=name) for name in ("m", "other")}
        async with serving(sources) as served:
            journal = await asyncio.to_thread(ServerJournal.at, ServerClient(served.url))

            def switch(name: str) -> AttachedBackend:
                return AttachedBackend(
                    journal.server, journal.facts, journal.place, model=name and journal.model_of(name, "")
                )

            output, console = RecordedOutput(), ScriptedConsole()
            display = ReplyDisplay(output, colour=False, spinner=False)
            talk = ReplController(switch(""), ReplSettings(model="m"), display, console, switch, journal)
            heard: list[Heard] = []

            async def follow() -> None:
                async for each in talk._backend.follow():  # type: ignore[attr-defined]
                    heard.append(each)

            following = asyncio.ensure_future(follow())
            await talk.submit("hello")
            await talk.submit("/compare none")
            assert "has no model none" in output.all
            console.choices = [2, 0, 1]
            await talk.submit("/compare other")
            assert "The reply of other continues the conversation with m: /model other switches" in output.all
            await talk.submit("and?")
            await talk.submit("/compare other --blind")
            chat = journal.place.id
            assert chat is not None and await talk._recorder.settled()
            votes = await asyncio.to_thread(journal.votes, chat)
            named = [([each.model for each in vote.replies], vote.blind) for vote in votes]
            assert named[0] == (["m", "other"], False) and votes[0].chosen == votes[0].replies[1].row
            assert sorted(named[1][0]) == ["m", "other"] and named[1][1] and votes[1].chosen is None
            stored = await asyncio.to_thread(journal.load, chat)
            assert [each.model for each in stored.records if each.message.role == "assistant"] == ["other", "m"]
            assert not any(isinstance(each, RemoteReplyStarted) for each in heard)
            following.cancel()
            await asyncio.wait([following])
            await talk.close()
            assert console.complaints == []

    run_test(main)


@asynccontextmanager
async def cutting(url: str, chance: random.Random, most: int) -> AsyncIterator[str]:
    """A way to the server on which connections break after some bytes, if they are long enough for that."""
    host, _, port = url.removeprefix("http://").partition(":")
    tasks: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection(host, int(port))

        async def up() -> None:
            while data := await reader.read(65536):
                outer.write(data)
            outer.close()

        task = asyncio.ensure_future(up())
        tasks.add(task)
        left = chance.randrange(50, most)
        while left > 0 and (data := await inner.read(65536)):
            writer.write(data[:left])
            left -= len(data)
        writer.close()
        outer.close()

    server = await asyncio.start_server(pass_on, "127.0.0.1")
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("seed", range(3))
def test_a_connection_that_breaks_again_and_again_loses_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitnet_chat.backends.attached_server.backend.WAITS", (0.0,) * 100)

    async def main() -> None:
        async with serving(gated) as served, cutting(served.url, random.Random(seed), 2500) as url:
            journal = await asyncio.to_thread(ServerJournal.at, ServerClient(served.url))
            journal.place.go(1)
            async with aiohttp.ClientSession() as session, session.post(f"{served.url}/chats", json={}) as response:
                assert (await response.json())["id"] == 1
            backend = AttachedBackend(ServerClient(url), journal.facts, journal.place)
            events: list[Event] = []
            async for event in backend.reply(HELLO):
                events.append(event)
                served.backend.open_gate()
            assert text_of(events) == ALL_OF_IT, events
            assert "".join(each.text for each in events if isinstance(each, ThinkingDelta)) == "let me see"
            assert sum(isinstance(each, ToolCall) for each in events) == 1
            assert isinstance(events[-1], Completed) and events[-1].stats.tokens == 11
            await backend.close()

    run_test(main)


def test_a_server_that_goes_away_and_one_that_was_never_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitnet_chat.backends.attached_server.backend.WAITS", (0.0, 0.0))

    async def main() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            with pytest.raises(ServerUnreachableError, match="bitnet-chat serve starts one"):
                await asyncio.to_thread(ServerJournal.at, ServerClient(f"http://127.0.0.1:{port}"))
        async with serving() as served:
            journal = await asyncio.to_thread(ServerJournal.at, ServerClient(served.url))
            backend = AttachedBackend(journal.server, journal.facts, journal.place)
            async with cutting(served.url, random.Random(0), 201) as url:
                pass
            events = await all_of(backend, HELLO)
            assert text_of(events) == "You said 'Hello'."
        (end,) = await all_of(backend, HELLO)
        assert (
            isinstance(end, Failed)
            and isinstance(end.error, ServerUnreachableError)
            and end.error.reason.exit_code == 3
        )
        await backend.close()
        assert url

    run_test(main)


def test_a_reply_that_the_server_cannot_end_is_kept_as_far_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitnet_chat.backends.attached_server.backend.WAITS", (0.0,))

    async def main() -> None:
        async with serving() as served:
            journal = await asyncio.to_thread(ServerJournal.at, ServerClient(served.url))
            backend = AttachedBackend(journal.server, journal.facts, journal.place)
            events: list[Event] = []
            async for event in backend.reply(Conversation().with_user("wait")):
                events.append(event)
                if isinstance(event, TextDelta):
                    journal.server.url = "http://127.0.0.1:9"  # nobody answers there
                    for asked in backend._asked:
                        assert asked.response is not None
                        asked.response.close()
            notice, end = events[-2:]
            assert isinstance(notice, Notice) and "/continue" in notice.text
            assert isinstance(end, Completed) and end.reason is FinishReason.ENGINE_DIED
            assert end.text == "Before the gate"
            await backend.close()

    run_test(main)


def test_interrupting_while_it_answers_waits_in_line_or_is_over() -> None:
    async def main() -> None:
        async with attached() as (served, backend, journal):
            async for event in backend.reply(Conversation().with_user("wait")):
                if isinstance(event, TextDelta):
                    backend.interrupt()
            assert isinstance(event, Completed) and event.reason is FinishReason.INTERRUPTED
            assert event.text == "Before the gate"
            other = AttachedBackend(journal.server, journal.facts)
            hanging = other.reply(Conversation().with_user("hang"))
            assert isinstance(await anext(hanging), Started)
            waiting = asyncio.ensure_future(all_of(backend, HELLO))
            await until(lambda: bool(served.scheduler.model_manager.pools["scripted"].waiting))
            backend.interrupt()
            end = (await waiting)[-1]
            assert isinstance(end, Completed) and end.reason is FinishReason.INTERRUPTED
            other.interrupt()
            end = [event async for event in hanging][-1]
            assert isinstance(end, Completed) and end.reason is FinishReason.INTERRUPTED
            backend.interrupt()  # nothing to stop
            assert text_of(await all_of(backend, HELLO)) == "You said 'Hello'."
            timed = (await all_of(backend, Conversation().with_user("hang"), timeout=0.05))[-1]
            assert isinstance(timed, Completed) and timed.reason is FinishReason.TIMEOUT
            left = backend.reply(Conversation().with_user("wait"))
            async for event in left:
                if isinstance(event, TextDelta):
                    break
            await left.aclose()
            await backend.close()
            await until(lambda: not served.scheduler.running)
            await other.close()

    run_test(main)


@pytest.mark.parametrize("kept", [True, False])
def test_a_server_that_hangs_is_left(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitnet_chat.backends.attached_server.backend._GRACE", 0.05)
    heard, hung_up = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        heard.set()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        hung_up.set()

    async def main() -> None:
        async with attached() as (_, _, journal):
            listener = await asyncio.start_server(silent, "127.0.0.1", 0)
            port = listener.sockets[0].getsockname()[1]
            backend = AttachedBackend(ServerClient(f"http://127.0.0.1:{port}"), {}, journal.place if kept else None)
            asking = asyncio.create_task(all_of(backend, HELLO))
            await heard.wait()
            backend.interrupt()
            end = (await asking)[-1]
            assert isinstance(end, Completed) and end.reason is FinishReason.INTERRUPTED
            await backend.close()
            await hung_up.wait()
            listener.close()
            await listener.wait_closed()

    run_test(main)


def test_errors_come_back_as_what_they_were() -> None:
    def script(conversation: Conversation) -> list[Event | Gate]:
        return [Started(), Failed(errors[0])]

    errors: list[BitnetChatError] = [EngineDiedError("it died", remedy="again")]

    async def main() -> None:
        async with attached(script) as (_, backend, journal):
            for error in (EngineDiedError("it died", remedy="again"), UnsupportedError("top_p", "no")):
                errors[0] = error
                (end,) = await all_of(backend, HELLO)
                assert isinstance(end, Failed) and type(end.error) is type(error) and end.error.what == error.what
            missing = AttachedBackend(journal.server, journal.facts, model="none")
            (end,) = await all_of(missing, HELLO)
            assert isinstance(end, Failed) and isinstance(end.error, UsageError) and "none" in end.error.what
            await missing.close()

    run_test(main)


def test_following_hears_of_others_and_not_of_oneself() -> None:
    async def main() -> None:
        async with attached() as (served, backend, journal):
            heard: list[Heard] = []
            news = asyncio.Condition()

            async def follow() -> None:
                async for each in backend.follow():
                    heard.append(each)
                    async with news:
                        news.notify_all()

            async def until(kind: type) -> None:
                async with news:
                    await news.wait_for(lambda: bool(heard) and isinstance(heard[-1], kind))

            journal.place.title = "A title"
            following = asyncio.ensure_future(follow())
            await all_of(backend, HELLO)
            chat = journal.place.id
            async with aiohttp.ClientSession() as session:
                source = EventSource(session, f"{served.url}/chats/{chat}/messages")
                told = [each async for each in source.connect(method="POST", body={"content": "From elsewhere"})]
                await until(Completed)
                assert isinstance(heard[0], RemoteReplyStarted) and heard[0].message == "From elsewhere"
                assert isinstance(heard[0].row, int)
                assert text_of([each for each in heard if isinstance(each, TextDelta)]) == "You said 'From elsewhere'."
                count = len(heard)
                await all_of(backend, HELLO)
                await session.patch(f"{served.url}/chats/{chat}", json={"title": "Other"})
                await until(ChatRenamed)
                assert len(heard) == count + 1, "its own reply is not among them"
                assert chat is not None
                first = (await asyncio.to_thread(journal.load, chat)).records[0].row
                body = {"content": "Edited", "edit": first}
                told += [each async for each in source.connect(method="POST", body=body)]
                await until(Completed)
                await session.post(f"{served.url}/chats/{chat}/head", json={"message": first})
                await until(BranchSwitched)
                stored = await asyncio.to_thread(journal.load, chat)
                assert stored.records[0].row == first and str(stored.position(first)) == "< 1/2 >"
                await session.delete(f"{served.url}/chats/{chat}")
                await until(ChatRemoved)
                assert told
            following.cancel()
            await asyncio.wait([following])

    run_test(main)


def test_a_follower_that_connects_late_hears_of_what_was_asked_since_its_own_reply(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with attached() as (served, backend, journal):
            begun, ended = asyncio.Event(), asyncio.Event()
            send = backend._wire.send

            async def late(method: str, path: str, *more: Any) -> aiohttp.ClientResponse:
                if "follow=1" in path:
                    begun.set()
                    await ended.wait()
                return await send(method, path, *more)

            monkeypatch.setattr(backend._wire, "send", late)
            following = asyncio.ensure_future(anext(aiter(backend.follow())))
            await all_of(backend, HELLO)
            await begun.wait()
            async with aiohttp.ClientSession() as session:
                source = EventSource(session, f"{served.url}/chats/{journal.place.id}/messages")
                assert [each async for each in source.connect(method="POST", body={"content": "From elsewhere"})]
            ended.set()
            heard = await following
            assert isinstance(heard, RemoteReplyStarted) and heard.message == "From elsewhere"

    run_test(main)


def test_a_batch_asks_as_many_lines_as_there_are_seats_and_writes_them_in_order(tmp_path: Path) -> None:
    def script(conversation: Conversation) -> Iterator[Event | Gate]:
        nonlocal most, now
        assert conversation.last is not None
        number = int(conversation.last.content)
        now += 1
        most = max(most, now)
        if number % 3 == 0:
            yield Gate()  # it ends after those behind it
        yield from say(f"reply {number}")
        now -= 1

    most = now = 0

    async def main() -> None:
        async with attached(script, kept=False, parallel=3, urgent=False) as (served, backend, _):
            lines = [json.dumps({"prompt": str(number)}).encode() for number in range(9)]
            output = (tmp_path / "out").open("wb")
            done: list[int] = []

            class Tracker:
                def advance(self, finished: int, todo: int, failed: int) -> None:
                    done.append(finished)
                    for each in served.backends:
                        each.open_gate()

            with output:
                reason = await batch.run(
                    batch.read_jobs(iter(lines)), 9, output, lambda _: backend, ReplyOptions(), pytest.fail, Tracker(),
                    lambda: False, at_once=3,
                )  # fmt: skip
            assert reason is FinishReason.STOP and most == 3
            replies = [json.loads(line) for line in (tmp_path / "out").read_bytes().splitlines()]
            assert [each["reply"] for each in replies] == [f"reply {number}" for number in range(9)]
            assert done == list(range(10))

    # Whoever waits at a gate is let through as soon as there is a reply, or at once.
    async def opened() -> None:
        await main()

    run_test(opened)


def test_what_is_an_address_and_what_is_the_question() -> None:
    here = "http://127.0.0.1:8033"
    for arguments, attach, question in (
        (["--attach"], here, []),
        (["--attach", "why?"], here, ["why?"]),
        (["--attach", "localhost:8033", "why?"], "localhost:8033", ["why?"]),
        (["--attach", "https://host.example/chat", "why?"], "https://host.example/chat", ["why?"]),
        (["--attach", "[::1]:80"], "[::1]:80", []),
        (["--attach=host:1", "a:b"], "host:1", ["a:b"]),
        (["why", "--attach"], here, ["why"]),
        (["--attach", "--json", "why"], here, ["why"]),
    ):
        flags, settings = parse(arguments)
        assert (settings["attach"], flags.question) == (attach, question), arguments


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://a b", "http://user@host", "http://h:99999"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="--attach"):
        ServerClient(url)


def test_a_key_is_needed_where_one_is_set() -> None:
    async def main() -> None:
        async with serving(settings=ServeSettings(port=0, grace=0.0, api_key="secret-key")) as served:
            with pytest.raises(UsageError, match="BITNET_CHAT_API_KEY"):
                await asyncio.to_thread(ServerJournal.at, ServerClient(served.url))
            journal = await asyncio.to_thread(ServerJournal.at, ServerClient(served.url, "secret-key"))
            backend = AttachedBackend(journal.server, journal.facts, journal.place)
            assert text_of(await all_of(backend, HELLO)) == "You said 'Hello'."
            await backend.close()

    run_test(main)


# The program itself, with a real engine behind the server.


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    with served_process("--temp", "0", home=tmp_path_factory.mktemp("server")) as process:
        yield process


def test_questions_and_a_batch_use_the_engine_that_is_there(server: ServedProcess) -> None:
    attach = f"--attach={server.url}"
    one = run(attach, "How do I leave?")
    assert one.returncode == 0 and b"/exit" in one.stdout, one.stderr
    more = json.loads(run(attach, "--json", "-C", "And then?").stdout)
    assert more["finish_reason"] == "stop" and more["conversation"] == 1 and more["model"].startswith("bitnet-demo")
    lines = b'{"prompt": "hello"}\n{"prompt": ""}\n{"prompt": "How do I leave?"}\n'
    several = run(attach, "--input", "-", stdin=lines)
    replies = [json.loads(line) for line in several.stdout.splitlines()]
    assert several.returncode == 2 and [each["index"] for each in replies] == [1, 2, 3]
    assert replies[2]["reply"] == one.stdout.decode().strip()
    for wrong in (["-m", "none", "hi"], ["--ctx", "512", "hi"], ["--resume", "99", "hi"]):
        assert run(attach, *wrong).returncode == 2, wrong
    nobody = run("--attach=127.0.0.1:9", "hi")
    assert nobody.returncode == 3 and b"bitnet-chat serve" in nobody.stderr and not nobody.stdout


def test_a_terminal_and_another_client_share_a_conversation(server: ServedProcess, start: Start) -> None:
    async def elsewhere(chat: int, **body: object) -> None:
        async with aiohttp.ClientSession() as session:
            source = EventSource(session, f"{server.url}/chats/{chat}/messages")
            told = [each async for each in source.connect(method="POST", body=body)]
            assert told[-1].event == "complete"

    terminal = start(f"--attach={server.url}")
    terminal.ready()
    assert not terminal.engines, "the model is in memory once"
    assert "Hello" in terminal.say("hello")
    chats = ServerJournal.at(ServerClient(server.url))
    chat = chats.list()[0].id
    terminal.send("half a message")
    terminal.until("> half a message")
    asyncio.run(elsewhere(chat, content="How do I leave?"))
    terminal.until("> How do I leave?")
    terminal.until("press Ctrl-D on an empty line.")
    terminal.until(lambda: terminal.prompt == "half a message")
    assert terminal.scroll.count("Ctrl-D on an empty line.") == 1
    terminal.send(CTRL_C, "/stats", ENTER)
    terminal.until("2 turns in the conversation")
    terminal.ready()
    terminal.say("thanks")
    turns = [each.content for each in chats.load(chat).conversation.turns if each.role == "user"]
    assert turns == ["hello", "How do I leave?", "thanks"], "and it goes on with what was said elsewhere"
    terminal.say("/rename Shared")
    terminal.send(CTRL_D)
    assert terminal.end() == 0
    assert chats.load(chat).title == "Shared"
