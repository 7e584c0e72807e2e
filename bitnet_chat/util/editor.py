"""Editing of a text or a file in the external editor of the user."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bitnet_chat.errors import UsageError

_REMEDY = "set EDITOR to a program that edits a file and returns when it is closed"


def editor_command(environment: Mapping[str, str]) -> list[str]:
    """Return the command in ``$VISUAL`` or ``$EDITOR``, or a standard editor of the system. Raises UsageError without
    one."""
    for variable in ("VISUAL", "EDITOR"):
        chosen = environment.get(variable, "").strip()
        if chosen:
            try:
                # Backslashes are part of a path on Windows, not an escape.
                return shlex.split(chosen, posix=sys.platform != "win32")
            except ValueError as error:
                raise UsageError(f"${variable} is {chosen!r}: {error}", remedy=_REMEDY) from None
    for name in ("notepad",) if sys.platform == "win32" else ("editor", "nano", "vi"):
        if shutil.which(name):
            return [name]
    raise UsageError("An editor was not found: $EDITOR is not set", remedy=_REMEDY)


def edit_file(file: Path) -> None:
    """Edit a file and return when the editor exits. Blocks; the editor uses the terminal meanwhile.

    Raises UsageError if an editor is not found, cannot be run, or fails.
    """
    command = editor_command(os.environ)
    try:
        code = subprocess.call([*command, str(file)])
    except OSError as error:
        raise UsageError(f"The editor {command[0]!r} cannot be run: {error.strerror}", remedy=_REMEDY) from None
    if code:
        how = f"failed with exit code {code}" if code > 0 else f"was ended by a signal ({_signal(-code)})"
        raise UsageError(f"The editor {command[0]!r} {how}")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return str(number)


def edit(text: str) -> str:
    """Return ``text`` after editing, without one newline at its end. Blocks like :func:`edit_file`.

    Raises UsageError like :func:`edit_file`. If an editor fails after saving, the file is kept, and the error names it.
    """
    editor_command(os.environ)  # raises before a file is created
    handle, name = tempfile.mkstemp(prefix="bitnet-chat-", suffix=".md")  # mode 0600
    file = Path(name)
    saved = False
    try:
        before = text.encode("utf-8", "surrogateescape")
        with os.fdopen(handle, "wb") as stream:
            stream.write(before)
        try:
            edit_file(file)
        except UsageError as error:
            saved = file.read_bytes() not in (before, b"")
            raise UsageError(error.what, remedy=f"the saved text is in {name}" if saved else error.remedy) from None
        edited = file.read_bytes().decode("utf-8", "surrogateescape").replace("\r\n", "\n")
    except OSError as error:
        raise UsageError(f"The text for the editor in {name} cannot be kept: {error.strerror}") from None
    finally:
        if not saved:
            file.unlink(missing_ok=True)
    return edited.removesuffix("\n")
