"""The user interface on a terminal.

prompt_toolkit draws the prompt; a reply is written directly to the terminal, because text that is written once does not
flicker, and the terminal scrolls it. The keyboard is in raw mode from the first prompt to the last, so input between
a prompt and its reply is neither lost nor echoed.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from prompt_toolkit.application import in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input import Input, create_input
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.layout.processors import TabsProcessor
from prompt_toolkit.output import ColorDepth, Output, create_output
from prompt_toolkit.shortcuts.prompt import PromptSession
from prompt_toolkit.styles import Style

from bitnet_chat.backend import Backend
from bitnet_chat.errors import BitnetChatError, FinishReason
from bitnet_chat.markdown import prose
from bitnet_chat.repl.completer import LineCompleter, typing_a_mention
from bitnet_chat.repl.controller import ReplController, SwitchModel
from bitnet_chat.repl.display import ReplyDisplay
from bitnet_chat.repl.history import FileHistory
from bitnet_chat.repl.input import (
    TerminalOutput,
    between_prompts,
    bindings,
    cooked_terminal,
    is_raw,
    shorten_escape_wait,
)
from bitnet_chat.repl.interfaces import ReplSettings, Verdict, clipboard_sequence
from bitnet_chat.repl.line_editing import SafeDisplayProcessor, erase_on_resize
from bitnet_chat.repl.signals import on_continue, on_interrupt
from bitnet_chat.repl.status_bar import bar
from bitnet_chat.text.cell_width import clip, tail, width
from bitnet_chat.text.sanitize import one_line, visible
from bitnet_chat.util.editor import edit

if TYPE_CHECKING:
    from bitnet_chat.attachments import Attachment
    from bitnet_chat.journal import JournalEntry, JournalStore, StoredConversation
    from bitnet_chat.repl.branches import TreeLine

REFRESH = 1.0
"""Seconds between two updates of the status bar (memory and CPU of the engine) while the prompt is shown."""

_COLOURS = {
    "prompt": "bold ansigreen",
    "bottom-toolbar": "noreverse",
    "bottom-toolbar.text": "ansibrightblack",
    "warning": "ansiyellow",
}
# No background in the bar: prompt_toolkit then writes no spaces at its end, which a narrower window would wrap.
_PLAIN = {"prompt": "", "bottom-toolbar": "noreverse", "bottom-toolbar.text": "", "warning": ""}


class TerminalUI:
    """A session on a terminal. Implements UserInterface and RemoteReplyScreen."""

    def __init__(
        self,
        backend: Backend,
        settings: ReplSettings,
        colour: bool,
        switch_model: SwitchModel | None,
        journal: JournalStore | None = None,
        attached: Sequence[Attachment] = (),
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        self._input = input or create_input()
        self._output = output or create_output()
        unicode = self._output.encoding().lower().replace("-", "") in ("utf8", "utf16")
        self._display = ReplyDisplay(
            TerminalOutput(self._output),
            colour=colour,
            spinner=True,
            unicode=unicode,
            prose=prose(settings.markdown, terminal=True, colour=colour, columns=lambda: self._columns() - 1),
            thinking=settings.thinking,
            size=self._size,
            column_prose=lambda cells: prose(settings.markdown, terminal=True, colour=colour, columns=cells),
        )
        self._controller = ReplController(backend, settings, self._display, self, switch_model, journal, attached)
        self._overflow = settings.overflow
        self._complaints: list[str] = []
        self._hint = ""
        self._preview = ""
        """The incomplete line of a reply that another client has requested."""
        self._editing: asyncio.Task[None] | None = None
        self._editor_has_terminal = False
        """Whether an external editor uses the terminal between two prompts."""
        self._session: PromptSession[str] = PromptSession(
            self._prompt,
            multiline=True,
            prompt_continuation="  ",
            history=FileHistory(settings.history_file, self._complaints.append),
            completer=LineCompleter(),
            complete_while_typing=typing_a_mention,
            key_bindings=bindings(self._open_editor, self._set_hint, self._step),
            input_processors=[SafeDisplayProcessor(), TabsProcessor(char1=" ", char2=" ")],
            bottom_toolbar=self._bar,
            refresh_interval=REFRESH,
            enable_suspend=True,
            style=Style.from_dict(_COLOURS if colour else _PLAIN),
            include_default_pygments_style=False,
            color_depth=None if colour else ColorDepth.DEPTH_1_BIT,
            input=self._input,
            output=self._output,
        )
        app = self._session.app
        shorten_escape_wait(app)
        erase_on_resize(app, os.environ)
        if sys.platform != "win32":
            app.terminal_size_polling_interval = None  # SIGWINCH reports changes
        app.after_render += self._drawn
        self._session.default_buffer.on_text_changed += lambda _: self._set_hint("")
        self._started = False

    async def run(self, notices: Sequence[str], resumed: StoredConversation | None = None) -> int:
        """Run until the user exits, and close the backend. Returns the exit code: 9 if the end of the conversation was
        not saved. ``resumed``: a conversation to continue.
        """
        try:
            with self._input.raw_mode(), on_interrupt(self._interrupt), on_continue(self._continue):
                for text in notices:
                    self._display.notice(text)
                await self._converse(self._controller.resume(resumed) if resumed is not None else "")
        finally:
            await self._controller.close()
            self._complain()
        return FinishReason.JOURNAL.exit_code if self._controller.unsaved else 0

    async def _converse(self, back: str) -> None:
        while not self._controller.leaving:
            try:
                line = await self._session.prompt_async(default=self._default(back), handle_sigint=False)
            except EOFError:
                return
            self._complain()
            with between_prompts(self._input, self._output, self._controller.interrupt, self._refuse_step):
                back = await self._controller.submit(line)

    # UserInterface: called between two prompts

    async def edit(self, text: str) -> str:
        """See :class:`bitnet_chat.repl.interfaces.UserInterface`."""
        self._editor_has_terminal = True
        try:
            with self._input.detach(), cooked_terminal(self._input, self._output):
                return await asyncio.to_thread(edit, text)
        finally:
            self._editor_has_terminal = False

    async def pick(self, entries: Sequence[JournalEntry]) -> int | None:
        from bitnet_chat.repl.dialogs import pick

        return await pick(entries, self._input, self._output)

    async def pick_message(self, lines: Sequence[TreeLine], current: int | None) -> int | None:
        from bitnet_chat.repl.dialogs import pick_message

        return await pick_message(lines, current, self._input, self._output)

    async def decide(self, question: str) -> Verdict | None:
        from bitnet_chat.repl.dialogs import decide

        return await decide(question, self._input, self._output)

    async def choose(self, question: str, count: int, enter: str, escape: str) -> int | None:
        from bitnet_chat.repl.dialogs import choose

        return await choose(question, count, enter, escape, self._input, self._output)

    async def confirm(self, question: str) -> bool:
        from bitnet_chat.repl.dialogs import confirm

        return await confirm(question, self._input, self._output)

    def copy(self, text: str) -> bool:
        self._output.write_raw(clipboard_sequence(text))
        self._output.flush()
        return True

    def complain(self, text: str) -> None:
        """Show a line about a failure in the background, as soon as the screen allows it."""
        self._complaints.append(text)
        self._session.app.invalidate()

    def _default(self, back: str) -> str:
        """Return the initial text of the next prompt: ``back``, unless keys were typed ahead, which would be appended
        to it, or it is longer than half of the window and would hide the error message. Then Arrow-Up recalls it.
        """
        ahead = get_typeahead(self._input)
        store_typeahead(self._input, ahead)
        size = self._output.get_size()
        rows = sum(1 + width(visible(line)) // size.columns for line in back.split("\n"))
        if back and (ahead or rows > size.rows // 2):
            history = self._session.history
            if back not in history.get_strings()[-1:]:  # a message of a resumed conversation
                history.append_string(back)
            self._display.notice("Arrow-Up recalls the message.")
            return ""
        return back

    def _drawn(self, _: object) -> None:
        if not self._started:
            # The engine is started after the first drawing, so that the prompt does not wait for the processor.
            self._started = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._controller.start()
        self._controller.follow(self)

    # RemoteReplyScreen

    by_lines = True

    async def above(self, write: Callable[[], None]) -> None:
        """See :class:`bitnet_chat.repl.remote_replies.RemoteReplyScreen`."""
        while self._editing is not None:
            await asyncio.wait([self._editing])
        app = self._session.app
        if not app.is_running or app.is_done:
            write()
            return
        app.renderer.erase()
        write()
        app.renderer.reset()
        app.renderer.request_absolute_cursor_position()
        app.invalidate()

    def preview(self, text: str) -> None:
        self._preview = text
        self._session.app.invalidate()

    def _prompt(self) -> StyleAndTextTuples:
        prompt: StyleAndTextTuples = [("class:prompt", "> ")]
        if not self._preview or self._session.app.is_done:
            return prompt
        return [("", f"{tail(one_line(self._preview), self._columns() - 1)}\n"), *prompt]

    def _columns(self) -> int:
        return self._output.get_size().columns

    def _size(self) -> tuple[int, int]:
        size = self._output.get_size()
        return size.columns, size.rows

    def _bar(self) -> StyleAndTextTuples:
        columns = self._columns()
        hint = self._hint or (self._complaints[0] if self._complaints else "")
        if hint:
            return [("", clip(f" {one_line(hint)}", columns))]
        draft = self._controller.cost_of(self._session.default_buffer.text)
        last, variant = self._controller.session_stats.last, str(self._controller.variant or "")
        return [*bar(self._controller.status(), last, columns, self._overflow, draft, variant)]

    def _set_hint(self, text: str) -> None:
        self._hint = text

    def _complain(self) -> None:
        for text in self._complaints:
            self._display.notice(text)
        self._complaints.clear()

    def _interrupt(self) -> None:
        """Handle a SIGINT from another process: in raw mode Ctrl-C is a key."""
        if self._editing is not None or self._editor_has_terminal:
            return  # the editor handles it
        if self._session.app.is_running:
            self._session.app.key_processor.send_sigint()
        else:
            self._controller.interrupt()

    def _continue(self) -> None:
        """Restore raw mode when the process continues after a SIGSTOP or SIGTSTP from another process. After Ctrl-Z it
        is restored elsewhere.
        """
        if self._editing is not None or self._editor_has_terminal or is_raw(self._input):
            return
        self._input.raw_mode().__enter__()  # the raw_mode() in run() restores the original mode
        if self._session.app.is_running:
            self._session.app.renderer.reset()
            self._session.app.invalidate()

    def _step(self, by: int) -> None:
        """Switch to another variant of the last reply or message, while the prompt is shown."""
        if self._controller.turn_lock.locked():
            self._refuse_step()
        else:
            self._session.app.create_background_task(self._show_step(by))

    async def _show_step(self, by: int) -> None:
        await self.above(await self._controller.step(by))

    def _refuse_step(self) -> None:
        self._set_hint("Another variant can be shown after the reply")

    def _open_editor(self, buffer: Buffer) -> None:
        if self._editing is None:
            self._editing = self._session.app.create_background_task(self._edit(buffer))

    async def _edit(self, buffer: Buffer) -> None:
        try:
            async with in_terminal():
                try:
                    # In a thread: the event loop must read the output of the loading engine.
                    text = await asyncio.to_thread(edit, buffer.text)
                except BitnetChatError as error:
                    self._display.error(error)
                else:
                    buffer.text = text
                    buffer.cursor_position = len(text)
        finally:
            self._editing = None
