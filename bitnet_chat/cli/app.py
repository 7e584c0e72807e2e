"""``bitnet-chat app``: the page in a window of its own, or in the browser.

The window runs in the main thread, as GUI toolkits require; the server runs in a second thread and ends with the
window. The browser is the fallback without a window, and the printed address the fallback without a display.
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
    parser = serve.parser(serve.REFUSED.keys() - {"attach"})  # whose page is shown
    parser.prog = "bitnet-chat app"
    parser.description = "Web page in a window of its own, or in the browser."
    parser.add_argument("--browser", action="store_true", help="the browser, even if a window is available")
    return parser


def run(arguments: Sequence[str]) -> int:
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
    """The default port if it is free, since a browser stores drafts and colours per address; else 0, any free port."""
    from bitnet_chat.server import settings

    with socket.socket() as probe:
        if os.name == "posix":  # as the server itself: one that has just ended does not count
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, settings.PORT))
        except OSError:
            return 0
    return settings.PORT


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Leave the block on SIGTERM and SIGHUP as on Ctrl-C, so that the server shuts down in order."""

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
    """The address of a running server. Raises ServerUnreachableError, or UsageError for a foreign server or one that
    requires a key.
    """
    from bitnet_chat.backends.attached_server.client import ServerClient

    server = ServerClient(attach, os.environ.get("BITNET_CHAT_API_KEY", ""))
    server.greet()
    return server.url


@contextmanager
def _server(
    serving: ServeSettings, settings: Settings, configured: str, models: Mapping[str, str]
) -> Iterator[tuple[str, Callable[[], int]]]:
    """Run a server during the block. Gives its address, and a function that waits until it ends by itself.

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
            with suppress(RuntimeError):  # it has ended
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
    """Show the page until the window is closed; in a browser, until ``wait`` ends or Ctrl-C. ``wait`` is None for a
    server that runs independently.
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
    """The window, or None if it cannot be opened."""
    try:
        webview: Any = import_module("webview")
    except ImportError:
        _say('for a window of its own: pip install "bitnet-chat[app]"; the browser is used')
        return None
    from bitnet_chat import paths

    try:
        webview.create_window("bitnet-chat", url, width=_SIZE[0], height=_SIZE[1], text_select=True)
        # Not private: drafts and the colours are kept, beside the other data.
        webview.start(private_mode=False, storage_path=str(paths.data_dir() / "window"))
    except Exception as error:  # each toolkit has its own
        _say(f"the window cannot be opened ({error}); the browser is used")
        return None
    return 0


def _has_display() -> bool:
    platform: str = sys.platform  # as a name of its own, since a type checker knows only one of them
    if platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _say(line: str) -> None:
    from bitnet_chat.cli.lines import tell
    from bitnet_chat.text.sanitize import visible

    with suppress(OSError):
        tell(f"bitnet-chat: {visible(line)}")
