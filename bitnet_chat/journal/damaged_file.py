"""Recovery of the readable rows of a damaged journal into a new file.

If a part of a table is lost, SQLite can still read the rows behind it, as long as the inner pages that lead to them are
intact. Conversations keep their ids. A message whose parent is lost is attached to the preceding message. The damaged
file is only read; the command ``sqlite3 FILE .recover`` may find more in it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import JournalError
from bitnet_chat.journal import schema
from bitnet_chat.journal.codec import decode_text, encode_text
from bitnet_chat.journal.database import (
    BUSY,
    MAGIC,
    SET_ASIDE,
    identity_of,
    is_damage,
    open_to_read,
    open_to_write,
    transaction,
)
from bitnet_chat.journal.records import title_of

if TYPE_CHECKING:
    from sqlite3 import Connection


_MAX_UNREADABLE = 20_000
"""Consecutive unreadable row numbers that count as the end of the table. A page holds at most about a hundred
messages."""
_MAX_GAP = 1_000_000
"""Largest accepted gap between row numbers. A larger one is garbage, and accepting it would skip all rows behind it."""

_REPAIRS = (
    # Garbage, and rows without the row they belong to.
    "DELETE FROM messages WHERE role NOT IN ('system', 'user', 'assistant', 'tool')"
    " OR typeof(content) NOT IN ('text', 'blob') OR typeof(created) NOT IN ('real', 'integer')",
    "DELETE FROM chunks WHERE message NOT IN (SELECT id FROM messages)",
    "DELETE FROM votes WHERE conversation NOT IN (SELECT conversation FROM messages)",
    # A running writer detects the change and writes its reply into the new file again.
    "UPDATE messages SET writer = 'gone' WHERE writer IS NOT NULL",
    "UPDATE messages SET parent = (SELECT max(id) FROM messages AS m"
    " WHERE m.conversation = messages.conversation AND m.id < messages.id)"
    " WHERE parent IS NOT NULL AND (parent >= id OR parent NOT IN (SELECT id FROM messages))",
    "INSERT INTO conversations (id, title, created, updated)"
    " SELECT conversation, '', min(created), max(created) FROM messages"
    " WHERE conversation NOT IN (SELECT id FROM conversations) GROUP BY conversation",
    "DELETE FROM conversations WHERE id NOT IN (SELECT conversation FROM messages)",
    "UPDATE conversations SET head = (SELECT max(id) FROM messages WHERE conversation = conversations.id)"
    " WHERE title = '' OR head NOT IN (SELECT id FROM messages)",
    "UPDATE conversations SET turns = (WITH RECURSIVE line (id) AS (SELECT conversations.head UNION ALL"
    " SELECT m.parent FROM messages m JOIN line ON m.id = line.id WHERE m.parent < m.id)"
    " SELECT count(*) FROM line JOIN messages m ON m.id = line.id WHERE m.role = 'user')",
)


def read_back(damaged: Path, new: Path) -> int | None:
    """Recover conversations into the file ``new`` and return their number, partial ones included.

    Returns 0 if none could be read or written, and None if the damaged file is not a database. Does not raise for
    damage of either file.
    """
    import sqlite3

    try:
        with closing(open_to_read(damaged)) as old, closing(sqlite3.connect(new, isolation_level=None)) as fresh:
            # cell_size_check: stricter checks of each page; writable_schema: a truncated file is read to its end.
            for pragma in ("cell_size_check = ON", "writable_schema = ON"):
                old.execute(f"PRAGMA {pragma}")
            if old.execute("PRAGMA application_id").fetchone()[0] != schema.APPLICATION:
                return 0
            old.text_factory = lambda data: data.decode("utf-8", "replace")
            schema.migrate(fresh)
            with transaction(fresh):
                for table in ("conversations", "messages", "chunks", "votes"):
                    _copy(old, fresh, table)
                for statement in _REPAIRS:
                    fresh.execute(statement)
                _derive_titles(fresh)
            return int(fresh.execute("SELECT count(*) FROM conversations").fetchone()[0])
    except (sqlite3.Error, OSError) as error:
        return None if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB else 0


def _copy(old: Connection, new: Connection, table: str) -> None:
    # The next search rebuilds the full-text index. A file of an earlier release has fewer columns.
    has = {name for _, name, *_ in old.execute(f"PRAGMA table_info({table})")} - {"indexed"}
    columns = [name for _, name, *_ in new.execute(f"PRAGMA table_info({table})") if name in has]
    if "id" not in columns:  # the table is lost
        return
    new.executemany(
        f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
        _rows(old, table, columns),
    )


def _rows(old: Connection, table: str, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the readable rows in order of row number, which is the first column."""
    import sqlite3

    at = lost = 0
    while lost < _MAX_UNREADABLE:
        try:
            for row in old.execute(
                f"SELECT {', '.join(columns)} FROM {table} NOT INDEXED WHERE id > ? ORDER BY id", (at,)
            ):
                if isinstance(row[0], int) and at < row[0] <= at + _MAX_GAP:
                    at, lost = row[0], 0
                    yield row
            return
        except sqlite3.DatabaseError:
            at, lost = at + 1, lost + 1


def _derive_titles(new: Connection) -> None:
    """Set the title of conversations whose own row is lost, from their first message."""
    for (id,) in new.execute("SELECT id FROM conversations WHERE title = ''").fetchall():
        found = new.execute(
            "SELECT content FROM messages WHERE conversation = ? AND role = 'user' ORDER BY id LIMIT 1", (id,)
        ).fetchone()
        title = title_of(Conversation().with_user(decode_text(found[0]))) if found else ""
        new.execute("UPDATE conversations SET title = ? WHERE id = ?", (encode_text(title), id))


def open_file(path: Path, *, busy: float = BUSY) -> tuple[Connection, str]:
    """Open the journal for writing. Returns the connection, and a message if a damaged file was moved aside, else an
    empty text.

    Creates a missing file and its directory, readable by the owner only. ``busy``: seconds to wait for locks. Raises
    JournalError (:class:`JournalTooNewError` included), sqlite3.Error or OSError.
    """
    import sqlite3

    try:
        return open_to_write(path, busy), ""
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        identity = identity_of(path)
    note = set_aside(path, identity)
    return open_to_write(path, busy), note


def set_aside(path: Path, identity: tuple[int, int] | None) -> str:
    """Rename a damaged file with its -wal and -shm, and replace it by a new file with the recovered conversations, if
    any.

    Returns the message for the user; empty if the file no longer has this identity because another program has replaced
    it. Raises JournalError if the file cannot be renamed.
    """
    if identity is None or identity_of(path) != identity:
        return ""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    target = path.with_name(f"{path.name}{SET_ASIDE}{stamp}")
    number = 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}{SET_ASIDE}{stamp}-{number}")
    with _recovered(path) as (new, count):
        if identity_of(path) != identity:  # recovery may have taken seconds
            return ""
        try:
            for ending in ("", "-wal", "-shm"):
                source = path.with_name(path.name + ending)
                if not ending or source.exists():
                    source.rename(target.with_name(target.name + ending))
        except OSError as error:
            raise JournalError(
                f"the journal {path} is damaged and cannot be set aside: {error.strerror}",
                remedy="move it away, or use --no-journal",
            ) from None
        if count and not _install(new, path):
            count = 0
    message = f"the journal was damaged; it is set aside as {target}, and a new one begins"
    if count:
        message += f" with what could be read of {count} conversation{'s' * (count > 1)}"
    return f"{message}; {_advice(target, count is not None)}"


def recovery_advice(aside: Path) -> str:
    """Return the advice for a file that was moved aside. Raises OSError."""
    with aside.open("rb") as file:
        return _advice(aside, file.read(len(MAGIC)) == MAGIC)


def _advice(aside: Path, is_database: bool) -> str:
    import shlex

    if not is_database:
        return "nothing in it can be read; a backup, if you have one, can replace the new file"
    return f"to extract the rest as SQL: sqlite3 {shlex.quote(str(aside))} .recover"


@contextlib.contextmanager
def _recovered(path: Path) -> Iterator[tuple[Path, int | None]]:
    """Recover the damaged file into a temporary file that exists during the block.

    Yields its path and the number of its conversations; 0 if no file could be made, None if the damaged file is not a
    database.
    """
    import tempfile

    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # readable by the owner only
    except OSError:
        yield path, 0
        return
    os.close(handle)
    new = Path(name)
    try:
        yield new, read_back(path, new)
    finally:
        for ending in ("", "-journal"):
            with contextlib.suppress(OSError):
                new.with_name(new.name + ending).unlink(missing_ok=True)


def _install(new: Path, path: Path) -> bool:
    """Move ``new`` to ``path``. Returns False if another program has created a file there, or if this fails."""
    try:
        path.hardlink_to(new)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if path.exists():
            return False
        try:
            new.rename(path)
        except OSError:
            return False
    return True
