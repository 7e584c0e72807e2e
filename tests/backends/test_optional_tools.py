"""Tools that are offered to whichever model answers, and what becomes of them where it has no place for them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from scripted_backend import ScriptedBackend, say

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.wrappers.optional_tools import OptionalToolsBackend
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.errors import (
    BitnetChatError,
    EmptyMessageError,
    EngineDiedError,
    FinishReason,
    UnsupportedError,
    UsageError,
)
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, TextDelta

HELLO = Conversation().with_user("hello")
OPTIONS = ReplyOptions(tools=(Tool("probe"),), max_tokens=9)
NO_PLACE = UnsupportedError("tools", "the template has no place for them")
TOLD = Notice("the model is not offered the tools: the template has no place for them")


def asked(refusal: list[Event], then: list[Event] | None = None, *, times: int = 1, interrupt: bool = False,
          options: ReplyOptions = OPTIONS) -> tuple[list[list[Event]], list[bool]]:  # fmt: skip
    """The events of each reply, and whether each request had tools. ``refusal``: what comes of one with them."""

    async def body() -> tuple[list[list[Event]], list[bool]]:
        inner = ScriptedBackend(lambda _: refusal if inner.options[-1].tools else then or say("Hello."))
        backend = OptionalToolsBackend(inner)
        backend.start()
        replies: list[list[Event]] = []
        for _ in range(times):
            replies.append([])
            async for event in backend.reply(HELLO, options):
                replies[-1].append(event)
                if interrupt and isinstance(event, Notice):
                    backend.interrupt()
        await backend.close()
        assert all(each.max_tokens == 9 for each in inner.options)
        return replies, [bool(each.tools) for each in inner.options]

    return asyncio.run(body())


def test_it_is_told_once_and_then_asked_without() -> None:
    replies, with_tools = asked([Failed(NO_PLACE)], times=3)
    assert replies == [[TOLD, *say("Hello.")], say("Hello."), say("Hello.")]
    assert with_tools == [True, False, False, False]


def test_each_request_that_stands_for_itself_is_told() -> None:
    replies, with_tools = asked([Failed(NO_PLACE)], times=2, options=replace(OPTIONS, alone=True))
    assert replies == [[TOLD, *say("Hello.")]] * 2 and with_tools == [True, False, True, False]


@pytest.mark.parametrize("words", ["small does not support tools", '"auto" tool choice requires a flag'])
def test_a_server_says_it_in_its_own_words(words: str) -> None:
    """Such a one has started by then."""
    refusal = f"Ollama refused the request (400: {words})"
    replies, with_tools = asked([Started(), Failed(UsageError(refusal))], times=2)
    told = Notice(f"the model is not offered the tools: {refusal}")
    assert replies == [[Started(), told, *say("Hello.")[1:]], say("Hello.")]
    assert with_tools == [True, False, False]


@pytest.mark.parametrize(
    "error",
    [EmptyMessageError(), UnsupportedError("tool_choice", "no"), EngineDiedError("no tools")],
)
def test_another_failure_is_one(error: BitnetChatError) -> None:
    assert asked([Started(), Failed(error)]) == ([[Started(), Failed(error)]], [True])


def test_what_has_begun_is_not_begun_again() -> None:
    broken: list[Event] = [Started(), TextDelta("So"), Failed(NO_PLACE, "So")]
    assert asked(broken) == ([broken], [True])


def test_what_fails_without_tools_as_well_was_not_for_them() -> None:
    """So they are offered again."""
    wrong = Failed(UsageError("messages[1].tool is wrong"))
    replies, with_tools = asked([wrong], [wrong], times=2)
    assert [reply[-1] for reply in replies] == [wrong, wrong] and with_tools == [True, False, True, False]


def test_an_interrupt_between_the_two_requests() -> None:
    replies, with_tools = asked([Failed(NO_PLACE)], interrupt=True)
    assert replies == [[TOLD, Completed(FinishReason.INTERRUPTED, "")]] and with_tools == [True]


def test_what_others_say_can_be_followed_where_there_is_anything() -> None:
    async def body() -> None:
        inner = ScriptedBackend(lambda _: [])
        assert not hasattr(OptionalToolsBackend(inner), "follow")
        inner.follow = "the way"  # type: ignore[attr-defined]
        assert OptionalToolsBackend(inner).follow == "the way"

    asyncio.run(body())
