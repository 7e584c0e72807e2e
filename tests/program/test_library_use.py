"""The library as its users meet it: the examples of its page, and each promise of a chat."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from program import TIMEOUT, fake_engine

import bitnet_chat
from bitnet_chat import (
    Chat,
    Completed,
    Conversation,
    EngineDiedError,
    FinishReason,
    ReplyCancelledError,
    TextDelta,
    UsageError,
    open_backend,
)
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.journal import Journal

PAGE = (Path(__file__).parents[2] / "docs/library.md").read_text("utf-8")
EXAMPLES = [
    (section.split("\n", 1)[0] + "'" * number, code)
    for section in PAGE.split("\n## ")[1:]
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
]
"""The title of the section of each example, with a prime for each example before it, and the code."""
TOOL_MODEL = Path(__file__).parents[1] / "data" / "models" / "tool-demo.gguf"
SAYS = {
    "One question": "/exit",
    "Several turns": "Ada",
    "Tools": "5",
    "Several replies": "1 ",
    "All that a backend can do": "tokens",
    "All that a backend can do'": "2 ",
    "The journal": "reply 1 identical",
    "What is missing": "",
    "Errors": "no-such-model",
}


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), TIMEOUT))


def test_each_example_is_known() -> None:
    assert [title for title, _ in EXAMPLES] == list(SAYS)


@pytest.mark.engine
@pytest.mark.parametrize("title", list(SAYS))
def test_an_example_runs(title: str, classic: EngineBinary, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITNET_CHAT_ENGINE", str(classic.path))
    code = dict(EXAMPLES)[title]
    names = {"MODEL": str(model), "TOOL_MODEL": str(TOOL_MODEL), "ENGINE": str(classic.path), "__name__": "example"}
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(code, title, "exec"), names)  # our own page
    assert SAYS[title] in shown.getvalue()


@pytest.fixture
def scripted(tmp_path: Path, model: Path) -> dict[str, Any]:
    """Settings of a scripted engine."""
    return {"engine": fake_engine(tmp_path), "model": model}


def test_a_chat_keeps_its_turns_and_goes_on_after_a_loop_that_was_left(scripted: dict[str, Any]) -> None:
    async def body() -> None:
        async with Chat(system="Be kind.", **scripted) as chat:
            assert await chat.send("say hello") == "hello"
            async for event in chat.stream("story"):
                if isinstance(event, TextDelta) and "word3" in event.text:
                    break
            assert await chat.send("say again") == "again"
            *_, cut, question, last = chat.conversation.messages
            assert cut.finish is FinishReason.INTERRUPTED and "word3" in cut.content
            assert (question.content, last.content, chat.conversation.system) == ("say again", "again", "Be kind.")

    run(body)


def test_a_reply_is_stopped_from_another_task(scripted: dict[str, Any]) -> None:
    async def body() -> None:
        async with Chat(**scripted) as chat:
            asking = asyncio.create_task(chat.send("story"))
            while chat.backend.status().state != "generating":  # noqa: ASYNC110  # a status is no event
                await asyncio.sleep(0)
            chat.stop()
            with pytest.raises(ReplyCancelledError):
                await asking
            assert await chat.send("say on") == "on"

    run(body)


def test_what_cannot_be_asked(scripted: dict[str, Any]) -> None:
    async def body() -> None:
        chat = Chat(**scripted)
        with pytest.raises(UsageError, match="the chat is not open"):
            await chat.send("hello")
        async with chat:
            with pytest.raises(UsageError, match="empty"):
                await chat.send("  ")
            with pytest.raises(UsageError, match="event loop"):
                bitnet_chat.ask("hello", **scripted)
        with pytest.raises(UsageError):
            Chat(no_such_setting=1)

    run(body)


def test_a_chat_continues_with_the_chosen_one_of_several_replies(scripted: dict[str, Any]) -> None:
    async def body() -> None:
        async with Chat(journal=True, **scripted) as chat:
            assert await chat.send_variants("say name", 3) == ["name"] * 3
            await chat.choose(2)
            assert await chat.send("say more") == "more"
            with pytest.raises(UsageError, match="no reply 1"):
                await chat.choose(1)
            assert [each.content for each in chat.conversation.messages] == ["say name", "name", "say more", "more"]

    run(body)
    (entry,) = Journal().list()
    tree = Journal().tree(entry.id)
    replies = tree.siblings(tree.path(tree.head)[1])
    assert len(replies) == 3 and tree.path(tree.head)[1] == replies[2]


def test_a_choice_stops_the_replies_that_are_still_running(scripted: dict[str, Any]) -> None:
    async def body() -> None:
        async with Chat(**scripted) as chat:
            async for each in chat.stream_variants("story", 2):
                if isinstance(each.event, TextDelta) and "word3" in each.event.text:
                    await chat.choose(each.variant)
            *_, last = chat.conversation.messages
            assert last.finish is FinishReason.INTERRUPTED and "word3" in last.content
            with pytest.raises(UsageError, match="no reply 1"):  # not begun
                await chat.choose(1)
            assert await chat.send("say on") == "on"

    run(body)


def test_several_replies_that_fail_are_an_error_and_the_turn_is_not_kept(scripted: dict[str, Any]) -> None:
    async def body() -> None:
        async with Chat(**scripted) as chat:
            with pytest.raises(EngineDiedError):
                await chat.send_variants("kill", 2)
            assert not chat.conversation.messages
            for count in (0, 9):
                with pytest.raises(UsageError, match="from 1 to 8"):
                    chat.stream_variants("hello", count)

    run(body)


def test_several_replies_without_tools(scripted: dict[str, Any]) -> None:
    def tool() -> str:
        """Does nothing."""
        return ""

    async def body() -> None:
        async with Chat(tools=[tool], **scripted) as chat:
            with pytest.raises(UsageError, match="cannot call tools"):
                await chat.send_variants("hello", 2)

    run(body)


def test_an_engine_that_dies_is_an_error_and_the_turn_is_not_kept(scripted: dict[str, Any]) -> None:
    async def body() -> None:
        async with Chat(**scripted) as chat:
            with pytest.raises(EngineDiedError):
                await chat.send("kill")
            assert await chat.send("say alive") == "alive"

    run(body)


def test_several_chats_share_a_backend_one_after_the_other(scripted: dict[str, Any]) -> None:
    async def body() -> None:
        async with open_backend(**scripted) as backend:
            for name in ("one", "two"):
                async with Chat(backend, conversation=Conversation().with_user("say x").with_assistant("x")) as chat:
                    assert await chat.send(f"say {name}") == name
            with pytest.raises(UsageError, match="cannot be set for an open backend"):
                Chat(backend, model="other")
            *_, end = [event async for event in backend.reply(Conversation().with_user("say still here"))]
            assert isinstance(end, Completed) and end.text == "still here"

    run(body)


def test_a_chat_in_the_journal_is_found_there(scripted: dict[str, Any]) -> None:
    async def body() -> None:
        async with Chat(journal=True, **scripted) as chat:
            await chat.send("say kept")

    run(body)
    (entry,) = Journal().list()
    assert Journal().load(entry.id).conversation.messages[-1].content == "kept"


def test_ask_waits_for_one_reply_and_leaves_no_process(scripted: dict[str, Any]) -> None:
    import psutil

    assert bitnet_chat.ask("say it", **scripted) == "it"
    assert not [each for each in psutil.Process().children() if "fake" in " ".join(each.cmdline())]
