"""Replies that were never ended, because the program that wrote them was killed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bitnet_chat.errors import FinishReason
from bitnet_chat.journal.codec import decode_text, encode_text
from bitnet_chat.journal.columns import number
from bitnet_chat.journal.database import transaction

if TYPE_CHECKING:
    from sqlite3 import Connection


Piece = tuple[bool, str]
"""True for a thought, and its text."""


def settle(connection: Connection) -> None:
    """Mark replies of ended writers as cut off, with the text that had arrived."""
    dead: dict[str, bool] = {}
    for row, writer in connection.execute("SELECT id, writer FROM messages WHERE writer IS NOT NULL").fetchall():
        name = decode_text(writer)
        if name not in dead:
            dead[name] = not is_alive(name)
        if dead[name]:
            with transaction(connection):
                _settle(connection, row)


def _settle(connection: Connection, row: int) -> None:
    found = connection.execute(
        "SELECT parent, content, thinking FROM messages WHERE id = ? AND writer IS NOT NULL", (row,)
    ).fetchone()
    if found is None:  # another program was faster
        return
    parent, content, thinking = found
    text, thoughts = joined_chunks(connection, row, decode_text(content), decode_text(thinking))
    if text or thoughts:
        connection.execute(
            "UPDATE messages SET content = ?, thinking = ?, finish = ?, writer = NULL WHERE id = ?",
            (encode_text(text), encode_text(thoughts), FinishReason.CUT_OFF.value, row),
        )
        connection.execute("DELETE FROM chunks WHERE message = ?", (row,))
    else:
        connection.execute("DELETE FROM messages WHERE id = ?", (row,))
    if not text:
        connection.execute("UPDATE conversations SET head = ? WHERE head = ?", (number(parent), row))


def joined_chunks(connection: Connection, row: int, content: str, thinking: str) -> tuple[str, str]:
    """Content and thinking of a running reply, as far as they are in the file."""
    pieces = [
        (bool(thought), decode_text(text))
        for thought, text in connection.execute(
            "SELECT thinking, text FROM chunks WHERE message = ? ORDER BY id", (row,)
        )
    ]
    return content + joined(pieces, False), thinking + joined(pieces, True)


def joined(pieces: Iterable[Piece], thinking: bool) -> str:
    return "".join(text for thought, text in pieces if thought is thinking)


# The writer of a reply, and whether its process still runs.
#
# A writer is ``pid:start``, the start in seconds since the epoch from psutil: a process id alone is soon reused.

_TOLERANCE = 5.0  # seconds; a start is computed from the time of boot, which moves when the clock is set


def this_writer() -> str:
    """This process."""
    start = _start(os.getpid())
    return f"{os.getpid()}:{start or 0:.2f}"


def is_alive(writer: str) -> bool:
    """Whether the program that ``writer`` names still runs."""
    pid, _, start = writer.partition(":")
    try:
        number, began = int(pid), float(start)
    except ValueError:
        return False
    now = _start(number)
    return now is not None and abs(now - began) <= _TOLERANCE


def _start(pid: int) -> float | None:
    try:
        import psutil
    except ImportError:  # it needs modules that some platforms lack; then every other writer counts as ended
        return 0.0 if pid == os.getpid() else None
    try:
        process = psutil.Process(pid)
        # A zombie process does not write any more.
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except (psutil.Error, ValueError, OverflowError):
        return None
