"""The folder of saved states.

Several processes use it at the same time without locks: each file has a unique name, is written once, and counts once
its record has been renamed into place. If a process removes a state that another one is about to use, that one
evaluates the conversation again.

All methods block: :meth:`StateStore.commit` and :meth:`StateStore.verify` read the whole file, :meth:`StateStore.find`
reads the records of one identity (11 ms for 100 states of 200 messages), the others take about a millisecond. No method
raises OSError; the log has the reason for each state that is not kept or is removed because of a fault.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from operator import eq
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.config import Settings
from bitnet_chat.errors import StateRecordError
from bitnet_chat.prompt_cache import budget, names, record
from bitnet_chat.prompt_cache.budget import StateUse
from bitnet_chat.prompt_cache.key import StateIdentity, text_digest
from bitnet_chat.prompt_cache.names import FolderListing, StateOwner
from bitnet_chat.prompt_cache.record import PendingState, SavedState
from bitnet_chat.text.sanitize import one_line
from bitnet_chat.util.process_identity import is_alive, this_process
from bitnet_chat.util.progress import size as in_words

_CHUNK = 1 << 20
_NUMBERS = itertools.count()
_LOG_FILE, _LOG_BYTES = "states.log", 100_000
"""The log beside the folder of the states, and the size at which it begins anew."""


@dataclass(frozen=True, slots=True)
class StateUsage:
    count: int
    bytes: int


def open_state_store(settings: Settings, log: Callable[[str], None] | None = None) -> StateStore | None:
    """The store of this user after :meth:`StateStore.tidy`. None if no state is kept: without the journal, or with the
    limit 0, which removes all states."""
    folder = paths.states_dir()
    if not settings.journal:
        return None
    limit = limit_of(settings.state_limit, folder)
    if not limit and not folder.exists():
        return None
    store = StateStore(folder, limit, log)
    store.tidy()
    return store if limit else None


def limit_of(setting: str, folder: Path) -> int:
    """Maximum size of all states in ``folder`` in bytes. The folder may not exist. ``setting``: ``state_limit`` of the
    settings. Raises ValueError, see :func:`budget.limit`."""
    place = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    kept = StateStore(folder).usage().bytes
    try:
        free = shutil.disk_usage(place).free
    except OSError:  # the present states are kept
        setting, free = setting or str(kept), 0
    return budget.limit(setting, free, kept)


class StateStore:
    """``limit``: maximum size of all states in bytes; with 0 states can only be read and removed. ``log``: receives a
    line without a newline for each state that is not kept or is removed because of a fault; default: the logger
    ``bitnet_chat.prompt_cache`` with the level ``INFO``, and the file ``states.log`` beside the folder."""

    def __init__(self, folder: Path, limit: int = 0, log: Callable[[str], None] | None = None) -> None:
        self.folder, self.limit, self._log = folder, limit, log or partial(_log, folder.with_name(_LOG_FILE))

    def owner(self, journal: Path, conversation: int, message: int) -> StateOwner:
        """``journal``: the file. ``conversation`` and ``message``: their rows."""
        return StateOwner(self._journal(journal), conversation, message)

    # An engine writes a state

    def begin(self, identity: StateIdentity, digests: tuple[str, ...]) -> PendingState | None:
        """Create an empty file for an engine to write. Its name has no separators and does not begin with a dot.
        ``digests``: of all boundaries of the conversation that the engine has evaluated, at least one.

        :meth:`commit` or :meth:`discard` must follow, else the file remains until this process has ended. None: the
        limit is 0, or the folder cannot be written.
        """
        if self.limit <= 0:
            return None
        key = names.key(identity.digest, digests[-1])
        try:
            self._make_folder()
            while True:
                stem = names.stem(key, this_process(), next(_NUMBERS))
                path = self.folder / names.state_name(stem)
                with contextlib.suppress(FileExistsError):  # of an earlier process with the same identity
                    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                    return PendingState(path, identity, digests, stem)
        except OSError as error:
            self._log(f"no engine state is kept: {self.folder} cannot be written: {error.strerror}")
            return None

    def commit(
        self, pending: PendingState, *, tokens: int, seconds: float = 0.0, owner: StateOwner | None = None
    ) -> SavedState | None:
        """Keep a state that an engine has written completely. It replaces the states whose whole conversation is the
        beginning of its own, or equal to it, and gets their owners; that of a system prompt stays. Then the states that
        exceed the limits are removed. Reads the file once.

        ``tokens``: number of evaluated tokens. ``seconds``: time that their evaluation took. ``owner``: None for a
        conversation without a journal, and for a system prompt. Returns None if the state is not kept; its file is
        then removed.
        """
        path = pending.path
        try:
            size, crc = _measured(path)
            if not size or size > self.limit:
                why = f"{in_words(size)} of at most {in_words(self.limit)}" if size else "the engine wrote nothing"
                self.discard(pending, why)
                return None
            state = SavedState(
                path, pending.identity, pending.digests, tokens, size, crc, seconds, time.time(), owner, pending.stem
            )
            path.chmod(0o600)
            # That of a prompt is saved after the conversation that begins with it, which is worth more.
            self._stamp(path, is_last=not state.is_prompt)
            self._write_record(state)
        except (OSError, OverflowError) as error:
            # A network file system may report a failure of a rename that it has made.
            self._unlink(names.record_name(pending.stem, owner))
            self.discard(pending, str(error))
            return None
        self._supersede(state)
        self._fit()
        return state

    def discard(self, pending: PendingState, reason: str = "") -> None:
        """Remove the file of a state that is not kept. ``reason``: for the log; empty: no line."""
        for name in (names.part_name(pending.stem), pending.path.name):
            self._unlink(name)
        if reason:
            self._log(f"an engine state is not kept: {reason}")

    # A state is used

    def find(
        self, identity: StateIdentity, digests: Sequence[str], without: Collection[str] = ()
    ) -> tuple[SavedState, int] | None:
        """The state that shares most leading messages with a conversation, and their number; of several such states
        that of the system prompt alone, which is the smallest, or the newest one. ``digests``: of all boundaries of the
        conversation, see :func:`~bitnet_chat.prompt_cache.key.prefix_digests`. ``without``: stems of states that are
        not used.

        Only the size of the file is checked, see :meth:`verify`. A damaged state is removed.
        """
        prefix = f"{identity.digest}-"
        listing = names.listing(name for name in self._names() if name.startswith(prefix) and name.endswith(".json"))
        best: tuple[int, bool, float, SavedState] | None = None
        for stem, owner in listing.records.items():
            state = self._read(stem, owner) if stem not in without else None
            if state is None or state.identity != identity:
                continue
            shared = sum(takewhile(bool, map(eq, state.digests, digests))) - 1
            found = shared, state.is_prompt, state.created, state
            if shared >= 0 and (best is None or found[:3] > best[:3]):
                best = found
        return (best[3], best[0]) if best is not None else None

    def has(self, identity: StateIdentity, digest: str) -> bool:
        """Whether a state ends at the boundary ``digest``. Lists the folder once, and opens no file."""
        key = names.key(identity.digest, digest)
        return any(stem.startswith(key) for stem in names.listing(self._names()).usable)

    def verify(self, state: SavedState) -> bool:
        """Whether the file is as it was at the commit, by its CRC-32. A damaged state is removed."""
        try:
            fault = "" if _measured(state.path) == (state.bytes, state.crc32) else "it is damaged"
        except OSError as error:
            fault = str(error)
        if fault:
            self.remove(state, fault)
        return not fault

    def touch(self, state: SavedState, owner: StateOwner | None = None) -> bool:
        """Record the use of a state. ``owner``: a further owner; ignored for a state without an owner. Returns False if
        the state has been removed."""
        try:
            self._stamp(state.path)
            if owner is not None and state.owner is not None and owner != state.owner:
                self._add_owner(state.stem, owner)
        except (OSError, OverflowError):
            return state.path.exists()
        return True

    def remove(self, state: SavedState, reason: str = "") -> None:
        """Remove a state, such as one that an engine cannot restore. ``reason``: for the log; empty: no line."""
        listing = self._listing()
        if reason:
            self._log(f"an engine state of {state.tokens} tokens is removed: {reason}")
        self._remove(listing, state.stem)

    # Conversations

    def heads(self, journal: Path) -> set[tuple[int, int]]:
        """Conversation and message of every owner in a journal. Lists the folder once."""
        listing, of = self._listing(), self._journal(journal)
        return {
            (owner.conversation, owner.message)
            for stem in listing.usable
            for owner in listing.owners_of(stem)
            if owner.journal == of
        }

    def remove_owner(self, journal: Path, conversation: int) -> int:
        """Remove the states that contain a whole conversation; those of other conversations that it only shares a
        beginning with lose it as an owner. Returns the number of removed states."""
        listing, of, removed = self._listing(), self._journal(journal), 0
        for stem in listing.records:
            owners = listing.owners_of(stem)
            own = {each for each in owners if (each.journal, each.conversation) == (of, conversation)}
            if own and (listing.records[stem] in own or own == owners):
                removed += self._remove(listing, stem)
            else:
                for owner in own:
                    self._unlink(names.owner_name(stem, owner))
        return removed

    # The folder

    def usage(self) -> StateUsage:
        uses = self._uses(self._listing())
        return StateUsage(len(uses), sum(each.bytes for each in uses))

    def prompt_usage(self) -> StateUsage:
        """The states of system prompts, which are a part of :meth:`usage`. Reads the records of all states without an
        owner."""
        listing = self._listing()
        unowned = (self._read(stem, None) for stem in listing.usable if listing.records[stem] is None)
        sizes = [state.bytes for state in unowned if state is not None and state.is_prompt]
        return StateUsage(len(sizes), sum(sizes))

    def clear(self) -> int:
        """Remove all committed states. Returns their number."""
        listing = self._listing()
        return sum(self._remove(listing, stem) for stem in listing.records)

    def tidy(self) -> None:
        """Remove the unfinished files of ended processes, and the states that exceed the limits."""
        processes = {names.process_of(stem) for stem in self._listing().unfinished}
        ended = {process for process in processes if not is_alive(process)}
        # Listed again: a process that runs may have committed a state since.
        listing = self._listing()
        for stem in listing.unfinished:
            if names.process_of(stem) in ended:
                self._remove(listing, stem)
        self._fit()

    def _fit(self) -> None:
        """Remove what interrupted removals have left, the states that have a later one of the same key, and those that
        exceed the limits."""
        listing = self._listing()
        for stem in (listing.records.keys() | listing.owners.keys()) - set(listing.usable) - listing.unfinished:
            if stem in listing.records and (self.folder / names.record_name(stem, listing.records[stem])).exists():
                self._log("an engine state is removed: its file is missing")
            self._remove(listing, stem)
        self._merge(listing)
        listing = self._listing()
        for stem in budget.leaving(self._uses(listing), self.limit):
            self._remove(listing, stem)

    def _supersede(self, state: SavedState) -> None:
        """Replace the states whose whole conversation is the beginning of that of ``state``, but for that of the system
        prompt."""
        prompt = names.key(state.identity.digest, state.digests[0])
        prefixes = {names.key(state.identity.digest, digest) for digest in state.digests[:-1]}
        listing = self._listing()
        if state.stem not in listing.records:
            return  # another process has replaced it by a later one, which replaces the others too
        for stem in listing.usable:
            key = stem[: names.KEY_LENGTH]
            if key in prefixes and (key != prompt or listing.records[stem] is not None):
                self._replace(listing, stem, state.stem)

    def _merge(self, listing: FolderListing) -> None:
        """Replace all states of a key by the last one. Processes that do so at the same time choose the same one."""
        by_key: dict[str, list[str]] = {}
        for stem in listing.usable:
            by_key.setdefault(stem[: names.KEY_LENGTH], []).append(stem)
        several = [stems for stems in by_key.values() if len(stems) > 1]
        status = self._status() if several else {}
        used = {name: each.st_mtime_ns for name, each in status.items()}
        for stems in several:
            *earlier, last = sorted(stems, key=lambda stem: (used.get(names.state_name(stem), 0), stem))
            for stem in earlier:
                self._replace(listing, stem, last)

    def _replace(self, listing: FolderListing, stem: str, successor: str) -> None:
        """Remove a state after its owners have been added to ``successor``."""
        present = {(each.journal, each.conversation) for each in listing.owners_of(successor)}
        for owner in listing.owners_of(stem):
            if (owner.journal, owner.conversation) not in present:
                self._add_owner(successor, owner)
        self._remove(listing, stem)

    def _uses(self, listing: FolderListing) -> list[StateUse]:
        status = self._status()
        uses = []
        for stem in listing.usable:
            found = status.get(names.state_name(stem))
            if found is not None:
                identity = names.identity_of(stem)
                owned = frozenset((identity, each.journal, each.conversation) for each in listing.owners_of(stem))
                uses.append(StateUse(stem, found.st_size, found.st_mtime_ns, owned))
        return uses

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.folder)  # noqa: PTH208  # paths would take half of the time of a search
        except FileNotFoundError:
            return []
        except OSError as error:
            self._log(f"{self.folder} cannot be read: {error.strerror}")
            return []

    def _listing(self) -> FolderListing:
        return names.listing(self._names())

    def _status(self) -> Mapping[str, os.stat_result]:
        """The status of each state file, by name."""
        found: dict[str, os.stat_result] = {}
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # removed meanwhile
                    if entry.name.endswith(".state") and entry.is_file(follow_symlinks=False):
                        found[entry.name] = entry.stat(follow_symlinks=False)
        return found

    def ready_folder(self) -> Path | None:
        """The folder, made if it is missing; None if it cannot be made."""
        try:
            self._make_folder()
        except OSError as error:
            self._log(f"no engine state is kept: {self.folder} cannot be made: {error.strerror}")
            return None
        return self.folder

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if sys.platform != "win32" and self.folder.stat().st_mode & 0o077:
            self.folder.chmod(0o700)

    def _stamp(self, path: Path, *, is_last: bool = True) -> None:
        """Set the time of the last use: now, and after that of every other state even if the clock was set back. Not
        ``is_last``: just before that of the state that was used last."""
        others = [each.st_mtime_ns for name, each in self._status().items() if name != path.name]
        stamp = max(time.time_ns(), max(others, default=0) + 1) if is_last or not others else max(others) - 1
        os.utime(path, ns=(stamp, stamp))

    def _write_record(self, state: SavedState) -> None:
        """Write a record and rename it, after which the state counts. Raises OSError."""
        part = self.folder / names.part_name(state.stem)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(record.encode(state))
        part.replace(self.folder / names.record_name(state.stem, state.owner))

    def _read(self, stem: str, owner: StateOwner | None) -> SavedState | None:
        """Read a record. None: the state cannot be used; a damaged one is removed."""
        path = self.folder / names.state_name(stem)
        try:
            with open(self.folder / names.record_name(stem, owner), "rb", opener=_opened) as file:
                state = record.decode(file.read(record.MAX_BYTES), path, stem, owner)
            size = path.stat().st_size
            fault = "" if size == state.bytes else f"it has {size} bytes instead of {state.bytes}"
        except FileNotFoundError:
            fault = "its file is missing"
        except StateRecordError as error:
            fault = str(error)
        except OSError as error:
            self._log(f"an engine state cannot be read: {error}")
            return None
        if not fault:
            return state
        self._log(f"an engine state is removed: {fault}")
        self._remove(self._listing(), stem)
        return None

    def _add_owner(self, stem: str, owner: StateOwner) -> None:
        with contextlib.suppress(OSError):  # then the state is removed with its other owners
            (self.folder / names.owner_name(stem, owner)).touch(mode=0o600)

    def _remove(self, listing: FolderListing, stem: str) -> bool:
        """Remove the files of a state in the order of :func:`names.files_of`. Stops at a file that cannot be removed,
        such as an open one on Windows; the next call continues."""
        return all(self._unlink(name) for name in names.files_of(listing, stem))

    def _unlink(self, name: str) -> bool:
        try:
            (self.folder / name).unlink(missing_ok=True)
        except OSError:
            return False
        return True

    def _journal(self, journal: Path) -> str:
        """16 digits for the path of a journal: relative to the parent of the folder if the journal is in it, so that
        both can be moved."""
        path, base = journal.resolve(), self.folder.resolve().parent
        return text_digest(path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path))


def _opened(path: str, flags: int) -> int:
    """Open a file, and not what a link in its place leads to. A named pipe is read as an empty file."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))


def _measured(path: Path) -> tuple[int, int]:
    """Size and CRC-32 of a file. Raises OSError."""
    size = crc = 0
    with open(path, "rb", buffering=0, opener=_opened) as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            crc = zlib.crc32(chunk, crc)
    return size, crc


def _log(path: Path, line: str) -> None:
    """Log a line. Raises nothing."""
    logging.getLogger("bitnet_chat.prompt_cache").info(line)
    with contextlib.suppress(OSError):
        if path.exists() and path.stat().st_size > _LOG_BYTES:
            path.unlink()
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {one_line(line)}\n".encode())
        finally:
            os.close(file)
