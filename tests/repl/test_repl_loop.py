"""The prompt on a terminal, seen from inside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput
from scripted_backend import ScriptedBackend, by_message

from bitnet_chat.conversation import Conversation
from bitnet_chat.journal import Journal, JournalRecorder
from bitnet_chat.repl import ReplSettings
from bitnet_chat.repl import terminal_ui as loop_module
from bitnet_chat.repl.input import ESCAPE
from bitnet_chat.repl.terminal_ui import TerminalUI

ALT_LEFT, ALT_RIGHT = "\x1b[1;3D", "\x1b[1;3C"
UP, ENTER, ESC, CTRL_C, CTRL_D = "\x1b[A", "\r", "\x1b", "\x03", "\x04"


class Small(DummyOutput):
    """A terminal of 60 cells and 12 lines that shows nothing."""

    def get_size(self) -> Size:
        return Size(rows=12, columns=60)


def made(keyboard: PipeInput, backend: ScriptedBackend, history: Path | None = None) -> TerminalUI:
    settings = ReplSettings(model="m", history_file=history)
    return TerminalUI(backend, settings, False, None, Journal(), input=keyboard, output=Small())


def test_a_complaint_is_in_the_bar_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "REFRESH", 3600.0)

    async def work() -> None:
        with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=Small()):
            loop = made(keyboard, ScriptedBackend(by_message))
            drawn, told = asyncio.Event(), asyncio.Event()

            def look(_: object) -> None:
                drawn.set()
                if "the disk is full" in "".join(text for _, text, *_ in loop._bar()):
                    told.set()

            loop._session.app.after_render += look
            running = asyncio.create_task(loop.run([]))
            async with asyncio.timeout(20):
                await drawn.wait()
                loop.complain("the disk is full")
                await told.wait()
                keyboard.send_text(CTRL_D)
                assert await running == 0

    asyncio.run(work())


def test_a_lone_escape_does_not_take_the_next_key_with_it() -> None:
    async def work() -> None:
        with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=Small()):
            loop = made(keyboard, ScriptedBackend(by_message))
            app, buffer = loop._session.app, loop._session.default_buffer
            drawn, pressed = asyncio.Event(), asyncio.Event()
            app.after_render += lambda _: drawn.set()
            app.key_processor.after_key_press += lambda _: pressed.set()

            async def until(text: str) -> None:
                while buffer.text != text:  # noqa: ASYNC110 - short waits
                    await asyncio.sleep(0.01)

            running = asyncio.create_task(loop.run([]))
            async with asyncio.timeout(20):
                await drawn.wait()
                keyboard.send_text(ESC)
                await pressed.wait()
                for _ in range(20):  # turns of the loop, which take no time
                    await asyncio.sleep(0)
                keyboard.send_text("/undo")
                await until("/undo")
                keyboard.send_text(ESC + ENTER + "x")  # an Alt key
                await until("/undo\nx")
                assert (app.ttimeoutlen, app.timeoutlen) == (ESCAPE, 1.0)  # Ctrl-X Ctrl-E is typed by hand
                keyboard.send_text(CTRL_C + CTRL_D)
                assert await running == 0

    asyncio.run(work())


@pytest.mark.parametrize("kept", [True, False])
def test_a_long_message_of_another_session_is_where_it_is_said_to_be(tmp_path: Path, kept: bool) -> None:
    message = "\n".join(f"line {number}" for number in range(40))

    async def work() -> None:
        recorder = JournalRecorder(Journal(), pytest.fail)
        recorder.sync(Conversation().with_user(message))
        await recorder.close()
        stored = Journal().latest()
        assert stored is not None and stored.unanswered == message
        backend = ScriptedBackend(by_message)
        with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=Small()):
            loop = made(keyboard, backend, tmp_path / "history" if kept else None)
            drawn = asyncio.Event()
            loop._session.app.after_render += lambda _: drawn.set()
            running = asyncio.create_task(loop.run([], stored))
            async with asyncio.timeout(20):
                await drawn.wait()
                while loop._session.default_buffer.text != message:
                    keyboard.send_text(UP)
                    await asyncio.sleep(0.01)
                keyboard.send_text(ENTER)
                while not backend.asked:  # noqa: ASYNC110 - a backend sets no event
                    await asyncio.sleep(0.01)
                keyboard.send_text(CTRL_D)
                assert await running == 0
        assert backend.asked[0].last is not None and backend.asked[0].last.content == message

    asyncio.run(work())


def test_alt_arrows_walk_the_variants_and_are_refused_during_a_reply() -> None:
    async def work() -> None:
        backend = ScriptedBackend(by_message)
        with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=Small()):
            loop = made(keyboard, backend)
            drawn = asyncio.Event()
            loop._session.app.after_render += lambda _: drawn.set()
            running = asyncio.create_task(loop.run([]))

            async def until(holds: Callable[[], bool]) -> None:
                while not holds():  # noqa: ASYNC110 - short waits
                    await asyncio.sleep(0.01)

            async with asyncio.timeout(30):
                await drawn.wait()
                for number, line in enumerate(("hello", "/regen"), 1):
                    keyboard.send_text(line + ENTER)
                    await until(lambda number=number: len(backend.prepared) == number)  # type: ignore[misc]
                await until(lambda: loop._session.app.is_running)
                assert str(loop._controller.variant) == "< 2/2 >" and "< 2/2 >" in bar_of(loop)
                keyboard.send_text("typed" + ALT_LEFT)
                await until(lambda: str(loop._controller.variant) == "< 1/2 >")
                assert loop._session.default_buffer.text == "typed"
                keyboard.send_text(ALT_RIGHT)
                await until(lambda: str(loop._controller.variant) == "< 2/2 >")
                async with loop._controller.turn_lock:  # the reply of another client
                    keyboard.send_text(ALT_LEFT)
                    await until(lambda: "after the reply" in bar_of(loop))
                keyboard.send_text(CTRL_C + "wait" + ENTER)
                await until(lambda: len(backend.asked) == 3)
                await asyncio.sleep(0.05)
                keyboard.send_text(ALT_LEFT)
                await asyncio.sleep(0.05)
                keyboard.send_text(CTRL_C)
                await until(lambda: loop._session.app.is_running)
                assert "after the reply" in bar_of(loop)
                keyboard.send_text(CTRL_D)
                assert await running == 0
        assert [message.content for message in backend.asked[2].messages[-1:]] == ["wait"]

    asyncio.run(work())
    assert Journal().load(1).records[1].row == 3


def bar_of(loop: TerminalUI) -> str:
    return "".join(text for _, text, *_ in loop._bar())
