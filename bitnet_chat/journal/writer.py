"""The one thread that writes to the journal, so that nobody waits for a disk or for another program.

Jobs are done in the order they came. One that fails is tried again, at first after a second and then less and less
often, so that a disk that is full for an hour costs nothing but a line of complaint; meanwhile the jobs wait, and
what they hold are the texts that the conversation holds anyway.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from bitnet_chat.errors import BitnetChatError
from bitnet_chat.journal.file import identity_of, is_damage, open_file, problem, set_aside
from bitnet_chat.journal.recovery import Piece, settle
from bitnet_chat.journal.scribe import Scribe

if TYPE_CHECKING:
    from sqlite3 import Connection

DELAY = 0.1
"""Seconds that a piece of a reply waits for more at most, before all are written in one transaction."""
RETRY, RETRY_MOST = 1.0, 60.0
"""Seconds to the next try after a failure; twice as long each time."""
JOBS_MOST = 10_000
"""Jobs that may wait for a file that cannot be written; with more the journal is given up."""
_DAMAGES_MOST = 3

Job = Callable[[Scribe], None]


class Pieces:
    """What was said of one reply; appended to by one thread, written by the other."""

    def __init__(self) -> None:
        self._all: list[Piece] = []
        self._written = 0
        self._due: float | None = None

    def append(self, piece: Piece, now: float) -> bool:
        """True: nothing had waited, and a :class:`Flush` has to be asked for."""
        self._all.append(piece)
        if self._due is not None:
            return False
        self._due = now + DELAY
        return True

    @property
    def due(self) -> float:
        """When what waits has to be written."""
        return self._due or 0.0

    def write(self, scribe: Scribe) -> None:
        # First: what is appended from here on asks for a flush of its own, even if it is taken along now.
        self._due = None
        pieces = self._all[self._written :]
        scribe.add(pieces)
        self._written += len(pieces)


class Writer:
    """``put`` jobs from any thread; ``stop`` when there are no more."""

    def __init__(
        self,
        path: Path,
        complain: Callable[[str], None],
        on_end: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``complain`` and ``on_end`` are called in the thread."""
        self._path = path
        self._complain = complain
        self._on_end = on_end
        self._clock = clock
        self._jobs: SimpleQueue[Job | Pieces | None] = SimpleQueue()
        self._stopping = threading.Event()
        self._connection: Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._scribe: Scribe | None = None
        self._told: set[str] = set()
        self._damages = 0
        self.off = False
        """The journal was given up: nothing more is written."""
        # A daemon: a disk that hangs does not keep the program from ending.
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        if self._jobs.qsize() >= JOBS_MOST and not self.off:
            self._give_up("the journal cannot be written, and too much waits: nothing more is kept")
        if not self.off:
            self._jobs.put(job)

    def flush(self, pieces: Pieces) -> None:
        """Writes them when they are due, or as soon as another job comes."""
        if not self.off:
            self._jobs.put(pieces)

    def stop(self) -> None:
        """Ends the thread when all jobs are done, each tried once more where they fail."""
        self._stopping.set()
        self._jobs.put(None)

    def _run(self) -> None:
        try:
            following: Job | Pieces | None
            while (job := self._jobs.get()) is not None:
                while isinstance(job, Pieces):
                    try:
                        following = self._jobs.get(timeout=max(0.0, job.due - self._clock()))
                    except Empty:
                        self._do(job.write)
                        break
                    self._do(job.write)
                    if following is None:
                        return
                    job = following
                else:
                    self._do(job)
        finally:
            if self._connection is not None:
                # Only now: the first message has no time to lose. Whoever comes next does again what fails here.
                with contextlib.suppress(Exception):
                    settle(self._connection)
                with contextlib.suppress(Exception):
                    self._connection.close()
            self._on_end()

    def _do(self, job: Job) -> None:
        import sqlite3

        wait = RETRY
        while not self.off:
            try:
                scribe = self._open()
                job(scribe)
                while scribe.notes:
                    self._tell(scribe.notes.pop(0))
                return
            except sqlite3.IntegrityError:
                self._tell("another program has removed this conversation: what comes now is not kept")
                assert self._scribe is not None
                self._scribe.lose()
                return
            except (sqlite3.Error, OSError) as error:
                if is_damage(error):
                    self._aside()
                    continue
                self._tell(f"the journal cannot be written, and is tried again: {problem(error, self._path)}")
            except BitnetChatError as error:
                self._give_up(f"nothing is kept of this conversation: {error}")
            except Exception as error:  # a fault of ours must not end a chat
                self._give_up(f"nothing more is kept of this conversation: {error!r}")
            if self._stopping.is_set():
                self.off = True
            self._stopping.wait(wait)
            wait = min(2 * wait, RETRY_MOST)

    def _open(self) -> Scribe:
        """The scribe, with the file that is at its place now: one that was removed or replaced is written anew."""
        identity = identity_of(self._path)
        if self._scribe is not None and self._connection is not None and identity == self._identity:
            return self._scribe
        # The old one stays open until there is another: a disk that comes back is then gone on with.
        connection, note = open_file(self._path)
        try:
            if note:
                self._tell(note)
            if self._scribe is None:
                self._scribe = Scribe(connection)
            else:
                self._scribe.move(connection)
        except BaseException:
            connection.close()
            raise
        self._close()
        self._connection, self._identity = connection, identity_of(self._path)
        return self._scribe

    def _aside(self) -> None:
        identity = identity_of(self._path)
        self._close()
        self._damages += 1
        if self._damages > _DAMAGES_MOST:
            self._give_up(f"the journal {self._path} is damaged again and again: nothing more is kept")
            return
        try:
            note = set_aside(self._path, identity)
        except BitnetChatError as error:
            self._give_up(str(error))
            return
        if note:
            self._tell(note)

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()
            self._connection = None

    def _give_up(self, why: str) -> None:
        self.off = True
        self._tell(why)

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._complain(text)
