"""Recovery of the readable rows of a damaged journal into a new file.

Where a part of a table is lost, SQLite finds the rows behind it all the same, as long as the way to them is whole. Each
conversation keeps its number. What followed a lost message follows the one before that. The damaged file is only read;
the tool ``sqlite3`` may find more in it.
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
    _MAGIC,
    BUSY,
    SET_ASIDE,
    _opened,
    identity_of,
    is_damage,
    open_to_read,
    transaction,
)
from bitnet_chat.journal.records import title_of

if TYPE_CHECKING:
    from sqlite3 import Connection


_LOST = 20_000
"""Consecutive unreadable numbers that count as the end of the table. A page holds a hundred messages at most."""
_JUMP = 1_000_000
"""From one number to the next: more than that is garbage, which would hide all that comes behind it."""

_MENDING = (
    # Rows read from garbage, and rows without an owner.
    "DELETE FROM messages WHERE role NOT IN ('system', 'user', 'assistant', 'tool')"
    " OR typeof(content) NOT IN ('text', 'blob') OR typeof(created) NOT IN ('real', 'integer')",
    "DELETE FROM chunks WHERE message NOT IN (SELECT id FROM messages)",
    # A running writer detects this and writes its reply into the new file.
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
    """Recover conversations into ``new`` and return their number, partial ones included; 0 where none could be read or
    written, None where the damaged file is not a database. Damage of either file does not raise."""
    import sqlite3

    try:
        with closing(open_to_read(damaged)) as old, closing(sqlite3.connect(new, isolation_level=None)) as fresh:
            # Pages are looked at more closely, and a file that is too short is read as far as it goes.
            for pragma in ("cell_size_check = ON", "writable_schema = ON"):
                old.execute(f"PRAGMA {pragma}")
            if old.execute("PRAGMA application_id").fetchone()[0] != schema.APPLICATION:
                return 0
            old.text_factory = lambda data: data.decode("utf-8", "replace")
            schema.migrate(fresh)
            with transaction(fresh):
                for table in ("conversations", "messages", "chunks"):
                    _copy(old, fresh, table)
                for statement in _MENDING:
                    fresh.execute(statement)
                _name(fresh)
            return int(fresh.execute("SELECT count(*) FROM conversations").fetchone()[0])
    except (sqlite3.Error, OSError) as error:
        return None if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB else 0


def _copy(old: Connection, new: Connection, table: str) -> None:
    # The index of words is made again at the next search; a file of an earlier release has fewer columns.
    has = {name for _, name, *_ in old.execute(f"PRAGMA table_info({table})")} - {"indexed"}
    columns = [name for _, name, *_ in new.execute(f"PRAGMA table_info({table})") if name in has]
    if "id" not in columns:  # the table is gone
        return
    new.executemany(
        f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
        _rows(old, table, columns),
    )


def _rows(old: Connection, table: str, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """The readable rows, by their numbers, which are in the first column."""
    import sqlite3

    at = lost = 0
    while lost < _LOST:
        try:
            for row in old.execute(
                f"SELECT {', '.join(columns)} FROM {table} NOT INDEXED WHERE id > ? ORDER BY id", (at,)
            ):
                if isinstance(row[0], int) and at < row[0] <= at + _JUMP:
                    at, lost = row[0], 0
                    yield row
            return
        except sqlite3.DatabaseError:
            at, lost = at + 1, lost + 1


def _name(new: Connection) -> None:
    """Give conversations of which only messages are left the title of their first message."""
    for (id,) in new.execute("SELECT id FROM conversations WHERE title = ''").fetchall():
        found = new.execute(
            "SELECT content FROM messages WHERE conversation = ? AND role = 'user' ORDER BY id LIMIT 1", (id,)
        ).fetchone()
        title = title_of(Conversation().with_user(decode_text(found[0]))) if found else ""
        new.execute("UPDATE conversations SET title = ? WHERE id = ?", (encode_text(title), id))


def open_file(path: Path, *, busy: float = BUSY) -> tuple[Connection, str]:
    """A connection to a present, sound file, and a line to tell where a damaged one went; empty without one.

    The file and its folder are made where they are missing, for the eyes of the owner only. Raises JournalError
    (:class:`JournalTooNewError` among them), sqlite3.Error or OSError.
    """
    import sqlite3

    try:
        return _opened(path, busy), ""
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        identity = identity_of(path)
    note = set_aside(path, identity)
    return _opened(path, busy), note


def set_aside(path: Path, identity: tuple[int, int] | None) -> str:
    """Gives a damaged file and its -wal and -shm another name, and puts a new file in its place where something can be
    read back (see :mod:`bitnet_chat.journal.salvage`); the line that says so. Does nothing when another program was
    faster. Raises JournalError where it cannot."""
    if identity is None or identity_of(path) != identity:
        return ""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    target = path.with_name(f"{path.name}{SET_ASIDE}{stamp}")
    number = 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}{SET_ASIDE}{stamp}-{number}")
    with _rescued(path) as (new, count):
        if identity_of(path) != identity:  # reading it back may take seconds
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
        if count and not _put(new, path):
            count = 0
    told = f"the journal was damaged; it is set aside as {target}, and a new one begins"
    if count:
        told += f" with what could be read of {count} conversation{'s' * (count > 1)}"
    return f"{told}; {_rest_of(target, count is not None)}"


def rest_of(aside: Path) -> str:
    """The advice for a file that was set aside. Raises OSError."""
    with aside.open("rb") as file:
        return _rest_of(aside, file.read(len(_MAGIC)) == _MAGIC)


def _rest_of(aside: Path, is_database: bool) -> str:
    import shlex

    if not is_database:
        return "nothing in it can be read: a backup of yours can take the place of the new one"
    return f"all that is left in it, as SQL: sqlite3 {shlex.quote(str(aside))} .recover"


@contextlib.contextmanager
def _rescued(path: Path) -> Iterator[tuple[Path, int | None]]:
    """In the block, a file with the readable part of a damaged one, and the number of its conversations, where one
    could be made. None: the damaged file is not a database."""
    import tempfile

    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # for the eyes of the owner only
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


def _put(new: Path, path: Path) -> bool:
    """Give the file its name; False where another program has made a file there."""
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
