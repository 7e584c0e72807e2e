"""``bitnet-chat app``: the web page in a window (pywebview), or in the browser.

The window runs in the main thread, as GUI toolkits require; the server runs in a second thread and ends with the
window. If the window cannot be opened, the browser shows the page; without a display only the address is printed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from bitnet_chat.cli import serve
from bitnet_chat.cli.parser import Parser, parse

if TYPE_CHECKING:
    from bitnet_chat.config import Settings
    from bitnet_chat.server.settings import ServeSettings

T = TypeVar("T")
_SIZE = (1100, 800)


def parser() -> Parser:
    """See :data:`bitnet_chat.cli.VERBS`."""
    parser = serve.parser(serve.REFUSED.keys() - {"attach"})  # --attach shows the page of a running server
    parser.prog = "bitnet-chat app"
    parser.description = "Web page in a window of its own, or in the browser."
    parser.add_argument("--browser", action="store_true", help="the browser, even if a window is available")
    return parser


def run(arguments: Sequence[str]) -> int:
    """See :data:`bitnet_chat.cli.VERBS`. Raises UsageError, and the errors of
    :func:`bitnet_chat.cli.serve.open_server`.
    """
    flags, given = parse(arguments, parser())
    in_window = not getattr(flags, "browser", False) and _has_display()
    if "attach" in given:
        return _show(_address(given["attach"]), in_window, wait=None)
    serve.require()
    serving, settings, configured, models = serve.read(flags, given)
    if code := serve.provide_all(settings, configured, models, may_ask=True):
        return code
    if not hasattr(flags, "port"):
        serving = replace(serving, port=_port(serving.host))
    with _ended_by_signals(), _server(serving, settings, configured, models) as (url, wait):
        return _show(url, in_window, wait)


def _port(host: str) -> int:
    """Return the default port if it is free, else 0 (any free port). A browser stores drafts and colours per address,
    so the address should be the same each time.
    """
    from bitnet_chat.server import settings

    with socket.socket() as probe:
        if os.name == "posix":  # as the server does: the port of a server that has just ended can be used
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, settings.PORT))
        except OSError:
            return 0
    return settings.PORT


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Leave the block with SystemExit on SIGTERM, SIGHUP and SIGBREAK, so that the server shuts down in order."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _address(attach: str) -> str:
    """Return the address of a running server. Raises ServerUnreachableError, or UsageError if it is not a bitnet-chat
    server or requires another API key.
    """
    from bitnet_chat.backends.attached_server.client import ServerClient

    server = ServerClient(attach, os.environ.get("BITNET_CHAT_API_KEY", ""))
    server.greet()
    return server.url


@contextmanager
def _server(
    serving: ServeSettings, settings: Settings, configured: str, models: Mapping[str, str]
) -> Iterator[tuple[str, Callable[[], int]]]:
    """Run a server in a thread during the block. Yields its address, and a function that waits until it ends by itself.

    Raises the errors of :func:`bitnet_chat.cli.serve.open_server`.
    """
    listening: Future[str] = Future()
    ended: Future[int] = Future()
    loop_of: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        ending = asyncio.Event()
        loop_of.append((asyncio.get_running_loop(), ending))
        async with serve.open_server(serving, settings, configured, models) as server:
            listening.set_result(server.url)
            await ending.wait()

    def work() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            (ended if listening.done() else listening).set_exception(error)
        else:
            ended.set_result(0)

    thread = threading.Thread(target=work, name="bitnet-chat server")
    thread.start()
    try:
        yield _result(listening), lambda: _result(ended)
    finally:
        for loop, ending in loop_of:
            with suppress(RuntimeError):  # the event loop has ended
                loop.call_soon_threadsafe(ending.set)
        thread.join()


def _result(future: Future[T]) -> T:
    """The result of ``future``. Unlike :meth:`Future.result` it is left for a signal at any moment: the wait for a lock
    is not ended by one that arrives just before it.
    """
    woken, wakes = socket.socketpair()
    with woken, wakes:
        wakes.setblocking(False)
        before = signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        try:

            def wake(_: object) -> None:
                with suppress(OSError):  # left for a signal
                    wakes.send(b"\0")

            future.add_done_callback(wake)
            while not future.done():
                woken.recv(1)
        finally:
            signal.set_wakeup_fd(before)
    return future.result()


def _show(url: str, in_window: bool, wait: Callable[[], int] | None) -> int:
    """Show the page at ``url`` until the window is closed; in a browser, until ``wait`` returns or Ctrl-C. Returns the
    exit code. ``wait``: waits until the server ends; None for a server of another process.
    """
    if in_window and (code := _window(url)) is not None:
        return code
    if _has_display() or os.environ.get("BROWSER"):
        import webbrowser

        if not webbrowser.open(url):
            _say("the browser cannot be opened")
    _say(f"the page is at {url}")
    if wait is None:
        return 0
    _say("Ctrl-C stops the server")
    return wait()


def _window(url: str) -> int | None:
    """Show the page in a window until it is closed. Returns 0, or None if the window cannot be opened."""
    try:
        webview: Any = import_module("webview")
    except ImportError:
        _say('for a window of its own: pip install "bitnet-chat[app]"; the browser is used')
        return None
    from bitnet_chat import paths

    try:
        webview.create_window("bitnet-chat", url, width=_SIZE[0], height=_SIZE[1], text_select=True)
        # Not private, so that drafts and colours are stored, in the data directory.
        webview.start(private_mode=False, storage_path=str(paths.data_dir() / "window"))
    except Exception as error:  # each toolkit raises its own exceptions
        _say(f"the window cannot be opened ({error}); the browser is used")
        return None
    return 0


def _has_display() -> bool:
    platform: str = sys.platform  # a variable, because mypy evaluates sys.platform and reports unreachable code
    if platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _say(line: str) -> None:
    from bitnet_chat.cli.messages import write_lines
    from bitnet_chat.text.sanitize import visible

    with suppress(OSError):
        write_lines(f"bitnet-chat: {visible(line)}")
