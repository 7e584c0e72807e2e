"""A question that one key answers, on a terminal: a line below the cursor, gone when it is answered."""

from __future__ import annotations

from prompt_toolkit.application import Application, get_app
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import get_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import FormattedTextControl, Layout, Window
from prompt_toolkit.output import Output
from prompt_toolkit.utils import suspend_to_background_supported

from bitnet_chat.repl.console import Verdict
from bitnet_chat.text.cell_width import clip, width

_VERDICTS: dict[str, Verdict] = {"y": "yes", "n": "no", "a": "always"}
_ESCAPE_TIME = 0.05  # seconds after which Esc is the key and not the beginning of another one's bytes


async def decide(question: str, input: Input | None = None, output: Output | None = None) -> Verdict | None:
    """What the user says; None for Esc, Ctrl-C and Ctrl-D. Other keys are no answer, and neither is Enter: it may have
    been meant for something else."""
    return await _ask(question, _VERDICTS, " · Esc stops", input, output)


async def confirm(question: str, input: Input | None = None, output: Output | None = None) -> bool:
    """Whether the user says yes; Esc, Ctrl-C and Ctrl-D say no. Other keys are ignored."""
    return await _ask(question, {"y": "yes", "n": "no"}, "", input, output) == "yes"


async def _ask(
    question: str, keys: dict[str, Verdict], more: str, input: Input | None, output: Output | None
) -> Verdict | None:
    hint = "  " + " · ".join(f"{key} {verdict}" for key, verdict in keys.items()) + more
    bindings = KeyBindings()

    def text() -> StyleAndTextTuples:
        columns = get_app().output.get_size().columns - 1
        room = columns - width(hint)
        return [("bold", clip(question, room if room > 20 else columns)), ("", hint if room > 20 else "")]

    def answers(key: str, verdict: Verdict) -> None:
        @bindings.add(key)
        @bindings.add(key.upper())
        def _(event: KeyPressEvent) -> None:
            event.app.exit(result=verdict)

    for key, verdict in keys.items():
        answers(key, verdict)

    @bindings.add(Keys.Any)
    @bindings.add(Keys.BracketedPaste)
    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        pass

    @bindings.add("escape", eager=True)
    @bindings.add("c-c")
    @bindings.add("c-d")
    @bindings.add("<sigint>")
    def _(event: KeyPressEvent) -> None:
        event.app.exit(result=None)

    @bindings.add("c-z", filter=Condition(suspend_to_background_supported))
    def _(event: KeyPressEvent) -> None:
        event.app.suspend_to_background()

    app: Application[Verdict | None] = Application(
        layout=Layout(Window(FormattedTextControl(text), height=1, dont_extend_height=True)),
        key_bindings=bindings,
        erase_when_done=True,
        include_default_pygments_style=False,
        input=input,
        output=output,
    )
    app.ttimeoutlen = _ESCAPE_TIME
    get_typeahead(app.input)  # what was typed before the question was there is no answer to it
    return await app.run_async(handle_sigint=False)
