"""A real browser for tests of the page: Chromium without a window, once for a module.

Everything lives in one event loop, which the tests share: the browser, its pages, and the server that they talk to.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from program import TIMEOUT
from scripted_backend import Script, by_message
from serving import Served, serving

from bitnet_chat.journal import Journal
from bitnet_chat.server.settings import ServeSettings

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Page, Request

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
# What the page must never do, as the browser tells it.
_WATCH = """
addEventListener("securitypolicyviolation", event => {
  (globalThis.violations ??= []).push(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`)
})
"""


def or_skip(reason: str) -> None:
    """Leaves the test; where tests run for everybody, that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


class Chromium:
    """``run`` what a test does with it."""

    def __init__(self, runner: asyncio.Runner, browser: Browser) -> None:
        self._runner, self.browser = runner, browser

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        async def in_time() -> None:
            async with asyncio.timeout(2 * TIMEOUT):
                await coroutine

        self._runner.run(in_time())


@contextmanager
def chromium() -> Iterator[Chromium]:
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        or_skip("there is no Chromium")
    from playwright.async_api import async_playwright  # late: it takes longer than most tests

    with asyncio.Runner() as runner:

        async def start() -> tuple[Any, Browser]:
            playwright = await async_playwright().start()
            return playwright, await playwright.chromium.launch(executable_path=path, args=list(_FLAGS))

        playwright, browser = runner.run(start())
        try:
            yield Chromium(runner, browser)
        finally:

            async def stop() -> None:
                await browser.close()
                await playwright.stop()

            runner.run(stop())


@dataclass
class Window:
    """A browser that looks at a server. ``troubles``: what no page should have."""

    served: Served
    context: BrowserContext
    page: Page
    url: str
    troubles: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    """Addresses that were asked for and are not the server's."""
    expected: Callable[[str], bool] = lambda text: False
    """What of the console is no trouble in this test."""

    async def look(self, place: str = "") -> Page:
        """A page on the server, with its list drawn."""
        page = self.page if self.page.url == "about:blank" else await self.context.new_page()
        self.watch(page)
        await page.goto(f"{self.url}/{place}")
        await page.locator("#list > *").first.wait_for(state="attached")
        return page

    async def send(self, text: str, page: Page | None = None) -> None:
        page = page or self.page
        await page.locator("#message").fill(text)
        await page.locator("#send").click()

    async def answered(self, count: int, page: Page | None = None) -> None:
        """Until there are ``count`` whole replies, and none is being made."""
        page = page or self.page
        await page.wait_for_function(
            "count => document.querySelectorAll('.reply').length === count && !document.querySelector('.live')"
            " && document.querySelector('#send').getAttribute('aria-label') !== 'Stop'",
            arg=count,
        )

    async def shows(self, text: str, page: Page | None = None) -> None:
        """Until the last reply reads ``text``."""
        page = page or self.page
        last = "[...document.querySelectorAll('.prose')].at(-1)"
        await page.wait_for_function(f"text => {last}?.innerText === text", arg=text)

    async def says(self, text: str, page: Page | None = None) -> None:
        """Until ``text`` is somewhere in the last reply."""
        page = page or self.page
        last = "[...document.querySelectorAll('.prose')].at(-1)"
        await page.wait_for_function(f"text => {last}?.innerText.includes(text)", arg=text)

    async def until(self, condition: str, page: Page | None = None) -> None:
        """Until this JavaScript is true. As a function: a text would have to be evaluated, which the page forbids."""
        await (page or self.page).wait_for_function(f"() => {condition}")

    def watch(self, page: Page) -> None:
        page.set_default_timeout(1000 * TIMEOUT)
        page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.troubles.append(f"dialog: {dialog.message}"))
        page.on("popup", lambda popup: self.troubles.append(f"window: {popup.url}"))
        page.on("console", lambda said: self._heard(said.type, said.text))

    def _heard(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and "blocked by Playwright" not in text and not self.expected(text):
            self.troubles.append(f"console: {text}")

    def asked(self, request: Request) -> None:
        if not request.url.startswith((f"{self.url}/", "data:", "blob:")):
            self.strangers.append(request.url)

    async def check(self) -> None:
        for page in self.context.pages:
            self.troubles += await page.evaluate("globalThis.violations ?? []")
        assert not self.troubles
        assert not self.strangers


@asynccontextmanager
async def window(
    chromium: Chromium,
    script: Script = by_message,
    *,
    settings: ServeSettings | None = None,
    journal: Journal | None = None,
    **options: Any,
) -> AsyncIterator[Window]:
    """A server with a script, and a browser that looks at it; in the end nothing has gone wrong there."""
    async with (
        serving(script, settings=settings, journal=journal or Journal()) as served,
        browsing(chromium, served, **options) as shown,
    ):
        yield shown


@asynccontextmanager
async def browsing(chromium: Chromium, served: Served, **options: Any) -> AsyncIterator[Window]:
    options = {"viewport": {"width": 1100, "height": 800}, "service_workers": "block"} | options
    context = await chromium.browser.new_context(**options)
    try:
        await context.add_init_script(_WATCH)
        shown = Window(served, context, await context.new_page(), served.url)
        context.on("request", shown.asked)
        yield shown
        await shown.check()
    finally:
        await context.close()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
