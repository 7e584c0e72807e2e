"""Detection and completion of replies whose writing program has ended.

While a reply is written, its row names its writer as ``pid:start``. ``start`` is the start time of the process in
seconds since the epoch (psutil), because the operating system reuses process ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bitnet_chat.errors import FinishReason
from bitnet_chat.journal.codec import decode_text, encode_text
from bitnet_chat.journal.columns import number
from bitnet_chat.journal.database import transaction
from bitnet_chat.util.process_identity import is_alive

if TYPE_CHECKING:
    from sqlite3 import Connection


Piece = tuple[bool, str]
"""Whether the text is thinking, and the text."""


def settle(connection: Connection) -> None:
    """Mark replies of ended writers as cut off, with the text that was written so far."""
    dead: dict[str, bool] = {}
    for row, writer in connection.execute("SELECT id, writer FROM messages WHERE writer IS NOT NULL").fetchall():
        name = decode_text(writer)
        if name not in dead:
            dead[name] = not is_alive(name)
        if dead[name]:
            with transaction(connection):
                _settle(connection, row)


def _settle(connection: Connection, row: int) -> None:
    """Complete one reply. A reply with neither text nor thinking is deleted, and its parent becomes the head."""
    found = connection.execute(
        "SELECT parent, content, thinking FROM messages WHERE id = ? AND writer IS NOT NULL", (row,)
    ).fetchone()
    if found is None:  # another program has completed it
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
    """Return content and thinking of a running reply, as far as they are in the file."""
    pieces = [
        (bool(thought), decode_text(text))
        for thought, text in connection.execute(
            "SELECT thinking, text FROM chunks WHERE message = ? ORDER BY id", (row,)
        )
    ]
    return content + join_pieces(pieces, False), thinking + join_pieces(pieces, True)


def join_pieces(pieces: Iterable[Piece], thinking: bool) -> str:
    """Join the pieces that are thinking, or those that are not."""
    return "".join(text for thought, text in pieces if thought is thinking)
