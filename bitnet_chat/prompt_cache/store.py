"""The folder of saved states.

Several processes use it at once without locks: a file has a name of its own, is written once, and counts from the
moment on that its record has been renamed into place. A process that loses a race reads the conversation again. All
methods block, most for less than a millisecond (:meth:`StateStore.commit` and :meth:`StateStore.verify` read the whole
file), and none raises an error of the operating system: a line in the log says what was removed and why.
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import eq
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.config import Settings
from bitnet_chat.prompt_cache import budget, names, record
from bitnet_chat.prompt_cache.budget import StateUse
from bitnet_chat.prompt_cache.key import StateIdentity, text_digest
from bitnet_chat.prompt_cache.names import FolderListing, StateOwner
from bitnet_chat.prompt_cache.record import PendingState, RecordError, SavedState
from bitnet_chat.util.process_identity import is_alive, this_process
from bitnet_chat.util.progress import size as in_words

_CHUNK = 1 << 20
_NUMBERS = itertools.count()
_LOG: Callable[[str], None] = logging.getLogger("bitnet_chat.prompt_cache").info


@dataclass(frozen=True, slots=True)
class StateUsage:
    count: int
    bytes: int


def open_state_store(settings: Settings, log: Callable[[str], None] = _LOG) -> StateStore | None:
    """The store of this user after :meth:`StateStore.tidy`; None where no state is kept: without the journal, or with
    the limit 0, which removes all states."""
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
    """Bytes for all states in ``folder``, which may not exist. ``setting``: ``state_limit`` of the settings."""
    place = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    kept = StateStore(folder).usage().bytes
    try:
        free = shutil.disk_usage(place).free
    except OSError:  # what is kept stays
        setting, free = setting or str(kept), 0
    return budget.limit(setting, free, kept)


class StateStore:
    """``limit``: bytes of all states; with 0 states can only be read and removed. ``log``: receives a line without
    a newline for each state that is not kept or was removed for a fault; the default logs it as ``INFO``."""

    def __init__(self, folder: Path, limit: int = 0, log: Callable[[str], None] = _LOG) -> None:
        self.folder, self.limit, self._log = folder, limit, log

    def owner(self, journal: Path, conversation: int, message: int) -> StateOwner:
        """``journal``: the file. ``conversation`` and ``message``: their rows; the last message that a state covers."""
        return StateOwner(self._journal(journal), conversation, message)

    # An engine writes a state

    def begin(self, identity: StateIdentity, digests: tuple[str, ...]) -> PendingState | None:
        """An empty file for an engine to write, whose name has no separators and does not begin with a dot.
        ``digests``: of all boundaries of the conversation that the engine has evaluated.

        :meth:`commit` or :meth:`discard` must follow, else the file remains until this process has ended. None: none
        is kept, or none can be written.
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
        """Keep a state that an engine has written completely, in place of those of its own beginning, and remove
        what exceeds the limit. Reads the file once.

        ``tokens``: evaluated ones. ``seconds``: time that reading them took. ``owner``: None for a prefix that many
        conversations share. None: the state is not kept, and the file is removed.
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
            self._stamp(path)
            self._write_record(state)
        except (OSError, OverflowError) as error:
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

    def find(self, identity: StateIdentity, digests: Sequence[str]) -> tuple[SavedState, int] | None:
        """The state that shares most with a conversation, and the number of messages that they share. ``digests``: of
        all boundaries of the conversation, see :func:`~bitnet_chat.prompt_cache.key.prefix_digests`.

        Only the size of the file is checked, see :meth:`verify`. A state that is damaged is removed.
        """
        prefix = f"{identity.digest}-"
        listing = names.listing(name for name in self._names() if name.startswith(prefix) and name.endswith(".json"))
        best: tuple[SavedState, int] | None = None
        for stem in sorted(listing.records, reverse=True):
            state = self._read(stem, listing.records[stem])
            if state is None or state.identity != identity or state.digests[-1] != names.digest_of(stem):
                continue
            shared = sum(1 for _ in takewhile(bool, map(eq, state.digests, digests))) - 1
            if shared >= 0 and (best is None or shared > best[1]):
                best = state, shared
        return best

    def verify(self, state: SavedState) -> bool:
        """Whether the file is the one that was committed, by its CRC-32. A damaged one is removed."""
        try:
            fault = "" if _measured(state.path) == (state.bytes, state.crc32) else "it is damaged"
        except OSError as error:
            fault = str(error)
        if fault:
            self.remove(state, fault)
        return not fault

    def touch(self, state: SavedState, owner: StateOwner | None = None) -> bool:
        """Note that a state is used now, and a further owner where it has one. False: it was removed meanwhile."""
        try:
            self._stamp(state.path)
            if owner is not None and state.owner is not None and owner != state.owner:
                self._add_owner(state.stem, owner)
        except (OSError, OverflowError):
            return state.path.exists()
        return True

    def remove(self, state: SavedState, reason: str = "") -> None:
        """Remove a state, for example one that an engine cannot restore. ``reason``: for the log; empty: no line."""
        listing = self._listing()
        if reason:
            self._log(f"an engine state of {state.tokens} tokens is removed: {reason}")
        self._remove(listing, state.stem)

    # Conversations

    def heads(self, journal: Path) -> set[tuple[int, int]]:
        """Conversation and message of every boundary in a journal that has a state, by one reading of the folder."""
        listing, of = self._listing(), self._journal(journal)
        return {
            (owner.conversation, owner.message)
            for stem in listing.usable
            for owner in listing.owners_of(stem)
            if owner.journal == of
        }

    def remove_owner(self, journal: Path, conversation: int) -> int:
        """Remove the states of a conversation but those that others own too; returns the number of removed ones."""
        listing, of, removed = self._listing(), self._journal(journal), 0
        for stem in listing.records:
            owners = listing.owners_of(stem)
            own = {each for each in owners if (each.journal, each.conversation) == (of, conversation)}
            if own and own == owners:
                removed += self._remove(listing, stem)
            elif own:
                self._hand_over(stem, listing.records[stem], own, owners - own)
        return removed

    # The folder

    def usage(self) -> StateUsage:
        uses = self._uses(self._listing())
        return StateUsage(len(uses), sum(each.bytes for each in uses))

    def clear(self) -> int:
        """Remove all states but those that are being written; returns their number."""
        listing = self._listing()
        return sum(self._remove(listing, stem) for stem in listing.records)

    def tidy(self) -> None:
        """Remove what ended processes have left behind, and what exceeds the limit."""
        processes = {names.process_of(stem) for stem in self._listing().unfinished}
        ended = {process for process in processes if not is_alive(process)}
        # Listed again: an ended process has committed nothing since, a running one may have.
        listing = self._listing()
        for stem in listing.unfinished:
            if names.process_of(stem) in ended:
                self._remove(listing, stem)
        for stem in (listing.records.keys() | listing.owners.keys()) - set(listing.usable) - listing.unfinished:
            self._remove(listing, stem)
        self._fit()

    def _fit(self) -> None:
        """Remove states that have a later one of the same key, and what exceeds the limit."""
        self._merge(self._listing())
        listing = self._listing()
        for stem in budget.leaving(self._uses(listing), self.limit):
            self._remove(listing, stem)

    def _supersede(self, state: SavedState) -> None:
        """Remove the states whose whole conversation is the beginning of that of ``state``, which gets their owners."""
        prefixes = {names.key(state.identity.digest, digest) for digest in state.digests[:-1]}
        listing = self._listing()
        for stem in listing.usable:
            if stem[: names.KEY_LENGTH] in prefixes:
                if state.owner is not None:
                    for owner in listing.owners_of(stem) - {state.owner}:
                        self._add_owner(state.stem, owner)
                self._remove(listing, stem)

    def _merge(self, listing: FolderListing) -> None:
        """The last state of a key gets the owners of the others, which are removed. It is the same one for processes
        that do so at the same time."""
        by_key: dict[str, list[str]] = {}
        for stem in listing.usable:
            by_key.setdefault(stem[: names.KEY_LENGTH], []).append(stem)
        several = [stems for stems in by_key.values() if len(stems) > 1]
        status = self._status() if several else {}
        used = {name: each.st_mtime_ns for name, each in status.items()}
        for stems in several:
            *earlier, last = sorted(stems, key=lambda stem: (used.get(names.state_name(stem), 0), stem))
            for stem in earlier:
                if listing.records[last] is not None:
                    for owner in listing.owners_of(stem) - listing.owners_of(last):
                        self._add_owner(last, owner)
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
        """Of the files of states."""
        found: dict[str, os.stat_result] = {}
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(".state"):
                    with contextlib.suppress(OSError):  # removed meanwhile
                        found[entry.name] = entry.stat()
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

    def _stamp(self, path: Path) -> None:
        """Set the time of the last use. It is later than that of every other state, whatever the clock says."""
        others = (each.st_mtime_ns for name, each in self._status().items() if name != path.name)
        stamp = max(time.time_ns(), max(others, default=0) + 1)
        os.utime(path, ns=(stamp, stamp))

    def _write_record(self, state: SavedState) -> None:
        """The rename is the moment from which on the state counts. Raises OSError."""
        part = self.folder / names.part_name(state.stem)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(record.encode(state))
        part.replace(self.folder / names.record_name(state.stem, state.owner))

    def _read(self, stem: str, owner: StateOwner | None) -> SavedState | None:
        """None: the state cannot be used, and is removed."""
        path = self.folder / names.state_name(stem)
        try:
            with (self.folder / names.record_name(stem, owner)).open("rb") as file:
                state = record.decode(file.read(record.MAX_BYTES), path, stem, owner)
            size = path.stat().st_size
            fault = "" if size == state.bytes else f"it has {size} bytes instead of {state.bytes}"
        except FileNotFoundError:
            fault = "its file is missing"
        except RecordError as error:
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
        with contextlib.suppress(OSError):  # without it the state is removed with its other owners
            (self.folder / names.owner_name(stem, owner)).touch(mode=0o600)

    def _hand_over(
        self, stem: str, first: StateOwner | None, leaving: set[StateOwner], others: frozenset[StateOwner]
    ) -> None:
        """Remove some owners of a state, and leave ``others``. ``first``: the one in the name of its record."""
        if first in leaving:
            leaving.remove(first)
            successor = min(others, key=str)
            with contextlib.suppress(OSError):
                record_file = self.folder / names.record_name(stem, first)
                record_file.replace(self.folder / names.record_name(stem, successor))
                leaving.add(successor)
        for owner in leaving:
            self._unlink(names.owner_name(stem, owner))

    def _remove(self, listing: FolderListing, stem: str) -> bool:
        """Remove the files of a state in the order of :func:`names.files_of`. Where one cannot be removed, as an open
        file on Windows, the rest stays for the next time."""
        return all(self._unlink(name) for name in names.files_of(listing, stem))

    def _unlink(self, name: str) -> bool:
        try:
            (self.folder / name).unlink(missing_ok=True)
        except OSError:
            return False
        return True

    def _journal(self, journal: Path) -> str:
        """16 digits for the path of a journal. One beside the folder keeps them where both are moved."""
        path, base = journal.resolve(), self.folder.resolve().parent
        return text_digest(path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path))


def _measured(path: Path) -> tuple[int, int]:
    """Size and CRC-32 of a file. Raises OSError."""
    size = crc = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            crc = zlib.crc32(chunk, crc)
    return size, crc
