"""Work in threads: calls that may block forever, and work that would block the event loop for too long."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from bitnet_chat.conversation import Conversation

Result = TypeVar("Result")


async def run_in_daemon_thread(work: Callable[[], Result]) -> Result:
    """Run ``work``, which may block forever (on the disk of an unreachable computer, for example), in a daemon thread.

    Returns its result or raises its exception. Unlike ``asyncio.to_thread``, whose threads delay the end of the
    program, a cancelled call abandons the thread.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, daemon=True, name="bitnet-chat-daemon").start()
    return await future


P = ParamSpec("P")
T = TypeVar("T")
_MAX_MESSAGES = 256
_MAX_CHARACTERS = 1 << 14
"""Number of characters above which processing a conversation may take more than 20 ms."""


async def run_beside_loop(conversation: Conversation, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run ``work``, whose cost grows with ``conversation``: directly for a short one, in a thread for a long one."""
    if is_long(conversation):
        return await asyncio.to_thread(work, *arguments, **named)
    return work(*arguments, **named)


def is_long(conversation: Conversation) -> bool:
    """Whether processing the conversation may block the event loop noticeably."""
    messages = conversation.messages
    return len(messages) > _MAX_MESSAGES or sum(len(each.content) for each in messages) > _MAX_CHARACTERS
