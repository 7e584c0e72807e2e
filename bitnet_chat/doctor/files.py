"""Files of the program: settings, data directory, journal, recordings."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bitnet_chat import config, paths
from bitnet_chat.doctor.finding import Finding, broken, ok, warn
from bitnet_chat.prompt_cache.store import StateStore, limit_of
from bitnet_chat.trace import recorder
from bitnet_chat.util.progress import size as in_words

_GROUP = "files"
_CHECK_SECONDS = 10.0
"""Time limit for the check of the journal, in seconds."""


def settings(problem: str) -> Iterator[Finding]:
    """Check the settings file and the variables. ``problem``: the error of the settings; empty if they are valid."""
    path = paths.config_file()
    if problem:
        yield broken(_GROUP, "settings", problem, "bitnet-chat config edit opens the file")
    elif path.exists():
        yield ok(_GROUP, "settings", f"{path} is valid")
    else:
        yield ok(_GROUP, "settings", f"{path} does not exist: defaults are used")
    unknown = config.unknown_variables()
    if unknown:
        yield warn(_GROUP, "variables", f"unknown: {', '.join(unknown)}", "bitnet-chat config show lists all")


def data_folder() -> Finding:
    """Check that the data directory exists, or can be created, and is writable."""
    folder = paths.data_dir()
    above = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    if not above.is_dir():
        return broken(_GROUP, "data", f"{above} is not a directory", "remove it, or set BITNET_CHAT_DATA=FOLDER")
    if not os.access(above, os.W_OK | os.X_OK):
        return broken(
            _GROUP,
            "data",
            f"{above} cannot be written: conversations are not saved",
            "correct its permissions, or set BITNET_CHAT_DATA",
        )
    recorded = len(recorder.sessions())
    kept = f", with {recorded} recorded session{'s' * (recorded != 1)}" if recorded else ""
    return ok(_GROUP, "data", f"{folder}{kept}" if folder.is_dir() else f"{folder} is created on first use")


def journal(*, wanted: bool) -> Finding:
    """Check the journal, without changing it. ``wanted``: the setting ``journal``."""
    path = paths.data_dir() / "journal.db"
    off = "" if wanted else "; it is switched off"
    try:
        status = path.stat()
    except FileNotFoundError:
        return ok(_GROUP, "journal", f"it does not exist yet{off}")
    except OSError as error:
        return broken(_GROUP, "journal", f"{path} cannot be read: {error.strerror}", "correct its permissions")
    size = status.st_size
    problem, newer = _check(path)
    if problem:
        return broken(
            _GROUP,
            "journal",
            f"{path} cannot be used: {problem}",
            "the next start moves a damaged one aside; make a copy of the file first",
            bytes=size,
        )
    if newer:
        return warn(
            _GROUP, "journal", f"{path} is of a later version ({newer})", "use the newer bitnet-chat", bytes=size
        )
    if not os.access(path, os.W_OK):
        return broken(_GROUP, "journal", f"{path} cannot be written", "correct its permissions", bytes=size)
    if sys.platform != "win32" and status.st_mode & 0o077:
        return warn(_GROUP, "journal", f"others may read {path}", f"chmod 600 {path}", mode=oct(status.st_mode & 0o777))
    return ok(_GROUP, "journal", f"{path} is intact, {in_words(size)}{off}", bytes=size)


def states(limit: str, *, wanted: bool) -> Finding:
    """The saved engine states. ``limit``: the setting. ``wanted``: whether conversations are kept."""
    folder = paths.states_dir()
    store, most = StateStore(folder), limit_of(limit, folder) if wanted else 0
    usage, shared = store.usage(), store.prompt_usage().count
    seen = f"{folder} holds {usage.count} engine state{'s' * (usage.count != 1)}"
    seen += f" ({shared} of system prompts)" if shared else ""
    seen += f", {in_words(usage.bytes)}" + (f" of at most {in_words(most)}" if most else "; none is added")
    facts = {"count": usage.count, "shared": shared, "bytes": usage.bytes, "limit": most}
    return ok(_GROUP, "states", seen, folder=str(folder), **facts)


def set_aside() -> Iterator[Finding]:
    """Report damaged journals that were moved aside."""
    from bitnet_chat.journal.damaged_file import recovery_advice
    from bitnet_chat.journal.database import SET_ASIDE

    found = sorted(paths.data_dir().glob(f"journal.db{SET_ASIDE}*"))
    for path in found:
        if not path.name.endswith(("-wal", "-shm")):
            yield warn(
                _GROUP,
                "set aside",
                f"{path} is a damaged journal, {in_words(path.stat().st_size)}",
                f"{recovery_advice(path)}; remove it if it is not needed",
            )


def _check(path: Path) -> tuple[str, int]:
    """Check a journal file. Returns the fault, empty if there is none, and the version if it is later than that of this
    program, else 0.
    """
    import sqlite3

    from bitnet_chat.journal import schema
    from bitnet_chat.journal.database import open_to_read

    deadline = time.monotonic() + _CHECK_SECONDS
    try:
        connection = open_to_read(path)
        try:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
            version = schema.version(connection)
            if not (schema.is_newer(version) or schema.fits(connection)):
                return f"its tables are not those of version {version}", 0
            told = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        # "interrupted": the time limit has passed, and the part checked so far is intact.
        return ("" if "interrupted" in str(error) else str(error)), 0
    except sqlite3.Error as error:
        return str(error), 0
    return ("" if told == ["ok"] else "; ".join(told)), version if schema.is_newer(version) else 0
