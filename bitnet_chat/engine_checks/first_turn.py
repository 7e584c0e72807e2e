"""A first turn with an engine, to check that it can chat. It uses the backend that conversations use.

The check passes with the first text. The reply ends after a few tokens, because it could be long.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from bitnet_chat.backend import Backend, ReplyOptions
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import EngineDiedError, EngineStalledError, FinishReason, ModelError
from bitnet_chat.events import Completed, Failed, Started, TextDelta, ThinkingDelta

QUESTION = "hello"
_ENOUGH = 8
"""Maximum tokens of the reply."""
_REMEDY = "try another model with -m, or another engine"


@dataclass(frozen=True, slots=True)
class FirstTurn:
    """The duration of a first turn. Times are in seconds."""

    ready_after: float
    """From the start of the engine until it accepted the message."""
    answered_after: float
    """From then to the first text of the reply or of its thoughts."""


async def try_first_turn(backend: Backend, engine: object) -> FirstTurn:
    """Ask :data:`QUESTION` without history. ``engine``: its name, for error messages.

    Raises EngineStalledError or EngineDiedError if no text is received, and the errors of the backend.
    """
    started = time.monotonic()
    ready = first_text = 0.0
    async for event in backend.reply(Conversation().with_user(QUESTION), ReplyOptions(max_tokens=_ENOUGH)):
        if isinstance(event, Started):
            ready = time.monotonic()
        elif isinstance(event, TextDelta | ThinkingDelta):
            first_text = first_text or time.monotonic()
        elif isinstance(event, Failed):
            raise _ended(engine, event)
        elif isinstance(event, Completed) and not first_text:
            if event.reason is FinishReason.STALLED:
                raise EngineStalledError(f"{engine} wrote nothing in the first turn", remedy=_REMEDY)
            raise EngineDiedError(f"{engine} ended its first reply without text", remedy=_REMEDY)
    return FirstTurn(ready - started, first_text - ready)


def _ended(engine: object, failed: Failed) -> Exception:
    error = failed.error
    if isinstance(error, EngineStalledError) or not isinstance(error, EngineDiedError | ModelError):
        return error
    what = f"{engine} ended during the first turn: {error.what}"
    return EngineDiedError(what, remedy=error.remedy or _REMEDY, detail=error.detail)
