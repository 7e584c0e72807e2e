"""The thread that writes to the journal, so that the event loop waits neither for the disk nor for other programs.

Commands run in the order of their arrival. A failed command is retried with increasing delays, so a disk that is full
for an hour costs one message to the user. Commands that wait hold only texts that the conversation holds anyway. At the
end of the program, failed commands are retried for as long as the front end waits.
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
from bitnet_chat.journal import commands
from bitnet_chat.journal.commands import AddText, Command, Verify
from bitnet_chat.journal.damaged_file import open_file, set_aside
from bitnet_chat.journal.database import (
    DatabaseState,
    clear_unsaved,
    describe_error,
    is_damage,
    is_empty,
    mark_unsaved,
    state_of,
)
from bitnet_chat.journal.records import ConversationSlot
from bitnet_chat.journal.transactions import ConversationStore
from bitnet_chat.journal.unfinished_replies import Piece, join_pieces, settle

if TYPE_CHECKING:
    from sqlite3 import Connection

DELAY = 0.1
"""Longest time in seconds for which text of a reply is collected before it is written in one transaction."""
RETRY, MAX_RETRY = 0.1, 60.0
"""Seconds before the first and at most before a later retry; the delay doubles each time."""
LAST_RETRY = 0.05
"""Seconds between retries while the front end waits for the end."""
BUSY = 0.2
"""Seconds that one attempt waits for the lock of another program, which holds it for some milliseconds."""
REPORT_AFTER = 2.0
"""Seconds after which a failing command is reported; shorter failures are retried silently."""
MAX_JOBS = 10_000
"""Maximum number of commands waiting for a file that cannot be written. Above it the journal is given up."""
_MAX_DAMAGES = 3
_NO_CHECKPOINT_ON_CLOSE = 1006  # SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE


class PendingText:
    """Text of ``count`` open replies that is not yet written, in one transaction for all of them. One thread appends,
    the other writes."""

    def __init__(self, count: int = 1) -> None:
        self._count = count
        self._all: list[tuple[int, Piece]] = []
        self._written = 0
        self._due: float | None = None

    def text(self, number: int) -> str:
        """The whole text of reply ``number``, without thinking."""
        return join_pieces([piece for each, piece in self._all if each == number], False)

    def append(self, piece: Piece, now: float, number: int = 0) -> bool:
        """Add text of reply ``number`` at time ``now``. Returns True if no text was waiting, so that an
        :class:`AddText` must be queued."""
        self._all.append((number, piece))
        if self._due is not None:
            return False
        self._due = now + DELAY
        return True

    @property
    def due(self) -> float:
        """Time at which the waiting text must be written."""
        return self._due or 0.0

    def write(self, store: ConversationStore) -> None:
        """Write the waiting text to ``store``."""
        # Cleared first: text appended from here on queues another command, even if this one still writes it.
        self._due = None
        pieces = self._all[self._written :]
        store.add(*([piece for number, piece in pieces if number == each] for each in range(self._count)))
        self._written += len(pieces)


@dataclass(frozen=True, slots=True)
class WriterJob:
    """A command and the conversation that it changes."""

    command: Command
    slot: ConversationSlot


class WriterThread:
    """The thread: :meth:`put` queues commands from any thread, :meth:`stop` ends it."""

    def __init__(
        self,
        path: Path,
        complain: Callable[[str], None],
        on_end: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        on_done: Callable[[WriterJob, ConversationStore], None] = lambda job, store: None,
    ) -> None:
        """Start the thread. It calls ``complain`` (a message), ``on_done`` (a command was executed) and ``on_end``."""
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
        """``total_changes`` of the connection at the time of ``_state``."""
        self._store: ConversationStore | None = None
        self._reported: set[str] = set()
        self._damages = 0
        self._may_have_marker = True
        """Whether a marker of an earlier loss may exist; the first successful command removes it."""
        self.off = False
        """The journal was given up: nothing is written any more."""
        self.trouble = ""
        """The reason for giving up, if it was not reported."""
        self.lost = ""
        """The reported message about messages that are not saved."""
        # A daemon thread, so that a hanging disk does not keep the program from ending.
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def put(self, command: Command, slot: ConversationSlot | None = None) -> None:
        """Queue a command. ``slot``: its conversation, passed on to ``on_done``.

        :class:`AddText` is executed when its text is due, or as soon as another command arrives.
        """
        if self._jobs.qsize() >= MAX_JOBS and not self.off and not isinstance(command, AddText):
            self._give_up("the journal cannot be written, and too many changes wait: later messages are not kept")
        if not self.off:
            self._jobs.put(WriterJob(command, slot or ConversationSlot()))

    def stop(self, patience: float = 0.0) -> None:
        """End the thread after all queued commands. Failed commands are retried for ``patience`` seconds."""
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
            # Another program may have overwritten the file since the last command.
            self._do(WriterJob(Verify(), ConversationSlot()))
        if self._connection is not None:
            # Not done at the start, where it would delay the first message. If it fails, the next program repeats it.
            with contextlib.suppress(Exception):
                settle(self._connection)
        self._close()

    def _do(self, job: WriterJob) -> None:
        """Execute a command, with retries."""
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
                self._report(self.lost)
                assert self._store is not None
                self._store.lose()
                return
            except (sqlite3.Error, OSError) as error:
                if is_damage(error):
                    self._move_damaged_aside()
                    continue
                self._fail(describe_error(error, self._path), time.monotonic() - since)
            except BitnetChatError as error:
                self._give_up(f"this conversation is not kept: {error}")
            except Exception as error:  # a bug in the journal must not end a chat
                self._give_up(f"later messages of this conversation are not kept: {error!r}")
            if self._stopping.is_set():
                time.sleep(LAST_RETRY)
            else:
                self._stopping.wait(wait)
            wait = min(2 * wait, MAX_RETRY)

    def _done(self, store: ConversationStore) -> None:
        """Report the notes of the command, and accept its own changes as the known state of the file."""
        while store.notes:
            self._report(store.notes.pop(0))
        written = 0 if self._connection is None else self._connection.total_changes
        if written != self._written and self._state is not None:
            # All changes of this file since the last check were made by this command.
            self._written, state = written, state_of(self._path)
            self._state = state if state.identity == self._state.identity else self._state
        if self._may_have_marker:
            self._may_have_marker = False
            self._mark(clear_unsaved)

    def _fail(self, why: str, seconds: float) -> None:
        """Handle a failed attempt, ``seconds`` after the first one of the command."""
        if not self._stopping.is_set():
            if seconds >= REPORT_AFTER:
                self._report(f"the journal cannot be written, and is retried: {why}")
        elif time.monotonic() >= self._deadline:
            self.off, self.trouble = True, why
            self._mark(mark_unsaved)

    def _open(self) -> ConversationStore:
        """Return the store, connected to the file that is at the path now.

        If the file was removed, replaced, truncated or overwritten, all that is known of the conversation is written to
        the new one, unless it is there already.
        """
        state = state_of(self._path)
        before = self._state
        if self._store and self._connection and before and state.has_only_grown(before):
            return self._store
        if before is not None and state.identity == before.identity:
            # SQLite shares its state of a file among the connections of a process. Closing the last one would write the
            # log into the file, although its content is another one now.
            self._close(leave_log=True)
        # Otherwise the old connection stays open until a new one exists, so that a disk that returns is used again.
        connection, note = open_file(self._path, busy=BUSY)
        same_file = before is not None and state_of(self._path).identity == before.identity
        try:
            if note:
                self._report(note)
            if self._store is None:
                self._store = ConversationStore(connection)
            else:
                what = _what_is_gone(state) if before is not None and is_empty(connection) else ""
                self._store.go_on(connection, same_file=same_file)
                if what:
                    self._report(
                        f"the journal {self._path} was {what} by another program: its earlier conversations are lost,"
                        " unless a backup of it exists; this one is saved again"
                    )
        except BaseException:
            connection.close()
            raise
        self._close()
        self._connection, self._state = connection, state_of(self._path)
        self._written = connection.total_changes
        return self._store

    def _move_damaged_aside(self) -> None:
        """Move a damaged file aside; give up after the third time."""
        identity = state_of(self._path).identity
        self._close(leave_log=True)
        self._damages += 1
        if self._damages > _MAX_DAMAGES:
            self._give_up(f"the journal {self._path} is damaged repeatedly: later messages are not kept")
            return
        try:
            note = set_aside(self._path, identity)
        except BitnetChatError as error:
            self._give_up(str(error))
            return
        self._state = None  # the next file is not a new one in the place of another that was removed
        if note:
            self._report(note)

    def _close(self, *, leave_log: bool = False) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):
                if leave_log and (configure := getattr(self._connection, "setconfig", None)):  # Python 3.12
                    configure(_NO_CHECKPOINT_ON_CLOSE, True)
                self._connection.close()
            self._connection = None

    def _give_up(self, why: str) -> None:
        self.off, self.lost = True, why
        self._mark(mark_unsaved)
        self._report(why)

    def _mark(self, mark: Callable[[Path], None]) -> None:
        mark(self._path)

    def _report(self, text: str) -> None:
        if text not in self._reported:
            self._reported.add(text)
            self._complain(text)


def _what_is_gone(state: DatabaseState) -> str:
    """Return what happened to a file that had content: SQLite takes a missing or an empty one for a new one."""
    if state.file is None:
        return "removed"
    has_nothing = state.file[0] == 0 and (state.log is None or state.log[1] == 0)
    return "emptied" if has_nothing else ""
