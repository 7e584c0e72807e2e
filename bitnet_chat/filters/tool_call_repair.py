"""Invalid tool calls of a reply: what is invalid, what the model is told, and how often it answers again. Pure.

Where no call of an answer is valid, the model is told what is wrong and answers again, within the same reply. Where
some calls are valid, the faults are reported with their results.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bitnet_chat.conversation import Message, Tool, ToolCall
from bitnet_chat.events import Notice

REPAIRS = 1
"""Further answers within one reply."""
CALL_LIMIT = 200_000
"""Characters of an unfinished call at which the reply is stopped."""
SIGN_OF_LIFE = 20.0
"""Seconds without text until a notice about an unfinished call."""
_REPORTED = 8
"""Reported faults of one answer: a server may send any number."""
_NAME_LIMIT = 64
"""Characters of a name in the OpenAI API."""
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class InvalidToolCall:
    """A call that cannot be made. ``call``: in a form that every server accepts. ``why``: for the model."""

    call: ToolCall
    why: str

    @classmethod
    def of(cls, id: str, name: str, why: str, arguments: str = "{}") -> InvalidToolCall:
        """``name``: as the model has written it."""
        return cls(ToolCall(id, _NOT_IN_NAMES.sub("_", name[:_NAME_LIMIT]) or "unnamed", arguments), why)

    @property
    def report(self) -> str:
        """The text for the model."""
        return f"error: this call cannot be read: {self.why}. Write it again."

    @property
    def result(self) -> Message:
        """The report in place of a result."""
        return Message("tool", self.report, call_id=self.call.id, tool_name=self.call.name)


class ToolCallRepair:
    """The calls of one reply, which consists of one answer of the model or more."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._names = [tool.name for tool in tools]
        self._left = REPAIRS
        self.calls: list[ToolCall] = []
        """The valid calls of the present answer."""
        self.faults: list[InvalidToolCall] = []
        """The invalid calls of the present answer."""
        self.reported: list[InvalidToolCall] = []
        """The faults to which the present answer replies."""

    def add(self, call: ToolCall | InvalidToolCall) -> None:
        """Add a call of the present answer. One of an unknown tool is invalid."""
        if isinstance(call, ToolCall):
            if call.name in self._names:
                self.calls.append(call)
                return
            why = f"there is no tool {call.name[:_NAME_LIMIT]!r}; there are: {', '.join(self._names)}"
            call = InvalidToolCall.of(call.id, call.name, why, call.arguments)
        if len(self.faults) < _REPORTED:
            self.faults.append(call)

    @property
    def is_needed(self) -> bool:
        """Whether the model is to be told: its answer, if complete, has calls, and none of them is valid."""
        return bool(self.faults) and not self.calls

    def begin_answer(self) -> bool:
        """Begin the answer to the faults. False: the model has answered often enough."""
        if not self._left:
            return False
        self._left -= 1
        self.reported, self.faults, self.calls = self.faults, [], []
        return True

    @property
    def failure(self) -> Notice:
        """For the user, where the last answer is invalid as well."""
        return Notice(f"the model twice asked for a tool in a form that cannot be read: {self.faults[0].why}")


class CallProgress:
    """Notices about calls that the model is still generating: their text is not shown."""

    def __init__(self, patience: float = SIGN_OF_LIFE) -> None:
        """``patience``: seconds without text until a notice."""
        self._patience = patience
        self._size = 0
        self._since: float | None = None
        self.is_too_long = False

    def feed(self, size: int, now: float, *, has_text: bool) -> list[Notice]:
        """The notices after a piece of the answer. ``size``: characters of the calls so far. ``now``: in seconds.
        ``has_text``: something of the piece is shown."""
        grows, self._size = size > self._size, size
        if has_text or self._since is None:
            self._since = now
        if self.is_too_long or not grows:
            return []
        if size > CALL_LIMIT:
            self.is_too_long = True
            return [Notice(f"a tool call was stopped: it was longer than {CALL_LIMIT:,} characters")]
        if now - self._since > self._patience:
            self._since = now
            return [Notice("the model is generating a long tool call")]
        return []
