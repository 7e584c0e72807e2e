"""Functions of a file as tools: what a model is told of them, calls, and replies with calls as one reply."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from bitnet_chat import config
from bitnet_chat.cli.parser import parse
from bitnet_chat.cli.tools import allowed_toolbox
from bitnet_chat.conversation import Conversation, Message, ToolCall
from bitnet_chat.conversation.export import export, restore
from bitnet_chat.errors import EngineDiedError, FinishReason, UsageError
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, Stats, TextDelta
from bitnet_chat.journal import Journal, JournalRecorder
from bitnet_chat.journal.records import ReplyState
from bitnet_chat.tools import Toolbox
from bitnet_chat.tools.loading import load
from bitnet_chat.tools.loop import ROUNDS, rounds
from bitnet_chat.tools.toolbox import RESULT_LIMIT


def box_of(folder: Path, source: str) -> Toolbox:
    path = folder / "tools of mine.py"
    path.write_text(source, "utf-8")
    return load(path)


WEATHER = '''
"""A file of tools."""
from __future__ import annotations
import os
from json import dumps

LIMIT = 3

def get_weather(city: str, days: int = 1, unit: str | None = None) -> str:
    """The weather of
    a city.

    With more about it.

    Args:
        city (str): name of the city,
            in English
        days: how many

    Returns:
        str: words
    """
    print("looking at", city)
    return f"{city}: {days} days"

async def later(seconds: float) -> dict:
    """Waits.

    :param seconds: how long
    """
    import asyncio
    await asyncio.sleep(seconds)
    return {"waited": seconds, "é": [1, None]}

forecast = get_weather

def _private(x): ...

class NotATool: ...
'''


def test_public_functions_of_the_file_are_tools(tmp_path: Path) -> None:
    box = box_of(tmp_path, WEATHER)
    assert box.names == ("get_weather", "later")
    weather = box.tools[0]
    assert weather.description == "The weather of a city."
    assert weather.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "name of the city, in English"},
            "days": {"type": "integer", "description": "how many", "default": 1},
            "unit": {"type": ["string", "null"]},
        },
        "required": ["city"],
    }
    assert box.only(["later", "other"]).names == ("later",)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ('def f(a): "D."', "f cannot be a tool: its parameter a has no type hint"),
        ('def f(*a: int): "D."', r"its parameter \*a: int cannot be passed by name"),
        ('def f(a: int, /): "D."', "its parameter a: int cannot be passed by name"),
        ('def f(a: complex): "D."', "its parameter a: the type complex cannot be expressed in JSON"),
        ('def f(a: dict[int, str]): "D."', "the keys of an object of JSON are texts"),
        ('def f(a: "Missing"): "D."', "its type hints cannot be read"),
        ("def f(a: int): pass", "it has no docstring"),
        ('def größe(): "D."', "its name has characters"),
        ('import typing\nclass A(typing.TypedDict):\n  b: "list[A]"\ndef f(a: A): "D."', "the type A contains itself"),
        ("x = 1", "has no tools"),
        ("x = 1\ny = 1 / 0", "line 2: ZeroDivisionError"),
        ("x = 1\ndef f(:", "line 2: invalid syntax"),
        ("raise SystemExit(3)", "line 1: SystemExit: 3"),
        ("import nothing_like_this", "ModuleNotFoundError"),
    ],
)  # fmt: skip
def test_what_can_be_no_tool_is_refused(tmp_path: Path, source: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        box_of(tmp_path, source)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the tools file"):
        load(tmp_path / "none.py")


def called(box: Toolbox, name: str, arguments: str) -> tuple[str, bool, str]:
    result = asyncio.run(box.call(ToolCall("1", name, arguments)))
    return result.text, result.failed, result.printed


def test_calls(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    box = box_of(tmp_path, WEATHER)
    assert called(box, "get_weather", '{"city": "Oslo", "days": 2.0}') == ("Oslo: 2 days", False, "looking at Oslo\n")
    assert called(box, "later", '{"seconds": 0}') == ('{"waited": 0.0, "é": [1, null]}', False, "")
    for arguments, why in (
        ("{}", "city is missing"),
        ('{"city": 1}', "city is 1, not a text"),
        ('{"city": "O", "days": true}', "days is true, not a whole number"),
        ('{"city": "O", "town": 1}', 'unknown argument "town"; known are: city, days, unit'),
        ('{"city": "O", "unit": 1}', "unit is 1, not a text; unit is 1, not null"),
        ("[]", "what was given is [], not an object"),
        ("{", "Expecting property name"),
    ):
        text, failed, _ = called(box, "get_weather", arguments)
        assert failed and text.startswith(f"error: {why}")
    assert called(box, "nothing", "{}")[0] == "error: unknown tool 'nothing'; available: get_weather, later"
    assert capfd.readouterr() == ("", "")


def test_values_become_those_of_python(tmp_path: Path) -> None:
    source = (
        "import enum\nclass Unit(enum.Enum):\n    C = 'celsius'\n"
        "def f(unit: Unit):\n    'D.'\n    return [repr(unit), Unit.C]\n"
    )
    text, failed, _ = called(box_of(tmp_path, source), "f", '{"unit": "celsius"}')
    assert not failed and json.loads(text) == ["<Unit.C: 'celsius'>", "celsius"]


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ("raise ValueError('no such city')", "error: ValueError: no such city"),
        ("raise StopIteration", "error: StopIteration"),
        ("raise TimeoutError('mine')", "error: TimeoutError: mine"),
        ("import sys; sys.exit(3)", "error: SystemExit: 3"),
        ("class Odd(Exception):\n        def __str__(self): return 1 / 0\n    raise Odd", "error: Odd"),
        ("return input('? ')", "error: EOFError: EOF when reading a line"),
        ("return None", "null"),
        ("return {1, 1}", "[1]"),
        ("return object", "<class 'object'>"),
        ("return float('inf')", "Infinity"),
    ],
)
def test_whatever_a_function_does_is_a_result(tmp_path: Path, body: str, result: str) -> None:
    box = box_of(tmp_path, f"def f():\n    'D.'\n    {body}")
    assert called(box, "f", "{}")[0].strip('"') == result


def test_a_long_result_is_cut_and_says_so(tmp_path: Path) -> None:
    box = box_of(tmp_path, "def f(n: int):\n    'D.'\n    return 'x' * n")
    text, _, _ = called(box, "f", f'{{"n": {RESULT_LIMIT + 5}}}')
    assert text == "x" * RESULT_LIMIT + "\n[cut here: 5 of 16,005 characters are left out]"


STUCK = """
import asyncio, threading
went_on = threading.Event()
cancelled = threading.Event()
begun = threading.Event()

def block():
    "Blocks."
    begun.set()
    went_on.wait(60)

async def wait():
    "Waits."
    begun.set()
    try:
        await asyncio.sleep(60)
    finally:
        cancelled.set()
"""


@pytest.mark.parametrize("name", ["block", "wait"])
def test_a_function_that_takes_too_long(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"stuck_{name}.py"
    path.write_text(STUCK)
    functions = load(path)
    box = Toolbox(list(functions._functions.values()), timeout=0.2)
    module = functions._functions["wait"].call.__globals__
    assert called(box, name, "{}") == ("error: it took longer than 0.2 s", True, "")
    event: threading.Event = module["cancelled"]
    assert name == "block" or event.wait(20)
    module["went_on"].set()


def test_the_user_stops_a_call(tmp_path: Path) -> None:
    path = tmp_path / "stopped.py"
    path.write_text(STUCK)
    box = load(path)
    module = box._functions["wait"].call.__globals__

    async def work() -> tuple[str, bool]:
        call = asyncio.ensure_future(box.call(ToolCall("1", "wait", "{}")))
        await asyncio.to_thread(module["begun"].wait, 20)
        box.stop()
        return (await call).text, await asyncio.to_thread(module["cancelled"].wait, 20)

    assert asyncio.run(work()) == ("error: the user stopped this call", True)


LOUD = """
import threading
begun, went_on, done = threading.Event(), threading.Event(), threading.Event()

def shout():
    "Shouts."
    begun.set()
    went_on.wait(60)
    print("still here", flush=True)
    done.set()

def quiet():
    "Says nothing."
"""


def test_a_function_that_was_left_behind_writes_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "loud.py"
    path.write_text(LOUD)
    box = load(path)
    module = box._functions["shout"].call.__globals__

    async def work() -> None:
        call = asyncio.ensure_future(box.call(ToolCall("1", "shout", "{}")))
        await asyncio.to_thread(module["begun"].wait, 20)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        before = sys.stdout
        print("ours")
        module["went_on"].set()
        assert await asyncio.to_thread(module["done"].wait, 20)
        assert (await box.call(ToolCall("2", "quiet", "{}"))).text == "null"
        while sys.stdout is before:  # its thread ends in its own time
            await box.call(ToolCall("3", "quiet", "{}"))

    own = sys.stdout
    asyncio.run(work())
    assert sys.stdout is own and capsys.readouterr().out == "ours\n"


PROGRAMS = """
import asyncio, sys
from pathlib import Path
from bitnet_chat.conversation import ToolCall
from bitnet_chat.tools.loading import load
from bitnet_chat.tools.stdio import keep_the_keyboard

keep_the_keyboard()
result = asyncio.run(load(Path(sys.argv[1])).call(ToolCall("1", "run", "{}")))
print([result.text, result.printed, sys.stdin.readline()])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors")
def test_programs_of_a_function_take_no_keys_and_write_into_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "programs.py"
    path.write_text(
        "import subprocess, sys\n"
        "print('loaded')\n"
        "def run():\n"
        "    'Runs cat.'\n"
        "    print('err', file=sys.stderr)\n"
        "    return subprocess.run('cat; echo noise', shell=True).returncode\n"
    )
    command = [sys.executable, "-c", PROGRAMS, str(path)]
    done = subprocess.run(command, input="typed\n", capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "['0', 'err\\n', 'typed\\n']\n"
    assert done.stderr == "loaded\nnoise\n"


# Replies with calls, as one

CALL = ToolCall("1", "get_weather", '{"city": "Oslo"}')


def played(box: Toolbox, *replies: list[Event]) -> tuple[list[Event], list[Conversation]]:
    asked: list[Conversation] = []

    async def reply(conversation: Conversation) -> AsyncIterator[Event]:
        asked.append(conversation)
        for event in replies[min(len(asked), len(replies)) - 1]:
            yield event

    async def collect() -> list[Event]:
        return [event async for event in rounds(reply, Conversation().with_user("Weather?"), box)]

    return asyncio.run(collect()), asked


def test_rounds_are_one_reply(tmp_path: Path) -> None:
    first = [Started(), TextDelta("I look.\n"), CALL, Completed(FinishReason.TOOL_CALLS, "I look.\n", Stats(tokens=3))]
    second = [Started(), TextDelta("Fine."), Completed(FinishReason.STOP, "Fine.", Stats(tokens=4))]
    events, asked = played(box_of(tmp_path, WEATHER), first, second)
    assert [type(each) for each in events] == [Started, TextDelta, ToolCall, Notice, Notice, TextDelta, Completed]
    end = events[-1]
    assert isinstance(end, Completed) and (end.text, end.stats.tokens) == ("I look.\n\nFine.", 7)
    assert asked[1].messages[1:] == (
        Message("assistant", "I look.\n", FinishReason.TOOL_CALLS, tool_calls=(CALL,)),
        Message("tool", "Oslo: 1 days", call_id="1", tool_name="get_weather"),
    )


def test_rounds_come_to_an_end(tmp_path: Path) -> None:
    events, asked = played(box_of(tmp_path, WEATHER), [Started(), CALL, Completed(FinishReason.TOOL_CALLS, "")])
    assert len(asked) == ROUNDS + 1
    assert isinstance(events[-1], Completed) and events[-1].reason is FinishReason.TOOL_CALLS


@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.INTERRUPTED, FinishReason.ENGINE_DIED])
def test_a_reply_that_was_cut_calls_nothing(tmp_path: Path, reason: FinishReason) -> None:
    events, asked = played(box_of(tmp_path, WEATHER), [Started(), CALL, TextDelta("an"), Completed(reason, "an")])
    assert len(asked) == 1 and events[-1] == Completed(reason, "an")
    events, asked = played(box_of(tmp_path, WEATHER), [Started(), CALL, Failed(EngineDiedError("dead"))])
    assert len(asked) == 1 and isinstance(events[-1], Failed)


# In files

TALK = (
    Conversation()
    .with_user("Weather?")
    .with_assistant("", FinishReason.TOOL_CALLS, "", (CALL, ToolCall("2", "add", "{}")))
    .with_tool_result(CALL, "fine `\x1b[31m`")
    .with_tool_result(ToolCall("2", "add", "{}"), "error: \udc80")
    .with_assistant("Fine.", FinishReason.STOP)
)


@pytest.mark.parametrize("format", ["json", "jsonl"])
def test_an_export_keeps_tools(format: str) -> None:
    text = export(TALK, format)
    assert restore(text) == TALK
    messages = json.loads(text)["messages"] if format == "json" else [json.loads(line) for line in text.splitlines()]
    assert messages[1]["content"] is None
    assert messages[1]["tool_calls"][0] == {
        "id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
    }  # fmt: skip
    assert (messages[2]["role"], messages[2]["tool_call_id"]) == ("tool", "1")


def test_people_can_read_it() -> None:
    text = export(TALK, "md")
    assert '*called* `get_weather {"city": "Oslo"}`' in text and "## Tool get_weather" in text and "\x1b" not in text
    assert "<code>add {}</code>" in export(TALK, "html")


def recorded(work: Iterable[Message], *, fork: bool = False) -> int:
    """The number of a conversation that was kept message by message."""

    async def keep() -> int:
        recorder = JournalRecorder(Journal(), lambda text: pytest.fail(text))
        conversation = Conversation()
        for message in work:
            if message.role == "assistant":
                recorder.begin_reply(conversation)
                for call in message.tool_calls:
                    recorder.tool_call(call)
                recorder.text(message.content)
                assert message.finish is not None
                recorder.end_reply(message.finish)
            conversation = Conversation((*conversation.messages, message))
            recorder.sync(conversation)
        if fork:
            recorder.fork()
        await recorder.close()
        assert recorder.id is not None
        return recorder.id

    return asyncio.run(keep())


def test_the_journal_keeps_tools() -> None:
    stored = Journal().load(recorded(TALK.messages))
    assert stored.conversation == TALK and stored.state is ReplyState.WHOLE
    assert len({record.row for record in stored.records}) == 5 == stored.records[-1].row  # nothing was written twice
    assert Journal().load(recorded(TALK.messages, fork=True)).conversation == TALK
    waiting = Journal().load(recorded(TALK.messages[:4]))
    assert waiting.state is ReplyState.UNANSWERED and waiting.conversation.messages == TALK.messages[:4]


def test_messages_with_other_calls_are_other_messages() -> None:
    other = ToolCall("9", "get_weather", '{"city": "Rome"}')
    first = TALK.messages[:1]
    asked = [Message("assistant", "", FinishReason.TOOL_CALLS, tool_calls=(call,)) for call in (CALL, other)]

    async def keep() -> int | None:
        recorder = JournalRecorder(Journal(), lambda text: pytest.fail(text))
        for message in asked:
            recorder.sync(Conversation((*first, message)))
        await recorder.close()
        return recorder.id

    id = asyncio.run(keep())
    assert id is not None and Journal().load(id).conversation.messages == (*first, asked[1])


def test_a_reply_that_was_cut_keeps_no_calls() -> None:
    async def keep() -> int | None:
        recorder = JournalRecorder(Journal(), lambda text: pytest.fail(text))
        recorder.begin_reply(Conversation(TALK.messages[:1]))
        recorder.text("I look.")
        recorder.tool_call(CALL)
        recorder.end_reply(FinishReason.INTERRUPTED)
        await recorder.close()
        return recorder.id

    id = asyncio.run(keep())
    assert id is not None
    assert Journal().load(id).conversation.last == Message("assistant", "I look.", FinishReason.INTERRUPTED)


# The flags

TOOLS = 'def f() -> str:\n    "Does."\n    return "done"\n'


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--tools", "FILE", "hello"], "tool calls cannot be confirmed here"),
        (["--tools", "FILE", "--allow-tools", "g", "hello"], "unknown tool 'g'"),
        (["--allow-tools", "f", "hello"], "requires --tools"),
        (["--tools", "missing.py", "--allow-tools", "f", "hello"], "the tools file"),
    ],
)
def test_flags_that_do_not_fit(tmp_path: Path, arguments: list[str], why: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(TOOLS)
    flags, given = parse([str(path) if each == "FILE" else each for each in arguments])
    with pytest.raises(UsageError) as caught:
        allowed_toolbox(flags, config.load(given, {})[0])
    assert why in str(caught.value)


def test_tools_that_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"{TOOLS}{TOOLS.replace(' f', ' g')}")
    for allowed, names in (("f", ("f",)), ("g, f", ("f", "g")), ("all", ("f", "g"))):
        flags, given = parse(["--tools", str(path), "--allow-tools", allowed, "hello"])
        box = allowed_toolbox(flags, config.load(given, {})[0])
        assert box is not None and box.names == names
    # A file that is a setting waits for a conversation, in which somebody can be asked.
    flags, _ = parse(["hello"])
    assert allowed_toolbox(flags, config.Settings(tools=str(path))) is None
