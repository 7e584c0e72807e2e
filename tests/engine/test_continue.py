"""Replies that were cut go on where they stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from backend_replies import end_of, events_of, notices_in, with_backend
from program import fake_engine

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import ContextOverflowError, FinishReason, UsageError
from bitnet_chat.events import Completed, Event, Failed, TextDelta
from bitnet_chat.text.utf8 import rejoined

STORY = "tell me a long story"
CUT = FinishReason.INTERRUPTED


async def ask(
    backend: LocalEngineBackend,
    conversation: Conversation,
    options: ReplyOptions | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> tuple[Completed, list[str]]:
    events = await events_of(backend, conversation, options, on_event)
    return end_of(events), notices_in(events)


# Real engines


def settings(engine: EngineBinary, model: Path, **more: object) -> Settings:
    return Settings(engine=str(engine.path), model=str(model), temperature=0.0, **more)  # type: ignore[arg-type]


async def cut_at(backend: LocalEngineBackend, asked: Conversation, length: int) -> Completed:
    """A reply that was interrupted when so many characters were there. A busy computer may let the engine come to its
    end first: then again."""
    text = ""

    def stop(event: Event) -> None:
        nonlocal text
        if isinstance(event, TextDelta):
            text += event.text
            if len(text) >= length:
                backend.interrupt()

    for _ in range(40):
        text = ""
        cut, _ = await ask(backend, asked, on_event=stop)
        if cut.reason is CUT:
            break
    return cut


@pytest.mark.engine
def test_an_interrupted_reply_becomes_what_it_would_have_been(exact_engine: EngineBinary, model: Path) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        asked = Conversation().with_user(STORY)
        whole = (await ask(backend, asked))[0].text
        for moment in (1, 30, 77, 200, 600):
            cut = await cut_at(backend, asked, moment)
            assert cut.reason is CUT and whole.startswith(cut.text)
            if cut.text == whole:  # on a busy computer the last word may come before the interrupt is heard
                continue
            more, notices = await ask(backend, asked.with_assistant(cut.text, cut.reason))
            assert cut.text + more.text == whole, moment
            assert more.reason is FinishReason.STOP and not notices
        # And the conversation goes on behind it as behind any other reply.
        first = asked.with_assistant(whole).with_user("how do I leave?")
        after = await ask(backend, first)
        assert after[0].text == (await ask(backend, first.without_last_turn().with_user("how do I leave?")))[0].text

    with_backend(lambda: LocalEngineBackend(settings(exact_engine, model)), body)


@pytest.mark.engine
def test_a_reply_in_small_parts_is_the_same_reply(exact_engine: EngineBinary, model: Path) -> None:
    """Each part in another process, as after a restart of the program; the white space at a cut included."""
    parts: list[str] = []

    async def whole(backend: LocalEngineBackend) -> None:
        parts.append((await ask(backend, Conversation().with_user("write a Python program")))[0].text)

    with_backend(lambda: LocalEngineBackend(settings(exact_engine, model)), whole)
    expected = parts.pop()
    assert "\n" in expected

    async def part(backend: LocalEngineBackend) -> None:
        conversation = Conversation().with_user("write a Python program")
        if parts:
            conversation = conversation.with_assistant("".join(parts), FinishReason.LENGTH)
        reply, _ = await ask(backend, conversation, ReplyOptions(max_tokens=12))
        parts.append(reply.text)
        ended.append(reply.reason is FinishReason.STOP)

    ended: list[bool] = []
    while not (ended and ended[-1]) and len(ended) < 20:
        with_backend(lambda: LocalEngineBackend(settings(exact_engine, model)), part)
    assert "".join(parts) == expected
    assert len(parts) > 2


@pytest.mark.engine
def test_a_reply_that_filled_the_window_goes_on_without_what_stood_before(
    exact_engine: EngineBinary, model: Path
) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        conversation = Conversation()
        for text in ("hello", "my name is Ada", "how do I leave?"):
            conversation = conversation.with_user(text)
            conversation = conversation.with_assistant((await ask(backend, conversation))[0].text)
        conversation = conversation.with_user(STORY)
        cut, notices = await ask(backend, conversation)
        assert cut.reason is FinishReason.CONTEXT_OVERFLOW
        more, later = await ask(backend, conversation.with_assistant(cut.text, cut.reason), ReplyOptions(max_tokens=20))
        assert more.text and any("messages left it" in line for line in notices + later)

    with_backend(lambda: LocalEngineBackend(settings(exact_engine, model, ctx=256)), body)


@pytest.mark.engine
def test_a_reply_that_fills_the_window_by_itself_cannot_go_on(any_engine: EngineBinary, model: Path) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        conversation = Conversation().with_user(STORY).with_assistant("and so on " * 400, CUT)
        *_, last = [event async for event in backend.reply(conversation)]
        assert isinstance(last, Failed) and isinstance(last.error, ContextOverflowError)
        assert "cannot be continued" in str(last.error)
        assert (await ask(backend, Conversation().with_user("hello")))[0].text

    with_backend(lambda: LocalEngineBackend(settings(any_engine, model, ctx=256)), body)


@pytest.mark.engine
def test_a_modern_engine_generates_the_reply_to_a_first_message_again(modern: EngineBinary, model: Path) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        asked = Conversation().with_user(STORY)
        whole = (await ask(backend, asked, ReplyOptions(max_tokens=60)))[0].text
        known = whole[: len(whole) // 2]
        more, notices = await ask(backend, asked.with_assistant(known, CUT), ReplyOptions(max_tokens=60))
        assert (known + more.text).startswith(whole.rstrip()) and not notices

    with_backend(lambda: LocalEngineBackend(settings(modern, model)), body)


@pytest.mark.engine
def test_a_modern_engine_is_asked_to_continue(modern: EngineBinary, model: Path) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        asked = Conversation().with_user("hello").with_assistant("Hello!").with_user(STORY)
        cut = await cut_at(backend, asked, 100)
        more, notices = await ask(backend, asked.with_assistant(cut.text, cut.reason))
        assert more.text
        assert [line for line in notices if "asked to continue" in line]
        joined = asked.with_assistant(cut.text).without_last_reply().with_assistant(cut.text + more.text)
        assert (await ask(backend, joined.with_user("hello")))[1] == [], (
            "its own history is the one of the conversation"
        )

    with_backend(lambda: LocalEngineBackend(settings(modern, model)), body)


def stop_after(backend: LocalEngineBackend, characters: int) -> Callable[[Event], None]:
    arrived = 0

    def stop(event: Event) -> None:
        nonlocal arrived
        arrived += len(event.text) if isinstance(event, TextDelta) else 0
        if arrived >= characters:
            backend.interrupt()

    return stop


# The scripted engine


@pytest.fixture
def scripted(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Settings, Path]:
    """Settings for the scripted engine, and the record of its launches."""
    engine, record = fake_engine(tmp_path), tmp_path / "record.jsonl"
    monkeypatch.setenv("FAKE_ENGINE_RECORD", str(record))
    return Settings(engine=str(engine), model=str(model)), record


def prompts(record: Path) -> list[str]:
    return [json.loads(line)["prompt"] for line in record.read_text().splitlines()]


posix = pytest.mark.skipif(sys.platform == "win32", reason="the scripted engine is a POSIX script")


@posix
@pytest.mark.parametrize("kind", ["ordered", "unordered"])
def test_the_engine_gets_the_reply_without_its_end(
    scripted: tuple[Settings, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "unordered":
        monkeypatch.setenv("FAKE_ENGINE_UNORDERED", "1")
    config, record = scripted

    async def body(backend: LocalEngineBackend) -> None:
        conversation = Conversation().with_system("be kind").with_user("one").with_assistant("two").with_user("three")
        conversation = conversation.with_assistant("four  \n", CUT)
        more, notices = await ask(backend, conversation)
        assert more.text == "and more" and more.reason is FinishReason.STOP and not notices
        assert prompts(record)[-1].endswith("<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\nfour")
        joined = conversation.without_last_reply().with_assistant("four  \nand more")
        assert (await ask(backend, joined.with_user("say five")))[0].text == "five"
        assert len(prompts(record)) == 2, "the engine went on without the white space that is kept"

    with_backend(lambda: LocalEngineBackend(config), body)


@posix
def test_the_first_bytes_of_a_character_become_one_with_the_last(
    scripted: tuple[Settings, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE_MORE", "say 你好")
    config, record = scripted

    async def body(backend: LocalEngineBackend) -> None:
        cut = Conversation().with_user("one").with_assistant("so \udce4\udcbd", CUT)
        more, _ = await ask(backend, cut)
        assert prompts(record)[-1].endswith("\nso")
        assert rejoined("so \udce4\udcbd" + more.text) in ("so 你好", "so \udce4\udcbd你好")
        joined = cut.without_last_reply().with_assistant("so \udce4\udcbd" + more.text).with_user("say next")
        assert (await ask(backend, joined))[0].text == "next"
        assert len(prompts(record)) == 2, "the engine has no part of the broken character"

    with_backend(lambda: LocalEngineBackend(config), body)


@posix
def test_a_death_while_it_goes_on(scripted: tuple[Settings, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ENGINE_MORE", "once")
    config, record = scripted

    async def body(backend: LocalEngineBackend) -> None:
        cut = Conversation().with_user("one").with_assistant("so", FinishReason.ENGINE_DIED)
        more, notices = await ask(backend, cut)
        assert more.text == "survived" and len(notices) == 1
        first, second = prompts(record)
        assert first == second and first.endswith("so")

    with_backend(lambda: LocalEngineBackend(config), body)


@posix
def test_a_continuation_is_interrupted_and_continued(
    scripted: tuple[Settings, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE_MORE", "story")
    config, record = scripted

    async def body(backend: LocalEngineBackend) -> None:
        asked = Conversation().with_user("one")
        text = "so"
        for _ in range(3):
            more, _ = await ask(backend, asked.with_assistant(text, CUT), on_event=stop_after(backend, 20))
            assert more.reason is CUT and more.text.startswith("word0 ")
            text += more.text
        conversation = asked.with_assistant(text, CUT).with_user("say next")
        assert (await ask(backend, conversation))[0].text == "next"
        assert prompts(record)[-1].endswith(text + "<|im_end|>")

    with_backend(lambda: LocalEngineBackend(config), body)


@posix
def test_nothing_of_a_reply_is_asked_again(scripted: tuple[Settings, Path]) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        cut = Conversation().with_user("say hello").with_assistant("", CUT)
        assert (await ask(backend, cut))[0].text == "hello"
        for conversation in (
            Conversation().with_user("one").with_assistant("two", FinishReason.STOP),
            Conversation().with_assistant("two", CUT),
            Conversation().with_system("two"),
        ):
            with pytest.raises(UsageError):
                await ask(backend, conversation)

    with_backend(lambda: LocalEngineBackend(scripted[0]), body)


@posix
def test_a_child_that_was_loaded_behind_a_stopped_reply_is_not_told_to_go_on(scripted: tuple[Settings, Path]) -> None:
    config, record = scripted

    async def body(backend: LocalEngineBackend) -> None:
        cut = Conversation().with_system("be kind").with_user("one").with_assistant("so", CUT)
        backend.prepare(cut)
        supervisor = backend._session.supervisor
        assert supervisor.starting is not None
        await supervisor.starting
        assert supervisor.process is not None
        await supervisor.process.settled()
        assert prompts(record)[-1].endswith("so<|im_end|>")
        more, _ = await ask(backend, cut)
        assert more.text == " and more" and prompts(record)[-1].endswith("assistant\nso")

    with_backend(lambda: LocalEngineBackend(config), body)
