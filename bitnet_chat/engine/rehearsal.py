"""A rehearsal: one scripted question to an engine, to see whether it can really talk.

Done with pexpect and with nothing of the framer or the session, so that the two can be held against each other: what
speaks here and not in a chat is our mistake, what is silent here is the engine's.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import pexpect

from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.child.lifeline import preparer
from bitnet_chat.engine.dialects import Talk
from bitnet_chat.errors import EngineDied
from bitnet_chat.stream.framer import RESET, USER_INPUT

QUESTION = "hello"
LIMIT = 60.0
"""Seconds for loading, and again for the answer."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What was heard. Times in seconds."""

    ready_after: float
    answered_after: float
    output: bytes
    """All between the question and the next prompt, with the console's own marks in it."""


def rehearse(talk: Talk) -> Rehearsal:
    """Ask :data:`QUESTION` without any history. Raises EngineDied when there is no answer in time."""
    launch = talk.launch(Conversation())
    path, *flags = launch.argv
    prepare = preparer(raw_terminal=True)

    def in_child() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        prepare()

    started = time.monotonic()
    child = pexpect.spawn(path, flags, timeout=LIMIT, preexec_fn=in_child)
    child.delaybeforesend = None
    try:
        child.expect_exact(USER_INPUT.encode())
        ready = time.monotonic()
        child.send(talk.message(QUESTION, launch.framer))
        child.expect_exact(RESET.encode())
        child.expect_exact(USER_INPUT.encode())
        return Rehearsal(ready - started, time.monotonic() - ready, _before(child.before))
    except (pexpect.EOF, pexpect.TIMEOUT) as error:
        heard = _before(child.before)[-400:].decode("utf-8", "replace")
        what = "ended" if isinstance(error, pexpect.EOF) else f"said nothing for {LIMIT:g} s"
        raise EngineDied(
            f"{path} {what} in the middle of the rehearsal",
            remedy="try another model with -m, or another engine",
            detail=heard,
        ) from None
    finally:
        child.close(force=True)


def _before(text: object) -> bytes:
    """pexpect's ``before``, which is a class where nothing was read."""
    return text if isinstance(text, bytes) else b""
