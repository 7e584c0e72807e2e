"""Replies that are being made: who watches them, what is left of them, and what a terminal sees of them."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
from event_source import EventSource, words
from program import CTRL_C, CTRL_D, ENTER, TIMEOUT, Start, fake_engine, start
from replies import is_story
from scripted_backend import Gate
from serving import Served, served_process, serving
from test_chats import run

from bitnet_chat.backends.attached_server.client import ServerClient
from bitnet_chat.backends.attached_server.journal import ServerJournal
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import FinishReason, JournalError, ReplyRunningError
from bitnet_chat.events import Completed, Event, Started, TextDelta
from bitnet_chat.journal import Journal, JournalRecorder, ReplyState
from bitnet_chat.journal.memory import MemoryJournal
from bitnet_chat.server.broadcast import ReplyBroadcast
from bitnet_chat.server.chats import live as live_module
from bitnet_chat.server.chats.events import LastSeen, ReplyStart
from bitnet_chat.server.chats.live import ChatChanged, LiveChat, LiveChatRegistry, LiveReply

__all__ = ["start"]
ASKED = Conversation().with_user("Hello")


def reply(id: str, text: str = "", *, ended: bool = False, linger: float = 100.0) -> LiveReply:
    generation = ReplyBroadcast(id, "m")
    generation.put(Started())
    if text:
        generation.put(TextDelta(text))
    if ended:
        generation.put(Completed(FinishReason.STOP, text))
    return LiveReply([ReplyStart(id, "m", 1, 2)], [generation], linger)


async def heard(
    live_chat: LiveChat, seen: LastSeen | None, count: int, since: int | None = None
) -> list[tuple[object, tuple[int, ...] | None]]:
    found: list[tuple[object, tuple[int, ...] | None]] = []
    following = live_chat.follow(seen, live_chat.position if since is None else since)
    async for each in following:
        found.append(each)
        if len(found) == count:
            break
    await following.aclose()
    return found


def test_a_follower_gets_what_it_has_not_seen_and_all_that_comes() -> None:
    async def main() -> None:
        live_chat = LiveChat(1)
        one, two = reply("a", "text", ended=True), reply("b", "more")
        live_chat.begin(one)
        live_chat.publish(ChatChanged("Title"))
        live_chat.begin(two)
        assert await heard(live_chat, None, 1) == [(two, None)], "who knows nothing gets what is being said"
        assert await heard(live_chat, LastSeen("a", (2,)), 3) == [
            (one, (2,)),
            (ChatChanged("Title"), None),
            (two, None),
        ]
        assert await heard(live_chat, LastSeen("a", (5,)), 2) == [(ChatChanged("Title"), None), (two, None)]
        assert await heard(live_chat, LastSeen("b", (4,)), 1) == [(two, (4,))]
        for unknown in (LastSeen("a", (6,)), LastSeen("b", (5,)), LastSeen("c", (0,))):
            assert await heard(live_chat, unknown, 1) == [(two, None)]
        waiting = asyncio.ensure_future(heard(live_chat, LastSeen("b", (4,)), 2))
        await asyncio.sleep(0)
        live_chat.publish(ChatChanged("Other"))
        assert await waiting == [(two, (4,)), (ChatChanged("Other"), None)]
        live_chat.close()
        assert await heard(live_chat, None, 9) == [(two, None)], "it ends with the server"

    run(main)


def test_a_follower_gets_what_happened_since_its_position() -> None:
    async def main() -> None:
        live_chat = LiveChat(1)
        live_chat.publish(ChatChanged("Before"))
        since = live_chat.position
        live_chat.publish(ChatChanged("Title"))
        one, two = reply("a", "text", ended=True), reply("b", "more")
        live_chat.begin(one)
        live_chat.begin(two)
        found = await heard(live_chat, None, 3, since)
        assert found == [(ChatChanged("Title"), None), (one, None), (two, None)], "the running reply once"

    asyncio.run(main())


def test_a_room_is_forgotten_when_nothing_is_left_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        live_chats = LiveChatRegistry()
        with live_chats.open(1) as live_chat:
            assert live_chats.get(1) is live_chat
        assert live_chats.get(1) is None
        monkeypatch.setattr(live_module, "KEPT", 0.0)
        with live_chats.open(1) as live_chat:
            live = reply("a", ended=True)
            live_chat.begin(live)
            live_chats.ended(live_chat, live)
        assert live_chats.get(1) is live_chat, "its reply may be asked for again"
        await asyncio.sleep(0.01)
        assert live_chats.get(1) is None
        monkeypatch.setattr(live_module, "KEPT", 100.0)
        monkeypatch.setattr(live_module, "MOST_KEPT", 3)
        for number in range(5):
            with live_chats.open(number) as live_chat:
                live = reply(str(number), ended=True)
                live_chat.begin(live)
                live_chats.ended(live_chat, live)
        assert [number for number in range(5) if live_chats.get(number)] == [2, 3, 4]

    run(main)


def test_one_reply_at_a_time_and_a_stop_before_it_has_begun() -> None:
    async def main() -> None:
        live_chat = LiveChat(1)
        assert not live_chat.stop()
        with live_chat.exclusive():
            with pytest.raises(ReplyRunningError), live_chat.exclusive():
                pass
            assert live_chat.stop()
            live = reply("a")
            stopped: list[bool] = []
            live.generations[0].on_stop(lambda: stopped.append(True))
            live_chat.begin(live)
            assert stopped, "it was unwanted before it was there"
        with pytest.raises(ReplyRunningError), live_chat.exclusive():
            pass
        live.generations[0].put(Completed(FinishReason.STOP, ""))
        with live_chat.exclusive():
            assert live_chat.stop()

    run(main)


def test_a_reply_lingers_while_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "FIRST", 0.0)

    async def main() -> None:
        stopped = asyncio.Event()
        live = reply("a", linger=0.0)
        live.generations[0].on_stop(stopped.set)
        live.join()
        live.join()
        live.leave()
        await asyncio.sleep(0.01)
        assert not stopped.is_set(), "one is left"
        live.leave()
        await stopped.wait()
        stopped.clear()
        live.generations[0].put(Completed(FinishReason.STOP, ""))
        live.join()
        live.leave()
        await asyncio.sleep(0.01)
        assert not stopped.is_set()

    run(main)


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_rows_are_told_before_the_first_word(kind: str, tmp_path: Path) -> None:
    journal = MemoryJournal() if kind == "memory" else Journal(tmp_path / "journal.db")

    async def main() -> None:
        recorder = journal.recorder(pytest.fail)
        assert await recorder.rows() is None
        recorder.create(Conversation().with_system("S"), title="T", model="m")
        rows = await recorder.rows()
        assert rows is not None and len(rows.line) == 1 and rows.reply is None and recorder.id is not None
        recorder.begin_reply(ASKED.with_system("S"), model="m")
        begun = await recorder.rows()
        recorder.begin_reply(ASKED.with_system("S"), model="backend", engine="e")
        again = await recorder.rows()
        assert begun == again and begun is not None and begun.line[0] == rows.line[0] and len(begun.line) == 2
        recorder.text("word")
        recorder.end_reply(FinishReason.STOP)
        await recorder.close()
        stored = journal.load(recorder.id)
        assert [each.row for each in stored.records] == [*begun.line, begun.reply]
        assert (stored.model, stored.engine, stored.title) == ("m", "e", "T")
        assert len(journal.list()) == 1 and journal.search("word")[0].entry.id == recorder.id
        other = journal.recorder(pytest.fail)
        other.resume(stored)
        other.begin_reply(stored.conversation.with_user("And?"))
        assert await other.rows() is not None
        await other.close()  # stopped before its first word
        pending = journal.load(recorder.id).pending
        assert pending is not None and pending.message.content == "And?"
        journal.remove([recorder.id])
        assert journal.list() == []

    run(main)


def test_a_chat_made_empty_gets_the_title_of_its_first_message(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")

    async def main() -> None:
        recorder = journal.recorder(pytest.fail)
        recorder.create(Conversation())
        await recorder.close()
        assert recorder.id is not None
        other = journal.recorder(pytest.fail)
        other.resume(journal.load(recorder.id))
        other.begin_reply(ASKED)
        await other.close()
        assert journal.load(recorder.id).title == other.title == "Hello"

    run(main)


def test_a_journal_that_cannot_be_written_stops_no_reply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitnet_chat.journal.recorder.PATIENCE", 0.05)
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "journal.db"

    async def main() -> None:
        recorder = Journal(path).recorder(lambda _: None)
        recorder.begin_reply(ASKED)
        assert await recorder.rows() is None
        await recorder.close()
        async with (
            serving(journal=Journal(path)) as served,
            aiohttp.ClientSession() as session,
            session.post(f"{served.url}/chats", json={}) as response,
        ):
            assert response.status >= 500 and "journal" in (await response.json())["error"]["message"]

    run(main)


def test_who_hears_the_end_of_a_reply_finds_it_in_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int | None] = []
    close = JournalRecorder.close

    async def slowly(recorder: JournalRecorder) -> None:
        for _ in range(100):  # turns of the loop, in which all else that can go on goes on
            await asyncio.sleep(0)
        await close(recorder)
        written.append(recorder.id)

    monkeypatch.setattr(JournalRecorder, "close", slowly)

    async def main() -> None:
        async with serving(journal=Journal(tmp_path / "journal.db")) as served, aiohttp.ClientSession() as session:
            async with session.post(f"{served.url}/chats", json={}) as response:
                id = (await response.json())["id"]
            source = EventSource(session, f"{served.url}/chats/{id}/messages")
            async for told in source.connect(method="POST", body={"content": "hello"}):
                if told.event == "complete":
                    assert written == [id, id]
            assert told.event == "complete"

    run(main)


def test_a_journal_that_fails_is_told_without_its_path_and_what_is_not_kept_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise JournalError("the journal cannot be used: the disk is full: /secret/journal.db")

    async def no_rows(_: JournalRecorder) -> None:
        return None

    async def main() -> None:
        async with serving(journal=Journal(tmp_path / "journal.db")) as served, aiohttp.ClientSession() as session:
            async with session.post(f"{served.url}/chats", json={}) as response:
                chat = f"{served.url}/chats/{(await response.json())['id']}"
            monkeypatch.setattr(JournalRecorder, "rows", no_rows)
            async with session.post(f"{chat}/messages", json={"content": "hello"}) as response:
                told = await response.text()
                assert '"message":null' in told and "event: notice\ndata: " in told and "may not be saved" in told
            monkeypatch.setattr(Journal, "load", fails)
            for method, path in (("GET", chat), ("DELETE", chat), ("GET", f"{chat}/events")):
                async with session.request(method, path) as response:
                    assert response.status == 503 and "secret" not in await response.text()
            monkeypatch.undo()
            monkeypatch.setattr(Journal, "remove", fails)
            monkeypatch.setattr(Journal, "list", fails)
            for method, path in (("DELETE", chat), ("GET", f"{served.url}/chats")):
                async with session.request(method, path) as response:
                    assert response.status == 503 and "secret" not in await response.text()
            async with session.head(f"{chat}/events?follow=1") as response:
                assert response.status == 200 and response.headers["content-length"] == "0"

    run(main)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_server_that_is_killed_in_mid_reply_has_kept_it(tmp_path: Path) -> None:
    arguments = ("--engine", str(fake_engine(tmp_path)))
    fakes = {"FAKE_ENGINE_RECORD": str(tmp_path / "record")}
    said: list[str] = []
    killed: list[bool] = []
    journal = Journal(tmp_path / "data" / "journal.db")

    async def until_killed(url: str, kill: Callable[[], None]) -> int:
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{url}/chats", json={}) as response:
                chat = int((await response.json())["id"])
            source = EventSource(session, f"{url}/chats/{chat}/messages")
            try:
                async for each in source.connect(method="POST", body={"content": "story"}):
                    said.append(words([each]))
                    if not killed and journal.load(chat).state is ReplyState.ANSWERING and journal.load(chat).records:
                        killed.append(True)  # some of it is kept; it takes up to a fifth of a second
                        kill()
            except aiohttp.ClientError:
                pass
        return chat

    async def go_on(url: str, chat: int) -> None:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{url}/chats/{chat}") as response:
                found = await response.json()
            text = found["messages"][-1]["content"]
            assert found["state"] == "cut_off" and is_story(text) and text
            source = EventSource(session, f"{url}/chats/{chat}/messages")
            told = [each async for each in source.connect(method="POST", body={"continue": True})]
            assert told[0].data["continues"]
            async with session.get(f"{url}/chats/{chat}") as response:
                assert (await response.json())["messages"][-1]["content"] == text + " and more"

    with served_process(*arguments, home=tmp_path, **fakes) as process:
        chat = asyncio.run(until_killed(process.url, lambda: process.send_signal(signal.SIGKILL)))
        process.wait()
    with served_process(*arguments, home=tmp_path, **fakes) as process:
        asyncio.run(go_on(process.url, chat))
    assert is_story("".join(said))


# What a terminal sees


class Aside:
    """A server in a loop of its own, beside a test that watches a terminal."""

    def __init__(self, served: Served, loop: asyncio.AbstractEventLoop) -> None:
        self.url, self._served, self._loop = served.url, served, loop

    def open_gate(self) -> None:
        self._loop.call_soon_threadsafe(self._served.backend.open_gate)

    def ask(self, chat: int, **body: object) -> None:
        ServerClient(self.url).call("POST", f"/chats/{chat}/messages", {"stream": False} | body)


@contextmanager
def aside(script: Callable[[Conversation], list[Event | Gate]]) -> Iterator[Aside]:
    up, found = threading.Event(), []

    async def main() -> None:
        async with serving(script) as served:
            down = asyncio.Event()
            found.append((Aside(served, asyncio.get_running_loop()), down))
            up.set()
            await down.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert up.wait(TIMEOUT)
    served, down = found[0]
    try:
        yield served
    finally:
        served._loop.call_soon_threadsafe(down.set)
        thread.join(TIMEOUT)


def told(conversation: Conversation) -> list[Event | Gate]:
    assert conversation.last is not None
    if conversation.last.content != "go":
        text = f"{len(conversation.turns)} messages."
        return [Started(), TextDelta(text), Completed(FinishReason.STOP, text)]
    first, second = "A **whole** line\nand half", " of one.\n\n- the end"
    return [Started(), TextDelta(first), Gate(), TextDelta(second), Completed(FinishReason.STOP, first + second)]


def test_a_reply_that_somebody_else_asked_for_comes_above_the_prompt_while_it_is_made(start: Start) -> None:
    with aside(told) as server:
        terminal = start(f"--attach={server.url}", "--markdown", "off")
        terminal.until(lambda: terminal.prompt == "")
        terminal.send("hello", ENTER)
        terminal.until("1 messages.")
        chats = ServerJournal.at(ServerClient(server.url))
        chat = chats.list()[0].id
        terminal.send("my own wor")
        terminal.until("> my own wor")
        server.ask(chat, content="go")
        terminal.until("and half")
        lines = terminal.text.split("\n")
        at = lines.index("and half")
        assert lines[at - 3 : at + 2] == ["> go", "", "A **whole** line", "and half", "> my own wor"]
        terminal.send("ds")
        terminal.until("> my own words")
        server.open_gate()
        terminal.until("- the end")
        terminal.until(lambda: terminal.prompt == "my own words")
        assert terminal.scroll.count("and half of one.") == 1 and terminal.scroll.count("and half") == 1
        # A line that is sent meanwhile waits for the end of the other reply, and Ctrl-C stops that one.
        server.ask(chat, content="go")
        terminal.until(lambda: terminal.scroll.count("A **whole** line") == 2)
        terminal.send(ENTER)
        terminal.until(lambda: terminal.prompt == "no prompt" or terminal.text.endswith("> my own words"))
        terminal.send(CTRL_C)
        terminal.until("7 messages.")
        assert [each.content for each in chats.load(chat).conversation.turns if each.role == "user"] == [
            *("hello", "go", "go", "my own words")
        ]
        last = chats.load(chat).records[-1].row
        server.ask(chat, regenerate=True)
        terminal.until(lambda: terminal.scroll.count("7 messages.") == 2)
        ServerClient(server.url).call("POST", f"/chats/{chat}/head", {"message": last})
        terminal.until("Another branch (8 messages · < 1/2 >).")
        terminal.send("\x1b[1;3C")
        terminal.until("Another branch (8 messages · < 2/2 >).")
        terminal.until(lambda: chats.load(chat).records[-1].row > last)
        terminal.send("/tree 1", ENTER)
        terminal.until("This message is in the current branch.")
        assert terminal.scroll.count("Another branch") == 2
        chats.remove([chat])
        terminal.until("removed elsewhere")
        terminal.send("again", ENTER)
        terminal.until("9 messages.")
        terminal.send(CTRL_D)
        assert terminal.end() == 0
        (entry,) = chats.list()
        assert entry.turns == 5 and entry.state is ReplyState.WHOLE and entry.title == "hello"
