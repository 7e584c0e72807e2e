"""Where a resumed conversation stands: its title, the last message and what was said to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitnet_chat.errors import FinishReason
from bitnet_chat.repl.display import Display
from bitnet_chat.text.cell_width import clip
from bitnet_chat.text.sanitize import one_line, visible

if TYPE_CHECKING:
    from bitnet_chat.journal import Stored

LINES = 6
"""Of the last message, which may be a whole file."""

_CUT = {
    FinishReason.CUT_OFF: "the program ended before this reply did",
    FinishReason.INTERRUPTED: "this reply was stopped",
}


def show(display: Display, stored: Stored) -> None:
    from bitnet_chat.attachments import typed
    from bitnet_chat.journal.records import State

    turns = stored.conversation.turns
    count = f"{len(turns)} message{'' if len(turns) == 1 else 's'}"
    display.notice(f"Going on with “{stored.title}” (number {stored.id}, {count}).")
    question = next((each for each in reversed(turns) if each.role == "user"), None)
    if question is not None:
        display.lines(*quoted(question.content))
    last = turns[-1] if turns else None
    answering = stored.state is State.ANSWERING
    if last is not None and last.role == "assistant":
        display.words(last.content)
        if last.was_cut:
            why = (last.finish and _CUT.get(last.finish)) or "this reply is not whole"
            if answering:
                why = "another program is still writing this reply"
            display.notice(f"[{why}: /continue goes on with it{' from here' if answering else ''}]")
    if stored.conversation.open_calls:
        display.notice("[its calls of tools were not made: /continue lets the model go on]")
    elif last is not None and last.role == "tool":
        display.notice("[the results of its calls got no reply: /continue asks for it]")
    if stored.unanswered:
        why = "Another program is answering the last message" if answering else "The last message got no reply"
        display.notice(f"{why}: {clip(one_line(typed(stored.unanswered)), 60)}")
    display.lines()


def quoted(message: str) -> list[str]:
    """The message as it stood on the prompt, its beginning where it is long."""
    from bitnet_chat.attachments import typed

    lines = visible(typed(message)).split("\n")
    shown = [f"> {lines[0]}", *(f"  {line}" for line in lines[1:LINES])]
    return [*shown, "  …"] if len(lines) > LINES else shown
