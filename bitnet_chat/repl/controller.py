"""The state of one REPL, whichever loop reads the lines: backend, conversation, journal, figures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bitnet_chat.backend import Backend, BackendStatus
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
"""Characters from which on the cost of a message is shown while it is written."""

SwitchModel = Callable[[str], Backend]

_UNSAID = (FinishReason.INTERRUPTED, FinishReason.EMPTY)
"""Ends of a reply that stays out of the conversation if it is empty."""


class ReplController:
    """Takes submitted lines. Owns the backend and the recorder: ``close`` closes whichever it has by then."""

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
        """With ``settings.spare``: the backend before the last switch of models, loaded and ready."""
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
        """Held by whoever is talking: a line that was typed here, or a reply that somebody else has asked for."""
        self._console = console
        self._clerk = FileActions(display, console, self._recorder if journal is not None else None)
        self._clerk.attached.extend(attached)
        self._reply: ReplyView | None = None
        self._caller: ToolExecutor | None = None
        if settings.toolbox is not None:
            from bitnet_chat.repl.tool_approval import ToolExecutor

            keeps_all = settings.overflow == "stop"
            self._caller = ToolExecutor(settings.toolbox, display, console, settings.allowed_tools, keeps_all=keeps_all)
        self._counted: tuple[tuple[str, int], TokenCount | None] = (("", 0), None)
        self.conversation = Conversation().with_system(settings.system)
        self.tally = SessionStats()
        self.leaving = False
        self._error: FinishReason | None = None
        """Why the last reply failed that did."""
        self.failure: FinishReason | None = None
        """How the first reply ended that is not whole, or why the first line was refused; not what the user stopped."""
        self.unanswered = ""
        """The last message, where it failed to get a reply."""
        self._asides: tuple[SideNote, ...] = ()
        """Messages that got no reply. They are written into files, and no model sees them."""

    @property
    def unkept(self) -> bool:
        """After :meth:`close`: whether something that was said is not in the journal."""
        return bool(self._recorder.unkept)

    def start(self) -> None:
        """The model begins to load."""
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
        """Of the message on the prompt, with the files that go with it. None where it is too short to matter, and
        while the model loads: its tokenizer may not be at hand."""
        files = self._clerk.attached
        if (len(text) < WORTH_COUNTING and not files) or self._backend.status().state == "starting":
            return None
        if self._counted[0] != (text, len(files)):
            from bitnet_chat.attachments import with_attachments

            self._counted = ((text, len(files)), self._backend.count(with_attachments(text, files)))
        return self._counted[1]

    def interrupt(self) -> None:
        """Stops the reply under way, if any."""
        if self._reply is not None:
            self._reply.interrupt()
        elif self._caller is not None:
            self._caller.interrupt()
        elif self._following is not None:
            self._backend.interrupt()  # what somebody else has asked, and a line waits for

    def follow(self, stage: RemoteReplyScreen) -> None:
        """What others say in this conversation is shown from now on, where the backend hears of it."""
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
        """The conversation has gone on without us."""
        if self._journal is None or self._recorder.id is None:
            return
        try:
            stored = await asyncio.to_thread(self._journal.load, self._recorder.id)
        except BitnetChatError as error:
            self._display.error(error)
            return
        self.conversation, self._asides = stored.conversation, stored.asides

    def renamed(self, title: str) -> None:
        """Somebody else has given the conversation another title."""
        self._recorder.title = title

    def removed(self) -> None:
        """Somebody else has removed the conversation: what comes next begins another one."""
        title = self._recorder.title
        self._recorder.anew()
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
        """Carries out one line. Returns what to put back on the prompt: the line, if nothing came of it."""
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
        allowed = frozenset(self._caller.allowed if self._caller is not None else ())
        tools = self._settings.options.tools
        situation = CommandContext(self.conversation, self.status(), self.tally, tools, allowed, bool(self._asides))
        outcome = apply(meaning, situation)
        if outcome.lines:
            self._display.lines(*outcome.lines)
        self.leaving = outcome.leave
        if outcome.ask:
            await self._ask(outcome.conversation, "Nothing had been said yet: the conversation is as it was.")
            return ""
        if outcome.conversation != self.conversation:
            self._become(outcome.conversation, anew=outcome.anew)
        self.unanswered = outcome.back
        return await self._run(outcome.errand) if outcome.errand is not None else outcome.back

    async def _say(self, text: str, line: str) -> str:
        message = await self._clerk.with_files(text, self._backend)
        if message is None:
            self.unanswered = line
            self.failure = self.failure or FinishReason.USAGE
            return line
        dropped = "Nothing had been said yet: the message is not part of the conversation."
        if await self._ask(self.conversation.with_user(message), dropped):
            self.unanswered = line
        else:
            self._clerk.sent()
        return self.unanswered

    def _become(self, conversation: Conversation, *, anew: bool = False) -> None:
        """The conversation is now this one; journal and backend follow."""
        self.conversation = conversation
        self._asides = () if anew else _still(self._asides, conversation)
        if anew:
            self._recorder.anew()
        else:
            self._recorder.sync(conversation)
        self._backend.prepare(conversation)

    async def _run(self, errand: commands.Errand) -> str:
        """Returns what to put on the prompt."""
        match errand:
            case commands.SwitchModel(name):
                await self._switch(name)
            case commands.Resume(id):
                return await self._resume(id)
            case commands.Rename(title):
                self._clerk.rename(title)
            case commands.Fork():
                self._fork()
            case commands.Edit(text):
                return await self._edit(text)
            case commands.Write():
                await self._clerk.write(errand, self.conversation, self._asides)
            case commands.Copy():
                self._clerk.copy(errand)
            case commands.Attach():
                await self._clerk.attach(errand, self._backend)
            case commands.ShowThoughts(text, mode):
                self._show_thoughts(text, mode)
        return ""

    async def _ask(self, conversation: Conversation, dropped: str) -> bool:
        """Shows and keeps a reply, and those to the results of its calls. True: it failed, and the conversation is what
        it was."""
        failed, rounds = await self._exchange(conversation, dropped), 0
        while self._caller is not None and not failed and self.conversation.open_calls:
            answered, goes_on = await self._caller.answer(self.conversation, rounds, self._backend)
            self.conversation, rounds = answered, rounds + 1
            self._recorder.sync(answered)
            if not goes_on:
                self._display.lines()
                self._backend.prepare(answered)
            elif await self._exchange(answered, "Nothing more was said: /continue asks again."):
                fits = self._error is not FinishReason.CONTEXT_OVERFLOW
                way = "/continue asks again" if fits else "/undo takes the message back"
                self._display.lines(f"The results are kept: {way}.")
        return failed

    async def _exchange(self, conversation: Conversation, dropped: str) -> bool:
        """Shows one reply and keeps it. True: it failed, and the conversation is what it was."""
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
        self.tally = self.tally.plus(event.stats)
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
        """The last message as the user wants it now, asked again. What cannot be asked comes back on the prompt."""
        try:
            edited = await self._console.edit(text)
        except BitnetChatError as error:
            self._display.error(error)
            return ""
        if edited == text or not edited.strip():
            self._display.lines("The message is as it was." if edited.strip() else "An empty message is not sent.")
            return ""
        self._display.lines(*display.quoted(edited))
        asked = self.conversation.without_last_turn().with_user(edited)
        if await self._ask(asked, "Nothing had been said yet: the conversation is as it was."):
            self.unanswered = retyped(edited)
        return self.unanswered

    def _fork(self) -> None:
        if self._journal is None:
            self._display.lines("This conversation is not kept: there is nothing that a copy would leave behind.")
            return
        before = self._recorder.id
        self._recorder.fork()
        kept = f" /resume {before} goes back to the one before." if before is not None else ""
        self._display.lines(f"What follows goes into a copy of the conversation.{kept}")

    async def _resume(self, id: int | None) -> str:
        journal = self._journal
        if journal is None:
            self._display.lines("No conversations are kept in this session.")
            return ""
        try:
            if id is None:
                entries = [each for each in await asyncio.to_thread(journal.list) if each.id != self._recorder.id]
                if not entries:
                    self._display.lines("There is no other conversation yet.")
                    return ""
                id = await self._console.pick(entries)
                if id is None:
                    return ""
            stored = await asyncio.to_thread(journal.load, id)
        except BitnetChatError as error:
            self._display.error(error)
            return ""
        if id == self._recorder.id:
            self._display.lines("That is this conversation.")
            return ""
        back = self.resume(stored)
        self._backend.prepare(self.conversation)
        return back

    def resume(self, stored: StoredConversation) -> str:
        """Goes on with a conversation of the journal, and shows where it stands. Returns what to put on the prompt."""
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
            self._display.lines("This session cannot change its model: start bitnet-chat with the other one.")
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
        self._display.lines(f"The next reply comes from {one_line(other.status().model)}.")


def _still(asides: Sequence[SideNote], conversation: Conversation) -> tuple[SideNote, ...]:
    """Those that stand in what the conversation has become."""
    return tuple(each for each in asides if each.place <= len(conversation.messages))
