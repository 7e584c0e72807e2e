"""The context window: what leaves it, what is refused before it is sent, and what an engine is given instead."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
from program import fake_engine

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.backends.wrappers.recording import record_reply
from bitnet_chat.config import Settings
from bitnet_chat.context.summary import MARK
from bitnet_chat.context.token_count import TokenCount, by_length
from bitnet_chat.context.window import ContextWindow, about_tokens, half_to_drop, messages_to_drop
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.context_window import EngineContextWindow
from bitnet_chat.engine.process import EngineProcess
from bitnet_chat.engine.prompt import EnginePrompt
from bitnet_chat.engine.supervisor import EngineSupervisor
from bitnet_chat.errors import ContextOverflowError, FinishReason
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, TextDelta
from bitnet_chat.journal import Journal, JournalRecorder
from bitnet_chat.models.gguf import read_header
from bitnet_chat.templates.builtin import TEMPLATES
from bitnet_chat.util.threads import run_beside_loop

TURNS = 100
SYSTEM = "You are a helpful guide."
QUESTIONS = ("hello", "thanks", "how do I leave?", "bye")  # of many turns; their replies are short


# Pure


def test_whole_turns_leave_and_the_newest_stay() -> None:
    turns = Conversation()
    for number in range(6):
        turns = turns.with_user(f"q{number}").with_assistant(f"a{number}")

    def dropped(room: float, *more: int) -> int:
        return messages_to_drop(turns.turns, lambda each: 10, room, *more)

    assert [dropped(room) for room in (200, 120, 119, 100, 20, 19)] == [0, 0, 2, 2, 10, 12]
    assert messages_to_drop((), lambda each: 10, 0) == 0
    assert [dropped(room, 60) for room in (120, 119, 60, 59, 20)] == [0, 6, 6, 8, 10], "not less than half"
    assert [dropped(room, 20, 80) for room in (119, 99, 79, 59)] == [4, 4, 8, 8], "each 80 bytes, of 44 a turn"
    assert [dropped(room, 70, 100) for room in (119, 99, 79)] == [2, 4, 6], "else as much as has room"
    assert 0 < half_to_drop(turns.turns) < 12 and half_to_drop(turns.turns) % 2 == 0
    assert half_to_drop(turns.turns[:2]) == 2 and half_to_drop(()) == 0


def test_what_leaves_is_counted_with_what_stands_around_it(classic: EngineBinary, model: Path) -> None:
    backend = LocalEngineBackend(Settings(engine=str(classic.path), model=str(model), journal=False))
    protocol, window = (
        backend.protocol(),
        EngineContextWindow("drop-oldest", lambda text: backend.count(text) or TokenCount(0)),
    )
    system = Conversation().with_system(SYSTEM)
    turns = system.with_user("hello").with_assistant("Hello!").with_user("thanks").with_assistant("Bye.")
    whole = protocol.cost_of_history(turns, window.count).count - protocol.cost_of_history(system, window.count).count
    assert window.cost_of_oldest(protocol, turns, 4).count == whole
    assert sum(window.count(each.content).count for each in turns.turns) < whole - 8


def test_a_window_keeps_other_conversations_whole() -> None:
    window = ContextWindow()
    long = Conversation().with_system("S").with_user("a").with_assistant("b").with_user("c").with_assistant("d")
    window.drop(long, 2, TokenCount(1234, 0.1))
    assert window.kept(long) == Conversation().with_system("S").with_user("c").with_assistant("d")
    assert window.kept(long.without_last_turn().without_last_turn()) == Conversation().with_system("S")
    other = Conversation().with_system("S").with_user("x").with_assistant("y")
    assert window.kept(other) == other and window.count_left(other) == 0
    assert window.take_note() == (
        "the context window is full: the oldest 2 of 4 messages left it, about 1,200 tokens (±10 %);"
        " the conversation still has them",
        2,
    )
    assert window.take_note() == ("", 0)
    window.follow(long)
    assert window.count_left(long) == 2
    window.follow(long.cleared())
    assert window.kept(long) == long, "the same words once more are another conversation"
    window.drop(long, 4, TokenCount(0), "they said a and c")
    assert window.kept(long).messages[0].content == f"S\n\n{MARK}\nthey said a and c"
    assert window.kept(long).turns == ()
    window.restore(())
    assert window.kept(long) == long and window.take_note() == ("", 0)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (TokenCount(9412, 0.1), "about 9,400 tokens (±10 %)"),
        (TokenCount(87, 0.03), "about 87 tokens (±3 %)"),
        (TokenCount(9412), "9,412 tokens"),
        (TokenCount(1), "1 token"),
    ],
)
def test_a_number_of_tokens_has_the_digits_that_are_known(tokens: TokenCount, words: str) -> None:
    assert about_tokens(tokens) == words


class Plain:
    """Tokens of a talk whose template is nothing. ``rendered``: characters that were looked at."""

    context_size = 1000
    max_tokens = None

    def __init__(self) -> None:
        self.rendered = 0

    def cost_of_history(self, history: Conversation, count: Callable[[str], TokenCount]) -> TokenCount:
        text = "".join(each.content for each in history.messages)
        self.rendered += len(text)
        return count(text)

    def cost_of_message(self, text: str, count: Callable[[str], TokenCount]) -> TokenCount:
        return count(text)


def prompt(history: Conversation, text: str) -> EnginePrompt:
    return EnginePrompt(history, history, text)


def test_of_a_long_history_only_what_may_stay_is_counted() -> None:
    counted: list[int] = []

    def count(text: str) -> TokenCount:
        counted.append(len(text))
        return TokenCount(len(text))

    window, protocol, history = EngineContextWindow("drop-oldest", count), Plain(), Conversation().with_system("S")
    turn = (Message("user", "q" * 20), Message("assistant", "a" * 20))
    history = Conversation((*history.messages, *(turn * 50_000)))
    dropped = window.to_drop(protocol, prompt(history, "q" * 50), None, None, "drop-oldest")  # type: ignore[arg-type]
    kept = 20 * (100_000 - dropped)
    assert 500 - 51 <= kept <= 1000 - 125 - 51 and dropped % 2 == 0
    longer = Conversation((*history.messages, *turn))
    again = window.to_drop(protocol, prompt(longer, "q" * 50), None, None, "drop-oldest")  # type: ignore[arg-type]
    assert again in (dropped, dropped + 2 * 12)
    assert sum(counted) + protocol.rendered < 30_000, "of two million characters"
    with pytest.raises(ContextOverflowError, match="outgrown") as raised:
        window.to_drop(protocol, prompt(history, "q"), None, None, "stop")  # type: ignore[arg-type]
    assert raised.value.size == 1000 and 1_900_000 < (raised.value.needed or 0) < 2_100_000


def test_what_is_as_long_as_a_conversation_runs_beside_the_loop() -> None:
    async def scene() -> list[bool]:
        short = Conversation().with_user("hello")
        long = [Conversation(short.messages * 1000), short.with_assistant("word " * 10_000)]
        loop = threading.get_ident()
        return [await run_beside_loop(each, threading.get_ident) == loop for each in (short, *long)]

    assert asyncio.run(scene()) == [True, False, False]


def test_what_one_request_was_to_be_told_another_is_not() -> None:
    supervisor = EngineSupervisor(lambda: None, EngineContextWindow("drop-oldest", by_length))  # type: ignore[arg-type, return-value]
    supervisor.notify("the engine was restarted")
    supervisor.tell("a special token of yours was kept as text")
    supervisor.window.drop(Conversation().with_user("a").with_assistant("b"), 2, TokenCount(2))
    supervisor.begin(alone=True)
    assert supervisor.take_notices(of_launch=False) == [Notice("the engine was restarted")]


# On engines


class Talker:
    """A conversation with an engine, and what each child was started with."""

    def __init__(self, settings: Settings) -> None:
        self.prompts: list[str] = []
        self.backend = LocalEngineBackend(settings, on_spawn=self._spawned)
        self.conversation = Conversation().with_system(settings.system)
        self.events: list[Event] = []

    def _spawned(self, process: EngineProcess) -> None:
        flags = [flag for flag in ("--file", "--system-prompt-file") if flag in process.argv]
        name = process.argv[process.argv.index(flags[0]) + 1] if flags else ""
        self.prompts.append(Path(name).read_bytes().decode("utf-8", "surrogateescape") if name else "")

    async def ask(self, text: str, *, stop_after: int | None = None) -> Completed | Failed:
        """``stop_after``: characters of the reply after which it is interrupted."""
        asked = self.conversation.with_user(text)
        self.events = []
        said = 0
        async for event in self.backend.reply(asked):
            self.events.append(event)
            said += len(event.text) if isinstance(event, TextDelta) else 0
            if stop_after is not None and said >= stop_after:
                self.backend.interrupt()
        last = self.events[-1]
        assert isinstance(last, Completed | Failed)
        if isinstance(last, Completed):
            assert "".join(event.text for event in self.events if isinstance(event, TextDelta)) == last.text
            self.conversation = asked.with_assistant(last.text, last.reason)
        return last

    @property
    def notices(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Notice)]


def run(settings: Settings, body: Callable[[Talker], Awaitable[None]]) -> None:
    async def main() -> None:
        talker = Talker(settings)
        try:
            await asyncio.wait_for(body(talker), 120)
        finally:
            await talker.backend.close()

    asyncio.run(main())


async def long_conversation(talker: Talker, questions: Iterable[str]) -> None:
    """Every turn is answered; every child is started with the system prompt and the newest whole turns; whenever turns
    have left the window, a line says how many."""
    protocol = talker.backend.protocol()
    left = drops = 0
    for number, question in enumerate(questions):
        history, before = talker.conversation, len(talker.prompts)
        last = await talker.ask(question)
        assert isinstance(last, Completed) and last.reason is FinishReason.STOP and last.text, (number, last)
        used, size = last.stats.context_used, last.stats.context_size
        assert size == 512 and (used is None or used < size)
        said = [
            int(count) for line in talker.notices for count in re.findall(r"the oldest (\d+) of \d+ messages", line)
        ]
        assert len(said) <= 1, "one line for one turn"
        if said:
            assert left < said[0] < len(history.turns), "the newest turn stays"
            left, drops = said[0], drops + 1
        if len(talker.prompts) > before:
            kept = Conversation(history.messages[:1] + history.turns[left:])
            assert kept.system == SYSTEM
            assert talker.prompts[-1] == protocol.launch(kept).prompt, f"turn {number} followed something else"
        else:
            assert not said, "what left was still there"
    assert len(talker.conversation.turns) == 2 * TURNS
    assert drops > 5
    assert drops < TURNS / 3, "what leaves makes room for several turns"


@pytest.mark.engine
def test_a_long_conversation_in_a_small_window(engine: EngineBinary, model: Path) -> None:
    settings = Settings(engine=str(engine.path), model=str(model), temperature=0.0, ctx=512, system=SYSTEM)
    questions = (QUESTIONS[number % len(QUESTIONS)] for number in range(TURNS))
    run(settings, lambda talker: long_conversation(talker, questions))


needs_scripts = pytest.mark.skipif(sys.platform == "win32", reason="the scripted engine is a POSIX script")


class Overflows:
    """Whether the engine of ``bitnet_2024`` has come to the end of its window."""

    def __init__(self, record: Path) -> None:
        self.record = record

    def happened(self) -> bool:
        return self.record.exists()


@pytest.fixture
def overflows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Overflows:
    monkeypatch.setenv("FAKE_ENGINE_UNORDERED", "1")
    monkeypatch.setenv("FAKE_ENGINE_OVERFLOWS", str(tmp_path / "overflows"))
    return Overflows(tmp_path / "overflows")


@pytest.fixture
def bitnet_2024(tmp_path: Path, model: Path, overflows: Overflows) -> Settings:
    """The scripted engine as BitNet 2024, and the vocabulary of its recording: bytes, three pairs and three marks."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]
    writer = gguf.GGUFWriter(tmp_path / "bytes.gguf", "bitnet")
    writer.add_context_length(2048)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*letters, "<|bos|>", "<|im_start|>", "<|im_end|>"])
    writer.add_token_types([1] * 256 + [3] * 3)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(258)
    writer.add_add_bos_token(False)
    writer.add_chat_template(read_header(model).chat_template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Settings(engine=str(fake_engine(tmp_path)), model=str(tmp_path / "bytes.gguf"), ctx=512, system=SYSTEM)


@needs_scripts
def test_a_long_conversation_never_fills_the_window_of_bitnet_2024(bitnet_2024: Settings, overflows: Overflows) -> None:
    run(bitnet_2024, lambda talker: long_conversation(talker, (f"say this is {number}" for number in range(TURNS))))
    assert not overflows.happened()


@needs_scripts
def test_the_journal_keeps_what_leaves_the_window(bitnet_2024: Settings) -> None:
    async def body(talker: Talker) -> None:
        journal = Journal()
        recorder = JournalRecorder(journal, pytest.fail)
        asked = talker.conversation
        notices = []
        for number in range(40):
            asked = asked.with_user(f"say this is {number}")
            async for event in record_reply(talker.backend, recorder, asked, ReplyOptions()):
                if isinstance(event, Notice):
                    notices.append(event.text)
            assert isinstance(event, Completed) and event.text == f"this is {number}"
            asked = asked.with_assistant(event.text, event.reason)
        await recorder.close()
        assert any("left it" in line for line in notices)
        kept = journal.latest()
        assert kept is not None and kept.conversation == asked

    run(bitnet_2024, body)


@needs_scripts
def test_a_reply_ends_where_the_window_is_full(bitnet_2024: Settings, overflows: Overflows) -> None:
    async def body(talker: Talker) -> None:
        await talker.ask("say first")
        last = await talker.ask("story")
        assert isinstance(last, Completed) and last.reason is FinishReason.CONTEXT_OVERFLOW
        assert overflows.happened() and last.text.startswith("word0 word1")
        last = await talker.ask("say next")
        assert isinstance(last, Completed) and last.text == "next"

    run(bitnet_2024, body)


@pytest.mark.engine
def test_a_message_larger_than_the_window_is_refused_before_it_is_sent(engine: EngineBinary, model: Path) -> None:
    settings = Settings(engine=str(engine.path), model=str(model), temperature=0.0, ctx=512, system=SYSTEM)

    async def body(talker: Talker) -> None:
        await talker.ask("hello")
        before = talker.conversation
        last = await talker.ask("word " * 2000)
        assert isinstance(last, Failed) and isinstance(last.error, ContextOverflowError)
        assert "about " in last.error.what and "±" in last.error.what and "512 tokens" in last.error.what
        assert not any(isinstance(event, Started) for event in talker.events)
        assert len(talker.prompts) == 1 and talker.conversation == before
        last = await talker.ask("how do I leave?")
        assert isinstance(last, Completed) and last.reason is FinishReason.STOP and talker.notices == []
        assert len(talker.prompts) == 1

    run(settings, body)


@pytest.mark.engine
def test_any_number_may_be_asked_for_as_the_size_of_the_window(engine: EngineBinary, model: Path) -> None:
    settings = Settings(engine=str(engine.path), model=str(model), temperature=0.0, ctx=300)

    async def body(talker: Talker) -> None:
        last = await talker.ask("hello there my friend " * 60)
        assert isinstance(last, Completed) and last.text and talker.notices == []
        assert last.stats.prompt_tokens and last.stats.prompt_tokens > 300 and last.stats.context_size == 512

    run(settings, body)


@pytest.mark.engine
def test_to_stop_is_a_policy(any_engine: EngineBinary, model: Path) -> None:
    settings = Settings(
        engine=str(any_engine.path), model=str(model), temperature=0.0, ctx=256, system=SYSTEM, overflow="stop"
    )

    async def body(talker: Talker) -> None:
        for number in range(100):
            last = await talker.ask(QUESTIONS[number % len(QUESTIONS)])
            if isinstance(last, Failed):
                break
        assert isinstance(last, Failed) and isinstance(last.error, ContextOverflowError)
        assert "outgrown" in last.error.what and "256 tokens" in last.error.what and "--overflow" in last.error.remedy
        assert len(talker.conversation.turns) >= 8
        assert not any("left it" in line for line in talker.notices)
        # What makes room again goes on.
        talker.conversation = talker.conversation.without_last_turn().without_last_turn()
        last = await talker.ask("thanks")
        assert isinstance(last, Completed) and last.reason is FinishReason.STOP

    run(settings, body)


def talked(turns: int, system: str = SYSTEM) -> Conversation:
    conversation = Conversation().with_system(system)
    for number in range(turns):
        conversation = conversation.with_user(f"say number {number}").with_assistant(f"number {number}")
    return conversation


@needs_scripts
def test_a_conversation_from_elsewhere_is_trimmed_before_it_is_loaded(
    bitnet_2024: Settings, overflows: Overflows
) -> None:
    async def body(talker: Talker) -> None:
        talker.conversation = talked(100)
        last = await talker.ask("say fine")
        assert isinstance(last, Completed) and last.text == "fine"
        assert len(talker.prompts) == 1 and not overflows.happened()
        assert "number 99" in talker.prompts[0] and SYSTEM in talker.prompts[0]
        (line,) = talker.notices
        assert "of 200 messages left it, about " in line

    run(bitnet_2024, body)


@needs_scripts
def test_a_system_prompt_that_leaves_no_room(bitnet_2024: Settings) -> None:
    async def body(talker: Talker) -> None:
        talker.conversation = talked(4, "x" * 600)
        last = await talker.ask("say fine")
        assert isinstance(last, Failed) and isinstance(last.error, ContextOverflowError)
        assert "of which the system prompt takes about 6" in last.error.what
        assert talker.prompts == []

    run(bitnet_2024, body)


def summarizing(settings: Settings) -> Settings:
    return replace(settings, overflow="summarize")


@needs_scripts
def test_what_leaves_is_summarised(
    bitnet_2024: Settings, overflows: Overflows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE_SUMMARY", "they counted")

    async def body(talker: Talker) -> None:
        for number in range(40):
            last = await talker.ask(f"say this is {number}")
            assert isinstance(last, Completed) and last.text == f"this is {number}", last
            if any("left it" in line for line in talker.notices):
                assert "a summary replaces them" in talker.notices[0]
                assert f"{SYSTEM}\n\n{MARK}\nthey counted" in talker.prompts[-1]
                assert f"say this is {number - 1}" in talker.prompts[-1]
        summaries = [prompt for prompt in talker.prompts if "they counted" in prompt]
        assert 2 < len(summaries) < 20
        assert len(talker.prompts) == 1 + 2 * len(summaries), "one child for each summary, one to go on with it"
        assert not overflows.happened()

    run(summarizing(bitnet_2024), body)


@needs_scripts
@pytest.mark.parametrize(
    ("summary", "changes"),
    [
        ("kill", {}),
        ("silence", {"stall_timeout": 0.5}),
        ("ponder", {"chat_template": TEMPLATES["chatml"] + "{# </think> #}"}),
    ],
)
def test_a_summary_that_fails_is_left_out(
    bitnet_2024: Settings, monkeypatch: pytest.MonkeyPatch, summary: str, changes: dict[str, Any]
) -> None:
    """The engine dies, is silent, or thinks beyond the limit of a summary."""
    monkeypatch.setenv("FAKE_ENGINE_SUMMARY", summary)

    async def body(talker: Talker) -> None:
        talker.conversation = talked(100)
        last = await talker.ask("say fine")
        assert isinstance(last, Completed) and last.text == "fine"
        assert any("not summarised" in line for line in talker.notices)
        assert MARK not in talker.prompts[-1] and "number 99" in talker.prompts[-1]

    run(replace(summarizing(bitnet_2024), **changes), body)


@needs_scripts
def test_a_summary_may_be_interrupted(bitnet_2024: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAKE_ENGINE_SUMMARY", "silence")
    monkeypatch.setenv("FAKE_ENGINE_HEARD", str(tmp_path / "heard"))

    async def body(talker: Talker) -> None:
        talker.conversation = talked(100)
        reply = asyncio.ensure_future(talker.ask("say fine"))
        while not (tmp_path / "heard").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # the engine is another program; there is nothing else to wait for
        talker.backend.interrupt()
        last = await reply
        assert isinstance(last, Completed) and last.reason is FinishReason.INTERRUPTED and last.text == ""
        assert any("not summarised" in line for line in talker.notices)
        talker.conversation = talked(100)
        last = await talker.ask("say fine")
        assert isinstance(last, Completed) and last.text == "fine" and talker.notices == []

    run(summarizing(bitnet_2024), body)


@pytest.mark.engine
def test_a_real_model_summarises(engine: EngineBinary, model: Path) -> None:
    settings = Settings(engine=str(engine.path), model=str(model), temperature=0.0, ctx=512, system=SYSTEM)

    async def body(talker: Talker) -> None:
        told = 0
        for number in range(20):
            last = await talker.ask(QUESTIONS[number % len(QUESTIONS)])
            assert isinstance(last, Completed) and last.reason is FinishReason.STOP and last.text
            told += any("a summary replaces them" in line for line in talker.notices)
        assert told and any(MARK in prompt for prompt in talker.prompts)

    run(summarizing(settings), body)


@needs_scripts
def test_a_reply_of_nothing_that_can_be_seen_fills_the_window(bitnet_2024: Settings) -> None:
    async def body(talker: Talker) -> None:
        last = await talker.ask("full")
        assert isinstance(last, Completed) and last.reason is FinishReason.CONTEXT_OVERFLOW and last.text == ""

    run(bitnet_2024, body)
