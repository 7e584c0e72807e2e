"""Cut replies that a server generates again from their message on: nothing is lost, doubled or altered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from api_server import CUT as HANG_UP
from api_server import Answer, ApiServer, Request, Script, piece, sse, whole
from backend_replies import end_of, events_of, with_server

from bitnet_chat.backend import ReplyOptions, Sampling
from bitnet_chat.backends.http.backend import RemoteBackend
from bitnet_chat.backends.http.context_window import ServerContextWindow
from bitnet_chat.backends.http.endpoint import RequestTarget
from bitnet_chat.backends.http.openai_format import OpenAIFormat
from bitnet_chat.backends.openai import OpenAIEndpoint
from bitnet_chat.config import Settings
from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.conversation import Conversation, Tool, ToolCall
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import ContextOrigin, ContextSource, Event, PromptProgress, TextDelta, ThinkingDelta
from bitnet_chat.text.utf8 import rejoined

CUT = FinishReason.CUT_OFF
ASKED = Conversation().with_user("one").with_assistant("two").with_user("three")
GREEDY = Sampling(temperature=0.0)


class States:
    """What a server would have: ``evaluated`` messages as at first. Keeps what it is told."""

    is_saved = False

    def __init__(self, evaluated: int) -> None:
        self.evaluated = evaluated
        self.exact: list[bool] = []
        self.held: list[Conversation] = []

    async def recall(
        self, target: RequestTarget, conversation: Conversation, tools: Sequence[Tool], *, is_exact: bool = False
    ) -> None:
        self.exact.append(is_exact)

    async def evaluated_messages(self, target: RequestTarget, conversation: Conversation, tools: Sequence[Tool]) -> int:
        return self.evaluated

    def sent(self) -> None: ...

    def origin(self, target: RequestTarget, conversation: Conversation, tools: Sequence[Tool]) -> ContextOrigin:
        return ContextOrigin(ContextSource.STATE, 7)

    def replied(
        self, target: RequestTarget, conversation: Conversation, options: ReplyOptions, tokens: int | None
    ) -> None:
        self.held.append(conversation)

    async def close(self) -> None: ...


def script(*answers: Answer) -> Script:
    left = list(answers)

    def answer(request: Request) -> Answer:
        return whole({"data": [{"id": "small"}]}) if request.path.endswith("/models") else left.pop(0)

    return answer


def said(*texts: str, finish: str = "stop", thoughts: Sequence[str] = ()) -> Answer:
    """A streamed reply, one piece for each text."""
    pieces = [piece(reasoning_content=each) for each in thoughts] + [piece(each) for each in texts]
    return Answer(sse(*pieces, piece(finish=finish)))


def count(text: str) -> TokenCount:
    return TokenCount(len(text))


class Case:
    """A backend on a scripted server, and what both were told."""

    def __init__(self, evaluated: int = 2) -> None:
        self.states = States(evaluated)
        self.requests: list[dict[str, Any]] = []

    def run(self, body: Callable[[RemoteBackend], Awaitable[None]], *answers: Answer) -> None:
        def backend(url: str) -> RemoteBackend:
            return RemoteBackend(
                OpenAIEndpoint(url, Settings(backend="openai")),
                OpenAIFormat(llama=True),
                ServerContextWindow("drop-oldest", count),
                count,
                sampling=Sampling(),
                goes_on=True,
                states=self.states,
            )

        async def main(made: RemoteBackend, server: ApiServer) -> None:
            await body(made)
            self.requests = [each.json for each in server.requests if each.method == "POST"]

        with_server(script(*answers), backend, main)

    def events(self, conversation: Conversation, *answers: Answer, **options: Any) -> list[Event]:
        found: list[Event] = []

        async def body(backend: RemoteBackend) -> None:
            wanted = ReplyOptions(**({"sampling": GREEDY} | options))
            found.extend(await events_of(backend, conversation, wanted))

        self.run(body, *answers)
        return found

    def last_messages(self, request: int = 0) -> list[tuple[str, str]]:
        return [(each["role"], each["content"]) for each in self.requests[request]["messages"]][2:]

    @property
    def prefixes(self) -> list[str]:
        """The beginning of the reply in each request; empty for one that ends in the message."""
        last = [request["messages"][-1] for request in self.requests]
        return [each["content"] if each["role"] == "assistant" else "" for each in last]


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def thoughts_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, ThinkingDelta))


@pytest.mark.parametrize("pieces", [["four five six"], list("four five six"), ["four fi", "ve six"]])
def test_the_part_that_was_shown_is_neither_shown_nor_counted(pieces: list[str]) -> None:
    case = Case()
    events = case.events(ASKED.with_assistant("four fi", CUT), said(*pieces), max_tokens=50)
    assert text_of(events) == "ve six" and case.prefixes == [""]
    assert case.requests[0]["max_tokens"] == 50 + len("four fi")
    end = end_of(events)
    assert end.origin == ContextOrigin(ContextSource.STATE, 7) and case.states.exact == [True]
    assert end.stats.tokens == max(0, len(pieces) - len("four fi"))
    assert case.states.held == [ASKED.with_assistant("four five six", None)]


def test_how_much_was_generated_again_is_reported() -> None:
    told = list[Event]()

    async def body(backend: RemoteBackend) -> None:
        asked = ASKED.with_assistant("four fi", CUT)
        async for event in backend.reply(asked, ReplyOptions(sampling=GREEDY)):
            told.append(event)
            if isinstance(event, PromptProgress):
                more.set()

    more = asyncio.Event()
    first, *rest = sse(piece("four"), piece(" five"), piece(finish="stop"))
    Case().run(body, Answer([first, more, *rest]))
    assert told[1:-1] == [PromptProgress(4, 7, repeats=True), TextDelta("ve")]


@pytest.mark.parametrize(
    "other",
    [
        said("four ", "FI", "VE"),
        said("four"),
        said("four", finish="length"),
        said("", thoughts=["hm"]),
        said("four five", thoughts=["hm"]),
    ],
    ids=["differs", "shorter", "limit", "no text", "other thoughts"],
)
def test_another_reply_is_continued_where_it_was_cut(other: Answer) -> None:
    case = Case()
    cut = ASKED.with_assistant("four fi", CUT, "so")
    events = case.events(cut, other, said("ve", " six"), max_tokens=50)
    assert text_of(events) == "ve six" and not thoughts_of(events)
    assert case.prefixes == ["", "four fi"] and case.states.exact == [True, False]
    end = end_of(events)
    assert end.reason is FinishReason.STOP and end.origin is not None and end.origin.begun == len("four fi")
    assert [each["max_tokens"] for each in case.requests] == [50 + len("sofour fi"), 50]
    assert case.states.held == [ASKED.with_assistant("four five six", None)]


def test_a_kill_between_the_last_token_and_the_end() -> None:
    case = Case()
    events = case.events(ASKED.with_assistant("four five", CUT), said("four ", "five"))
    assert text_of(events) == "" and end_of(events).reason is FinishReason.STOP and case.prefixes == [""]
    assert case.states.held == [ASKED.with_assistant("four five", None)]


def test_a_loss_of_the_server_while_it_generates_the_part_that_was_shown() -> None:
    case = Case()
    lost = Answer([*sse(piece("four"), done=False), HANG_UP])
    events = case.events(ASKED.with_assistant("four fi", CUT), lost, said("four five"))
    assert text_of(events) == "ve" and case.prefixes == ["", ""]


def test_a_loss_after_it_keeps_what_is_new() -> None:
    case = Case()
    lost = Answer([*sse(piece("four five"), done=False), HANG_UP])
    events = case.events(ASKED.with_assistant("four fi", CUT), lost)
    assert text_of(events) == "ve" and end_of(events).reason is FinishReason.ENGINE_DIED
    assert not case.states.held


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_cut_within_a_character(at: int) -> None:
    known = "so " + "👍".encode()[:at].decode("utf-8", "surrogateescape")
    for case, answers in ((Case(), [said("so ", "👍 ok")]), (Case(-1), [said(" 👍 ok")])):
        events = case.events(ASKED.with_assistant(known, CUT), *answers)
        assert rejoined(known + text_of(events)) == "so 👍 ok"
    nothing = known.removeprefix("so ")
    case = Case(-1)
    assert rejoined(nothing + text_of(case.events(ASKED.with_assistant(nothing, CUT), said("👍 ok")))) == "👍 ok"


def test_thoughts_are_not_shown_again() -> None:
    case = Case()
    cut = ASKED.with_assistant("four", CUT, "hm so")
    events = case.events(cut, said("fo", "ur five", thoughts=["hm", " so"]))
    assert (text_of(events), thoughts_of(events), case.prefixes) == (" five", "", [""])
    case = Case()
    cut = ASKED.with_assistant("", CUT, "hm")
    events = case.events(cut, said("four", thoughts=["hm", " so"]))
    assert (text_of(events), thoughts_of(events)) == ("four", " so")


def test_a_kill_within_a_tool_call() -> None:
    call = {"index": 0, "id": "1", "function": {"name": "add", "arguments": '{"a": 1}'}}
    answer = Answer(sse(piece("Let me "), piece("see. "), piece(tool_calls=[call]), piece(finish="tool_calls")))
    for known in ("", "Let", "Let me see. "):
        case = Case()
        events = case.events(ASKED.with_assistant(known, CUT), answer, tools=(Tool("add"),))
        calls = [event for event in events if isinstance(event, ToolCall)]
        assert [(each.name, each.arguments) for each in calls] == [("add", '{"a": 1}')]
        assert known + text_of(events) == "Let me see. " and end_of(events).reason is FinishReason.TOOL_CALLS


def test_stop_texts_apply_to_the_whole_reply() -> None:
    case = Case()
    events = case.events(ASKED.with_assistant("four", CUT), said("four"), stop=("END",))
    assert text_of(events) == "" and end_of(events).reason is FinishReason.STOP
    assert case.requests[0]["stop"] == ["END"]


@pytest.mark.parametrize("text", ["four", "four five"])
def test_an_interrupt(text: str) -> None:
    """Within the part that was shown nothing is known of the context, after it that it has the new text."""
    case, sent, gate = Case(), asyncio.Event(), asyncio.Event()

    async def parts() -> AsyncIterator[Any]:
        for part in sse(piece(text), done=False):
            yield part
        sent.set()
        yield gate

    async def body(backend: RemoteBackend) -> None:
        async def stop() -> None:
            await sent.wait()
            backend.interrupt()

        def on_event(event: Event) -> None:
            if isinstance(event, TextDelta):
                backend.interrupt()

        task = asyncio.ensure_future(stop()) if text == "four" else None
        options = ReplyOptions(sampling=GREEDY)
        end = end_of(await events_of(backend, ASKED.with_assistant("four fi", CUT), options, on_event))
        assert end.reason is FinishReason.INTERRUPTED and end.text == text.removeprefix("four fi").removeprefix("four")
        if task is not None:
            await task

    case.run(body, Answer(parts()))
    assert case.states.held == ([ASKED.with_assistant("four five", None)] if text == "four five" else [])


@pytest.mark.parametrize(
    ("evaluated", "options"),
    [
        (-1, {}),  # the context would be read in one batch
        (1, {}),
        (4, {}),  # the context has the reply
        (2, {"sampling": Sampling(temperature=0.5)}),
        (2, {"alone": True}),
    ],
)
def test_replies_that_are_continued(evaluated: int, options: dict[str, Any]) -> None:
    case = Case(evaluated)
    events = case.events(ASKED.with_assistant("four fi ", CUT), said(" ve"), **options)
    assert case.prefixes == ["four fi"] and text_of(events) == "ve" and case.states.exact == [False]


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.5, seed=3), Sampling(seed=3), GREEDY])
def test_replies_with_a_seed_are_generated_again(sampling: Sampling) -> None:
    case = Case()
    events = case.events(ASKED.with_assistant("four", CUT), said("four five"), sampling=sampling)
    assert text_of(events) == " five" and case.requests[0].get("seed") == sampling.seed
