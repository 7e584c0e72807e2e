"""Execution of untrusted chat templates, each in a separate process with limits of time, memory and output.

A template is a program in a model file. Three nested loops or ``'a' * 3000000000`` would block this program forever: a
thread cannot be ended from outside, but a process can. The process is started when a template is parsed, and serves one
request after another until the template is dropped. Built-in templates run in this process.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from bitnet_chat.errors import FaultKind, TemplateFaultError
from bitnet_chat.templates.builtin import OWN
from bitnet_chat.templates.jinja import JinjaProgram, TemplateProgram
from bitnet_chat.templates.sandbox.protocol import SandboxLimits, read_answer, write_request
from bitnet_chat.util.progress import size as in_words

_BOOT = f"import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from {__name__}.child import run; run()"
_CHECK_INTERVAL = 0.05
"""Seconds between two checks of the memory of a working process."""
_END_WITHIN = 1.0  # seconds for the process to exit after the end of its output
_LOCK = threading.Lock()
_WINDOWLESS = 0
if sys.platform == "win32":
    _TOOK_TOO_LONG = 1
    _WINDOWLESS = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
else:
    _TOOK_TOO_LONG = -signal.SIGPROF


def program_of(source: str) -> TemplateProgram:
    """Return the program of a template; the same object for the same text while it is in use.

    Takes up to 0.2 s. Raises TemplateFaultError.
    """
    if source in OWN:
        return JinjaProgram(source)
    with _LOCK:
        found = _PROGRAMS.get(source)
        if found is None:
            found = _PROGRAMS[source] = SandboxedProgram(source)
    return found


class SandboxedProgram:
    """A :class:`bitnet_chat.templates.jinja.TemplateProgram` in a separate process.

    :meth:`run` blocks for at most the time limit. Thread-safe; requests are served one after another.
    """

    def __init__(self, source: str, limits: SandboxLimits | None = None) -> None:
        """Start the process and parse the template. Raises TemplateFaultError.

        ``limits``: limits for an empty conversation, which grow with the size of the input.
        """
        self._source, self._limits = source, limits or SandboxLimits()
        self._lock = threading.Lock()
        self._child = _ChildHandle()
        weakref.finalize(self, self._child.end)
        with self._lock:
            self._start()

    @property
    def pid(self) -> int | None:
        """Id of the process; None if it is not running."""
        process = self._child.process
        return process.pid if process is not None else None

    def run(self, variables: Mapping[str, object], now: datetime) -> str:
        """Render the template. Raises TemplateFaultError."""
        try:
            content = json.dumps({"variables": variables, "now": now.isoformat()})
        except (TypeError, ValueError, RecursionError) as error:
            raise TemplateFaultError(FaultKind.FAILED, f"the conversation cannot be passed to it ({error})") from None
        with self._lock:
            if self._child.process is None or self._child.process.poll() is not None:
                self._start()
            return str(self._ask(content, self._limits.for_input(len(content), _length(variables)))["text"])

    def _start(self) -> None:
        try:
            self._child.start()
        except (OSError, TypeError) as error:  # TypeError: sys.executable is None in an embedded interpreter
            raise TemplateFaultError(FaultKind.FAILED, f"its process cannot be started ({error})") from None
        self._ask(json.dumps({"source": self._source}), self._limits)

    def _ask(self, content: str, limits: SandboxLimits) -> dict[str, Any]:
        process = self._child.process
        assert process is not None and process.stdin is not None and process.stdout is not None
        watch, answer = _MemoryWatch(process, limits), b""
        with watch, contextlib.suppress(OSError):
            write_request(process.stdin, limits, content.encode("ascii"))
            answer = read_answer(process.stdout)
        try:
            found: dict[str, Any] = json.loads(answer)
        except ValueError:
            self._child.end(within=_END_WITHIN)
            raise _exit_fault(process.returncode, limits, watch.reason) from None
        if "fault" in found:
            raise TemplateFaultError(FaultKind(found["fault"]), found["text"])
        return found


_PROGRAMS: weakref.WeakValueDictionary[str, SandboxedProgram] = weakref.WeakValueDictionary()


class _ChildHandle:
    """The process of a program. A separate object, so that the process can be ended after the program is dropped."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.end()
        root = Path(__file__).parents[3]
        path = [str(root), *(each for each in sys.path if each and Path(each).is_absolute())]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _BOOT, json.dumps(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=root.anchor,  # so that it does not keep a directory in use
            start_new_session=True,  # Ctrl-C must not reach it
            creationflags=_WINDOWLESS,
        )

    def end(self, within: float = 0.0) -> None:
        """End the process. ``within``: seconds to wait for its exit before it is killed."""
        process, self.process = self.process, None
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(within)
            with contextlib.suppress(OSError):
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if stream is not None:
                        stream.close()


class _MemoryWatch:
    """Kills a process that exceeds its limits; needed on macOS and Windows, which lack memory limits."""

    def __init__(self, process: subprocess.Popen[bytes], limits: SandboxLimits) -> None:
        self.reason = ""
        self._process, self._limits = process, limits
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"template-{process.pid}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *of_error: object) -> None:
        self._finished.set()
        self._thread.join()

    def _watch(self) -> None:
        checks = int(self._limits.wall / _CHECK_INTERVAL)
        for _ in range(checks):
            if self._finished.wait(_CHECK_INTERVAL):
                return
            if _resident(self._process.pid) > self._limits.memory:
                self.reason = _too_large(self._limits)
                break
        else:
            self.reason = f"it does not respond within {self._limits.wall:.0f} s"
        self._process.kill()


def _resident(pid: int) -> int:
    """Return the resident bytes of a process; 0 if unknown."""
    try:
        import psutil

        return int(psutil.Process(pid).memory_info().rss)
    except Exception:  # psutil is missing, or the process has ended
        return 0


def _exit_fault(code: int | None, limits: SandboxLimits, reason: str) -> TemplateFaultError:
    """Make the error for a process that has ended."""
    if reason:
        return TemplateFaultError(FaultKind.LIMIT, reason)
    if code == _TOOK_TOO_LONG:
        return TemplateFaultError(FaultKind.LIMIT, f"it takes longer than {limits.seconds:.0f} s")
    if code == -getattr(signal, "SIGKILL", 0):
        return TemplateFaultError(FaultKind.LIMIT, _too_large(limits))
    return TemplateFaultError(FaultKind.FAILED, f"its process has crashed (exit code {code})")


def _too_large(limits: SandboxLimits) -> str:
    return f"it takes more than {in_words(limits.memory)} of memory"


def _length(variables: Mapping[str, object]) -> int:
    messages = variables.get("messages")
    return len(messages) if isinstance(messages, list) else 0
