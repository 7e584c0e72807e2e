"""The turns that leave the window, summarised by the model itself."""

from __future__ import annotations

import time

from bitnet_chat.backends import ReplyOptions
from bitnet_chat.conversation import Conversation
from bitnet_chat.conversation.stdin_encoding import clean
from bitnet_chat.engine.process import EngineProcess, State
from bitnet_chat.engine.turn import Turn
from bitnet_chat.errors import FinishReason
from bitnet_chat.frames import EngineError, ReplyText, ThinkingText, TurnEnd


async def summarise(process: EngineProcess, request: str, limit: int) -> str:
    """The answer of a fresh child to ``request``, of about ``limit`` tokens at most; empty where there is none."""
    await process.settled()
    if process.state is not State.IDLE:
        return ""
    message = process.input_for(Conversation(), clean(request).text, ReplyOptions(max_tokens=limit))
    assert message is not None, "it was started for this message"
    process.send(message, watched=True)
    turn = Turn(process.meter, time.monotonic())
    while turn.end is None and (frames := await process.frames()):
        for frame in frames:
            if isinstance(frame, ReplyText):
                turn.said(frame.text)
            elif isinstance(frame, ThinkingText):  # which is within the limit too
                turn.thought(frame.text)
            elif isinstance(frame, EngineError):
                return ""
            elif isinstance(frame, TurnEnd):
                turn.end = frame
        if turn.at_least >= limit:
            process.stop()
    if turn.end is None or turn.end.reason is FinishReason.INTERRUPTED:
        return ""
    return turn.text.strip()
