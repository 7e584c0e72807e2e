"""A llama-server as a child process: :class:`ServerProcess` is one process, :class:`ManagedServer` restarts it.

The server listens on a loopback port that the kernel chooses, and logs its number: a number chosen here could be taken
by another program first. Its API key is in its environment, because other users can read a command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import signal
import sys
from collections.abc import Callable, Sequence

from bitnet_chat.engine import exit_errors
from bitnet_chat.engine.loading import LoadingWatch
from bitnet_chat.engine.log import EngineLog
from bitnet_chat.engine.process_faults import EngineFault
from bitnet_chat.engine.supervisor import RestartBudget
from bitnet_chat.engine.transport import environment
from bitnet_chat.engine.transport.descendants import end_marked, new_mark
from bitnet_chat.engine.transport.parent_death import ParentDeathWatchdog
from bitnet_chat.errors import EngineNotFoundError
from bitnet_chat.util.threads import run_in_daemon_thread

HOST = "127.0.0.1"
# "listening on http://127.0.0.1:40123" since 2024, "hostname: 127.0.0.1, port: 40123" before.
_LISTENING = re.compile(r"listening on http://[^\s:/]+:(\d+)|hostname: \S+, port: (\d+)")
_BIND = re.compile(r"couldn't bind|failed to bind|[Aa]ddress already in use")
_CHUNK = 1 << 16


class ServerProcess:
    """A llama-server process, from its start to its end. Create it with :meth:`spawn`."""

    def __init__(
        self,
        argv: Sequence[str],
        process: asyncio.subprocess.Process,
        key: str,
        mark: dict[str, str],
        *,
        stall_timeout: float = 0.0,
    ) -> None:
        """Supervise a process. ``key``: its API key. ``mark``: see
        :func:`bitnet_chat.engine.transport.descendants.new_mark`. ``stall_timeout``: seconds, the limit of
        :mod:`bitnet_chat.engine.timeouts` until it has loaded; 0: no limit.
        """
        self.argv = list(argv)
        self.key = key
        self.pid = process.pid
        self.log = EngineLog(self._line)
        self.exit_code: int | None = None
        self.out_of_step = False
        self.fault: EngineFault | None = None
        """The fault for which the process was ended."""
        self.is_loaded = False
        self.was_killed = False
        """Whether :meth:`kill` was called."""
        self._process = process
        self._port: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._watchdog = ParentDeathWatchdog(process.pid) if sys.platform != "linux" else None
        self._mark = mark
        self._reading = asyncio.ensure_future(self._read())
        self._ending = asyncio.ensure_future(self._end_rest())
        self._loading = LoadingWatch(process.pid, stall_timeout, "did not become ready", self._end_for_fault)
        self._loading.begin()

    @classmethod
    async def spawn(cls, argv: Sequence[str], *, stall_timeout: float = 0.0) -> ServerProcess:
        """Start the process. Raises EngineNotFoundError if it cannot be started."""
        key, mark = secrets.token_urlsafe(32), new_mark()
        prepare: Callable[[], None] | None = None
        command: Sequence[str | bytes] = argv
        if sys.platform != "win32":
            from bitnet_chat.engine.transport.preexec import as_bytes, make_preexec

            prepare, command = make_preexec(), as_bytes(argv)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=environment() | mark | {"LLAMA_API_KEY": key},
                start_new_session=True,
                preexec_fn=prepare,
            )
        except OSError as error:
            raise EngineNotFoundError(
                f"the engine {argv[0]} cannot be started: {error.strerror or error}",
                remedy="bitnet-chat engine list shows what was found",
            ) from None
        return cls(argv, process, key, mark, stall_timeout=stall_timeout)

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self.exit_code is None

    @property
    def url(self) -> str:
        """The address of the server. Valid after :meth:`listening`."""
        return f"http://{HOST}:{self._port.result()}"

    @property
    def had_no_port(self) -> bool:
        """Whether the log reports that it could not listen on its port."""
        return any(_BIND.search(line) for line in self.log.lines())

    async def listening(self) -> bool:
        """Wait until the server listens on its port. Returns False if it has ended before."""
        return await asyncio.shield(self._port) is not None

    def has_loaded(self) -> None:
        """End the supervision of loading, because the server has responded that it is ready."""
        self.is_loaded = True
        self._loading.end()

    async def gone(self) -> None:
        """Wait until the process and its descendants have ended."""
        await asyncio.shield(self._reading)

    def _end_for_fault(self, fault: EngineFault) -> None:
        if self.exit_code is None and not self.was_killed:
            self.fault = fault
            self._kill()

    def kill(self) -> None:
        """Send SIGKILL to the process group."""
        self.was_killed = True
        self._kill()

    def _kill(self) -> None:
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if sys.platform == "win32":
                    self._process.kill()
                else:
                    os.killpg(self.pid, signal.SIGKILL)

    async def _end_rest(self) -> None:
        """End remaining descendants after the process, because they would keep its log open."""
        await self._process.wait()
        await run_in_daemon_thread(lambda: end_marked(self._mark))

    async def _read(self) -> None:
        """Read the log until its end, then the exit code."""
        stream = self._process.stdout
        assert stream is not None
        while data := await stream.read(_CHUNK):
            self._loading.heard()
            self.log.feed(data)
        self.log.close()
        self.exit_code = await self._process.wait()
        await self._ending
        self._loading.end()
        if self._watchdog is not None:
            self._watchdog.dismiss()
        if not self._port.done():
            self._port.set_result(None)

    def _line(self, line: str) -> None:
        if not self._port.done() and (match := _LISTENING.search(line)):
            self._port.set_result(int(match[1] or match[2]))


class ManagedServer:
    """A llama-server process that is shared by its users (:meth:`join`, :meth:`leave`), started for the first,
    restarted after an unexpected end, and ended after the last.
    """

    def __init__(
        self,
        command: Callable[[], list[str]],
        *,
        on_spawn: Callable[[int], None] | None = None,
        stall_timeout: float = 0.0,
        refit: Callable[[ServerProcess], bool] = lambda process: False,
    ) -> None:
        """Create a server, not started. ``command``: returns the command line; called in a thread; raises
        BitnetChatError. ``on_spawn``: called with the process id of each process. ``stall_timeout``: see
        :class:`ServerProcess`. ``refit``: returns whether to call ``command`` again for a process that has
        ended before it was loaded; called in a thread; raises BitnetChatError.
        """
        self._command, self._refit = command, refit
        self._on_spawn = on_spawn
        self._stall_timeout = stall_timeout
        self._argv: list[str] | None = None
        self._process: ServerProcess | None = None
        self._starting: asyncio.Task[ServerProcess] | None = None
        self._watching: set[asyncio.Task[None]] = set()
        self._users = 0
        self._budget = RestartBudget()

    @property
    def process(self) -> ServerProcess | None:
        """The current process; None before the first."""
        return self._process

    @property
    def restarts(self) -> int:
        """Number of restarts so far."""
        return self._budget.spent

    def join(self) -> None:
        """Add a user."""
        self._users += 1

    async def leave(self) -> None:
        """Remove a user. The last one ends the process, and waits for its end."""
        self._users -= 1
        if self._users > 0:
            return
        starting, self._starting = self._starting, None
        if starting is not None and not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.gone()
        while self._watching:
            await asyncio.wait(self._watching)

    async def running(self) -> ServerProcess:
        """Return a process that listens on its port; start it if necessary. Raises ModelError if the model cannot be
        loaded, EngineDiedError after too many restarts, and EngineNotFoundError if the program cannot be started.
        """
        while True:
            process = self._process
            if self._starting is None and process is not None and process.is_alive:
                return process
            starting = self._starting = self._starting or self._start()
            try:
                process = await asyncio.shield(starting)
            finally:
                if starting.done() and self._starting is starting:
                    self._starting = None
            if process.is_alive:
                return process

    def _start(self) -> asyncio.Task[ServerProcess]:
        task = asyncio.ensure_future(self._started())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # running() reports it
        return task

    async def _started(self) -> ServerProcess:
        loop = asyncio.get_running_loop()
        if self._argv is None:
            self._argv = await loop.run_in_executor(None, self._command)
        while True:
            before, self._process = self._process, None
            if before is not None:
                if not before.is_loaded and await loop.run_in_executor(None, self._refit, before):
                    self._argv = await loop.run_in_executor(None, self._command)
                elif not before.is_loaded and not before.had_no_port:
                    raise exit_errors.while_loading(before)
                elif not self._budget.spend(loop.time()):
                    raise exit_errors.restart_limit_error(before, self._budget.limit, self._budget.window)
            process = self._process = await ServerProcess.spawn(self._argv, stall_timeout=self._stall_timeout)
            if self._on_spawn is not None:
                self._on_spawn(process.pid)
            try:
                listens = await process.listening()
            except asyncio.CancelledError:
                process.kill()
                raise
            if listens:
                watch = asyncio.ensure_future(self._watch(process))
                self._watching.add(watch)
                watch.add_done_callback(self._watching.discard)
                return process

    async def _watch(self, process: ServerProcess) -> None:
        """Start another process after an unexpected end, before the next request."""
        await process.gone()
        if self._users > 0 and not process.was_killed and process.is_loaded and self._starting is None:
            self._starting = self._start()


def described(process: ServerProcess) -> str:
    """Return how a process has ended, as a clause with "it"."""
    return f"it {exit_errors.describe(process)}"
