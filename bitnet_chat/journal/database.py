"""The file of the journal: made, opened, checked, brought up to date, and set aside when it is damaged."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_chat.errors import JournalTooNewError
from bitnet_chat.journal import schema
from bitnet_chat.journal.codec import decoded

if TYPE_CHECKING:
    from sqlite3 import Connection, Cursor


BUSY = 2.0
"""Seconds that a statement waits for the lock of another program. Each holds it for some milliseconds."""
SET_ASIDE = ".damaged-"
"""Between the journal's name and a time in the name of a file that was set aside."""
_FULL = 1 << 16
"""Bytes of free space below which SQLite cannot write."""
_MAGIC = b"SQLite format 3\0"
_LOOKING = threading.Lock()
_LOOKED_AT: set[tuple[int, int] | None] = set()


def open_to_read(path: Path, *, busy: float = BUSY) -> Connection:
    """A connection that changes nothing, to a file that is there, and works where nothing can be written.

    Raises sqlite3.Error.
    """
    import sqlite3
    from urllib.request import pathname2url

    # Reading what has no log as unchangeable leaves no -wal and no -shm behind, and works where they cannot be made.
    log = path.with_name(path.name + "-wal")
    still = not log.is_file() or log.stat().st_size == 0
    address = f"file:{pathname2url(str(path))}?mode=ro{'&immutable=1' * still}"
    connection = sqlite3.connect(address, uri=True, timeout=busy, isolation_level=None)
    connection.text_factory = decoded
    return connection


def _opened(path: Path, busy: float) -> Connection:
    import sqlite3

    path.parent.mkdir(parents=True, exist_ok=True)
    # Conversations are private: only the owner may read the file; SQLite gives -wal and -shm its mode.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    _look_at(path)
    connection = sqlite3.connect(path, timeout=busy, isolation_level=None)
    connection.text_factory = decoded
    try:
        require_ours(connection, path)
        _in_wal(connection, busy)
        # NORMAL loses nothing when a program is killed, and the last commits, never the file, when the power goes.
        for pragma in ("synchronous = NORMAL", "foreign_keys = ON", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}")
        schema.migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def require_ours(connection: Connection, path: Path) -> None:
    """Check the file as far as that is cheap: SQLite has compared the sizes by now, and reads the schema here.

    Raises :class:`JournalTooNewError`, and the error of SQLite for a database that this program can neither read nor
    bring up to date: the same for one of another program and for one of ours that has lost a table or names a wrong
    version.
    """
    found = schema.version(connection)
    if schema.is_newer(found):
        raise JournalTooNewError(
            f"the journal {path} has version {found}, and this program reads up to version {schema.VERSION}",
            remedy="the file is unchanged; use the newer bitnet-chat, or --no-journal",
        )
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != schema.APPLICATION and (tables or application):
        raise _no_database("a database of another program")
    if not schema.fits(connection):
        raise _no_database(f"its tables are not those of version {found}")


def _look_at(path: Path) -> None:
    """Raises the error of SQLite for a file that is not a database, without touching it or its log: SQLite would delete
    the log, and with it data that can be recovered.

    Only once for each file: closing it takes away the locks that any connection of this process has on it
    (https://www.sqlite.org/howtocorrupt.html, "POSIX advisory locks canceled"), and the first look is before all of
    them.
    """
    with _LOOKING:
        identity = identity_of(path)
        if identity in _LOOKED_AT:
            return
        if path.is_fifo():
            raise OSError(errno.EINVAL, "it is a pipe, not a file")
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) not in (b"", _MAGIC):
                raise _no_database("no SQLite file")
        _LOOKED_AT.add(identity)


def _no_database(what: str) -> Exception:
    import sqlite3

    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
    return error


def _in_wal(connection: Connection, busy: float) -> None:
    """Set WAL mode, which is kept in the file. Two programs that do so at once get "locked" without a wait."""
    import sqlite3

    deadline = time.monotonic() + busy
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return  # some file systems do not support it: the journal works without


def is_damage(error: Exception) -> bool:
    """Whether SQLite reports that the file is damaged or not a database."""
    import sqlite3

    if not isinstance(error, sqlite3.DatabaseError):
        return False
    code = getattr(error, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_CORRUPT_VTAB:  # the index of words, which can be made again
        return False
    if str(error).startswith(("no such table: ", "no such column: ")) and not str(error).endswith("words"):
        return True  # another program dropped it from an open file
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def identity_of(path: Path) -> tuple[int, int] | None:
    """The identity of the file, which differs for a file that replaces it; None where no file exists."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """A cheap fingerprint of a file. Other programs write too: after a change the file is checked again."""

    identity: tuple[int, int] | None
    """See :func:`identity_of`."""
    file: tuple[int, int] | None
    """Size and time of the last change."""
    log: tuple[int, int] | None
    """The same of the log: which file, and its size."""

    def has_only_grown(self, before: DatabaseState) -> bool:
        """Whether the only change since then is an append to the log, by any program."""
        if (self.identity, self.file) != (before.identity, before.file):
            return False
        if self.log is None or before.log is None:
            return self.log == before.log
        return self.log[0] == before.log[0] and self.log[1] >= before.log[1]


def state_of(path: Path) -> DatabaseState:
    try:
        found = path.stat()
    except OSError:
        return DatabaseState(None, None, None)
    try:
        log = path.with_name(path.name + "-wal").stat()
    except OSError:
        return DatabaseState((found.st_dev, found.st_ino), (found.st_size, found.st_mtime_ns), None)
    return DatabaseState((found.st_dev, found.st_ino), (found.st_size, found.st_mtime_ns), (log.st_ino, log.st_size))


def named(found: Cursor) -> list[dict[str, Any]]:
    """Its rows, the values by the names of their columns."""
    names = [each[0] for each in found.description]
    return [dict(zip(names, row, strict=True)) for row in found]


@contextlib.contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """Run the block as one transaction; the lock is taken at its beginning, so that rows read in it are current."""
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        yield


def problem(error: Exception, path: Path) -> str:
    """The error as one line for the user."""
    import shutil

    what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    # SQLite's messages, "disk I/O error" and "unable to open database file", do not give the cause.
    with contextlib.suppress(OSError):
        if shutil.disk_usage(path.parent).free < _FULL:
            what = f"the disk is full ({what})"
        elif not os.access(path.parent, os.W_OK):
            what = f"its folder cannot be written ({what})"
    return f"{what}: {path}"
