"""Execution of the tool calls of a reply, after the user has confirmed them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bitnet_chat.backend import Backend
from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.conversation.message import NOT_CALLED
from bitnet_chat.repl.display import ReplyDisplay
from bitnet_chat.repl.interfaces import UserInterface
from bitnet_chat.text.sanitize import one_line
from bitnet_chat.tools import Toolbox
from bitnet_chat.tools.loop import ROUNDS, ResultBudget, clipped, loss

DECLINED = "The user declined this call."
_SPIN = 0.1
"""Seconds between two frames of the spinner."""
_QUESTION = 60
"""Maximum number of characters of the arguments in the question; the display shows the call before it."""


class ToolExecutor:
    """Asks for the confirmation of tool calls, and executes them."""

    def __init__(
        self,
        toolbox: Toolbox,
        display: ReplyDisplay,
        console: UserInterface,
        allowed: Sequence[str] = (),
        *,
        keeps_all: bool = False,
    ) -> None:
        """Create an executor. ``allowed``: names of tools that need no confirmation. ``keeps_all``: see
        :class:`bitnet_chat.tools.loop.ResultBudget`.
        """
        self._toolbox = toolbox
        self._display = display
        self._console = console
        self._keeps_all = keeps_all
        self.allowed = set(allowed)
        """Names of tools that need no confirmation. The answer "always" adds one until the program ends."""
        self._running: asyncio.Task[str] | None = None

    async def answer(self, conversation: Conversation, rounds: int, backend: Backend) -> tuple[Conversation, bool]:
        """Execute the open calls of ``conversation``. Returns it with a result for each call, and whether to request
        the next reply. ``rounds``: number of earlier replies with calls in this turn. ``backend``: its context window
        limits the length of the results.
        """
        if rounds >= ROUNDS:
            self._display.notice(
                f"The model has called tools in {ROUNDS} replies in a row and is stopped. /continue lets it continue."
            )
            return conversation.with_all_answered(), False
        budget = ResultBudget(
            conversation, self._toolbox.tools, backend.status().context_size, backend.count, keeps_all=self._keeps_all
        )
        for call in conversation.open_calls:
            verdict = "yes" if call.name in self.allowed else await self._console.decide(self._question(call))
            if verdict is None:
                conversation = conversation.with_tool_result(call, DECLINED).with_all_answered()
                self._display.notice("Stopped: the call is cancelled. /continue lets the model continue without it.")
                return conversation, False
            if verdict == "always":
                self.allowed.add(call.name)
            if verdict == "no":
                self._display.notice(f"{one_line(call.name)} is not called.")
                conversation = conversation.with_tool_result(call, DECLINED)
                continue
            try:
                conversation = conversation.with_tool_result(call, await self._call(call, budget))
            except asyncio.CancelledError:
                if not self._was_stopped():
                    raise
                conversation = conversation.with_tool_result(call, "error: the user stopped this call")
                self._display.notice(f"{one_line(call.name)} was stopped. /continue lets the model continue.")
                return conversation.with_all_answered(NOT_CALLED), False
        return conversation, True

    def interrupt(self) -> None:
        """Cancel the running tool call, if any."""
        if self._running is not None:
            self._running.cancel()

    def _was_stopped(self) -> bool:
        """Return whether the call was cancelled by :meth:`interrupt`, and not with the current task."""
        task = asyncio.current_task()
        return task is None or not task.cancelling()

    @staticmethod
    def _question(call: ToolCall) -> str:
        return one_line(f"Call {call.name} {clipped(call.arguments, _QUESTION)}?")

    async def _call(self, call: ToolCall, budget: ResultBudget) -> str:
        loop = asyncio.get_running_loop()
        since = loop.time()
        timer: asyncio.TimerHandle | None = None

        def spin() -> None:
            nonlocal timer
            self._display.spin(loop.time() - since, f"calling {one_line(call.name)}")
            timer = loop.call_later(_SPIN, spin)

        async def run() -> str:
            result = await self._toolbox.call(call, budget.limit)
            for line in result.printed.splitlines():
                self._display.notice(f"{call.name} printed: {clipped(line)}")
            self._display.notice(f"{call.name}: {clipped(result.text)}{loss(result)}")
            return result.text

        self._running = asyncio.ensure_future(run())
        spin()
        try:
            return await self._running
        finally:
            self._running = None
            if timer is not None:
                timer.cancel()
