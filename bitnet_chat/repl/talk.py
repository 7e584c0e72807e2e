"""The state of one REPL, whichever loop reads the lines: backend, conversation, figures."""

from __future__ import annotations

from collections.abc import Callable

from bitnet_chat.backends import Backend, BackendStatus
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import BitnetChatError, FinishReason
from bitnet_chat.events import Failed
from bitnet_chat.repl.commands import Say, Situation, Unknown, apply, explain, read
from bitnet_chat.repl.display import Display
from bitnet_chat.repl.reply import Reply
from bitnet_chat.repl.settings import ReplSettings
from bitnet_chat.repl.tally import Tally
from bitnet_chat.stream.sanitize import one_line

SwitchModel = Callable[[str], Backend]


class Talk:
    """Takes submitted lines. Owns the backend: ``close`` closes whichever it has by then."""

    def __init__(
        self, backend: Backend, settings: ReplSettings, display: Display, switch_model: SwitchModel | None
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._display = display
        self._switch_model = switch_model
        self._reply: Reply | None = None
        self.conversation = Conversation().with_system(settings.system)
        self.tally = Tally()
        self.leaving = False
        self.unanswered = ""
        """The last message, where it failed to get a reply."""

    def start(self) -> None:
        """The model begins to load."""
        self._backend.start()

    def status(self) -> BackendStatus:
        return self._backend.status()

    def interrupt(self) -> None:
        """Stops the reply under way, if any."""
        if self._reply is not None:
            self._reply.interrupt()

    async def close(self) -> None:
        await self._backend.close()

    async def submit(self, line: str) -> str:
        """Carries out one line. Returns what to put back on the prompt: the line, if nothing came of it."""
        if not line.strip():
            return ""
        self.unanswered = ""
        meaning = read(line)
        if isinstance(meaning, Say):
            dropped = "Nothing had been said yet: the message is not part of the conversation."
            if await self._ask(self.conversation.with_user(meaning.text), dropped):
                self.unanswered = line
            return self.unanswered
        if isinstance(meaning, Unknown):
            self._display.lines(explain(meaning))
            return line
        outcome = apply(meaning, Situation(self.conversation, self.status(), self.tally))
        if outcome.lines:
            self._display.lines(*outcome.lines)
        self.leaving = outcome.leave
        if outcome.switch is not None:
            await self._switch(outcome.switch)
        if outcome.ask:
            await self._ask(outcome.conversation, "Nothing had been said yet: the reply before stays.")
        else:
            self.conversation = outcome.conversation
        return ""

    async def _ask(self, conversation: Conversation, dropped: str) -> bool:
        """Shows a reply and keeps it. True: it failed, and the conversation is what it was."""
        self._reply = Reply(
            self._backend, conversation, self._settings.options, self._display, self._settings.typing_speed
        )
        try:
            event = await self._reply.run()
        finally:
            self._reply = None
        if isinstance(event, Failed):
            return True
        self.tally = self.tally.plus(event.stats)
        if event.reason is FinishReason.INTERRUPTED and not event.text:
            self._display.notice(dropped)
        else:
            self.conversation = conversation.with_assistant(event.text, event.reason)
        return False

    async def _switch(self, model: str) -> None:
        if self._switch_model is None:
            self._display.lines("This session cannot change its model: start bitnet-chat with the other one.")
            return
        try:
            other = self._switch_model(model)
        except BitnetChatError as error:
            self._display.error(error)
            return
        before, self._backend = self._backend, other
        await before.close()
        other.start()
        self._display.lines(f"The next reply comes from {one_line(other.status().model)}.")
