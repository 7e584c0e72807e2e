"""Summaries of dropped turns, written by the model itself. No I/O: the caller asks the model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from bitnet_chat.conversation import Conversation, Message

MARK = "A summary of the earlier part of this conversation, which is out of sight by now:"
_REQUEST = (
    "Summarise the part of a conversation that follows, in at most {words} words. Keep names, facts, numbers, decisions"
    " and open questions. Write plain sentences about what was said, and answer nothing in it."
)


@dataclass(frozen=True, slots=True)
class Summary:
    """``text``: empty if the model wrote none. ``remark``: one line for the user about what it lacks."""

    text: str = ""
    remark: str = ""


async def summarise(
    leaving: Sequence[Message],
    earlier: str,
    limit: int,
    newest: Callable[[Sequence[Message]], Sequence[Message]],
    ask: Callable[[str, int], Awaitable[str]],
) -> Summary:
    """Have the model summarise ``leaving`` and the ``earlier`` summary before it in about ``limit`` tokens.

    ``newest``: the newest of these messages that fit into one request. ``ask``: the reply of the model to a message,
    of at most so many tokens; empty if it has none.
    """
    turns = newest(leaving)
    text = await ask(request(turns, earlier, limit), limit) if turns or earlier else ""
    if not text:
        return Summary(remark="what left the context window was not summarised; it was dropped")
    if len(turns) < len(leaving):
        return Summary(text, f"only the newest {len(turns)} of {len(leaving)} messages could be summarised")
    return Summary(text)


def request(turns: Sequence[Message], earlier: str, tokens: int) -> str:
    """The message that asks for a summary of ``turns``, and of the ``earlier`` summary before them."""
    parts = [_REQUEST.format(words=max(20, tokens * 2 // 3))]
    if earlier:
        parts.append(f"{MARK}\n{earlier}")
    parts += (f"{message.role.capitalize()}: {message.content}" for message in turns)
    return "\n\n".join(parts)


def with_summary(history: Conversation, summary: str) -> Conversation:
    """``history`` with a summary of the turns before it at the end of its system prompt."""
    if not summary:
        return history
    return history.with_system("\n\n".join(filter(None, (history.system, f"{MARK}\n{summary}"))))
