"""A first turn with an engine through the backend of every conversation, to check that it can chat.

It passes with the first word. A few tokens later the reply is stopped, since it may be long.
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
"""Tokens."""
_REMEDY = "try another model with -m, or another engine"


@dataclass(frozen=True, slots=True)
class FirstTurn:
    """The result. Times in seconds."""

    ready_after: float
    answered_after: float
    """From the message to the first word of the reply or of its thoughts."""


async def try_first_turn(backend: Backend, engine: object) -> FirstTurn:
    """Ask :data:`QUESTION` without any history. ``engine``: its name, for errors.

    Raises EngineDiedError if no word is received, and the errors of the backend.
    """
    started = time.monotonic()
    ready = heard = 0.0
    async for event in backend.reply(Conversation().with_user(QUESTION), ReplyOptions(max_tokens=_ENOUGH)):
        if isinstance(event, Started):
            ready = time.monotonic()
        elif isinstance(event, TextDelta | ThinkingDelta):
            heard = heard or time.monotonic()
        elif isinstance(event, Failed):
            raise _ended(engine, event)
        elif isinstance(event, Completed) and not heard:
            if event.reason is FinishReason.STALLED:
                raise EngineStalledError(f"{engine} said nothing in the rehearsal", remedy=_REMEDY)
            raise EngineDiedError(f"{engine} ended its reply in the rehearsal without a word", remedy=_REMEDY)
    return FirstTurn(ready - started, heard - ready)


def _ended(engine: object, failed: Failed) -> Exception:
    error = failed.error
    if isinstance(error, EngineStalledError) or not isinstance(error, EngineDiedError | ModelError):
        return error
    what = f"{engine} ended in the middle of the rehearsal: {error.what}"
    return EngineDiedError(what, remedy=error.remedy or _REMEDY, detail=error.detail)
