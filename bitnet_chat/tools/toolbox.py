"""Functions that a model can call, and their calls.

A call never raises: a failure is a result for the model, which can correct the next call.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from bitnet_chat.conversation import Tool, ToolCall
from bitnet_chat.tools.schema import TypeSchema
from bitnet_chat.tools.stdio import isolated_stdio
from bitnet_chat.util.threads import run_in_daemon_thread

TIMEOUT = 120.0
"""Maximum seconds of a call."""
RESULT_LIMIT = 16_000
"""Maximum number of characters of a result; the rest is left out, and the result says so."""
MARK = "\n[cut here: {missing:,} of {all:,} characters are left out]"
"""The mark at the end of a shortened result."""
_PRINT_LIMIT = 100_000

Limit = Callable[[str], int]
"""Maximum number of characters of a result."""


@dataclass(frozen=True, slots=True)
class Function:
    """One tool. ``arguments`` converts the JSON arguments of a call."""

    tool: Tool
    call: Callable[..., Any]
    arguments: TypeSchema


@dataclass(frozen=True, slots=True)
class Result:
    """``text``: for the model. ``failed``: the call had no result. ``printed``: output of the function to stdout, not
    part of the result. ``left_out``: number of omitted characters.
    """

    text: str
    failed: bool = False
    printed: str = ""
    left_out: int = 0


class Toolbox:
    """The tools of one file, or some of them."""

    def __init__(self, functions: Sequence[Function], *, timeout: float = TIMEOUT) -> None:
        self._functions = {each.tool.name: each for each in functions}
        self._timeout = timeout
        self._running: asyncio.Task[Result] | None = None
        self.stopped = False
        """Further calls are refused."""

    @property
    def tools(self) -> tuple[Tool, ...]:
        return tuple(each.tool for each in self._functions.values())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._functions)

    def only(self, names: Sequence[str]) -> Toolbox:
        """The tools with these names."""
        return Toolbox([each for name, each in self._functions.items() if name in names], timeout=self._timeout)

    def stop(self) -> None:
        """Abandon the running call; further ones are refused."""
        self.stopped = True
        if self._running is not None:
            self._running.cancel()

    async def call(self, call: ToolCall, limit: Limit = lambda text: RESULT_LIMIT) -> Result:
        """The result, with as much of its text as ``limit`` allows. A cancellation leaves a synchronous function
        running in a thread, which cannot be stopped. An ``async`` function is cancelled.
        """
        result = await self._outcome(call)
        whole, most = len(result.text), limit(result.text)
        return dataclasses.replace(result, text=cut(result.text, most), left_out=max(0, whole - most))

    async def _outcome(self, call: ToolCall) -> Result:
        function = self._functions.get(call.name)
        if function is None:
            return _failure(f"unknown tool {call.name!r}; available: {', '.join(self.names) or 'none'}")
        try:
            given = json.loads(call.arguments)
            arguments = function.arguments.read(given, "")
        except (ValueError, RecursionError) as error:
            return _failure(str(error))
        except Exception as error:  # from a class in the tools file
            return _failure(words(error))
        run = _Run(function.call, arguments)
        # The terminal belongs to the front end, and stdout may be a file of answers.
        with isolated_stdio(lambda: run.is_running) as printed:
            result = await self._result(run)
            return dataclasses.replace(result, printed=printed.close()[:_PRINT_LIMIT])

    async def _result(self, run: _Run) -> Result:
        try:
            async with asyncio.timeout(self._timeout):
                self._running = asyncio.ensure_future(run_in_daemon_thread(run))
                return await self._running
        except TimeoutError:
            run.cancel()
            return _failure(f"it took longer than {self._timeout:g} s")
        except asyncio.CancelledError:
            run.cancel()
            task = asyncio.current_task()
            if not self.stopped or (task is not None and task.cancelling()):
                raise
            return _failure("the user stopped this call")
        finally:
            self._running = None


class _Run:
    """One run of a function in its thread. Returns the result, and raises nothing."""

    def __init__(self, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        self._function, self._arguments = function, arguments
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False
        self.is_running = True
        """Whether the function runs, also after the call was abandoned."""

    def __call__(self) -> Result:
        try:
            return self._outcome()
        finally:
            self.is_running = False

    def _outcome(self) -> Result:
        try:
            value = self._function(**self._arguments)
            if inspect.isawaitable(value):
                value = asyncio.run(self._await(value))
            return Result(as_text(value))
        except BaseException as error:  # sys.exit() included
            return _failure(words(error))

    async def _await(self, awaitable: Any) -> Any:
        async def whole() -> Any:
            return await awaitable

        with self._lock:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.ensure_future(whole())
            if self._cancelled:
                self._task.cancel()
        try:
            return await self._task
        finally:
            with self._lock:
                self._loop = None

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._loop is not None and self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)


def as_text(value: Any) -> str:
    """A value for a model: a text unchanged, anything else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=_plain)


def cut(text: str, limit: int = RESULT_LIMIT) -> str:
    """The first ``limit`` characters of ``text``, with a mark if something is left out."""
    if len(text) <= limit:
        return text
    return text[:limit] + MARK.format(missing=len(text) - limit, all=len(text))


def words(error: BaseException) -> str:
    """The text of an error. Its class may be from a tools file, and its ``str`` may fail."""
    try:
        return f"{type(error).__name__}: {error}".removesuffix(": ")
    except Exception:
        return type(error).__name__


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return list(value)
    return str(value)


def _failure(what: str) -> Result:
    return Result(f"error: {what}", failed=True)
