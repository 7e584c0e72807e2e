"""The one thread that writes to the journal, so that no event loop waits for a disk or for another program.

Commands are run in the order they came. One that fails is tried again, at first soon and then less and less often, so
that a disk that is full for an hour costs nothing but a line of complaint; meanwhile the commands wait, and what they
hold are the texts that the conversation holds anyway. At the end they are tried for as long as their front end waits.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from bitnet_chat.errors import BitnetChatError
from bitnet_chat.journal import commands, unsaved_marker
from bitnet_chat.journal.commands import AddText, Command, Verify
from bitnet_chat.journal.database import DatabaseState, is_damage, problem, state_of
from bitnet_chat.journal.records import ConversationSlot
from bitnet_chat.journal.recovery import Piece, settle
from bitnet_chat.journal.salvage import open_file, set_aside
from bitnet_chat.journal.transactions import ConversationStore

if TYPE_CHECKING:
    from sqlite3 import Connection

DELAY = 0.1
"""Seconds that a piece of a reply waits for more at most, before all are written in one transaction."""
RETRY, RETRY_MOST = 0.1, 60.0
"""Seconds to the next try after a failure; twice as long each time."""
LAST_RETRY = 0.05
"""The same when the front end waits for the end."""
BUSY = 0.2
"""Seconds that one try waits for the lock of another program, which holds it for some milliseconds."""
TROUBLE = 2.0
"""Seconds for which a job fails before the user is told: until then it may be kept without a word."""
JOBS_MOST = 10_000
"""Commands that may wait for a file that cannot be written; with more the journal is given up."""
_DAMAGES_MOST = 3
_NO_CHECKPOINT_ON_CLOSE = 1006  # SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE


class PendingText:
    """Text of one reply; one thread appends to it, the other writes it."""

    def __init__(self) -> None:
        self._all: list[Piece] = []
        self._written = 0
        self._due: float | None = None

    def append(self, piece: Piece, now: float) -> bool:
        """True: no text was waiting, and an :class:`AddText` has to be put."""
        self._all.append(piece)
        if self._due is not None:
            return False
        self._due = now + DELAY
        return True

    @property
    def due(self) -> float:
        """Time at which the waiting text has to be written."""
        return self._due or 0.0

    def write(self, store: ConversationStore) -> None:
        # First: what is appended from here on asks for a command of its own, even if it is taken along now.
        self._due = None
        pieces = self._all[self._written :]
        store.add(pieces)
        self._written += len(pieces)


@dataclass(frozen=True, slots=True)
class WriterJob:
    """A command, and the conversation that it is about."""

    command: Command
    slot: ConversationSlot


class WriterThread:
    """``put`` commands from any thread; ``stop`` when there are no more."""

    def __init__(
        self,
        path: Path,
        complain: Callable[[str], None],
        on_end: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        on_done: Callable[[WriterJob, ConversationStore], None] = lambda job, store: None,
    ) -> None:
        """``complain``, ``on_done`` (a command was run) and ``on_end`` are called in the thread."""
        self._path = path
        self._complain = complain
        self._on_end, self._on_done = on_end, on_done
        self._clock = clock
        self._jobs: SimpleQueue[WriterJob | None] = SimpleQueue()
        self._stopping = threading.Event()
        self._deadline = 0.0
        self._connection: Connection | None = None
        self._state: DatabaseState | None = None
        self._written = 0
        """Rows that were changed over the present connection, when ``_state`` was."""
        self._store: ConversationStore | None = None
        self._told: set[str] = set()
        self._damages = 0
        self._marks = True
        """Whether there may be a mark of an earlier loss, which the first command that is run clears."""
        self.off = False
        """The journal was given up: the thread does not write any more."""
        self.trouble = ""
        """The reason for giving up, where it was not reported."""
        self.lost = ""
        """The reported line about messages that are not kept."""
        # A daemon: a disk that hangs does not keep the program from ending.
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def put(self, command: Command, slot: ConversationSlot | None = None) -> None:
        """``slot``: the conversation, for ``on_done``. :class:`AddText` is run when its text is due, or as soon as
        another command comes."""
        if self._jobs.qsize() >= JOBS_MOST and not self.off and not isinstance(command, AddText):
            self._give_up("the journal cannot be written, and too many changes wait: later messages are not kept")
        if not self.off:
            self._jobs.put(WriterJob(command, slot or ConversationSlot()))

    def stop(self, patience: float = 0.0) -> None:
        """Ends the thread when all commands are run; those that fail are tried for so many seconds."""
        self._deadline = time.monotonic() + patience
        self._stopping.set()
        self._jobs.put(None)

    def _run(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                while isinstance(job.command, AddText):
                    try:
                        following = self._jobs.get(timeout=max(0.0, job.command.text.due - self._clock()))
                    except Empty:
                        break
                    self._do(job)
                    if following is None:
                        return
                    job = following
                self._do(job)
        finally:
            self._end()
            self._on_end()

    def _end(self) -> None:
        if self._state is not None and state_of(self._path).identity == self._state.identity:
            self._do(
                WriterJob(Verify(), ConversationSlot())
            )  # the file may have been written over since the last command
        if self._connection is not None:
            # Only now: the first message has no time to lose. The next program does again what fails here.
            with contextlib.suppress(Exception):
                settle(self._connection)
        self._close()

    def _do(self, job: WriterJob) -> None:
        import sqlite3

        wait, since = RETRY, time.monotonic()
        while not self.off:
            try:
                store = self._open()
                commands.run(job.command, store)
                self._on_done(job, store)
                self._done(store)
                return
            except sqlite3.IntegrityError:
                self.lost = "another program has removed this conversation: later messages are not kept"
                self._tell(self.lost)
                assert self._store is not None
                self._store.lose()
                return
            except (sqlite3.Error, OSError) as error:
                if is_damage(error):
                    self._aside()
                    continue
                self._fail(problem(error, self._path), time.monotonic() - since)
            except BitnetChatError as error:
                self._give_up(f"this conversation is not kept: {error}")
            except Exception as error:  # a fault of ours must not end a chat
                self._give_up(f"later messages of this conversation are not kept: {error!r}")
            if self._stopping.is_set():
                time.sleep(LAST_RETRY)
            else:
                self._stopping.wait(wait)
            wait = min(2 * wait, RETRY_MOST)

    def _done(self, store: ConversationStore) -> None:
        while store.notes:
            self._tell(store.notes.pop(0))
        written = 0 if self._connection is None else self._connection.total_changes
        if written != self._written and self._state is not None:
            # What has changed in this file until now was changed by this command.
            self._written, state = written, state_of(self._path)
            self._state = state if state.identity == self._state.identity else self._state
        if self._marks:
            self._marks = False
            self._mark(unsaved_marker.clear)

    def _fail(self, why: str, seconds: float) -> None:
        """One try has failed, ``seconds`` after the first one of its command."""
        if not self._stopping.is_set():
            if seconds >= TROUBLE:
                self._tell(f"the journal cannot be written, and is retried: {why}")
        elif time.monotonic() >= self._deadline:
            self.off, self.trouble = True, why
            self._mark(unsaved_marker.mark)

    def _open(self) -> ConversationStore:
        """The scribe, with the file that is at its place now.

        One that was removed or replaced, and one that was cut or written over in its place, gets all that is known of
        the conversation, unless that is in it."""
        state = state_of(self._path)
        before = self._state
        if self._store and self._connection and before and state.has_only_grown(before):
            return self._store
        same_file = before is not None and state.identity == before.identity
        if same_file:
            # SQLite shares what it knows of a file among the connections of a process, and writes what is in its log
            # into the file when the last one is closed: into whatever it has become.
            self._close(leave_log=True)
        # Else the old one stays open until there is another: a disk that comes back is then gone on with.
        connection, note = open_file(self._path, busy=BUSY)
        try:
            if note:
                self._tell(note)
            if self._store is None:
                self._store = ConversationStore(connection)
            else:
                self._store.go_on(connection, same_file=same_file)
        except BaseException:
            connection.close()
            raise
        self._close()
        self._connection, self._state = connection, state_of(self._path)
        self._written = connection.total_changes
        return self._store

    def _aside(self) -> None:
        identity = state_of(self._path).identity
        self._close(leave_log=True)
        self._damages += 1
        if self._damages > _DAMAGES_MOST:
            self._give_up(f"the journal {self._path} is damaged repeatedly: later messages are not kept")
            return
        try:
            note = set_aside(self._path, identity)
        except BitnetChatError as error:
            self._give_up(str(error))
            return
        if note:
            self._tell(note)

    def _close(self, *, leave_log: bool = False) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):
                if leave_log and (configure := getattr(self._connection, "setconfig", None)):  # Python 3.12
                    configure(_NO_CHECKPOINT_ON_CLOSE, True)
                self._connection.close()
            self._connection = None

    def _give_up(self, why: str) -> None:
        self.off, self.lost = True, why
        self._mark(unsaved_marker.mark)
        self._tell(why)

    def _mark(self, mark: Callable[[Path], None]) -> None:
        mark(self._path)

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._complain(text)
