"""What goes with a question or the first message: the files of ``-a``, and what a pipe or a file gives on stdin."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable

from bitnet_chat.attachments import Attachment
from bitnet_chat.attachments.reading import EmptyFile, attach, attach_stdin, stdin_is_given
from bitnet_chat.errors import UsageError


def attached(flags: argparse.Namespace, say: Callable[[str], None], *, stdin_is_taken: bool) -> list[Attachment]:
    """Reads them all. ``say``: where stdin is waited for.

    ``stdin_is_taken``: by the question, or by the user who is going to talk. Raises UsageError.
    """
    names = list(dict.fromkeys(getattr(flags, "attachment", ())))
    if "-" in names and stdin_is_taken:
        raise UsageError("-a - attaches stdin, and the question is read from there", remedy="give the question as text")
    found = [attach_stdin(say) if name == "-" else attach(name) for name in names]
    if not stdin_is_taken and "-" not in names and stdin_is_given():
        with contextlib.suppress(EmptyFile):  # nobody had anything to add
            found.append(attach_stdin(say))
    return found
