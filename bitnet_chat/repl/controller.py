"""The state of one REPL, for every user interface: backend, conversation, journal, statistics."""

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
from bitnet_chat.repl.commands import CommandContext, SendMessage, UnknownCommand, apply, explain, read, retyped
from bitnet_chat.repl.display import ReplyDisplay
from bitnet_chat.repl.file_actions import FileActions
from bitnet_chat.repl.interfaces import ReplSettings, UserInterface
from bitnet_chat.repl.reply_view import ReplyView
from bitnet_chat.repl.statistics import SessionStats
from bitnet_chat.text.sanitize import one_line
from bitnet_chat.text.utf8 import rejoined

if TYPE_CHECKING:
    from bitnet_chat.attachments import Attachment
    from bitnet_chat.journal import JournalStore, StoredConversation
    from bitnet_chat.repl.remote_replies import RemoteReplyScreen
    from bitnet_chat.repl.tool_approval import ToolExecutor

WORTH_COUNTING = 200
"""Characters from which on the cost of a message is shown while it is typed."""

SwitchModel = Callable[[str], Backend]

_UNSAID = (FinishReason.INTERRUPTED, FinishReason.EMPTY)
"""Ends of a reply that is left out of the conversation if it is empty."""


class ReplController:
    """Handles submitted lines. Owns the backend and the recorder: ``close`` closes the current ones."""

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
        self._parked: Backend | None = None
        """With ``settings.spare``: the previous backend, loaded and ready, after a switch of models."""
        self._settings = settings
        self._display = display
        self._switch_model = switch_model
        self._journal = journal
        self._recorder = (
            JournalRecorder(None, console.complain) if journal is None else journal.recorder(console.complain)
        )
        self._stage: RemoteReplyScreen | None = None
        self._following: asyncio.Task[None] | None = None
        self.floor = asyncio.Lock()
        """Held during a turn: of a line typed here, or of a reply requested by another client."""
        self._console = console
        self._file_actions = FileActions(display, console, self._recorder if journal is not None else None)
        self._file_actions.attached.extend(attached)
        self._reply: ReplyView | None = None
        self._tool_executor: ToolExecutor | None = None
        if settings.toolbox is not None:
            from bitnet_chat.repl.tool_approval import ToolExecutor

            keeps_all = settings.overflow == "stop"
            self._tool_executor = ToolExecutor(
                settings.toolbox, display, console, settings.allowed_tools, keeps_all=keeps_all
            )
        self._counted: tuple[tuple[str, int], TokenCount | None] = (("", 0), None)
        self.conversation = Conversation().with_system(settings.system)
        self.session_stats = SessionStats()
        self.leaving = False
        self._error: FinishReason | None = None
        """The error of the last reply that failed."""
        self.failure: FinishReason | None = None
        """The end of the first incomplete reply, or the refusal of the first line; not an interrupt by the user."""
        self.unanswered = ""
        """The last message, if it has no reply."""
        self._asides: tuple[SideNote, ...] = ()
        """Messages without a reply. Exports contain them, prompts do not."""

    @property
    def unsaved(self) -> bool:
        """After :meth:`close`: whether a part of the conversation is not in the journal."""
        return bool(self._recorder.unsaved)

    def start(self) -> None:
        """Start to load the model."""
        if self.conversation.turns:
            self._backend.prepare(self.conversation)
        else:
            self._backend.start()

    def status(self) -> BackendStatus:
        status = self._backend.status()
        parked = self._parked.status().memory if self._parked is not None else None
        if parked is None:
            return status
        return replace(status, spare_memory=(status.spare_memory or 0) + parked)

    def cost_of(self, text: str) -> TokenCount | None:
        """Tokens of the message on the prompt, with its attachments. None for a short message, and while the model
        loads, since its tokenizer may not be available.
        """
        files = self._file_actions.attached
        if (len(text) < WORTH_COUNTING and not files) or self._backend.status().state is BackendState.STARTING:
            return None
        if self._counted[0] != (text, len(files)):
            from bitnet_chat.attachments import with_attachments

            self._counted = ((text, len(files)), self._backend.count(with_attachments(text, files)))
        return self._counted[1]

    def interrupt(self) -> None:
        """Stop the running reply, if any."""
        if self._reply is not None:
            self._reply.interrupt()
        elif self._tool_executor is not None:
            self._tool_executor.interrupt()
        elif self._following is not None:
            self._backend.interrupt()  # a reply of another client, for which a line waits

    def follow(self, stage: RemoteReplyScreen) -> None:
        """Show the messages of other clients in this conversation from now on, if the backend reports them."""
        follow = getattr(self._backend, "follow", None)
        if follow is None or self._journal is None:
            return
        from bitnet_chat.repl.remote_replies import RemoteReplyView

        self._stage = stage
        self._following = asyncio.create_task(RemoteReplyView(self, self._display, stage).run(follow()))

    async def _unfollow(self) -> None:
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.wait([following])

    async def catch_up(self) -> None:
        """Load the current state of the conversation, which another client has continued."""
        if self._journal is None or self._recorder.id is None:
            return
        try:
            stored = await asyncio.to_thread(self._journal.load, self._recorder.id)
        except BitnetChatError as error:
            self._display.error(error)
            return
        self.conversation, self._asides = stored.conversation, stored.asides

    def renamed(self, title: str) -> None:
        """Another client has changed the title of the conversation."""
        self._recorder.title = title

    def removed(self) -> None:
        """Another client has removed the conversation: the next message begins a new one."""
        title = self._recorder.title
        self._recorder.start_new()
        self._recorder.title = title

    async def close(self) -> None:
        await self._unfollow()
        try:
            await self._backend.close()
            if self._parked is not None:
                await self._parked.close()
        finally:
            await self._recorder.close()

    async def submit(self, line: str) -> str:
        """Handle one line. Returns the text to put back on the prompt: the line, if it had no effect."""
        if not line.strip():
            return ""
        async with self.floor:
            return await self._submit(line)

    async def _submit(self, line: str) -> str:
        self.unanswered = ""
        meaning = read(line)
        if isinstance(meaning, SendMessage):
            return await self._say(meaning.text, line)
        if isinstance(meaning, UnknownCommand):
            self._display.lines(explain(meaning))
            self.failure = self.failure or FinishReason.USAGE
            return ""  # what is typed next would run into it
        allowed = frozenset(self._tool_executor.allowed if self._tool_executor is not None else ())
        tools = self._settings.options.tools
        situation = CommandContext(
            self.conversation, self.status(), self.session_stats, tools, allowed, bool(self._asides)
        )
        outcome = apply(meaning, situation)
        if outcome.lines:
            self._display.lines(*outcome.lines)
        self.leaving = outcome.leave
        if outcome.ask:
            await self._ask(outcome.conversation, "Stopped before the first word: the conversation is unchanged.")
            return ""
        if outcome.conversation != self.conversation:
            self._become(outcome.conversation, anew=outcome.anew)
        self.unanswered = outcome.back
        return await self._run(outcome.side_prompt) if outcome.side_prompt is not None else outcome.back

    async def _say(self, text: str, line: str) -> str:
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

    def _become(self, conversation: Conversation, *, anew: bool = False) -> None:
        """Replace the conversation; journal and backend follow."""
        self.conversation = conversation
        self._asides = () if anew else _still(self._asides, conversation)
        if anew:
            self._recorder.start_new()
        else:
            self._recorder.sync(conversation)
        self._backend.prepare(conversation)

    async def _run(self, side_prompt: commands.Errand) -> str:
        """Carry out an effect of a command. Returns the text to put on the prompt."""
        match side_prompt:
            case commands.SwitchModel(name):
                await self._switch(name)
            case commands.Resume(id):
                return await self._resume(id)
            case commands.Rename(title):
                self._file_actions.rename(title)
            case commands.Fork():
                self._fork()
            case commands.Edit(text):
                return await self._edit(text)
            case commands.Write():
                await self._file_actions.write(side_prompt, self.conversation, self._asides)
            case commands.Copy():
                self._file_actions.copy(side_prompt)
            case commands.Attach():
                await self._file_actions.attach(side_prompt, self._backend)
            case commands.ShowThoughts(text, mode):
                self._show_thoughts(text, mode)
        return ""

    async def _ask(self, conversation: Conversation, dropped: str) -> bool:
        """Show and store a reply, and those to the results of its calls. True: it failed, and the conversation is
        unchanged.
        """
        failed, rounds = await self._exchange(conversation, dropped), 0
        while self._tool_executor is not None and not failed and self.conversation.open_calls:
            answered, goes_on = await self._tool_executor.answer(self.conversation, rounds, self._backend)
            self.conversation, rounds = answered, rounds + 1
            self._recorder.sync(answered)
            if not goes_on:
                self._display.lines()
                self._backend.prepare(answered)
            elif await self._exchange(answered, "No further text: /continue tries again."):
                fits = self._error is not FinishReason.CONTEXT_OVERFLOW
                way = "/continue tries again" if fits else "/undo removes the message"
                self._display.lines(f"The results are saved: {way}.")
        return failed

    async def _exchange(self, conversation: Conversation, dropped: str) -> bool:
        """Show and store one reply. True: it failed, and the conversation is unchanged."""
        last = conversation.last
        goes_on = last is not None and last.role == "assistant"
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
        unsaid = not event.text and not isinstance(event, Failed) and event.reason in _UNSAID
        if isinstance(event, Failed) or unsaid:
            if not isinstance(event, Failed):
                self._display.notice(dropped)
                self._display.lines()
            else:
                self._error = event.error.reason
            if conversation.messages[:-1] != self.conversation.messages:
                self._recorder.sync(self.conversation)  # what was to be replaced stays; a new message is unanswered
            elif last is not None and last.role == "user":
                aside = SideNote(len(self.conversation.messages), last)
                self._asides = (*(each for each in self._asides if each != aside), aside)
            return isinstance(event, Failed)
        self.session_stats = self.session_stats.plus(event.stats)
        if goes_on:
            assert last is not None
            conversation = conversation.without_last_reply()
            event = replace(event, text=rejoined(last.content + event.text))
            thinking = last.thinking + thinking
        calls = calls if event.reason is FinishReason.TOOL_CALLS else ()
        answered = SideNote(len(conversation.messages) - 1, last) if last is not None else None
        self.conversation = conversation.with_assistant(event.text, event.reason, thinking, calls)
        self._asides = _still([each for each in self._asides if each != answered], self.conversation)
        self._backend.prepare(self.conversation)  # while the user reads
        return False

    async def _edit(self, text: str) -> str:
        """Send the edited last message. If it cannot be sent, it is returned for the prompt."""
        try:
            edited = await self._console.edit(text)
        except BitnetChatError as error:
            self._display.error(error)
            return ""
        if edited == text or not edited.strip():
            self._display.lines("The message is unchanged." if edited.strip() else "An empty message is not sent.")
            return ""
        self._display.lines(*display.quoted(edited))
        asked = self.conversation.without_last_turn().with_user(edited)
        if await self._ask(asked, "Stopped before the first word: the conversation is unchanged."):
            self.unanswered = retyped(edited)
        return self.unanswered

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
        """Continue a conversation of the journal, and show its end. Returns the text to put on the prompt."""
        self._recorder.resume(stored)
        self.conversation, self._asides = stored.conversation, stored.asides
        display.show(self._display, stored)
        self.unanswered = retyped(stored.unanswered)
        return self.unanswered

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
        before, parked = self._backend, self._parked
        if parked is not None and parked.status().model == other.status().model:
            await other.close()
            other = parked
        elif parked is not None:
            await parked.close()
        self._backend, self._parked = other, None
        if self._settings.spare:
            self._parked = before
        else:
            await before.close()
        if self._stage is not None:
            await self._unfollow()
            self.follow(self._stage)
        other.prepare(self.conversation)
        self._display.lines(f"Next model: {one_line(other.status().model)}.")


def _still(asides: Sequence[SideNote], conversation: Conversation) -> tuple[SideNote, ...]:
    """Those that are part of the new conversation."""
    return tuple(each for each in asides if each.place <= len(conversation.messages))
