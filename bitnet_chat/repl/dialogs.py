"""Dialogs below the cursor, erased afterwards: the choice of a conversation or a message, and questions that one key
answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from prompt_toolkit.application import Application, get_app
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import get_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import BufferControl, FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.layout.processors import BeforeInput
from prompt_toolkit.output import Output
from prompt_toolkit.utils import suspend_to_background_supported

from bitnet_chat.journal import JournalEntry, ReplyState
from bitnet_chat.journal.codec import contains_all
from bitnet_chat.repl.branches import TreeLine
from bitnet_chat.repl.interfaces import Verdict
from bitnet_chat.repl.status_bar import SEPARATOR
from bitnet_chat.text.cell_width import clip, width
from bitnet_chat.text.sanitize import one_line

T = TypeVar("T")

ROWS = 10
"""Maximum number of conversations shown at once."""

_HINT = "Enter continues it, Esc cancels, typing narrows the list"
_BRANCH_HINT = "Enter goes to its branch, Esc cancels, typing narrows the list"
_STATES = {ReplyState.CUT_OFF: "cut off", ReplyState.ANSWERING: "in use", ReplyState.UNANSWERED: "not answered"}
_ESCAPE_TIME = 0.05
"""Seconds after which ESC is the key and not the beginning of an escape sequence."""


async def pick(
    entries: Sequence[JournalEntry],
    input: Input | None = None,
    output: Output | None = None,
    now: Callable[[], float] = time.time,
) -> int | None:
    """Let the user choose a conversation. Returns its id; None if ``entries`` is empty or the choice is cancelled.

    ``now``: returns the time in seconds since the epoch, from which ages are calculated.
    """
    choices = [_Choice(each.id, f"{one_line(each.title)} {each.model}", _row_of(each, now)) for each in entries]
    return await _picked(choices, "Continue: ", _HINT, "No conversation matches.", input, output)


async def pick_message(
    lines: Sequence[TreeLine], current: int | None, input: Input | None = None, output: Output | None = None
) -> int | None:
    """Let the user choose a message. ``current``: the row at the cursor first. Returns its row; None if the choice is
    cancelled.
    """
    choices = [_Choice(line.row, line.text, partial(clip, line.text)) for line in lines]
    at = next((place for place, line in enumerate(lines) if line.row == current), 0)
    return await _picked(choices, "Branch: ", _BRANCH_HINT, "No message matches.", input, output, at)


@dataclass(frozen=True, slots=True)
class _Choice:
    id: int
    words: str
    """The text that is searched."""
    line: Callable[[int], str]
    """Returns the line for a number of columns."""


def _row_of(entry: JournalEntry, now: Callable[[], float]) -> Callable[[int], str]:
    return lambda columns: row(entry, now(), columns)


async def _picked(
    choices: Sequence[_Choice],
    label: str,
    hint: str,
    none: str,
    input: Input | None,
    output: Output | None,
    at: int = 0,
) -> int | None:
    if not choices:
        return None
    return await _Picker(choices, label, hint, none, input, output, at).app.run_async(handle_sigint=False)


def matching(entries: Sequence[JournalEntry], text: str) -> list[JournalEntry]:
    """Return the conversations whose title and model contain all words of ``text``; a word may also be their number."""
    return [entry for entry in entries if _matches(entry.id, f"{one_line(entry.title)} {entry.model}", text)]


def _matches(id: int, words: str, text: str) -> bool:
    return contains_all([word for word in text.split() if word != str(id)])(words)


def age(seconds: float) -> str:
    """Format an age in seconds: ``now``, ``5 min``, ``3 h``, ``12 d``, ``2 y``."""
    for unit, name in ((31_536_000, "y"), (86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}" if unit == 60 else f"{int(seconds // unit)} {name}"
    return "now"


def row(entry: JournalEntry, now: float, columns: int) -> str:
    """Return a line of ``columns`` cells: the title at the left; age, turns, state and model at the right, as many of
    them as fit into half of the line.
    """
    turns = f"{entry.turns} turn{'' if entry.turns == 1 else 's'}"
    facts = [age(now - entry.updated), turns, _STATES.get(entry.state, ""), one_line(entry.model)]
    facts = [fact for fact in facts if fact]
    while len(facts) > 1 and width(SEPARATOR.join(facts)) > columns // 2:
        facts.pop()
    end = clip(SEPARATOR.join(facts), max(0, columns - 2))
    room = columns - width(end) - 2
    title = clip(one_line(entry.title) or "(no title)", room) if room > 0 else ""
    return f"{title}{' ' * (columns - width(title) - width(end))}{end}"


class _Picker:
    def __init__(
        self,
        choices: Sequence[_Choice],
        label: str,
        hint: str,
        none: str,
        input: Input | None,
        output: Output | None,
        at: int,
    ) -> None:
        self._choices = choices
        self._hint_text, self._none = hint, none
        self._shown = list(choices)
        self._at = at
        self._top = 0
        self._filter = Buffer(multiline=False, on_text_changed=self._narrow)
        question = BufferControl(self._filter, input_processors=[BeforeInput(label)])
        self.app: Application[int | None] = Application(
            layout=Layout(
                HSplit(
                    [
                        Window(question, height=1, dont_extend_height=True),
                        Window(FormattedTextControl(self._list), dont_extend_height=True, wrap_lines=False),
                        Window(FormattedTextControl(self._hint), height=1, dont_extend_height=True),
                    ]
                )
            ),
            key_bindings=self._bindings(),
            erase_when_done=True,
            include_default_pygments_style=False,
            input=input,
            output=output,
        )
        self.app.ttimeoutlen = _ESCAPE_TIME

    def _narrow(self, _: Buffer) -> None:
        self._shown = [each for each in self._choices if _matches(each.id, each.words, self._filter.text)]
        self._at = self._top = 0

    def _list(self) -> StyleAndTextTuples:
        size = get_app().output.get_size()
        rows = max(1, min(ROWS, size.rows - 3))
        # Scroll by the minimum that shows the chosen entry.
        self._top = max(min(self._top, self._at), self._at - rows + 1)
        columns = size.columns - 3  # two cells for the mark; the last cell stays empty, so that no terminal wraps
        lines: StyleAndTextTuples = []
        for number, choice in enumerate(self._shown[self._top : self._top + rows], self._top):
            chosen = number == self._at
            text = f"{'>' if chosen else ' '} {choice.line(columns)}"
            lines += [("reverse" if chosen else "", text), ("", "\n")]
        return lines[:-1] if lines else [("", f"  {self._none}")]

    def _hint(self) -> StyleAndTextTuples:
        count = f" {self._at + 1 if self._shown else 0}/{len(self._shown)}"
        return [("", clip(f"{count}{SEPARATOR}{self._hint_text}", get_app().output.get_size().columns - 1))]

    def _bindings(self) -> KeyBindings:
        bindings = KeyBindings()

        def moves(by: int) -> Callable[[KeyPressEvent], None]:
            def move(event: KeyPressEvent) -> None:
                self._at = max(0, min(self._at + by, len(self._shown) - 1))

            return move

        for keys, by in ((("up", "c-p"), -1), (("down", "c-n"), 1), (("pageup",), -ROWS), (("pagedown",), ROWS)):
            for key in keys:
                bindings.add(key)(moves(by))

        @bindings.add("enter")
        @bindings.add("c-j")
        def _(event: KeyPressEvent) -> None:
            if self._shown:
                event.app.exit(result=self._shown[self._at].id)

        @bindings.add("c-z", filter=Condition(suspend_to_background_supported))
        def _(event: KeyPressEvent) -> None:
            event.app.suspend_to_background()

        @bindings.add("escape", eager=True)
        @bindings.add("c-c")
        @bindings.add("c-d")
        @bindings.add("<sigint>")
        def _(event: KeyPressEvent) -> None:
            event.app.exit(result=None)

        return bindings


_VERDICTS: dict[str, Verdict] = {"y": "yes", "n": "no", "a": "always"}


async def decide(question: str, input: Input | None = None, output: Output | None = None) -> Verdict | None:
    """Ask whether a tool may be called. Returns None for Esc, Ctrl-C and Ctrl-D. Other keys are ignored, including
    Enter, which may have been typed for another purpose.
    """
    hint = " · ".join(f"{key} {verdict}" for key, verdict in _VERDICTS.items())
    return await _ask(question, _VERDICTS, f"  {hint} · Esc stops", input, output)


async def choose(
    question: str, count: int, enter: str, escape: str, input: Input | None = None, output: Output | None = None
) -> int | None:
    """Let the user choose one of ``count`` replies. Returns its number, from 1; 0 for Enter; None for Esc, Ctrl-C and
    Ctrl-D. Other keys are ignored. ``enter``, ``escape``: what these keys mean.
    """
    others = f"Enter {enter} · Esc {escape}" if enter != escape else f"Enter or Esc {enter}"
    hint = f"1 to {count} · {others}"
    keys = {str(number): number for number in range(1, count + 1)} | {"enter": 0}
    return await _ask(question, keys, f"  {hint}", input, output)


async def confirm(question: str, input: Input | None = None, output: Output | None = None) -> bool:
    """Ask for a confirmation; Esc, Ctrl-C and Ctrl-D mean no. Other keys are ignored."""
    return await _ask(question, {"y": True, "n": False}, "  y yes · n no", input, output) is True


async def _ask(question: str, keys: Mapping[str, T], hint: str, input: Input | None, output: Output | None) -> T | None:
    bindings = KeyBindings()

    def text() -> StyleAndTextTuples:
        columns = get_app().output.get_size().columns - 1
        room = columns - width(hint)
        return [("bold", clip(question, room if room > 20 else columns)), ("", hint if room > 20 else "")]

    @bindings.add(Keys.Any)
    @bindings.add(Keys.BracketedPaste)
    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        pass

    def answers(key: str, answer: T) -> None:
        for each in {key, key if key == "enter" else key.upper()}:

            @bindings.add(each)
            def _(event: KeyPressEvent) -> None:
                event.app.exit(result=answer)

    for key, answer in keys.items():
        answers(key, answer)

    @bindings.add("escape", eager=True)
    @bindings.add("c-c")
    @bindings.add("c-d")
    @bindings.add("<sigint>")
    def _(event: KeyPressEvent) -> None:
        event.app.exit(result=None)

    @bindings.add("c-z", filter=Condition(suspend_to_background_supported))
    def _(event: KeyPressEvent) -> None:
        event.app.suspend_to_background()

    app: Application[T | None] = Application(
        layout=Layout(Window(FormattedTextControl(text), height=1, dont_extend_height=True)),
        key_bindings=bindings,
        erase_when_done=True,
        include_default_pygments_style=False,
        input=input,
        output=output,
    )
    app.ttimeoutlen = _ESCAPE_TIME
    get_typeahead(app.input)  # discards keys typed before the question, which are not an answer
    return await app.run_async(handle_sigint=False)
