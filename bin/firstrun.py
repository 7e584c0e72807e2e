"""The steps of the first run: a virtual environment, the packages in it, an engine, a model; later what ``serve``,
``app`` and other backends need.

One after the other: with a near index all of them take 10 seconds of one processor, and with a slow one they would
share its bandwidth.

Each step may be repeated at will, is done by one process at a time, and when it fails says which step that was, where
its log is and what to do. Standard library only; the log, the lock and the progress line are those of the engine build.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import setup_state

from bitnet_chat.errors import BitnetChatError, BuildError
from bitnet_chat.util import file_lock, subprocess_errors, subprocess_log
from bitnet_chat.util.progress import Progress, ProgressLine

VENV = Path(setup_state.VENV)
LOG = VENV / "setup.log"
LOCK = VENV / "setup.lock"

# For the progress bar alone: how many packages pip looks at.
_PACKAGES = {"package": 9, "tests": 90, "serve": 30, "remote": 20, "app": 15}

_NAMES = {
    "package": "Installing bitnet-chat",
    "tests": "Installing the test packages",
    "serve": "Installing what serve needs",
    "remote": "Installing what other backends need",
    "app": "Installing what a window of its own needs",
}
_EXTRAS = {"package": "", "tests": "[test]", "serve": "[serve]", "remote": "[remote]", "app": "[app]"}

_MODEL = "smollm2-135m"
"""The model that the first run fetches: real, and small enough for a first answer within half a minute."""
_PREBUILT = (("engine", "install", "llama.cpp"), ("engine", "install", "bitnet"))
# The tests run all of these programs; on Linux they spread a model over rpc-servers, too.
_FEATURES = ("server", "cli", *(("rpc",) if sys.platform == "linux" else ()))
_COMPILED = ("engine", "install", "--build", *(word for name in _FEATURES for word in ("--with", name)))


@dataclass(frozen=True, slots=True)
class _Verbs:
    """Command lines of bitnet-chat that do a step, with their own progress and log."""

    name: str
    stamp: str
    """What is done then. Steps of the tests are looked at each time, whatever the stamp says."""
    lines: tuple[tuple[str, ...], ...]
    without: str = ""
    """How it goes on where they fail; empty: it does not."""


_VERBS = {
    "engine": _Verbs("Getting an engine", "engine", (("engine", "install", "--if-missing"),)),
    "server": _Verbs(
        "Getting a server", "server", (("engine", "install", "--build", "--with", "server", "--if-missing"),)
    ),
    "model": _Verbs(
        "Getting a model",
        "model",
        (("models", "pull", _MODEL, "--if-missing"),),
        "the bundled model answers, a toy of 2 MB. Later: bitnet-chat models pull " + _MODEL,
    ),
    "test-engines": _Verbs("Getting an engine", "engine", (_COMPILED,)),
    "test-models": _Verbs(
        "Getting prebuilt engines and a model",
        "model",
        (*_PREBUILT, ("models", "pull", _MODEL)),
        "tests that need what is missing are skipped",
    ),
}

_CONNECT = "Connect this computer (pip's own settings for index, proxy and certificates are used) and try again."


def run(needed: Sequence[str], anew: bool) -> int:
    """Does what is missing of the needed steps, in their order. Returns the exit status; errors are printed."""
    setup = _Setup(needed, anew)
    try:
        VENV.mkdir(exist_ok=True)
        with subprocess_log.signals_end_us(), file_lock.held(LOCK, setup.waiting):
            setup.run()
        return 0
    except KeyboardInterrupt:
        return setup.failed("was interrupted; the same command goes on from here", setup_state.INTERRUPTED)
    except _VerbFailed as error:  # it has said why
        return setup.failed("failed", error.status)
    except BitnetChatError as error:
        return setup.failed(f"failed.\n  {error}\n  Log: {LOG}", error.reason.exit_code)
    except OSError as error:
        return setup.failed(f"failed: {error}\n  Log: {LOG}", setup_state.FAILED)


class _VerbFailed(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Setup:
    def __init__(self, needed: Sequence[str], anew: bool) -> None:
        self.needed = needed
        self.anew = anew
        self.began = time.monotonic()
        self.show = ProgressLine(sys.stderr)
        self.step, self.counter = "Setting up", (0, 0)

    def failed(self, how: str, status: int) -> int:
        self.show.close()
        print(f"{Path(sys.argv[0]).name}: the step “{self.step}” {how}", file=sys.stderr)
        return status

    def waiting(self, holder: str) -> None:
        self._at(f"Waiting for another set-up (process {holder})" if holder else "Waiting for another set-up")

    def run(self) -> None:
        done = set() if self.anew else setup_state.done()  # another process may have done it while we waited
        missing = setup_state.missing(list(self.needed), done)
        if {"package", "tests"} & set(missing):
            self._make_environment()
        for step in missing:
            if step == "app":
                done.add("app" if self._get_window() else "no-app")
            elif step in _PACKAGES:
                self._install_packages(step)
                done |= {"package", step}
            else:
                verbs = _VERBS[step]
                done.add(verbs.stamp if self._run_verbs(verbs) else f"no-{verbs.stamp}")
            self._stamp(done)
        self.show.close()

    def _at(self, step: str, done: int = 0, total: int = 0) -> None:
        self.step, self.counter = step, (done, total)
        self._tick()

    def _tick(self) -> None:
        self.show(Progress(self.step, *self.counter, time.monotonic() - self.began, None))

    def _stamp(self, done: set[str]) -> None:
        new = Path(setup_state.STAMP + ".new")
        stamp = " ".join(sorted(done)) + "\n" + setup_state.state()
        new.write_text(stamp, encoding="utf-8", errors="surrogateescape")
        new.replace(setup_state.STAMP)

    def _make_environment(self) -> None:
        if not self.anew and _works(setup_state.PYTHON):
            return
        self._at("Making the virtual environment")
        for leftover in VENV.iterdir():
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            elif leftover not in (LOG, LOCK):
                leftover.unlink()
        # Inside the very environment that is made anew, its own python is about to go.
        python = getattr(sys, "_base_executable", None) or sys.executable
        offset = subprocess_log.size(LOG)
        status = self._job([python, "-m", "venv", str(VENV)])
        output = subprocess_log.text_since(LOG, offset)
        if status != 0 and ("ensurepip" in output or "No module named venv" in output):
            raise BuildError(
                f"{python} has no venv, or one without pip.",
                remedy="Debian, Ubuntu: run `apt-get install python3-venv` as root and try again. "
                "Elsewhere: install a complete Python.",
            )
        if status != 0:
            raise BuildError(
                f"{python} -m venv ended with status {status}.", detail=subprocess_errors.pip_excerpt(output)
            )

    def _install_packages(self, step: str) -> None:
        name = _NAMES[step]
        count, total = 0, _PACKAGES[step]

        def read(line: str) -> None:
            nonlocal count
            if line.startswith(("Collecting ", "Processing ", "Requirement already satisfied: ")):
                count = min(count + 1, total - 1)
                self._at(name, count, total)

        self._at(name, 0, total)
        offset = subprocess_log.size(LOG)
        pip = [setup_state.PYTHON, "-m", "pip", "--disable-pip-version-check", "--no-input"]
        # Packages that were installed by hand suffice, and need no network.
        by_hand = [*pip, "install", "--no-index", f"bitnet-chat{_EXTRAS[step]}"]
        if step not in ("package", "tests") and self._job(by_hand) == 0:
            return
        if self._job([*pip, "install", "--editable", setup_state.ROOT + _EXTRAS[step]], read) != 0:
            raise subprocess_errors.of_pip(
                subprocess_log.text_since(LOG, offset),
                purpose="install the packages",
                log=LOG,
                python=setup_state.PYTHON,
                offline=_CONNECT,
            )
        self._at(name, total, total)

    def _get_window(self) -> bool:
        try:
            self._install_packages("app")
        except BitnetChatError as error:
            self.show.close()
            print(f"no window of its own: {error.what} The browser will do. Log: {LOG}", file=sys.stderr)
            return False
        return True

    def _job(self, argv: list[str], on_line: Callable[[str], None] = lambda line: None) -> int:
        env = setup_state.without_python(os.environ) | {"PIP_USER": "0"}
        return subprocess_log.run(argv, log=LOG, cwd=VENV, env=env, on_line=on_line, on_tick=self._tick)

    def _run_verbs(self, step: _Verbs) -> bool:
        """False: some of it could not be had, and the set-up goes on without it."""
        self.show.close()
        self.step = step.name
        statuses = []
        for line in step.lines:
            status = self._run_verb(line)
            statuses.append(status)
            if status in (setup_state.INTERRUPTED, -signal.SIGINT):
                raise KeyboardInterrupt
            if status and not step.without:
                raise _VerbFailed(status if status > 0 else 128 - status)
        if any(statuses):
            print(f"{Path(sys.argv[0]).name}: the step “{step.name}” failed: {step.without}", file=sys.stderr)
            os.environ["BITNET_CHAT_INSTALL"] = "no"  # the program that runs next does not ask for it again
        return not any(statuses)

    def _run_verb(self, line: Sequence[str]) -> int:
        """stdout is kept for answers here, too."""
        argv = [setup_state.PYTHON, "-m", "bitnet_chat", *line]
        env = setup_state.without_python(os.environ)
        process = subprocess.Popen(argv, cwd=setup_state.ROOT, env=env, stdin=subprocess.DEVNULL, stdout=2)
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # it got the same Ctrl-C and ends what it has started first
                continue
            except SystemExit:
                process.terminate()
                process.wait()
                raise


def _works(python: str) -> bool:
    probe = "import pip, sys; sys.exit(sys.version_info < (3, 11))"
    try:
        env = setup_state.without_python(os.environ)
        done = subprocess.run([python, "-c", probe], cwd=VENV, env=env, stdin=subprocess.DEVNULL, capture_output=True)
        return done.returncode == 0
    except OSError:
        return False
