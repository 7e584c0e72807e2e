"""``bitnet-chat app``: a window, the browser, or an address, and a server that lives as long as it is looked at."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import types
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest
from program import TIMEOUT, command, engines_of, environment, fake_engine
from serving import served_process

from bitnet_chat.cli import app
from bitnet_chat.errors import EngineNotFoundError, ModelError, UsageError

if sys.platform == "win32":
    pytest.skip("the engine of these tests is a shell script", allow_module_level=True)


def fetched(url: str) -> str:
    request = urllib.request.Request(url, headers={"Accept": "text/html, */*"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        return str(response.read().decode())


def is_gone(url: str) -> bool:
    try:
        fetched(f"{url}/health")
    except urllib.error.HTTPError:
        return False
    except OSError:
        return True
    return False


@pytest.fixture
def engine_flags(tmp_path: Path, model: Path) -> list[str]:
    return ["--engine", str(fake_engine(tmp_path)), "-m", str(model), "--port", "0"]


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], None]], list[str]]:
    """A pywebview that does what a test says while its window is open."""

    def put(look: Callable[[str], None]) -> list[str]:
        opened: list[str] = []
        module = types.ModuleType("webview")
        module.create_window = lambda title, url, **more: opened.append(url)  # type: ignore[attr-defined]
        module.start = lambda **more: look(opened[0])  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "webview", module)
        monkeypatch.setenv("DISPLAY", ":0")
        return opened

    return put


def test_the_server_lives_as_long_as_the_window(
    engine_flags: list[str], window: Callable[[Callable[[str], None]], list[str]]
) -> None:
    pages: list[str] = []
    opened = window(lambda url: pages.append(fetched(url)))
    assert app.run(engine_flags) == 0
    assert "<title>bitnet-chat</title>" in pages[0]
    assert is_gone(opened[0])


def test_it_has_the_usual_address_where_that_is_free(
    model: Path, window: Callable[[Callable[[str], None]], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a browser keeps, it keeps by address."""
    flags = ["--engine", str(fake_engine(tmp_path)), "-m", str(model)]
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        usual = other.getsockname()[1]
        monkeypatch.setattr("bitnet_chat.server.settings.PORT", usual)
        other.listen()
        opened = window(lambda url: None)
        assert app.run(flags) == 0
        assert opened[0] != f"http://127.0.0.1:{usual}"
    opened = window(lambda url: None)
    assert app.run(flags) == 0
    assert opened == [f"http://127.0.0.1:{usual}"]


def test_it_uses_a_server_that_runs(
    tmp_path: Path, engine_flags: list[str], window: Callable[[Callable[[str], None]], list[str]]
) -> None:
    with served_process(*engine_flags) as process:
        opened = window(lambda url: None)
        assert app.run([f"--attach={process.url}"]) == 0
        assert opened == [process.url]
        assert not is_gone(process.url)


def test_there_is_no_server_to_use(window: Callable[[Callable[[str], None]], list[str]]) -> None:
    window(lambda url: pytest.fail("a window was opened"))
    with pytest.raises(EngineNotFoundError, match="no server answers"):
        app.run(["--attach=http://127.0.0.1:9"])


def test_what_is_missing_is_told_before_a_window_is_opened(
    window: Callable[[Callable[[str], None]], list[str]],
) -> None:
    window(lambda url: pytest.fail("a window was opened"))
    with pytest.raises((EngineNotFoundError, ModelError, UsageError)):
        app.run(["-m", "no-such-model.gguf"])


@pytest.mark.parametrize("flags", [["--browser"], []], ids=["asked for", "no window"])
def test_the_browser_shows_it_until_ctrl_c(tmp_path: Path, engine_flags: list[str], flags: list[str]) -> None:
    """A browser is a script here, which writes down what it was told to open."""
    browser, told = tmp_path / "browser", tmp_path / "told"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > "{told}.new"\nmv "{told}.new" "{told}"\n')
    browser.chmod(browser.stat().st_mode | stat.S_IXUSR)
    # Where pywebview is installed it is not to be found here: what it does without a display is its own business.
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "webview.py").write_text("raise ImportError\n")
    surroundings = environment(DISPLAY=":0", BROWSER=f"{browser} %s")
    surroundings["PYTHONPATH"] = f"{hidden}{os.pathsep}{surroundings['PYTHONPATH']}"
    child = subprocess.Popen(
        command("app", *flags, *engine_flags),
        stderr=subprocess.PIPE,
        text=True,
        env=surroundings,
    )
    try:
        assert child.stderr is not None
        lines = [child.stderr.readline()]
        while "Ctrl-C stops the server" not in lines[-1]:
            assert lines[-1], lines
            lines.append(child.stderr.readline())
        url = told.read_text()
        assert f"bitnet-chat: the page is at {url}\n" in lines
        assert any("bitnet-chat[app]" in line for line in lines) == (not flags)
        assert "bitnet-chat" in fetched(url)
        engines = engines_of(child.pid)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=TIMEOUT)
        assert child.returncode == 130
        assert is_gone(url)
        assert not [each for each in engines if each.is_running() and each.status() != "zombie"]
    finally:
        child.kill()
        child.communicate()


def test_without_a_display_the_address_is_told(tmp_path: Path, engine_flags: list[str]) -> None:
    surroundings = {
        name: value for name, value in environment().items() if name not in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    }
    child = subprocess.Popen(command("app", *engine_flags), stderr=subprocess.PIPE, text=True, env=surroundings)
    try:
        assert child.stderr is not None
        line = child.stderr.readline()
        while "the page is at" not in line:
            assert line
            line = child.stderr.readline()
        assert "<title>bitnet-chat</title>" in fetched(line.split()[-1])
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=TIMEOUT)
        assert child.returncode == 143
    finally:
        child.kill()
        child.communicate()


def test_a_signal_just_before_a_wait_ends_it() -> None:
    class Unfinished(Future[int]):
        def done(self) -> bool:  # the last thing that is called before the wait
            is_done = super().done()
            os.kill(os.getpid(), signal.SIGTERM)
            return is_done

    with app._ended_by_signals(), pytest.raises(SystemExit) as ended:
        app._result(Unfinished())
    assert ended.value.code == 143


def test_help_names_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app.run(["--help"])
    assert "bitnet-chat app" in capsys.readouterr().out
