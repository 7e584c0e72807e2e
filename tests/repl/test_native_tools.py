"""Tools of the backends that are reached over HTTP, each in the words of its own API: calls that cannot be made, long
ones, and whole conversations at the prompt."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from api_server import CUT, Answer, ApiServer, Request, lines, piece, sse, usage, whole
from backend_replies import with_server
from repl_console import RecordedOutput, ScriptedConsole
from test_repl_tools import TOOLS

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.http.backend import RemoteBackend, sign_of_life
from bitnet_chat.backends.http.openai_format import OpenAIFormat
from bitnet_chat.backends.ollama import ollama_backend
from bitnet_chat.backends.openai import openai_backend
from bitnet_chat.backends.wrappers.runaway_guard import GuardedBackend, GuardLimits
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation, Message, Tool, ToolCall
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Event, Notice, Started, TextDelta
from bitnet_chat.filters import tool_call_repair
from bitnet_chat.repl import ReplSettings
from bitnet_chat.repl.controller import ReplController
from bitnet_chat.repl.display import ReplyDisplay
from bitnet_chat.tools.loading import load

TIMEOUT = 60
ADD = Tool("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}})
ASKED = Conversation().with_user("What is 1 + 2?")
Called = tuple[str, object]
"""Name and arguments, as a server has them."""


@dataclass(frozen=True)
class Api:
    """One way to say the same."""

    name: str

    @property
    def path(self) -> str:
        return "/api/chat" if self.name == "ollama" else "/v1/chat/completions"

    def backend(self, url: str, **settings: Any) -> RemoteBackend:
        if self.name == "ollama":
            return ollama_backend(Settings(backend="ollama", base_url=url, model="m", **settings))
        # The wire of llama-server, whose path begins where the other's address ends.
        backend = openai_backend(
            Settings(backend="openai", base_url=f"{url}{'' if self.name == 'llama-server' else '/v1'}", model="m",
                     **settings)
        )  # fmt: skip
        if self.name == "llama-server":
            backend._service._connection.base = url  # type: ignore[attr-defined]
            backend._wire = OpenAIFormat(llama=True)
        return backend

    def says(self, text: str = "", *calls: Called, finish: str = "", tokens: int = 5) -> Answer:
        """A reply with text, then calls, each in one piece."""
        if self.name == "ollama":
            made = [{"function": {"name": name, "arguments": arguments}} for name, arguments in calls]
            said: list[object] = [{"message": {"content": text}}] if text else []
            said += [{"message": {"content": "", "tool_calls": [each]}} for each in made]
            end = {"done": True, "done_reason": finish or "stop", "prompt_eval_count": 10, "eval_count": tokens}
            return Answer(lines(*said, end), type="application/x-ndjson")
        parts = [piece(text)] if text else []
        for index, (name, arguments) in enumerate(calls):
            words = arguments if isinstance(arguments, str) else json.dumps(arguments)
            function = {"name": name, "arguments": words}
            parts.append(piece(tool_calls=[{"index": index, "id": f"c{index}", "function": function}]))
        parts.append(piece(finish=finish or ("tool_calls" if calls else "stop")))
        return Answer(sse(*parts, usage(10, tokens)))

    def cut(self, *texts: str) -> Answer:
        """A stream that breaks off."""
        if self.name == "ollama":
            said = lines(*({"message": {"content": text}} for text in texts))
            return Answer([*said, CUT], type="application/x-ndjson")
        return Answer([*sse(*map(piece, texts), done=False), CUT])


@pytest.fixture(params=["llama-server", "openai", "ollama"])
def api(request: pytest.FixtureRequest) -> Api:
    return Api(request.param)


class ToolReplies:
    def __init__(self, api: Api, backend: RemoteBackend, server: ApiServer) -> None:
        self._api, self.backend, self._server = api, backend, server

    async def ask(self, conversation: Conversation = ASKED, **options: Any) -> list[Event]:
        wanted = ReplyOptions(**{"tools": (ADD,)} | options)
        return [event async for event in self.backend.reply(conversation, wanted)]

    @property
    def asked(self) -> list[Any]:
        """The bodies of all requests for a reply."""
        return [each.json for each in self._server.asked(self._api.path) if each.json["messages"]]


def run(api: Api, answers: Sequence[Answer], body: Callable[[ToolReplies], Awaitable[None]], **settings: Any) -> None:
    left = list(answers)

    def script(request: Request) -> Answer:
        if request.path != api.path:
            return whole({"error": "not found"}, 404)
        if not request.json["messages"]:  # an Ollama is told to load the model
            return whole({"done": True})
        return left.pop(0) if len(left) > 1 else left[0]

    async def with_replies(backend: RemoteBackend, server: ApiServer) -> None:
        await body(ToolReplies(api, backend, server))

    with_server(script, lambda url: api.backend(url, **settings), with_replies)


def end_of(found: list[Event]) -> Completed:
    end = found[-1]
    assert isinstance(end, Completed), found
    assert end.text == "".join(event.text for event in found if isinstance(event, TextDelta))
    assert [type(each) for each in found].count(Started) == 1
    return end


def calls_in(found: list[Event]) -> list[tuple[str, object]]:
    return [(each.name, json.loads(each.arguments)) for each in found if isinstance(each, ToolCall)]


def notices_in(found: list[Event]) -> list[str]:
    return [each.text for each in found if isinstance(each, Notice)]


def told_in(body: Any) -> list[str]:
    """What a request tells of calls."""
    return [each["content"] for each in body["messages"] if each["role"] == "tool"]


FAULTS = [
    (("add", '{"a": 1'), "its arguments are no JSON"),
    (("add", [1]), "its arguments are no JSON object"),
    (("add", '{"a": NaN}'), "NaN is no number of JSON"),
    (("", {"a": 1}), "it has no name"),
    (("subtract it\n" * 100, {"a": 1}), "there are: add"),
]


@pytest.mark.parametrize(("called", "why"), FAULTS, ids=["cut", "list", "nan", "nameless", "unknown"])
def test_a_malformed_call_is_told_to_the_model_within_the_same_reply(api: Api, called: Called, why: str) -> None:
    async def body(replies: ToolReplies) -> None:
        found = await replies.ask()
        end = end_of(found)
        assert (end.reason, end.text) == (FinishReason.STOP, "Let me see.\n\nIt is 3.")
        assert not calls_in(found) and not notices_in(found)
        first, second = replies.asked
        assert second["tools"] == first["tools"] and second["messages"][:-2] == first["messages"]
        said, result = second["messages"][-2:]
        assert said["role"] == "assistant" and said["content"] == "Let me see."
        (call,) = said["tool_calls"]
        arguments = call["function"]["arguments"]
        assert isinstance(json.loads(arguments) if isinstance(arguments, str) else arguments, dict)
        assert 0 < len(call["function"]["name"]) <= 64 and call["function"]["name"].replace("_", "").isalnum()
        assert result["content"].startswith("error: this call cannot be read: ") and why in result["content"]
        assert result["content"].endswith("Write it again.") and len(result["content"]) < 300
        if "id" in call:
            assert result["tool_call_id"] == call["id"]
        # Both answers are in the figures: those of the prompt are the first one's, the window is as the last left it.
        stats = end.stats
        assert (stats.tokens, stats.prompt_tokens, stats.context_used, stats.exact) == (12, 10, 17, True)
        assert stats.time_to_first_token is not None and stats.time_to_first_token <= stats.seconds

    run(api, [api.says("Let me see.", called), api.says("It is 3.", tokens=7)], body)


def test_then_it_may_call_as_it_should(api: Api) -> None:
    async def body(replies: ToolReplies) -> None:
        found = await replies.ask(max_tokens=20)
        assert end_of(found).reason is FinishReason.TOOL_CALLS and end_of(found).text == "Again."
        assert calls_in(found) == [("add", {"a": 1})]
        limits = [each.get("max_tokens", each.get("options", {}).get("num_predict")) for each in replies.asked]
        assert limits == [20, 15], "the limit is one for both"

    run(api, [api.says("", ("add", "{")), api.says("\n Again.", ("add", {"a": 1}))], body)


def test_it_is_told_once(api: Api) -> None:
    async def body(replies: ToolReplies) -> None:
        found = await replies.ask()
        assert (end_of(found).reason, end_of(found).text) == (FinishReason.STOP, "One.\n\nTwo.")
        assert notices_in(found) == [
            "the model twice asked for a tool in a form that cannot be read: there is no tool 'sub'; there are: add"
        ]
        assert len(replies.asked) == 2 and not calls_in(found)
        found = await replies.ask()
        assert len(replies.asked) == 4, "and once again in the next reply"

    answers = [api.says("One.", ("add", "[")), api.says("Two.", ("sub", {}))]
    run(api, [*answers, *answers], body)


def test_beside_good_calls_it_is_told_with_their_results(api: Api) -> None:
    async def body(replies: ToolReplies) -> None:
        found = await replies.ask()
        assert end_of(found).reason is FinishReason.TOOL_CALLS and calls_in(found) == [("add", {"a": 1})]
        (call,) = [each for each in found if isinstance(each, ToolCall)]
        told = ASKED.with_assistant("Both.", FinishReason.TOOL_CALLS, tool_calls=(call,)).with_tool_result(call, "3")
        assert end_of(await replies.ask(told)).text == "Done."
        results = told_in(replies.asked[-1])
        assert results[0] == "3" and "there is no tool 'sub'" in results[1] and len(results) == 2
        assert len(replies.asked[-1]["messages"][1]["tool_calls"]) == 2
        more = told.with_assistant("Done.", FinishReason.STOP).with_user("And?")
        await replies.ask(more)
        assert [each["role"] for each in replies.asked[-1]["messages"]] == [
            "user", "assistant", "tool", "tool", "assistant", "user",
        ]  # fmt: skip

    run(api, [api.says("Both.", ("add", {"a": 1}), ("sub", {})), api.says("Done.")], body)


def test_another_client_hears_nothing_of_them(api: Api) -> None:
    """Servers may count the ids of their calls."""

    async def body(replies: ToolReplies) -> None:
        found = await replies.ask()
        (call,) = [each for each in found if isinstance(each, ToolCall)]
        for id in ("call_0", "call_1", "c0", "call-0"):
            theirs = ToolCall(id, call.name, call.arguments)
            told = ASKED.with_assistant("Both.", FinishReason.TOOL_CALLS, tool_calls=(theirs,))
            await replies.ask(told.with_tool_result(theirs, "3"))
            assert told_in(replies.asked[-1]) == ["3"]

    run(api, [api.says("Both.", ("add", {"a": 1}), ("sub", {})), *([api.says("Done.")] * 4)], body)


@pytest.mark.parametrize("options", [{"tools": ()}, {"tool_choice": "none"}], ids=["no tools", "none"])
def test_who_offers_no_tools_gets_no_calls(api: Api, options: dict[str, Any]) -> None:
    async def body(replies: ToolReplies) -> None:
        found = await replies.ask(**options)
        assert (end_of(found).reason, end_of(found).text) == (FinishReason.STOP, "Hm.")
        assert not calls_in(found) and "the request has no tools" in notices_in(found)[0]
        assert len(replies.asked) == 1

    run(api, [api.says("Hm.", ("add", {"a": 1}))], body)


def test_what_may_happen_to_the_second_answer(api: Api) -> None:
    bad = api.says("One.", ("add", "{"))

    async def refused(replies: ToolReplies) -> None:
        found = await replies.ask()
        assert (end_of(found).reason, end_of(found).text) == (FinishReason.STOP, "One.")
        assert "could not be told that it called add wrongly" in notices_in(found)[-1]

    async def cut(replies: ToolReplies) -> None:
        found = await replies.ask()
        assert (end_of(found).reason, end_of(found).text) == (FinishReason.ENGINE_DIED, "One.\n\nTw")
        assert not calls_in(found)

    async def cut_early(replies: ToolReplies) -> None:
        assert end_of(await replies.ask()).text == "One.\n\nTwo." and len(replies.asked) == 3

    async def limited(replies: ToolReplies) -> None:
        found = await replies.ask(max_tokens=6)
        assert (end_of(found).reason, end_of(found).text) == (FinishReason.LENGTH, "One.\n\nTwo.")
        assert not calls_in(found)

    async def interrupted(replies: ToolReplies) -> None:
        found: list[Event] = []
        async for event in replies.backend.reply(ASKED, ReplyOptions(tools=(ADD,))):
            found.append(event)
            if isinstance(event, TextDelta) and "Tw" in event.text:
                replies.backend.interrupt()
        assert (end_of(found).reason, end_of(found).text) == (FinishReason.INTERRUPTED, "One.\n\nTw")

    run(api, [bad, whole({"error": {"message": "no tool messages here"}}, 400)], refused)
    run(api, [bad, api.cut("Tw")], cut)
    run(api, [bad, api.cut(), api.says("Two.")], cut_early)
    run(api, [bad, api.says("Two.", ("add", {"a": 1}), finish="length", tokens=1)], limited)
    waiting = api.cut("Tw")
    run(api, [bad, Answer([*list(waiting.parts)[:-1], asyncio.Event()], type=waiting.type)], interrupted)  # type: ignore[arg-type]


def test_a_reply_that_goes_on_goes_on_from_all_of_it(api: Api) -> None:
    """A server that goes on with a reply by itself."""

    async def body(replies: ToolReplies) -> None:
        replies.backend._goes_on = True
        found = await replies.ask(ASKED.with_assistant("It ", FinishReason.INTERRUPTED))
        assert end_of(found).text == "is\n\n3."
        first, second = replies.asked
        assert first["messages"][-1]["content"] == "It" and second["messages"][-2]["content"] == "It is"
        assert "tool_calls" in second["messages"][-2]

    run(api, [api.says(" is", ("add", "{")), api.says("3.")], body)


# Long calls


def growing(api: Api, count: int, size: int) -> Answer:
    """A call in many pieces."""
    if api.name == "ollama":  # which sends calls whole: many of them
        each = {"message": {"tool_calls": [{"function": {"name": "add", "arguments": {"a": "x" * size}}}]}}
        parts = lines({"message": {"content": "Let me see."}}, *[each] * count, {"done": True, "done_reason": "stop"})
        return Answer(parts, type="application/x-ndjson")
    calls = [piece(tool_calls=[{"index": 0, "function": {"arguments": "x" * size}}]) for _ in range(count)]
    start = piece(tool_calls=[{"index": 0, "id": "c", "function": {"name": "add", "arguments": '{"a": "'}}])
    end = piece(tool_calls=[{"index": 0, "function": {"arguments": '"}'}}])
    return Answer(sse(piece("Let me see."), start, *calls, end, piece(finish="tool_calls")))


def test_a_long_call_gives_signs_of_life(api: Api) -> None:
    async def body(replies: ToolReplies) -> None:
        replies.backend._sign_of_life = -1.0  # all pieces may arrive at the same time
        found = await replies.ask()
        assert end_of(found).reason is FinishReason.TOOL_CALLS
        assert set(notices_in(found)) == {"the model is generating a long tool call"}

    run(api, [growing(api, 5, 3)], body)


@pytest.mark.parametrize(("timeout", "most"), [(0.0, 20.0), (3.0, 1.0), (1000.0, 20.0)])
def test_they_come_before_anybody_takes_it_for_a_stall(timeout: float, most: float) -> None:
    assert sign_of_life(Settings(stall_timeout=timeout)) == most


def test_a_call_without_end_is_stopped(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_call_repair, "CALL_LIMIT", 1000)

    async def body(replies: ToolReplies) -> None:
        found = await replies.ask()
        assert (end_of(found).reason, end_of(found).text) == (FinishReason.LENGTH, "Let me see.")
        assert not calls_in(found) and notices_in(found) == [
            "a tool call was stopped: it was longer than 1,000 characters"
        ]

    run(api, [growing(api, 30, 100)], body)


# At the prompt


def test_text_a_call_its_result_and_text_at_the_prompt(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "tools_of_prompt.py"
    path.write_text(TOOLS)
    box = load(path)

    async def body(replies: ToolReplies) -> None:
        output, console = RecordedOutput(), ScriptedConsole(["yes"])
        settings = ReplSettings(model="m", options=ReplyOptions(tools=box.tools), toolbox=box)
        backend = GuardedBackend(replies.backend, GuardLimits())
        talk = ReplController(backend, settings, ReplyDisplay(output, colour=False, spinner=False), console, None, None)
        assert await talk.submit("weather?") == ""
        reply, result, last = talk.conversation.turns[1:]
        (call,) = reply.tool_calls
        assert (reply.content, call.name, json.loads(call.arguments)) == ("I look.", "get_weather", {"city": "Oslo"})
        assert result == Message("tool", "fine in Oslo", call_id=call.id, tool_name="get_weather")
        assert (last.content, last.finish) == ("Fine there.", FinishReason.STOP)
        assert console.questions == ['Call get_weather {"city": "Oslo"}?']
        places = [output.all.index(each) for each in ("I look.", "get_weather", "Fine there.")]
        assert places == sorted(places)
        assert told_in(replies.asked[-1]) == ["fine in Oslo"] and len(replies.asked[-1]["tools"]) == len(box.tools)
        # A reply that was cut behind its call: nobody is asked, and nothing is called.
        await talk.submit("again?")
        assert console.questions == ['Call get_weather {"city": "Oslo"}?'] and not talk.conversation.open_calls
        assert talk.conversation.messages[-1].finish is FinishReason.LENGTH

    called = ("get_weather", {"city": "Oslo"})
    answers = [api.says("I look.", called), api.says("Fine there."), api.says("I lo", called, finish="length")]
    run(api, answers, body)
