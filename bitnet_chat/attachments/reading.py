"""Files and stdin become attachments. May wait for a disk: a front end with a loop calls this in a thread."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from bitnet_chat.attachments.attachment import Attachment
from bitnet_chat.attachments.decoding import NotText, decoded
from bitnet_chat.attachments.mentions import looks_like_file, mentions
from bitnet_chat.errors import UsageError

TEXT_LIMIT = 4_000_000
"""Bytes of a text: ten times what the largest context windows hold."""
PDF_LIMIT = 64_000_000

_PATIENCE = 2.0
"""Seconds after which somebody who waits for stdin is told so."""
_PDF = b"%PDF-"
_HEAD = 1024  # bytes in which the mark of a PDF may come, as readers of PDF have always had it


def attach(path: str) -> Attachment:
    """Reads a file. Raises UsageError for what is missing, may not be read, is no file, is empty, too large or no text.

    Never blocks on a device or a pipe. ``~`` is the user's home; the name of the attachment is ``path`` as it is.
    """
    try:
        place = Path(path).expanduser()
        with _opened(place, path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_HEAD) or b""  # None: a file that is a device in disguise, and has nothing now
            limit = PDF_LIMIT if _PDF in head else TEXT_LIMIT
            # Before it is read; what says 0, as files of /proc do, or grows meanwhile, is stopped at the limit.
            if size > limit:
                raise _too_large(path, size, limit)
            data = head + (file.read(limit + 1 - len(head)) or b"")
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~nobody; ValueError: a NUL in the name
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"{path} cannot be read: {why}") from None
    return from_bytes(path, data)


def attach_all(paths: Sequence[str]) -> list[Attachment]:
    """Each of them once. Raises UsageError for the first that cannot be attached."""
    return [attach(path) for path in dict.fromkeys(paths)]


def mentioned(text: str) -> list[str]:
    """The paths of the files that a typed message mentions, each once; a mention that is no file is a word."""
    found = (next(filter(_is_file, mention.paths), None) for mention in mentions(text))
    return [*dict.fromkeys(path for path in found if path is not None)]


def missing(text: str) -> list[str]:
    """The paths of what a typed message mentions as a file and is none, each once."""
    found = [each for each in mentions(text) if looks_like_file(each, text) and not any(map(_is_file, each.paths))]
    return [*dict.fromkeys(each.paths[-1] for each in found)]


def meant(text: str) -> list[str]:
    """The paths in mentions that look like files, each once, for texts in which a mention attaches nothing."""
    return [*dict.fromkeys([*mentioned(text), *missing(text)])]


def attach_stdin(say: Callable[[str], None]) -> Attachment:
    """All of stdin under the name ``stdin``. Raises UsageError.

    ``say`` is called, with a line for the user, where nothing has come for a while.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError("stdin is closed: there is nothing to attach")
    _tell_who_waits(say)
    return from_bytes("stdin", sys.stdin.buffer.read(PDF_LIMIT + 1))


def stdin_is_given() -> bool:
    """True when stdin is a pipe or a file: somebody has put that there for us to read.

    A terminal, a socket or /dev/null is there whether or not anybody has something to say, and is left alone. A pipe is
    read to its end, as every filter does, however long its writer takes; where nobody writes and nobody closes it, as
    in ``ssh HOST bitnet-chat ...`` without -n, a line says what we wait for.
    """
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):  # closed, or a stand-in without a descriptor
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def from_bytes(name: str, data: bytes) -> Attachment:
    """Raises UsageError for what is empty, too large or no text."""
    if not data:
        raise EmptyFile(f"{name} is empty: there is nothing to attach")
    if _PDF in data[:_HEAD]:
        return _from_pdf(name, data)
    if len(data) > TEXT_LIMIT:
        raise _too_large(name, len(data), TEXT_LIMIT)
    try:
        text, encoding = decoded(data)
    except NotText as error:
        raise UsageError(
            f"{name} is no text: it seems to be {error}", remedy="attach text or a PDF; most programs can export one"
        ) from None
    return Attachment(name, text, len(data), encoding=encoding)


class EmptyFile(UsageError):
    """Nothing is in it. Of stdin it says that nobody had anything to add."""


def _from_pdf(name: str, data: bytes) -> Attachment:
    from bitnet_chat.attachments.pdf import UnreadablePdf, pdf_text

    if len(data) > PDF_LIMIT:
        raise _too_large(name, len(data), PDF_LIMIT)
    try:
        found = pdf_text(data)
    except UnreadablePdf as error:
        raise UsageError(f"{name} {error.what}", remedy=error.remedy) from None
    remark = f"{found.empty} of them without text" if found.empty else ""
    return Attachment(name, found.text, len(data), kind="pdf", pages=found.pages, remark=remark)


def _too_large(name: str, size: int, limit: int) -> UsageError:
    return UsageError(
        f"{name} is too large: {size / 1e6:.1f} MB or more, and the limit is {limit // 1_000_000} MB",
        remedy="attach the part that matters",
    )


_KINDS = (
    (stat.S_ISDIR, "a folder", "name the files in it"),
    (stat.S_ISFIFO, "a named pipe", "give its data on stdin"),
    (stat.S_ISSOCK, "a socket", "only files can be attached"),
    (stat.S_ISCHR, "a device", "only files can be attached"),
    (stat.S_ISBLK, "a device", "only files can be attached"),
)


def _opened(place: Path, name: str) -> BinaryIO:
    """The file, opened so that nothing can wait; looked at before, because opening is enough to wake some devices."""
    _must_be_file(place.stat().st_mode, name)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    file = open(os.open(place, flags), "rb", closefd=True)  # noqa: PTH123, SIM115 -- of a descriptor; the caller closes
    try:
        _must_be_file(os.fstat(file.fileno()).st_mode, name)  # it may have been replaced in between
    except BaseException:
        file.close()
        raise
    return file


def _must_be_file(mode: int, name: str) -> None:
    if not stat.S_ISREG(mode):
        what, remedy = next(((what, do) for test, what, do in _KINDS if test(mode)), ("no file", ""))
        raise UsageError(f"{name} is {what} and cannot be attached", remedy=remedy)


def _is_file(path: str) -> bool:
    try:
        return Path(path).expanduser().is_file()
    except (OSError, RuntimeError, ValueError):
        return False


def _tell_who_waits(say: Callable[[str], None]) -> None:
    if sys.stdin.isatty():
        say("reading what is to be attached from the terminal; Ctrl-D ends it")
    elif sys.platform != "win32":  # where select knows sockets only
        import select

        if not select.select([sys.stdin], [], [], _PATIENCE)[0]:
            say("waiting for stdin, which is a pipe that nobody has closed; </dev/null says that it has nothing")
