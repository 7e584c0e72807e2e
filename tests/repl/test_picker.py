"""The list to pick a conversation from: keys, filter, narrow terminals, and nothing left of it."""

from __future__ import annotations

import asyncio
import io
import sys

import pyte
import pytest
from prompt_toolkit.application import Application
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from prompt_toolkit.output.vt100 import Vt100_Output

from bitnet_chat.journal import JournalEntry, ReplyState
from bitnet_chat.repl.branches import TreeLine
from bitnet_chat.repl.dialogs import age, choose, matching, pick, pick_message, row
from bitnet_chat.repl.status_bar import width

UP, DOWN, PAGE_DOWN, ENTER, ESC, CTRL_C, CTRL_D = "\x1b[A", "\x1b[B", "\x1b[6~", "\r", "\x1b", "\x03", "\x04"
CTRL_Z = "\x1a"
NOW = 1_000_000_000.0


def entry(
    id: int, title: str, *, ago: float = 0.0, turns: int = 2, state: ReplyState = ReplyState.WHOLE
) -> JournalEntry:
    return JournalEntry(id, title, NOW - ago, NOW - ago, turns, "a-model", state)


ENTRIES = [
    entry(30, "About bread"),
    entry(20, "数据和模型的长标题" * 6, ago=3 * 3600, turns=1),
    entry(10, "evil \x1b[2J \x9b title\u202e", ago=40 * 86400, state=ReplyState.CUT_OFF),
    *[entry(100 + number, f"Number {number}", ago=900 * 86400) for number in range(30)],
]


def picked(*keys: str, entries: list[JournalEntry] = ENTRIES) -> int | None:
    async def choose() -> int | None:
        with create_pipe_input() as keyboard:
            keyboard.send_text("".join(keys))
            async with asyncio.timeout(60):
                return await pick(entries, keyboard, DummyOutput(), lambda: NOW)

    return asyncio.run(choose())


@pytest.mark.parametrize(
    ("keys", "id"),
    [
        ((ENTER,), 30),
        ((DOWN, ENTER), 20),
        ((DOWN, DOWN, UP, ENTER), 20),
        ((UP, ENTER), 30),
        ((PAGE_DOWN, ENTER), 107),
        ((*[PAGE_DOWN] * 9, ENTER), 129),
        (("bread", ENTER), 30),
        (("MODEL 29", ENTER), 129),
        (("模型", ENTER), 20),
        (("10", ENTER), 10),
        (("number 1", DOWN, ENTER), 110),
        (("nothing has this", ENTER, *["\x7f"] * 16, DOWN, ENTER), 20),
        ((CTRL_C,), None),
        ((CTRL_D,), None),
        ((ESC,), None),
        (("bread", ESC), None),
    ],
)
def test_keys(keys: tuple[str, ...], id: int | None) -> None:
    assert picked(*keys) == id


@pytest.mark.skipif(sys.platform == "win32", reason="nothing can be suspended there")
def test_ctrl_z_suspends_and_is_no_word_to_look_for(monkeypatch: pytest.MonkeyPatch) -> None:
    suspended: list[bool] = []
    monkeypatch.setattr(Application, "suspend_to_background", lambda self: suspended.append(True))
    assert picked("bread", CTRL_Z, ENTER) == 30
    assert suspended == [True]


@pytest.mark.parametrize(
    ("keys", "row"), [((ENTER,), 7), ((UP, ENTER), 5), (("regen", ENTER), 5), (("9", ENTER), 9), ((ESC,), None)]
)
def test_a_message_is_picked(keys: tuple[str, ...], row: int | None) -> None:
    """The cursor starts at the current one."""
    lines = [
        TreeLine(3, "  you: hello"),
        TreeLine(5, "  model < 1/2 >: regen"),
        TreeLine(7, "* model"),
        TreeLine(9, "x"),
    ]

    async def choose() -> int | None:
        with create_pipe_input() as keyboard:
            keyboard.send_text("".join(keys))
            async with asyncio.timeout(60):
                return await pick_message(lines, 7, keyboard, DummyOutput())

    assert asyncio.run(choose()) == row


@pytest.mark.parametrize(
    ("keys", "number"), [("2", 2), ("x45 \t3", 3), (ENTER, 0), (ESC, None), (CTRL_C, None), (CTRL_D, None)]
)
def test_the_choice_of_a_reply(keys: str, number: int | None) -> None:
    async def chosen() -> int | None:
        with create_pipe_input() as keyboard:
            keyboard.send_text(keys)
            async with asyncio.timeout(60):
                return await choose("Which reply is better?", 3, "neither", "no vote", keyboard, DummyOutput())

    assert asyncio.run(chosen()) == number


def test_nothing_to_pick() -> None:
    assert picked(entries=[]) is None


class Screen:
    """What a terminal of this size shows of what is written."""

    encoding = "utf-8"

    def __init__(self, columns: int, lines: int) -> None:
        self.screen = pyte.HistoryScreen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.buffer = io.BytesIO()
        self.output = Vt100_Output(self, lambda: Size(lines, columns), term="xterm-256color", enable_cpr=False)  # type: ignore[arg-type]

    def write(self, text: str) -> None:
        self._stream.feed(text.encode().replace(b"\n", b"\r\n"))

    def flush(self) -> None:
        self._stream.feed(self.buffer.getvalue())
        self.buffer.seek(0)
        self.buffer.truncate()

    def fileno(self) -> int:
        raise io.UnsupportedOperation

    def isatty(self) -> bool:
        return True

    async def shows(self, text: str) -> None:
        while not any(text in line for line in self.lines):  # noqa: ASYNC110 - a screen sets no event
            await asyncio.sleep(0.005)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]


@pytest.mark.parametrize(("columns", "lines"), [(100, 24), (80, 24), (40, 24), (40, 8), (20, 5)])
def test_what_is_shown_and_that_nothing_is_left(columns: int, lines: int) -> None:
    screen = Screen(columns, lines)
    screen.write("before\n")
    shown: list[list[str]] = []

    async def choose() -> None:
        with create_pipe_input() as keyboard:
            task = asyncio.create_task(pick(ENTRIES, keyboard, screen.output, lambda: NOW))
            async with asyncio.timeout(60):
                await screen.shows("/33")
                shown.append(screen.lines)
                keyboard.send_text(DOWN * 2)
                await screen.shows("> evil")
                shown.append(screen.lines)
                keyboard.send_text(ENTER)
                assert await task == 10

    asyncio.run(choose())
    first, second = shown
    assert first[:2] == ["before", "Continue:"]
    rows = min(10, lines - 3)
    assert first[2].startswith("> About bread")
    assert len([line for line in first if line]) == min(rows + 3, lines)
    if columns >= 80:
        assert first[2].rstrip().endswith("now · 2 turns · a-model") and "3 h · 1 turn · a-model" in first[3]
        assert "cut off" in second[4] and "␛[2J <U+009B> title<U+202E>" in second[4]
    assert all(width(line) <= columns for line in first)
    assert [line for line in screen.lines if line] == ["before"]
    assert (screen.screen.cursor.x, screen.screen.cursor.y) == (0, 1)


@pytest.mark.parametrize("columns", range(4, 120, 7))
@pytest.mark.parametrize("which", range(4))
def test_rows_are_as_wide_as_the_terminal(columns: int, which: int) -> None:
    text = row(ENTRIES[which], NOW, columns)
    assert width(text) == columns
    assert text.isprintable()


def test_matching() -> None:
    assert [each.id for each in matching(ENTRIES, "bread ABOUT")] == [30]
    assert matching(ENTRIES, "") == ENTRIES
    assert matching(ENTRIES, "bread number") == []


def test_ages() -> None:
    assert [age(seconds) for seconds in (-5, 0, 59, 60, 3599, 3600, 86399, 86400, 31_536_000)] == [
        "now", "now", "now", "1 min", "60 min", "1 h", "23 h", "1 d", "1 y",
    ]  # fmt: skip
