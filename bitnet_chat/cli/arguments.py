"""Which conversation of the journal a command line goes on with."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bitnet_chat.attachments import Attachment
from bitnet_chat.attachments.reading import EmptyFileError, attach, attach_stdin, stdin_is_given
from bitnet_chat.errors import UsageError

if TYPE_CHECKING:
    from bitnet_chat.journal import JournalStore, StoredConversation


_REMEDY = "bitnet-chat history list shows those that there are"


def find_conversation(
    flags: argparse.Namespace, journal: JournalStore, say: Callable[[str], None]
) -> StoredConversation | None:
    """What ``--continue`` or ``--resume ID`` name; None where neither was given. ``say`` is told where that may be
    another conversation than the user means, and what of it is damaged.

    Raises UsageError for a conversation that there is not, and for ``--resume`` without ID: only a prompt can ask.
    """
    last, other = hasattr(flags, "resume_last"), getattr(flags, "resume", None)
    if last and other is not None:
        raise UsageError("--continue does not go with --resume: it is the last conversation or another one")
    if last:
        stored = journal.latest()
        if stored is None:
            raise UsageError("there is no conversation to go on with", remedy="ask without --continue")
        if why := _not_the_last(journal, stored):
            say(f"{why}: this goes on with conversation {stored.id}, “{stored.title}”, of {_clock(stored.updated)}")
        return _sound(stored, say)
    if other is None:
        return None
    if not other:
        raise UsageError("--resume needs the number of a conversation here", remedy=_REMEDY)
    if not (other.isascii() and other.isdigit() and len(other) < 19):
        raise UsageError(f"--resume wants the number of a conversation, not {other!r}", remedy=_REMEDY)
    return _sound(journal.load(int(other)), say)


def _not_the_last(journal: JournalStore, stored: StoredConversation) -> str:
    """Why something may have been said after this conversation; empty where that was kept."""
    lost = journal.unsaved_since()
    if lost is not None and lost >= stored.updated:
        return f"what was said on {_clock(lost)} was not kept"
    why = journal.read_only_reason()
    return why and f"nothing is kept at present, as {why}"


def _sound(stored: StoredConversation, say: Callable[[str], None]) -> StoredConversation:
    for line in stored.damage:
        say(f"damaged: {line}")
    return stored


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


# What goes with a question or the first message: the files of ``-a``, and what a pipe or a file gives on stdin.


def read_attachments(
    flags: argparse.Namespace, say: Callable[[str], None], *, stdin_is_taken: bool
) -> list[Attachment]:
    """Reads them all. ``say``: where stdin is waited for.

    ``stdin_is_taken``: by the question, or by the user who is going to talk. Raises UsageError.
    """
    names = list(dict.fromkeys(getattr(flags, "attachment", ())))
    if "-" in names and stdin_is_taken:
        raise UsageError("-a - attaches stdin, and the question is read from there", remedy="give the question as text")
    found = [attach_stdin(say) if name == "-" else attach(name) for name in names]
    if not stdin_is_taken and "-" not in names and stdin_is_given():
        with contextlib.suppress(EmptyFileError):  # nobody had anything to add
            found.append(attach_stdin(say))
    return found
