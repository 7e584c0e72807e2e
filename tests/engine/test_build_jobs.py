"""Commands that a build runs, and the lock that keeps builds apart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from bitnet_chat.util import file_lock, subprocess_log

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins are scripts with a #! line")


# Commands that are run.


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_command_is_logged_and_read_line_by_line(tmp_path: Path) -> None:
    lines: list[str] = []
    code = "import sys; print('one'); sys.stdout.flush(); print('zwei \\xfc', file=sys.stderr); sys.exit(5)"
    log = tmp_path / "log"
    log.write_text("before\n")
    offset = subprocess_log.size(log)
    env = os.environ | {"PYTHONIOENCODING": "latin-1"}
    assert subprocess_log.run(python(code), log=log, cwd=tmp_path, env=env, on_line=lines.append) == 5
    assert lines == ["one", "zwei �"]
    assert "one" in subprocess_log.text_since(log, offset)
    assert "before" not in subprocess_log.text_since(log, offset)
    assert log.read_bytes().startswith(b"before\n")


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        subprocess_log.run([str(tmp_path / "nothing")], log=tmp_path / "log", cwd=tmp_path)


@posix_only
def test_a_stubborn_command_and_its_children_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess_log, "_TERM_SECONDS", 0.2)
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal, time; print(1, flush=True);"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)'], stdout=-1, start_new_session=True);"
        "child.stdout.readline(); print(child.pid, flush=True); time.sleep(600)"
    )
    pids: list[int] = []

    def interrupt(text: str) -> None:
        pids.append(int(text))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        subprocess_log.run(python(code), log=tmp_path / "log", cwd=tmp_path, on_line=interrupt)
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pids[0]) and psutil.Process(pids[0]).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@posix_only
def test_signals_become_an_exit_and_handlers_come_back() -> None:
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, subprocess_log.signals_end_us():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == former


# The lock.


def test_the_lock_is_for_one_and_names_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    said: list[str] = []
    entered = threading.Event()

    def wait(holder: str) -> None:
        said.append(holder)
        entered.set()

    def second() -> None:
        with file_lock.held(path, wait):
            said.append("in")

    thread = threading.Thread(target=second)
    with file_lock.held(path):
        thread.start()
        assert entered.wait(60)
        assert "in" not in said
    thread.join(60)
    assert said[0] == str(os.getpid())
    assert said[-1] == "in"
    if sys.platform != "win32":
        assert not path.exists()


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        f"import sys, time; sys.path.insert(0, {str(Path(file_lock.__file__).parent.parent.parent)!r})\n"
        "from pathlib import Path; from bitnet_chat.util import file_lock\n"
        f"with file_lock.held(Path({str(tmp_path / 'lock')!r})): print('in', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        process.kill()
        process.wait()
    with file_lock.held(tmp_path / "lock", lambda holder: pytest.fail(f"waits for {holder}")):
        pass
