"""The database file of the journal: opening, checking, fingerprinting, and the marker file for unsaved messages."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_chat import paths
from bitnet_chat.errors import JournalTooNewError
from bitnet_chat.journal import schema
from bitnet_chat.journal.codec import decode_column

if TYPE_CHECKING:
    from sqlite3 import Connection, Cursor


BUSY = 2.0
"""Seconds that a statement waits for the lock of another program. Each program holds the lock for some milliseconds."""
SET_ASIDE = ".damaged-"
"""Part of the name of a damaged file that was moved aside: between the name of the journal and the time."""
_FULL = 1 << 16
"""Free bytes on the disk below which a failed write is reported as a full disk."""
MAGIC = b"SQLite format 3\0"
_CHECK_LOCK = threading.Lock()
_CHECKED: set[tuple[int, int] | None] = set()


def open_to_read(path: Path, *, busy: float = BUSY) -> Connection:
    """Open an existing file read-only; works on read-only media. Raises sqlite3.Error."""
    import sqlite3
    from urllib.request import pathname2url

    # Without a log, "immutable" avoids creating the files -wal and -shm, which may be impossible here.
    log = path.with_name(path.name + "-wal")
    is_unchanging = not log.is_file() or log.stat().st_size == 0
    address = f"file:{pathname2url(str(path))}?mode=ro{'&immutable=1' * is_unchanging}"
    connection = sqlite3.connect(address, uri=True, timeout=busy, isolation_level=None)
    connection.text_factory = decode_column
    return connection


def open_to_write(path: Path, busy: float) -> Connection:
    """Open the file for writing, create it if it is missing, and migrate it. Raises the errors of
    :func:`require_ours`."""
    import sqlite3

    path.parent.mkdir(parents=True, exist_ok=True)
    # Only the owner may read conversations. SQLite creates -wal and -shm with the mode of the database.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    _check_magic(path)
    connection = sqlite3.connect(path, timeout=busy, isolation_level=None)
    connection.text_factory = decode_column
    try:
        require_ours(connection, path)
        _enable_wal(connection, busy)
        # NORMAL loses nothing if a program is killed; a power failure loses at most the last commits, not the file.
        for pragma in ("synchronous = NORMAL", "foreign_keys = ON", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}")
        schema.migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def require_ours(connection: Connection, path: Path) -> None:
    """Check that the file is a journal of a supported version. Reads only the schema, in one snapshot: another program
    may be creating the tables.

    Raises :class:`JournalTooNewError` for a journal of a later release, and sqlite3.DatabaseError (SQLITE_NOTADB) for
    the database of another program and for a journal that lacks a table or has the tables of another version.
    """
    connection.execute("BEGIN")
    try:
        _require_ours(connection, path)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _require_ours(connection: Connection, path: Path) -> None:
    found = schema.version(connection)
    if schema.is_newer(found):
        raise JournalTooNewError(
            f"the journal {path} has version {found}, and this program reads up to version {schema.VERSION}",
            remedy="the file is unchanged; use the newer bitnet-chat, or --no-journal",
        )
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != schema.APPLICATION and (tables or application):
        raise _not_a_database("a database of another program")
    if not schema.fits(connection):
        raise _not_a_database(f"its tables are not those of version {found}")


def _check_magic(path: Path) -> None:
    """Check the first bytes of the file before SQLite opens it.

    SQLite deletes the log of a file that is not a database, and with it data that could be recovered. Raises
    sqlite3.DatabaseError for such a file, OSError for a pipe.

    Each file is checked once, before its first connection: closing a file releases the locks of all connections of this
    process to it (https://www.sqlite.org/howtocorrupt.html, "POSIX advisory locks canceled").
    """
    with _CHECK_LOCK:
        identity = identity_of(path)
        if identity in _CHECKED:
            return
        if path.is_fifo():
            raise OSError(errno.EINVAL, "a pipe, not a file")
        with path.open("rb") as file:
            if file.read(len(MAGIC)) not in (b"", MAGIC):
                raise _not_a_database("not an SQLite file")
        _CHECKED.add(identity)


def _not_a_database(what: str) -> Exception:
    """Make the SQLite error for a file that is not a usable database."""
    import sqlite3

    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
    return error


def _enable_wal(connection: Connection, busy: float) -> None:
    """Set WAL mode, which the file records. Retries for ``busy`` seconds.

    If two programs do so at once, SQLite reports "locked" without waiting for its busy timeout.
    """
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
            return  # also if the file system does not support WAL: the journal works without it


def is_damage(error: Exception) -> bool:
    """Whether the error means that the file is damaged or not a database."""
    import sqlite3

    if not isinstance(error, sqlite3.DatabaseError):
        return False
    code = getattr(error, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_CORRUPT_VTAB:  # only the full-text index, which can be rebuilt
        return False
    if str(error).startswith(("no such table: ", "no such column: ")) and not str(error).endswith("words"):
        return True  # another program has dropped it while the file was open
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def identity_of(path: Path) -> tuple[int, int] | None:
    """Device and inode of the file, which change if the file is replaced; None if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """A fingerprint of the database file, cheap to obtain. A change means that the file has to be checked again."""

    identity: tuple[int, int] | None
    """Device and inode, see :func:`identity_of`."""
    file: tuple[int, int] | None
    """Size in bytes and modification time in nanoseconds."""
    log: tuple[int, int] | None
    """Inode and size in bytes of the write-ahead log; None without one."""

    def has_only_grown(self, before: DatabaseState) -> bool:
        """Whether the only change since ``before`` is an append to the log, by any program."""
        if (self.identity, self.file) != (before.identity, before.file):
            return False
        if self.log is None or before.log is None:
            return self.log == before.log
        return self.log[0] == before.log[0] and self.log[1] >= before.log[1]


def state_of(path: Path) -> DatabaseState:
    """Read the current fingerprint of the file; all fields are None if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return DatabaseState(None, None, None)
    try:
        log = path.with_name(path.name + "-wal").stat()
    except OSError:
        return DatabaseState((found.st_dev, found.st_ino), (found.st_size, found.st_mtime_ns), None)
    return DatabaseState((found.st_dev, found.st_ino), (found.st_size, found.st_mtime_ns), (log.st_ino, log.st_size))


def is_empty(connection: Connection) -> bool:
    """Whether the file has no conversation."""
    return not connection.execute("SELECT EXISTS(SELECT 1 FROM conversations)").fetchone()[0]


def rows_as_dicts(found: Cursor) -> list[dict[str, Any]]:
    """Return the rows of a cursor as dictionaries with the column names as keys."""
    names = [each[0] for each in found.description]
    return [dict(zip(names, row, strict=True)) for row in found]


@contextlib.contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """Run the block as one transaction. It takes the write lock at its beginning, so rows read in the block are
    current."""
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        yield


def describe_error(error: Exception, path: Path) -> str:
    """Describe the error and its likely cause in one line."""
    import shutil

    what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    # The messages of SQLite, "disk I/O error" and "unable to open database file", do not name the cause.
    with contextlib.suppress(OSError):
        if shutil.disk_usage(path.parent).free < _FULL:
            what = f"the disk is full ({what})"
        elif not os.access(path.parent, os.W_OK):
            what = f"its folder cannot be written ({what})"
    return f"{what}: {path}"


# The marker of unsaved messages: an empty file beside the journal while the last messages are not in it. ``-C``
# continues the last conversation in the journal, and must warn if the user may mean an unsaved one. An empty file can
# be created on most full disks. In a folder that cannot be written it is in the cache folder instead.


def mark_unsaved(journal: Path) -> None:
    """Create the marker: a message could not be saved."""
    beside, cached = _markers(journal)
    with contextlib.suppress(OSError):
        beside.touch(mode=0o600)
        return
    with contextlib.suppress(OSError):
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.touch(mode=0o600)


def clear_unsaved(journal: Path) -> None:
    """Remove the marker: messages are saved again."""
    for marker in _markers(journal):
        with contextlib.suppress(OSError):
            marker.unlink(missing_ok=True)


def unsaved_since(journal: Path) -> float | None:
    """Time of the last failed write, in seconds since the epoch; None if everything was saved."""
    times = []
    for marker in _markers(journal):
        with contextlib.suppress(OSError):
            times.append(marker.stat().st_mtime)
    return max(times, default=None)


def _markers(journal: Path) -> tuple[Path, Path]:
    digest = hashlib.sha256(os.fsencode(Path(os.path.abspath(journal)))).hexdigest()[:16]  # noqa: PTH100  # no links
    return journal.with_name(journal.name + ".not-kept"), paths.cache_dir() / f"journal-{digest}.not-kept"
