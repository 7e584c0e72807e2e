"""Replies side by side on the page in a real browser: several variants, and blind comparisons of two models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
from browsing import Chromium, Window, browsing, chromium, free_port
from scripted_backend import Gate, ScriptedBackend, say
from serving import scripted_source, serving
from test_chat_variants import WHOLE, TogetherBackend

from bitnet_chat.backends.pool import BackendFactory
from bitnet_chat.conversation import Conversation
from bitnet_chat.events import Event
from bitnet_chat.journal import Journal
from bitnet_chat.server.settings import ServeSettings

COLUMNS = "[...document.querySelectorAll('.column .prose')].map(each => each.innerText)"
TEXTS = [text.strip() for text in WHOLE]


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as it:
        yield it


def together() -> tuple[BackendFactory, TogetherBackend]:
    backend = TogetherBackend(lambda conversation: say("The first."))
    return BackendFactory("scripted", 1, lambda: backend), backend


async def columns(it: Window, *texts: str) -> None:
    """Until the replies side by side read so."""
    await it.page.wait_for_function(f"texts => JSON.stringify({COLUMNS}) === JSON.stringify(texts)", arg=list(texts))


async def from_menu(it: Window, name: str) -> None:
    await it.page.locator(".last .menu summary").click()
    await it.page.get_by_role("button", name=name).click()


def test_variants_stand_side_by_side_until_one_is_chosen(browser: Chromium) -> None:
    factory, backend = together()

    async def main() -> None:
        async with serving(factory, journal=Journal()) as served, browsing(browser, served) as it:
            page = await it.look()
            await it.send("hello")
            await it.shows("The first.")
            await it.answered(1)
            await from_menu(it, "3 variants")
            backend.open_gate()
            await columns(it, "0:0", "1:0", "2:0")
            assert await page.evaluate("document.activeElement.matches('.choice')"), "the keys of the numbers act there"
            assert await page.get_by_role("button", name="Choose reply 1").is_disabled(), "not before the end"
            lefts, tops = "left", "top"
            place = "side => [...document.querySelectorAll('.column')].map(each => each.getBoundingClientRect()[side])"
            assert len(set(await page.evaluate(place, lefts))) == 3 and len(set(await page.evaluate(place, tops))) == 1
            await page.set_viewport_size({"width": 390, "height": 700})  # a phone
            assert len(set(await page.evaluate(place, lefts))) == 1 and len(set(await page.evaluate(place, tops))) == 3
            assert await page.evaluate("document.querySelector('#scroller').scrollWidth") == 390
            await page.set_viewport_size({"width": 1100, "height": 800})
            await page.reload()
            await columns(it, "0:0", "1:0", "2:0")
            backend.open_gate()
            backend.open_gate()
            await columns(it, *TEXTS)
            await page.get_by_role("button", name="Choose reply 3").wait_for()
            await it.until("!document.querySelector('[data-do=choose]:disabled')")
            assert "Choose" in await page.locator("#spoken").inner_text()
            await page.reload()  # they stand there until the choice
            await columns(it, *TEXTS)
            await page.locator("#message").press("2")
            assert await page.locator("#message").input_value() == "2", "a number in a message is no choice"
            await page.locator("#message").fill("")
            other = await it.look(await page.evaluate("location.hash"))
            await other.locator(".column").nth(2).wait_for()
            await page.bring_to_front()
            await page.locator(".choice").focus()
            await page.keyboard.press("2")
            await it.shows(TEXTS[1])
            await it.answered(1)
            assert await page.locator(".choice").count() == 0
            assert await page.locator(".variants:visible").text_content() == "<3/4>"
            await other.bring_to_front()
            await it.shows(TEXTS[1], other)
            assert await other.locator(".choice").count() == 0
            await page.bring_to_front()
            await from_menu(it, "Show the variants side by side")
            await columns(it, "The first.", *TEXTS)
            await page.get_by_role("button", name="Choose reply 1").click()
            await it.shows("The first.")
            await page.reload()
            await it.shows("The first.")
            assert await page.locator(".choice").count() == 0

    browser.run(main())


def test_a_restart_of_the_server_in_the_middle_loses_no_variant(browser: Chromium) -> None:
    settings, journal = ServeSettings(port=free_port(), grace=0.0), Journal()

    async def main() -> None:
        async with AsyncExitStack() as stack:
            factory, backend = together()
            served = await stack.enter_async_context(serving(factory, journal=journal, settings=settings))
            async with browsing(browser, served) as it:
                page = await it.look()
                it.expected = lambda text: "ERR_" in text
                await it.send("hello")
                await it.shows("The first.")
                await it.answered(1)
                await from_menu(it, "2 variants")
                backend.open_gate()
                await columns(it, "0:0", "1:0")
                await stack.aclose()
                async with serving(together()[0], journal=journal, settings=settings):
                    await page.reload()
                    await columns(it, "0:0", "1:0")
                    await page.locator("[data-do=choose]:enabled").nth(1).click()
                    await it.shows("1:0")
                    assert await page.locator(".variants:visible").text_content() == "<3/3>"

    browser.run(main())


def test_two_models_are_compared_without_their_names_until_the_choice(browser: Chromium) -> None:
    hostile = "<img src=x onerror=alert(1)>\u202e"
    backends: list[ScriptedBackend] = []

    def script(name: str, *parts: Event | Gate) -> BackendFactory:
        def play(conversation: Conversation) -> list[Event | Gate]:
            begun, *rest = say(f"I am {len(name)} letters.")
            return [begun, *parts, *rest]

        return scripted_source(play, backends, name=name)

    async def main() -> None:
        journal = Journal()
        sources = {"small": script("small"), hostile: script(hostile, Gate())}
        async with serving(sources, journal=journal) as served, browsing(browser, served) as it:
            page = await it.look()
            await it.send("hello")
            await it.shows("I am 5 letters.")
            await it.answered(1)
            await page.locator(".menu summary").click()
            compare = page.locator("[data-do=compare]")
            await compare.first.wait_for()  # the menu is filled by an event after the click
            assert await compare.all_inner_texts() == ["Compare with <img src=x onerror=alert(1)><U+202E>"]
            await page.keyboard.press("Escape")
            assert not await compare.is_visible() and await page.evaluate("document.activeElement.matches('summary')")
            await page.keyboard.press("Enter")
            assert await page.locator(".menu input").is_checked()
            await compare.press("Enter")
            hidden = "document.querySelectorAll('.column').length === 2 && document.querySelector('.choice').innerText"
            await it.until(hidden)
            texts = await page.locator(".choice").inner_text()
            assert "letters" not in texts and "small" not in texts, "no text before both are complete"
            await page.reload()
            await it.until(hidden)
            backends[-1].open_gate()
            await it.until("!document.querySelector('.live-choice')")
            # The earlier reply is requested after the reload.
            await it.until("document.querySelector('.choice').innerText.includes('I am 5 letters.')")
            shown = await page.locator(".choice").inner_text()
            assert f"{len(hostile)} letters" in shown
            assert "small" not in shown and "img" not in shown
            await page.reload()
            await page.locator("[data-do=choose]:enabled").nth(1).wait_for()
            shown = await page.locator(".choice").inner_text()
            assert "small" not in shown and "img" not in shown
            column = page.locator(".column", has_text="I am 5 letters.")
            await column.get_by_role("button", name="Choose").click()
            await it.shows("I am 5 letters.")
            verdict = page.locator(".verdict:visible")
            await verdict.wait_for()
            assert await verdict.inner_text() == (
                "Chosen over <img src=x onerror=alert(1)><U+202E>, without knowing the models."
            )
            (vote,) = journal.votes()
            assert vote.blind and sorted(each.model for each in vote.replies) == sorted(["small", hostile])
            assert [each.model for each in vote.replies if each.row == vote.chosen] == ["small"]
            assert await page.locator("#thread img").count() == 0
            await page.locator(".menu summary").click()
            await page.locator(".menu input").uncheck()
            backends[-1].open_gate()
            await compare.click()
            await page.locator("[data-do=choose]:enabled").nth(1).wait_for()
            names = await page.locator(".column > h3").all_inner_texts()
            assert names == ["small", "<img src=x onerror=alert(1)><U+202E>"], "the earlier one is first"
            await page.keyboard.press("0")
            await it.shows("I am 5 letters.")
            assert await verdict.inner_text() == "Not better or worse than <img src=x onerror=alert(1)><U+202E>."
            assert [vote.chosen is None for vote in journal.votes()] == [False, True]

    browser.run(main())
