"""The controller of a session: it handles submitted lines, for every user interface.

It holds the state of the session: backend, conversation, journal and statistics.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bitnet_chat.backend import Backend, BackendState, BackendStatus
from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.conversation import Conversation
from bitnet_chat.conversation.export import SideNote
from bitnet_chat.errors import BitnetChatError, FinishReason
from bitnet_chat.events import Failed
from bitnet_chat.journal import JournalRecorder
from bitnet_chat.repl import commands, display
from bitnet_chat.repl.branches import Branches, tree_lines
from bitnet_chat.repl.commands import (
    CommandContext,
    SendMessage,
    UnknownCommand,
    apply,
    asked_last,
    explain,
    read,
    retyped,
)
from bitnet_chat.repl.display import ReplyDisplay
from bitnet_chat.repl.file_actions import FileActions
from bitnet_chat.repl.interfaces import ReplSettings, UserInterface
from bitnet_chat.repl.reply_choice import ReplyChoice, ReplyChooser
from bitnet_chat.repl.reply_view import ReplyView
from bitnet_chat.repl.statistics import SessionStats
from bitnet_chat.repl.variants_view import DISCARDED_IF_EMPTY
from bitnet_chat.text.sanitize import one_line
from bitnet_chat.text.utf8 import rejoined

if TYPE_CHECKING:
    from bitnet_chat.attachments import Attachment
    from bitnet_chat.journal import JournalStore, Position, StoredConversation
    from bitnet_chat.repl.remote_replies import RemoteReplyScreen
    from bitnet_chat.repl.tool_approval import ToolExecutor

WORTH_COUNTING = 200
"""Length in characters from which the token count of a message is shown while it is typed."""

SwitchModel = Callable[[str], Backend]
"""Creates a backend, not started, for the model of this name. Raises BitnetChatError."""


class ReplController:
    """Handles submitted lines. Owns the backend and the recorder; :meth:`close` closes them."""

    def __init__(
        self,
        backend: Backend,
        settings: ReplSettings,
        display: ReplyDisplay,
        console: UserInterface,
        switch_model: SwitchModel | None = None,
        journal: JournalStore | None = None,
        attached: Sequence[Attachment] = (),
    ) -> None:
        self._backend = backend
        self._previous_backend: Backend | None = None
        """With ``settings.spare``: the previous backend, loaded and ready, after a switch of models."""
        self._settings = settings
        self._display = display
        self._switch_model = switch_model
        self._journal = journal
        self._recorder = (
            JournalRecorder(None, console.complain) if journal is None else journal.recorder(console.complain)
        )
        self._remote_screen: RemoteReplyScreen | None = None
        self._following: asyncio.Task[None] | None = None
        self.turn_lock = asyncio.Lock()
        """Held while a typed line is handled, and while a reply of another client is shown."""
        self._console = console
        self._file_actions = FileActions(display, console, self._recorder if journal is not None else None)
        self._file_actions.attached.extend(attached)
        self._branches = Branches(journal, self._recorder)
        self.variant: Position | None = None
        """The position of the last reply or message among its variants."""
        self._chooser = ReplyChooser(self._recorder, self._branches, display, console)
        self._reply: ReplyView | ReplyChooser | None = None
        self._tool_executor: ToolExecutor | None = None
        if settings.toolbox is not None:
            from bitnet_chat.repl.tool_approval import ToolExecutor

            keeps_all = settings.overflow == "stop"
            self._tool_executor = ToolExecutor(
                settings.toolbox, display, console, settings.allowed_tools, keeps_all=keeps_all
            )
        self._counted: tuple[tuple[str, int], TokenCount | None] = (("", 0), None)
        """The last result of :meth:`cost_of`, with its text and number of attachments."""
        self.conversation = Conversation().with_system(settings.system)
        self.session_stats = SessionStats()
        self.leaving = False
        self._error: FinishReason | None = None
        """The finish reason of the last reply that failed."""
        self.failure: FinishReason | None = None
        """The finish reason of the first reply that is incomplete, or USAGE for an invalid line before it; interrupts
        by the user do not count.
        """
        self.unanswered = ""
        """The last message if it has no reply, else empty."""
        self._asides: tuple[SideNote, ...] = ()
        """Messages without a reply. Exports contain them, prompts do not."""

    @property
    def unsaved(self) -> bool:
        """Whether a part of the conversation could not be saved. Valid after :meth:`close`."""
        return bool(self._recorder.unsaved)

    def start(self) -> None:
        """Start to load the model, and the conversation if it has turns."""
        if self.conversation.turns:
            self._backend.prepare(self.conversation)
        else:
            self._backend.start()

    def status(self) -> BackendStatus:
        """Return the status of the backend; its spare memory includes that of the previous backend."""
        status = self._backend.status()
        previous = self._previous_backend.status().memory if self._previous_backend is not None else None
        if previous is None:
            return status
        return replace(status, spare_memory=(status.spare_memory or 0) + previous)

    def cost_of(self, text: str) -> TokenCount | None:
        """Count the tokens of the message on the prompt, with its attachments. Returns None for a short message, and
        while the model loads, because its tokenizer may not be available.
        """
        files = self._file_actions.attached
        if (len(text) < WORTH_COUNTING and not files) or self._backend.status().state is BackendState.STARTING:
            return None
        if self._counted[0] != (text, len(files)):
            from bitnet_chat.attachments import with_attachments

            self._counted = ((text, len(files)), self._backend.count(with_attachments(text, files)))
        return self._counted[1]

    def interrupt(self) -> None:
        """Stop the running reply or tool call, if any."""
        if self._reply is not None:
            self._reply.interrupt()
        elif self._tool_executor is not None:
            self._tool_executor.interrupt()
        elif self._following is not None:
            self._backend.interrupt()  # the reply of another client, for whose end a typed line waits

    def follow(self, screen: RemoteReplyScreen) -> None:
        """Show the messages of other clients in this conversation on ``screen``, if the backend reports them."""
        follow = getattr(self._backend, "follow", None)
        if follow is None or self._journal is None:
            return
        from bitnet_chat.repl.remote_replies import RemoteReplyView

        self._remote_screen = screen
        self._following = asyncio.create_task(RemoteReplyView(self, self._display, screen).run(follow()))

    async def _unfollow(self) -> None:
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.wait([following])

    async def catch_up(self) -> StoredConversation | None:
        """Load the conversation from the journal again, after another client has changed it. Returns None if it cannot
        be loaded.
        """
        if self._journal is None or self._recorder.id is None:
            return None
        try:
            stored = await asyncio.to_thread(self._journal.load, self._recorder.id)
        except BitnetChatError as error:
            self._display.error(error)
            return None
        self._adopt(stored)
        return stored

    def renamed(self, title: str) -> None:
        """Adopt the title that another client has given to the conversation."""
        self._recorder.title = title

    def removed(self) -> None:
        """Detach from the conversation, which another client has removed: the next message begins a new one."""
        title = self._recorder.title
        self._recorder.start_new()
        self._recorder.title = title

    async def close(self) -> None:
        """Close the backends and save what the recorder has not saved yet."""
        await self._unfollow()
        try:
            await self._backend.close()
            if self._previous_backend is not None:
                await self._previous_backend.close()
        finally:
            await self._recorder.close()

    async def submit(self, line: str) -> str:
        """Handle one line. Returns the text to put on the prompt: the line itself if it had no effect."""
        if not line.strip():
            return ""
        async with self.turn_lock:
            return await self._submit(line)

    async def _submit(self, line: str) -> str:
        self.unanswered = ""
        meaning = read(line)
        if isinstance(meaning, SendMessage):
            return await self._send(meaning.text, line)
        if isinstance(meaning, UnknownCommand):
            self._display.lines(explain(meaning))
            self.failure = self.failure or FinishReason.USAGE
            return ""  # input typed ahead would be appended to the line
        allowed = frozenset(self._tool_executor.allowed if self._tool_executor is not None else ())
        tools = self._settings.options.tools
        status = self.status()
        temperature = self._settings.options.sampling.over(status.sampling).temperature
        situation = CommandContext(
            self.conversation, status, self.session_stats, tools, allowed, bool(self._asides), temperature
        )
        outcome = apply(meaning, situation)
        if outcome.lines:
            self._display.lines(*outcome.lines)
        self.leaving = outcome.leave
        if outcome.variants > 1:
            await self._ask_variants(outcome.conversation, outcome.variants)
            return ""
        if outcome.ask:
            place, dropped = len(outcome.conversation.messages), "the conversation is unchanged."
            variant = self.variant  # /continue: that of the reply
            if place < len(self.conversation.messages):
                variant = await self._branches.position_of_replacement(place)
            await self._ask(outcome.conversation, f"Stopped before the first word: {dropped}", variant)
            return ""
        if outcome.conversation != self.conversation:
            self._replace_conversation(outcome.conversation, anew=outcome.anew)
        self.unanswered = outcome.back
        return await self._run(outcome.action) if outcome.action is not None else outcome.back

    async def _send(self, text: str, line: str) -> str:
        message = await self._file_actions.with_files(text, self._backend)
        if message is None:
            self.unanswered = line
            self.failure = self.failure or FinishReason.USAGE
            return line
        dropped = "Stopped before the first word: the message is not part of the conversation."
        if await self._ask(self.conversation.with_user(message), dropped):
            self.unanswered = line
        else:
            self._file_actions.sent()
        return self.unanswered

    def _replace_conversation(self, conversation: Conversation, *, anew: bool = False) -> None:
        """Replace the conversation here, in the journal and in the backend."""
        self.conversation, self.variant = conversation, None
        self._asides = () if anew else _within(self._asides, conversation)
        if anew:
            self._recorder.start_new()
        else:
            self._recorder.sync(conversation)
        self._backend.prepare(conversation)

    async def _run(self, action: commands.Action) -> str:
        """Carry out an action of a command. Returns the text to put on the prompt."""
        match action:
            case commands.SwitchModel(name):
                await self._switch(name)
            case commands.Compare(name, blind):
                await self._compare(name, blind)
            case commands.Resume(id):
                return await self._resume(id)
            case commands.ShowTree(row):
                return await self._choose_branch(row)
            case commands.Rename(title):
                self._file_actions.rename(title)
            case commands.Fork():
                self._fork()
            case commands.Edit(text):
                return await self._edit(text)
            case commands.Write():
                await self._write(action)
            case commands.Copy():
                self._file_actions.copy(action)
            case commands.Attach():
                await self._file_actions.attach(action, self._backend)
            case commands.ShowThoughts(text, mode):
                self._show_thoughts(text, mode)
        return ""

    async def _ask(self, conversation: Conversation, dropped: str, variant: Position | None = None) -> bool:
        """Request, show and store a reply, and the further ones to the results of its tool calls. Returns True if the
        first reply failed and the conversation is unchanged. ``dropped``: the notice for an empty reply. ``variant``:
        the position of the reply or its message among the variants.
        """
        before = self.conversation, self.variant
        self.variant, self._display.variant = variant, str(variant or "")
        try:
            return await self._request_replies(conversation, dropped)
        finally:
            self._display.variant = ""
            if self.conversation is before[0]:
                self.variant = before[1]

    async def _request_replies(self, conversation: Conversation, dropped: str) -> bool:
        failed = await self._request_reply(conversation, dropped)
        if not failed:
            await self._answer_calls()
        return failed

    async def _answer_calls(self) -> None:
        """Execute the tool calls of the last reply, and request the replies to their results."""
        rounds = 0
        while self._tool_executor is not None and self.conversation.open_calls:
            answered, continues = await self._tool_executor.answer(self.conversation, rounds, self._backend)
            self.conversation, rounds = answered, rounds + 1
            self._recorder.sync(answered)
            if not continues:
                self._display.lines()
                self._backend.prepare(answered)
            elif await self._request_reply(answered, "No further text: /continue tries again."):
                fits = self._error is not FinishReason.CONTEXT_OVERFLOW
                way = "/continue tries again" if fits else "/undo removes the message"
                self._display.lines(f"The results are saved: {way}.")
                return

    async def _request_reply(self, conversation: Conversation, dropped: str) -> bool:
        """Request, show and store one reply. Returns True if it failed and the conversation is unchanged."""
        last = conversation.last
        continues = last is not None and last.role == "assistant"
        settings = self._settings
        pace = settings.typing_speed if self._backend.status().in_bursts else None
        self._reply = ReplyView(self._backend, conversation, settings.options, self._display, pace, self._recorder)
        try:
            event = await self._reply.run()
        finally:
            thinking, calls, self._reply = self._reply.thinking, self._reply.calls, None
        reason = event.error.reason if isinstance(event, Failed) else event.reason
        if reason.exit_code and reason is not FinishReason.INTERRUPTED:
            self.failure = self.failure or reason
        is_discarded = not event.text and not isinstance(event, Failed) and event.reason in DISCARDED_IF_EMPTY
        if isinstance(event, Failed) or is_discarded:
            if not isinstance(event, Failed):
                self._display.notice(dropped)
                self._display.lines()
            else:
                self._error = event.error.reason
            if conversation.messages[:-1] != self.conversation.messages:
                self._recorder.sync(self.conversation)  # the stored turn is not replaced
            elif last is not None and last.role == "user":
                aside = SideNote(len(self.conversation.messages), last)
                self._asides = (*(each for each in self._asides if each != aside), aside)
            return isinstance(event, Failed)
        self.session_stats = self.session_stats.plus(event.stats)
        if continues:
            assert last is not None
            conversation = conversation.without_last_reply()
            event = replace(event, text=rejoined(last.content + event.text))
            thinking = last.thinking + thinking
        calls = calls if event.reason is FinishReason.TOOL_CALLS else ()
        answered = SideNote(len(conversation.messages) - 1, last) if last is not None else None
        self.conversation = conversation.with_assistant(event.text, event.reason, thinking, calls)
        self._asides = _within([each for each in self._asides if each != answered], self.conversation)
        self._backend.prepare(self.conversation)  # prefill while the user reads
        return False

    async def _ask_variants(self, conversation: Conversation, count: int) -> None:
        """Request, show and store several replies to ``conversation``, and continue with the one that is chosen."""
        self._reply = self._chooser
        try:
            choice = await self._chooser.variants(self._backend, conversation, self._settings.options, count)
        finally:
            self._reply = None
        await self._adopt_choice(choice)

    async def _compare(self, name: str, blind: bool) -> None:
        """Ask another model the last message, and continue with the reply that the user chooses, and with the present
        model.
        """
        asked = self._last_asked()
        if asked is None:
            self._display.lines("No message to compare replies to.")
            return
        other = await self._other_model(name)
        if other is None:
            return
        self._reply = self._chooser
        try:
            choice = await self._chooser.compare(
                self._backend, other, asked, self.conversation, self._settings.options, blind
            )
        finally:
            self._reply = None
            await self._put_away(other)
        await self._adopt_choice(choice)

    async def _adopt_choice(self, choice: ReplyChoice) -> None:
        """Continue after several replies."""
        for event in (reply.event for reply in choice.generated if reply is not None):
            reason = event.error.reason if isinstance(event, Failed) else event.reason
            if reason.exit_code and reason is not FinishReason.INTERRUPTED:
                self.failure = self.failure or reason
            if not isinstance(event, Failed):
                self.session_stats = self.session_stats.plus(event.stats)
        if choice.conversation is not None:
            place, self.conversation, self.variant = len(choice.conversation.messages) - 2, choice.conversation, None
            aside = SideNote(place, choice.conversation.messages[place])
            self._asides = _within([each for each in self._asides if each != aside], self.conversation)
        if choice.stored is not None:
            self._recorder.set_head(choice.stored)
            self.variant = choice.stored.turn_position
        else:
            self._recorder.sync(self.conversation)
        self._backend.prepare(self.conversation)
        position = f" {self.variant or ''}".rstrip() if choice.conversation is not None else ""
        self._display.lines(f"{choice.line}{position}")
        if choice.conversation is not None:
            await self._answer_calls()

    def _last_asked(self) -> Conversation | None:
        """The conversation up to the last message, which may have no reply. None without a message."""
        if self._asides and self._asides[-1].place == len(self.conversation.messages):
            return self.conversation.with_user(self._asides[-1].message.content)
        return asked_last(self.conversation)

    async def _other_model(self, name: str) -> Backend | None:
        """Make the backend of another model. None after a message to the user."""
        if self._switch_model is None:
            self._display.lines("Models cannot be compared in this session: the model is fixed.")
            return None
        try:
            other = self._switch_model(name)
        except BitnetChatError as error:
            self._display.error(error)
            return None
        model, previous = other.status().model, self._previous_backend
        if model == self._backend.status().model:
            await other.close()
            self._display.lines(f"{one_line(model)} is the present model: /regen 2 generates two of its replies.")
            return None
        if previous is not None and previous.status().model == model:
            await other.close()
            return previous
        other.start()
        return other

    async def _put_away(self, other: Backend) -> None:
        """Close the backend of a comparison, or keep it loaded as that of the previous model."""
        if other is self._previous_backend:
            return
        if self._settings.spare:
            other, self._previous_backend = self._previous_backend or other, other
        if other is not self._previous_backend:
            await other.close()

    async def _edit(self, text: str) -> str:
        """Let the user edit the last message, and send it. Returns it for the prompt if it gets no reply."""
        try:
            edited = await self._console.edit(text)
        except BitnetChatError as error:
            self._display.error(error)
            return ""
        if edited == text or not edited.strip():
            self._display.lines("The message is unchanged." if edited.strip() else "An empty message is not sent.")
            return ""
        self._display.lines(*display.quoted(edited))
        before = self.conversation.without_last_turn()
        variant = await self._branches.position_of_replacement(len(before.messages))
        dropped = "Stopped before the first word: the conversation is unchanged."
        if await self._ask(before.with_user(edited), dropped, variant):
            self.unanswered = retyped(edited)
        return self.unanswered

    async def _write(self, action: commands.Write) -> None:
        branches = await self._branches.messages() if action.branches else None
        if isinstance(branches, str):
            self._display.lines(branches)
        else:
            await self._file_actions.write(action, self.conversation, self._asides, branches)

    def _fork(self) -> None:
        if self._journal is None:
            self._display.lines("Nothing to fork: this conversation is not saved.")
            return
        before = self._recorder.id
        self._recorder.fork()
        kept = f" /resume {before} returns to the original." if before is not None else ""
        self._display.lines(f"Forked: new messages go to the copy.{kept}")

    async def _resume(self, id: int | None) -> str:
        journal = self._journal
        if journal is None:
            self._display.lines("Conversations are not saved in this session.")
            return ""
        try:
            if id is None:
                entries = [each for each in await asyncio.to_thread(journal.list) if each.id != self._recorder.id]
                if not entries:
                    self._display.lines("The journal has no other conversation.")
                    return ""
                id = await self._console.pick(entries)
                if id is None:
                    return ""
            stored = await asyncio.to_thread(journal.load, id)
        except BitnetChatError as error:
            self._display.error(error)
            return ""
        if id == self._recorder.id:
            self._display.lines("This conversation is already open.")
            return ""
        back = self.resume(stored)
        self._backend.prepare(self.conversation)
        return back

    def resume(self, stored: StoredConversation) -> str:
        """Continue a stored conversation and show its end. Returns the text to put on the prompt: a message without
        a reply.
        """
        self._recorder.resume(stored)
        self._adopt(stored)
        display.show(self._display, stored)
        self.unanswered = retyped(stored.unanswered)
        return self.unanswered

    def _adopt(self, stored: StoredConversation) -> None:
        self.conversation, self._asides = stored.conversation, stored.asides
        self.variant = stored.turn_position

    async def step(self, by: int) -> Callable[[], None]:
        """Switch to the next (1) or previous (-1) variant of the last reply or message. Returns a function that shows
        the result.
        """
        async with self.turn_lock:
            found = await self._branches.beside(by)
            if isinstance(found, str):
                line = found
                return lambda: self._display.lines(line)
            stored = found
            self._go_to(stored)
            return lambda: display.show(self._display, stored, is_branch=True)

    async def _choose_branch(self, row: int | None) -> str:
        """Switch to the branch through a message. Returns the text to put on the prompt."""
        tree = await self._branches.tree()
        if isinstance(tree, str):
            self._display.lines(tree)
            return ""
        if row is None:
            row = await self._console.pick_message(tree_lines(tree), tree.head)
            if row is None:
                return ""
        found = await self._branches.through(tree, row)
        if isinstance(found, str):
            self._display.lines(found)
            return ""
        self._go_to(found)
        display.show(self._display, found, is_branch=True)
        self.unanswered = retyped(found.unanswered)
        return self.unanswered

    def _go_to(self, stored: StoredConversation) -> None:
        """Continue with another branch of the conversation."""
        self._recorder.set_head(stored)
        self._adopt(stored)
        self._backend.prepare(self.conversation)

    def _show_thoughts(self, text: str, mode: commands.ThinkingMode | None) -> None:
        if mode is not None:
            self._display.thinking = mode
            self._display.lines(f"Thoughts: {mode}.")
        else:
            self._display.thoughts(text, whole=True)

    async def _switch(self, name: str) -> None:
        if self._switch_model is None:
            self._display.lines("The model cannot be changed in this session: start bitnet-chat with another one.")
            return
        try:
            other = self._switch_model(name)
        except BitnetChatError as error:
            self._display.error(error)
            return
        before, previous = self._backend, self._previous_backend
        if previous is not None and previous.status().model == other.status().model:
            await other.close()
            other = previous
        elif previous is not None:
            await previous.close()
        self._backend, self._previous_backend = other, None
        if self._settings.spare:
            self._previous_backend = before
        else:
            await before.close()
        if self._remote_screen is not None:
            await self._unfollow()
            self.follow(self._remote_screen)
        other.prepare(self.conversation)
        self._display.lines(f"Next model: {one_line(other.status().model)}.")


def _within(asides: Sequence[SideNote], conversation: Conversation) -> tuple[SideNote, ...]:
    """Return the side notes whose place is within ``conversation``."""
    return tuple(each for each in asides if each.place <= len(conversation.messages))
