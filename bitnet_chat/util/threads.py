"""Work that may block forever, on the disk of an unreachable computer for example, without blocking the exit."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from bitnet_chat.conversation import Conversation

Result = TypeVar("Result")


async def run_in_daemon_thread(work: Callable[[], Result]) -> Result:
    """The result or exception of ``work``, from a thread that does not outlive the program.

    ``asyncio.to_thread`` waits for its threads when the loop ends. Here a cancelled wait abandons the thread and its
    result.
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
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, daemon=True, name="bitnet-chat-daemon").start()
    return await future


# Work on long conversations, beside the event loop.

P = ParamSpec("P")
T = TypeVar("T")
_MESSAGES = 256
_CHARACTERS = 1 << 14
"""Texts with more characters may take longer than 20 ms to process."""


async def run_beside_loop(conversation: Conversation, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """The result of ``work``, with a cost that grows with ``conversation``: called directly for a short one, in a
    thread for a long one, so that the loop is not blocked.
    """
    if is_long(conversation):
        return await asyncio.to_thread(work, *arguments, **named)
    return work(*arguments, **named)


def is_long(conversation: Conversation) -> bool:
    messages = conversation.messages
    return len(messages) > _MESSAGES or sum(len(each.content) for each in messages) > _CHARACTERS
