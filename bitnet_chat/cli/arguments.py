"""The conversation and the attachments that a command line names."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bitnet_chat.attachments import Attachment
from bitnet_chat.attachments.reading import attach, attach_stdin, stdin_is_given
from bitnet_chat.errors import EmptyFileError, UsageError

if TYPE_CHECKING:
    from bitnet_chat.journal import JournalStore, StoredConversation


_REMEDY = "bitnet-chat history list shows the conversations"


def find_conversation(
    flags: argparse.Namespace, journal: JournalStore, say: Callable[[str], None]
) -> StoredConversation | None:
    """Load the conversation of ``--continue`` or ``--resume ID``. Returns None without these flags.

    ``say`` is called with one line if a later conversation may not have been saved, and for each damaged part. Raises
    UsageError for an unknown conversation, and for ``--resume`` without ID, which only an interactive session accepts.
    """
    last, other = hasattr(flags, "resume_last"), getattr(flags, "resume", None)
    if last and other is not None:
        raise UsageError("--continue cannot be combined with --resume")
    if last:
        stored = journal.latest()
        if stored is None:
            raise UsageError("no conversation to continue was found", remedy="ask without --continue")
        if why := _why_not_latest(journal, stored):
            say(f"{why}: continuing conversation {stored.id}, “{stored.title}”, of {_clock(stored.updated)}")
        return _with_damage_reported(stored, say)
    if other is None:
        return None
    if not other:
        raise UsageError("--resume requires the number of a conversation here", remedy=_REMEDY)
    if not (other.isascii() and other.isdigit() and len(other) < 19):
        raise UsageError(f"--resume requires the number of a conversation, not {other!r}", remedy=_REMEDY)
    return _with_damage_reported(journal.load(int(other)), say)


def _why_not_latest(journal: JournalStore, stored: StoredConversation) -> str:
    """Return the reason why a conversation later than ``stored`` may be missing; empty if all were saved."""
    lost = journal.unsaved_since()
    if lost is not None and lost >= stored.updated:
        return f"the conversation of {_clock(lost)} was not saved"
    why = journal.read_only_reason()
    return why and f"conversations are not saved: {why}"


def _with_damage_reported(stored: StoredConversation, say: Callable[[str], None]) -> StoredConversation:
    for line in stored.damage:
        say(f"damaged: {line}")
    return stored


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def read_attachments(
    flags: argparse.Namespace, say: Callable[[str], None], *, stdin_is_taken: bool
) -> list[Attachment]:
    """Read the files of ``-a``, and stdin if it is a pipe or a file. Raises UsageError.

    ``say`` is called with one line if stdin does not end soon. ``stdin_is_taken``: stdin is used for the question or
    for the input of the conversation, and is not attached.
    """
    names = list(dict.fromkeys(getattr(flags, "attachment", ())))
    if "-" in names and stdin_is_taken:
        raise UsageError("-a - attaches stdin, which already holds the question", remedy="give the question as text")
    found = [attach_stdin(say) if name == "-" else attach(name) for name in names]
    if not stdin_is_taken and "-" not in names and stdin_is_given():
        with contextlib.suppress(EmptyFileError):  # stdin was empty
            found.append(attach_stdin(say))
    return found
