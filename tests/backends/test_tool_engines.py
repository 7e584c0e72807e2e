"""Tools on real engines, with a model that calls them; and what stands between a front end and such an engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from backend_replies import with_backend
from program import ENTER, ESC, Terminal, run

from bitnet_chat.backend import Backend, ReplyOptions
from bitnet_chat.backends.factory import open_backend
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.backends.wrappers.tool_prompting import PromptToolAdapter
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation, Message, Tool, ToolCall
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.process import EngineProcess
from bitnet_chat.errors import EngineDiedError, FinishReason, UnsupportedError
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, Stats, TextDelta
from bitnet_chat.templates.chat_template import ChatTemplate


@pytest.fixture(params=["classic", "modern", "native"])
def engine(request: pytest.FixtureRequest) -> EngineBinary:
    """One of each dialect."""
    found: EngineBinary = request.getfixturevalue(request.param)
    return found


MODELS = Path(__file__).parents[1] / "data" / "models"
MODEL = MODELS / "tool-demo.gguf"
CITY, NUMBER = {"city": {"type": "string"}}, {"type": "integer"}
WEATHER = Tool("get_weather", "The weather of a city.", {"type": "object", "properties": CITY, "required": ["city"]})
ADD = Tool("add", "The sum of two numbers.", {"type": "object", "properties": {"a": NUMBER, "b": NUMBER}})
OPTIONS = ReplyOptions(tools=(WEATHER, ADD))
FILE = '''
def get_weather(city: str) -> str:
    """The weather of a city."""
    return "sunny, 21 degrees"

def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b
'''


def settings(engine: EngineBinary, model: Path = MODEL, **more: object) -> Settings:
    return Settings(engine=str(engine.path), model=str(model), temperature=0.0, journal=False, **more)  # type: ignore[arg-type]


async def heard(backend: Backend | PromptToolAdapter, conversation: Conversation, options: ReplyOptions) -> list[Event]:
    return [event async for event in backend.reply(conversation, options)]


def kept(conversation: Conversation, events: Sequence[Event]) -> Conversation:
    """The conversation with the reply, which came to its end."""
    end = events[-1]
    assert isinstance(end, Completed), end
    assert end.text == "".join(each.text for each in events if isinstance(each, TextDelta))
    assert "<" not in end.text
    calls = tuple(each for each in events if isinstance(each, ToolCall))
    assert (end.reason is FinishReason.TOOL_CALLS) == bool(calls)
    return conversation.with_assistant(end.text, end.reason, "", calls)


@pytest.mark.engine
def test_a_conversation_with_tools(engine: EngineBinary) -> None:
    spawned: list[EngineProcess] = []

    def backend() -> LocalEngineBackend:
        made = LocalEngineBackend(settings(engine), on_spawn=spawned.append)
        made.expect((WEATHER, ADD))
        return made

    async def body(backend: Backend) -> None:
        backend.start()
        conversation = Conversation().with_user("Go to Oslo and Lima.")
        conversation = kept(conversation, await heard(backend, conversation, OPTIONS))
        assert [(each.name, each.arguments) for each in conversation.open_calls] == [
            ("get_weather", '{"city": "Oslo"}')
        ]
        assert conversation.last is not None and conversation.last.content == "First Oslo."
        conversation = conversation.with_tool_result(conversation.open_calls[0], "snow")
        conversation = kept(conversation, await heard(backend, conversation, OPTIONS))
        assert conversation.last is not None and conversation.last.content == "Now Lima."
        conversation = conversation.with_tool_result(conversation.open_calls[0], "rain, 9 degrees")
        conversation = kept(conversation, await heard(backend, conversation, OPTIONS))
        assert conversation.last is not None and conversation.last.content == "In Lima: rain, 9 degrees."
        backend.prepare(conversation)
        await heard(backend, conversation.with_user("hello"), OPTIONS)
        assert len(spawned) == 1, "the engine had it all in its memory"
        # Another engine reads the same conversation in the words of the template.
        other = LocalEngineBackend(settings(engine))
        try:
            *_, end = await heard(other, Conversation(conversation.messages[:-1]), OPTIONS)
        finally:
            await other.close()
        assert isinstance(end, Completed)
        if engine.dialect.value != "modern":
            assert end.text == "In Lima: rain, 9 degrees."

    with_backend(backend, body)


@pytest.mark.engine
def test_a_real_model_mends_its_call(engine: EngineBinary) -> None:
    spawned: list[EngineProcess] = []

    async def body(backend: Backend) -> None:
        conversation = Conversation().with_user("Stumble over Vienna.")
        conversation = kept(conversation, await heard(backend, conversation, OPTIONS))
        assert conversation.last is not None and conversation.last.content == "Let me look.\n\nOnce more."
        assert [each.arguments for each in conversation.open_calls] == ['{"city": "Vienna"}']
        conversation = conversation.with_tool_result(conversation.open_calls[0], "wind")
        conversation = kept(conversation, await heard(backend, conversation, OPTIONS))
        assert conversation.last is not None and conversation.last.content == "In Vienna: wind."
        assert len(spawned) == 1

    with_backend(lambda: LocalEngineBackend(settings(engine), on_spawn=spawned.append), body)


@pytest.mark.engine
def test_limits_choices_and_refusals(classic: EngineBinary, model: Path) -> None:
    async def body(backend: Backend) -> None:
        asked = Conversation().with_user("Weather in Rome?")
        events = await heard(backend, asked, ReplyOptions(tools=OPTIONS.tools, max_tokens=12))
        assert isinstance(events[-1], Completed) and events[-1].reason is FinishReason.LENGTH
        assert events[-1].text == "Let me look." and not any(isinstance(each, ToolCall) for each in events)
        events = await heard(backend, asked, ReplyOptions(tools=OPTIONS.tools, tool_choice="none"))
        assert kept(asked, events).last == Message("assistant", "I have no tool for that.", FinishReason.STOP)

    with_backend(lambda: LocalEngineBackend(settings(classic)), body)

    async def refused(backend: Backend) -> None:
        *_, end = await heard(backend, Conversation().with_user("hello"), OPTIONS)
        assert isinstance(end, Failed) and isinstance(end.error, UnsupportedError) and end.error.option == "tools"

    with_backend(lambda: LocalEngineBackend(settings(classic, model)), refused)


@pytest.mark.engine
@pytest.mark.parametrize("name", ["classic", "modern", "native"])
def test_a_call_that_is_asked_for_is_made_or_refused(name: str, request: pytest.FixtureRequest) -> None:
    """The reply is begun for the model: nothing but a call can follow."""
    engine: EngineBinary = request.getfixturevalue(name)

    async def body(backend: Backend) -> None:
        asked = Conversation().with_user("Weather in Rome?")
        # The toy knows calls behind a few words only.
        begun = asked.with_assistant("Let me look.", FinishReason.LENGTH)
        for choice in ("required", "get_weather", "add"):
            options = ReplyOptions(tools=OPTIONS.tools, tool_choice=choice)
            *events, end = await heard(backend, asked if choice == "add" else begun, options)
            calls = [(each.name, each.arguments) for each in events if isinstance(each, ToolCall)]
            if name == "modern":
                assert isinstance(end, Failed) and isinstance(end.error, UnsupportedError) and not calls
                assert end.error.option == "tool_choice"
                continue
            if choice == "add":  # what the toy makes of that is nonsense, but a call of it
                assert [each for each, _ in calls] == ["add"]
                continue
            assert isinstance(end, Completed) and end.reason is FinishReason.TOOL_CALLS and end.text == ""
            assert calls == [("get_weather", '{"city": "Rome"}')]
            done = asked.with_assistant(
                "Let me look.", end.reason, "", tuple(e for e in events if isinstance(e, ToolCall))
            )
            done = done.with_tool_result(done.open_calls[0], "wind")
            done = kept(done, await heard(backend, done, OPTIONS))
            assert done.last is not None and "wind" in done.last.content

    with_backend(lambda: LocalEngineBackend(settings(engine)), body)


@pytest.mark.engine
def test_a_llama_server_calls_tools_by_itself(classic: EngineBinary) -> None:
    async def body(backend: Backend) -> None:
        conversation = Conversation().with_user("Weather in Rome?")
        events = await heard(backend, conversation, OPTIONS)
        conversation = kept(conversation, events)
        assert [(each.name, each.arguments) for each in conversation.open_calls] == [
            ("get_weather", '{"city": "Rome"}')
        ]
        conversation = conversation.with_tool_result(conversation.open_calls[0], "sunny, 21 degrees")
        conversation = kept(conversation, await heard(backend, conversation, OPTIONS))
        assert conversation.last is not None and conversation.last.content == "In Rome: sunny, 21 degrees."

    with_backend(lambda: open_backend(settings(classic, backend="llama-server"), ""), body)


@pytest.mark.engine
def test_one_answer_and_a_conversation(classic: EngineBinary, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    flags = ["--engine", str(classic.path), "-m", str(MODEL), "--temp", "0", "--tools", str(path)]
    done = run(*flags, "--allow-tools", "get_weather", "Weather in Rome?")
    assert done.stdout.decode() == "Let me look.\n\nIn Rome: sunny, 21 degrees.\n"
    assert 'get_weather {"city": "Rome"}: sunny, 21 degrees' in done.stderr.decode()
    terminal = Terminal(*flags)
    try:
        terminal.until(lambda: terminal.prompt == "")
        # What is typed before the question is there is no answer to it; it waits for the next prompt.
        terminal.child.send("Weather in Oslo?" + ENTER)
        terminal.until("y yes · n no · a always")
        assert 'calls get_weather {"city": "Oslo"}' in terminal.text and "<tool" not in terminal.text
        terminal.child.send("x" + ENTER + "n")
        terminal.until(lambda: "All right, I leave it." in terminal.text and terminal.prompt == "")
        terminal.child.send("Weather in Rome?" + ENTER)
        terminal.until("y yes · n no · a always")
        terminal.child.send(ESC)
        terminal.until(lambda: "Stopped: the call is cancelled." in terminal.text and terminal.prompt == "")
        terminal.child.send("/regen" + ENTER)
        terminal.until("y yes · n no · a always")
        terminal.child.send("a")
        terminal.until(lambda: "In Rome: sunny, 21 degrees." in terminal.text and terminal.prompt == "")
        assert "y yes" not in terminal.text
    finally:
        terminal.close()


@pytest.mark.engine
@pytest.mark.parametrize("who", ["engine", "llama-server"])
def test_a_model_without_a_place_for_tools(classic: EngineBinary, model: Path, tmp_path: Path, who: str) -> None:
    """A conversation goes on without them; a question that came with tools gets no answer that had none."""
    path, questions, answers = tmp_path / "mine.py", tmp_path / "questions", tmp_path / "answers"
    path.write_text(FILE)
    questions.write_text('{"prompt": "hello"}\n{"prompt": "hello"}\n')
    flags = ["--engine", str(classic.path), "--backend", who, "--temp", "0", "-n", "8", "--tools", str(path)]
    lines = f"Weather in Rome?\n/model {model}\nhello\nhello\n"
    done = run(*flags, "-m", str(MODEL), "-n", "60", "--allow-tools", "all", "-i", stdin=lines)
    notes = done.stderr.decode()
    assert "In Rome: sunny, 21 degrees." in done.stdout.decode() and done.returncode == 0
    assert len(done.stdout.splitlines()) == 4 and "is not supported" not in notes
    assert notes.count("the model is not offered the tools: the chat template of ") == 1
    done = run(*flags, "-m", str(model), "--allow-tools", "all", "hello")
    assert (done.returncode, done.stdout) == (2, b"") and "tools is not supported here" in done.stderr.decode()
    done = run(*flags, "-m", str(model), "--allow-tools", "all", "--input", str(questions), "--output", str(answers))
    assert done.returncode == 2 and done.stderr.decode().count("tools is not supported here") == 1
    assert answers.read_bytes() == b"", "the same command goes on with another model"


@pytest.mark.engine
def test_a_long_result_fits_into_the_window(classic: EngineBinary, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FILE.replace("sunny, 21 degrees", "sunny, 21 degrees " * 2000))
    flags = ["--engine", str(classic.path), "-m", str(MODEL), "--temp", "0", "-n", "60", "-c", "2048"]
    for more, stdin in ((["-i"], "Weather in Rome?\n"), (["Weather in Rome?"], "")):
        done = run(*flags, "--tools", str(path), "--allow-tools", "all", *more, stdin=stdin)
        notes = done.stderr.decode()
        assert "characters are left out: the context window is full]" in notes
        assert "does not fit" not in notes and done.returncode == 0


# Without an engine


class Engine:
    """Says what it was told to, and remembers what it was asked."""

    def __init__(self, *replies: str | Completed | Failed) -> None:
        self.replies = list(replies)
        self.asked: list[Conversation] = []
        self.options: list[ReplyOptions] = []
        self.interrupted = 0

    async def reply(self, conversation: Conversation, options: ReplyOptions) -> AsyncIterator[Event]:
        self.asked.append(conversation)
        self.options.append(options)
        said = self.replies.pop(0)
        if isinstance(said, str):
            said = Completed(
                FinishReason.STOP, said, Stats(prompt_tokens=5, tokens=10, time_to_first_token=1, seconds=2)
            )
        yield Started()
        step = 3 if len(said.text) < 10_000 else 1000
        for at in range(0, len(said.text), step):
            yield TextDelta(said.text[at : at + step])
        yield said

    def interrupt(self) -> None:
        self.interrupted += 1


def interpreter(engine: Engine) -> PromptToolAdapter:
    source = (MODELS / "tool-demo.jinja").read_text("utf-8")
    return PromptToolAdapter(lambda: ChatTemplate(source, name="of the test"), engine.reply, engine.interrupt)


def answered(engine: Engine, conversation: Conversation, options: ReplyOptions = OPTIONS) -> list[Event]:
    return asyncio.run(heard(interpreter(engine), conversation, options))


GOOD = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
BAD = '<tool_call>\n{"name": "add", "arguments": {"a": 1\n</tool_call>'
ASKED = Conversation().with_user("1 + 2?")


def test_a_malformed_call_is_told_to_the_model_once() -> None:
    engine = Engine(f"So:\n{BAD}", f"Again:\n{GOOD}", "Three.")
    middle = interpreter(engine)

    async def body() -> None:
        limited = ReplyOptions(tools=OPTIONS.tools, max_tokens=30, timeout=9.0)
        events = await heard(middle, ASKED, limited)
        conversation = kept(ASKED, events)
        assert sum(isinstance(each, Started) for each in events) == 1
        end = events[-1]
        assert isinstance(end, Completed) and end.text == "So:\n\nAgain:"
        assert end.stats == Stats(prompt_tokens=5, tokens=20, time_to_first_token=1, seconds=4)
        assert (engine.options[1].max_tokens, engine.options[1].timeout) == (20, 7.0)
        error = engine.asked[1].messages[-1]
        assert error.role == "user" and "error: this call cannot be read: it is no JSON" in error.content
        # The engine is given back what it has said, and the conversation has only what came of it.
        conversation = conversation.with_tool_result(conversation.open_calls[0], "3")
        await heard(middle, conversation, limited)
        told = [each.content for each in engine.asked[2].turns]
        assert told[1:] == [f"So:\n{BAD}", error.content, f"Again:\n{GOOD}", "<tool_response>\n3\n</tool_response>"]
        assert [each.role for each in conversation.messages] == ["user", "assistant", "tool"]

    asyncio.run(body())


@pytest.mark.parametrize("again", [BAD, GOOD.replace("add", "sub")])
def test_a_second_malformed_call_ends_the_reply(again: str) -> None:
    engine = Engine(f"So:\n{BAD}", f"Or:\n{again}")
    events = answered(engine, ASKED)
    assert events[-1] == Completed(FinishReason.STOP, "So:\n\nOr:", events[-1].stats)  # type: ignore[union-attr]
    notice = next(each.text for each in events if isinstance(each, Notice))
    assert notice.startswith("the model twice asked for a tool in a form that cannot be read: ")
    assert len(engine.asked) == 2


def test_a_malformed_call_beside_a_good_one_is_told_with_its_result() -> None:
    engine = Engine(f"{GOOD}\n{BAD}", "Three.")
    middle = interpreter(engine)

    async def body() -> None:
        conversation = kept(ASKED, await heard(middle, ASKED, OPTIONS))
        await heard(middle, conversation.with_tool_result(conversation.open_calls[0], "3"), OPTIONS)
        last = engine.asked[1].messages[-1].content
        assert last.startswith("<tool_response>\n3\n</tool_response>\n<tool_response>\nerror: this call cannot be read")

    asyncio.run(body())


def test_what_one_client_was_told_another_is_not() -> None:
    """Whose request stands for itself gets the words of the template, unless it has the ids of that very reply."""
    engine = Engine(f"So:\n{GOOD}\n{BAD}", "Three.", "Three.", f"So:\n{BAD}", "Sorry.", "Hello.")
    middle, options = interpreter(engine), replace(OPTIONS, alone=True)

    async def body() -> None:
        one = kept(ASKED, await heard(middle, ASKED, options))
        (call,) = one.open_calls
        other = ASKED.with_assistant(one.messages[-1].content, tool_calls=(replace(call, id="call_1"),))
        await heard(middle, other.with_tool_result(other.open_calls[0], "3"), options)
        assert "cannot be read" not in "".join(each.content for each in engine.asked[1].messages)
        await heard(middle, one.with_tool_result(call, "3"), options)
        assert "cannot be read" in engine.asked[2].messages[-1].content, "its own faults it hears"
        mended = kept(ASKED, await heard(middle, ASKED, options))
        await heard(middle, mended.with_user("hello"), options)
        assert "cannot be read" not in "".join(each.content for each in engine.asked[5].messages)

    asyncio.run(body())


@pytest.mark.parametrize("end", [FinishReason.LENGTH, FinishReason.INTERRUPTED, FinishReason.ENGINE_DIED])
def test_a_reply_that_was_cut_calls_nothing(end: FinishReason) -> None:
    for text in (BAD, GOOD.removesuffix(">"), f"So: {GOOD[:20]}"):
        engine = Engine(Completed(end, text))
        events = answered(engine, ASKED)
        assert not any(isinstance(each, ToolCall) for each in events) and len(engine.asked) == 1
        assert isinstance(events[-1], Completed) and events[-1].reason is end and "<" not in events[-1].text
    events = answered(Engine(Completed(end, f"{GOOD} and {GOOD[:9]}")), ASKED)
    assert isinstance(events[-1], Completed) and events[-1].reason is end  # which says that nothing is to be called
    dead = Failed(EngineDiedError("dead"), f"So: {BAD}")
    assert answered(Engine(dead), ASKED)[-1] == Failed(dead.error, "So:")


def test_an_interrupt_before_the_second_attempt() -> None:
    engine = Engine(BAD)
    middle = interpreter(engine)

    async def body() -> list[Event]:
        events = []
        async for event in middle.reply(ASKED, OPTIONS):
            if isinstance(event, Started):
                middle.interrupt()
            events.append(event)
        return events

    assert isinstance(asyncio.run(body())[-1], Completed)
    assert len(engine.asked) == engine.interrupted == 1


def test_a_call_without_end_is_stopped() -> None:
    engine = Engine(f"<tool_call>{'x' * 250_000}")
    events = answered(engine, ASKED)
    assert engine.interrupted == 1
    assert any(isinstance(each, Notice) and "longer than 200,000 characters" in each.text for each in events)
    assert isinstance(events[-1], Completed) and events[-1].reason is FinishReason.LENGTH


def test_a_reply_that_goes_on() -> None:
    cut = ASKED.with_assistant("So I", FinishReason.LENGTH)
    engine = Engine(f" add.\n{GOOD}", "Three.")
    middle = interpreter(engine)

    async def body() -> None:
        events = await heard(middle, cut, OPTIONS)
        end = events[-1]
        assert isinstance(end, Completed) and (end.text, end.reason) == (" add.", FinishReason.TOOL_CALLS)
        calls = tuple(each for each in events if isinstance(each, ToolCall))
        whole = ASKED.with_assistant("So I add.", end.reason, "", calls).with_tool_result(calls[0], "3")
        await heard(middle, whole, OPTIONS)
        assert engine.asked[1].turns[1].content == f"So I add.\n{GOOD}"

    asyncio.run(body())


def test_without_tools_tags_are_text() -> None:
    events = answered(Engine(f"See: {GOOD}"), ASKED, ReplyOptions())
    assert isinstance(events[-1], Completed) and events[-1].text == f"See: {GOOD}"
