"""The page in a real browser: what is seen while a reply is made, and that nothing that is said does harm."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browsing import Chromium, browsing, chromium, free_port, or_skip, window
from scripted_backend import STATS, Gate, ScriptedBackend, by_message, say
from serving import scripted_source, serving
from test_chats_saved_states import keep
from test_page_rendering import HOSTILE, SAMPLE

from bitnet_chat import paths
from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Event, Notice, Started, TextDelta, ThinkingDelta
from bitnet_chat.journal import Journal
from bitnet_chat.server.chats import service
from bitnet_chat.server.settings import ServeSettings

if TYPE_CHECKING:
    from playwright.async_api import Route

Steps = list[Event | Gate]
AXE_PLACE = paths.cache_dir() / "tests"
"""Looked up here, because each test has a cache folder of its own."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as it:
        yield it


def gated(*parts: str, reason: FinishReason = FinishReason.STOP) -> Steps:
    """Parts with a gate between any two."""
    steps: Steps = [Started()]
    for part in parts:
        steps += [TextDelta(part), Gate()]
    return [*steps[:-1], Completed(reason, "".join(parts), STATS)]


# What was in the reply each time that the browser had painted.
PAINTS = """
globalThis.painted = []
const look = () => {
  const now = [...document.querySelectorAll(".prose")].at(-1)?.textContent ?? ""
  if (painted.at(-1) !== now) painted.push(now)
  requestAnimationFrame(look)
}
requestAnimationFrame(look)
"""


def test_each_piece_is_painted_before_the_next_one_is_made(browser: Chromium) -> None:
    """The engine waits between any two pieces until the browser has shown the one before."""
    parts = ["One", " two", " three.", "\n\nFour", " five."]
    shown = ["".join(parts[:count]).replace("\n", "") for count in range(1, len(parts) + 1)]

    async def main() -> None:
        async with window(browser, lambda conversation: gated(*parts)) as it:
            await it.page.add_init_script(PAINTS)
            page = await it.look()
            await it.send("hello")
            for text in shown:
                await page.wait_for_function("text => painted.includes(text)", arg=text)
                assert await page.evaluate("painted.at(-1)") == text, "more is there than was made"
                it.served.backend.open_gate()
            await it.answered(1)
            assert (await page.evaluate("painted"))[-len(shown) :] == shown

    browser.run(main())


def test_stop_and_continue(browser: Chromium) -> None:
    def script(conversation: Conversation) -> Steps:
        last = conversation.last
        assert last is not None
        if last.role == "assistant":
            return gated(" and so", " it went on.")
        return gated("It begins", " never.")

    async def main() -> None:
        async with window(browser, script) as it:
            page = await it.look()
            await it.send("hello")
            await it.shows("It begins")
            await page.get_by_role("button", name="Stop").click()
            await it.answered(1)
            assert "interrupt" in it.served.backend.calls
            assert await page.locator(".outcome").inner_text() == "Stopped."
            await page.get_by_role("button", name="Continue").click()
            await it.shows("It begins and so")
            await page.reload()
            await it.shows("It begins and so")
            it.served.backend.open_gate()
            await it.shows("It begins and so it went on.")
            await it.answered(1)
            await it.until("document.querySelector('.reply').message.content === 'It begins and so it went on.'")
            await it.send("and again")
            await page.locator(".live").wait_for()
            await page.locator("#message").press("Escape")
            await it.answered(2)

    browser.run(main())


def test_a_reload_in_mid_reply_loses_and_repeats_nothing(browser: Chromium) -> None:
    parts = [f"{number} * words, " for number in range(40)]
    parts += ["\n\n```python\n", "x = '''", "\ny\n", "'''\n```\n", "End."]

    def script(conversation: Conversation) -> Steps:
        steps: Steps = [Started(), ThinkingDelta("Hm. ")]
        for at, part in enumerate(parts):
            steps += [TextDelta(part), *([Gate()] if at % 11 == 10 else [])]
        return [*steps, Completed(FinishReason.STOP, "".join(parts), STATS)]

    async def main() -> None:
        async with window(browser, script) as it:
            page = await it.look()
            await it.send("hello")
            for seen in ("10 * words", "21 * words", "32 * words", "x = '''"):
                await it.says(seen)
                await page.reload()
                await it.says(seen)
                it.served.backend.open_gate()
            await it.answered(1)
            assert await page.evaluate("document.querySelector('.reply').message.content") == "".join(parts)
            streamed = await page.locator(".prose").inner_text()
            assert await page.locator(".thoughts div").text_content() == "Hm. "
            await page.reload()
            await it.answered(1)
            assert await page.locator(".prose").inner_text() == streamed
            assert await page.evaluate("document.querySelector('.reply').message.content") == "".join(parts)

    browser.run(main())


def test_two_tabs_show_the_same_reply(browser: Chromium) -> None:
    async def main() -> None:
        async with window(browser, lambda conversation: gated("Here", " and there", ".")) as it:
            await it.look()
            await it.send("hello")
            await it.shows("Here")
            other = await it.look(await it.page.evaluate("location.hash"))
            await it.shows("Here", other)
            it.served.backend.open_gate()
            await it.shows("Here and there")
            await it.shows("Here and there", other)
            await other.get_by_role("button", name="Stop").click()
            await it.answered(1)
            await it.answered(1, other)
            await it.send("from the second tab", other)
            await it.page.get_by_text("from the second tab").wait_for()
            await it.page.get_by_role("button", name="Stop").click()
            await it.answered(2, other)

    browser.run(main())


def test_another_reply_and_a_changed_message(browser: Chromium) -> None:
    count = iter(range(100))

    def script(conversation: Conversation) -> Steps:
        assert conversation.last is not None
        return say(f"Reply {next(count)} to {len(conversation.turns)}: {conversation.last.content}.")

    async def main() -> None:
        async with window(browser, script) as it:
            page = await it.look()
            await it.send("first")
            await it.answered(1)
            await it.send("second")
            await it.answered(2)
            await page.get_by_role("button", name="Regenerate the reply").click()
            await it.shows("Reply 2 to 3: second.")
            await it.answered(2)
            await page.locator(".user").first.hover()
            await page.get_by_role("button", name="Edit this message").first.click()
            assert await page.locator("#message").input_value() == "first"
            await it.send("first of all")
            await it.shows("Reply 3 to 1: first of all.")
            await it.answered(1)
            assert await page.locator(".user .said").all_inner_texts() == ["first of all"]
            await page.locator("#message").press("ArrowUp")
            assert await page.locator("#message").input_value() == "first of all"
            await page.locator("#message").press("Escape")
            assert await page.locator("#message").input_value() == ""
            await page.reload()
            await it.answered(1)
            assert await page.locator(".user .said").all_inner_texts() == ["first of all"]

    browser.run(main())


def test_the_variants_of_a_message_are_walked_and_other_tabs_follow(browser: Chromium) -> None:
    count = iter(range(100))

    def script(conversation: Conversation) -> Steps:
        assert conversation.last is not None
        return say(f"Reply {next(count)} to {conversation.last.content}.")

    async def main() -> None:
        async with window(browser, script) as it:
            page = await it.look()
            await it.send("first")
            await it.answered(1)
            assert await page.locator(".variants:visible").count() == 0
            await page.get_by_role("button", name="Regenerate the reply").click()
            await it.shows("Reply 1 to first.")
            variants = page.locator(".variants:visible")
            await variants.wait_for()
            assert await variants.text_content() == "<2/2>"
            assert await variants.get_by_role("button", name="Next variant").is_disabled()
            await it.send("second")
            await it.answered(2)
            other = await it.look(await page.evaluate("location.hash"))
            await other.get_by_text("Reply 2 to second.").wait_for()
            await page.bring_to_front()
            await page.get_by_role("button", name="Previous variant").click()
            await it.shows("Reply 0 to first.")
            await it.answered(1)
            focused = "document.activeElement.dataset.do"
            assert await page.evaluate(focused) == "next", "the other one is disabled"
            assert await page.locator("#list .name").all_inner_texts() == ["first"]
            await other.bring_to_front()
            await other.get_by_text("Reply 0 to first.").wait_for()
            assert await other.locator(".variants:visible").text_content() == "<1/2>"
            await other.get_by_role("button", name="Next variant").click()
            await other.get_by_text("Reply 2 to second.").wait_for()
            await page.bring_to_front()
            await it.shows("Reply 2 to second.")
            await page.locator(".user").first.hover()
            await page.get_by_role("button", name="Edit this message").first.click()
            await it.send("uno")
            await it.shows("Reply 3 to uno.")
            await variants.wait_for()
            assert await page.locator(".user .variants:visible").text_content() == "<2/2>"
            await page.get_by_role("button", name="Previous variant").click()
            await it.shows("Reply 2 to second.")
            assert await variants.all_text_contents() == ["<1/2>", "<2/2>"]
            await page.reload()
            await it.answered(2)
            assert await variants.all_text_contents() == ["<1/2>", "<2/2>"]

    browser.run(main())


def test_a_conversation_that_continues_at_once_is_marked(browser: Chromium, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_LOOK", 0.02)

    async def main() -> None:
        async with window(browser, journal=(journal := Journal())) as it:
            page = await it.look()
            await it.send("one")
            await it.answered(1)
            marks = page.get_by_role("img", name="Continues at once")
            assert await marks.count() == 0
            store = keep(journal, 1)  # in the list and in the open conversation, without a reload
            await it.until("document.querySelectorAll('.at-once:not([hidden])').length === 2")
            assert await marks.count() == 2 and "is saved" in str(await marks.first.get_attribute("title"))
            await page.get_by_role("button", name="New conversation").click()
            await it.until("document.querySelectorAll('.at-once:not([hidden])').length === 1")
            await page.locator("#list a").click()
            await it.until("document.querySelectorAll('.at-once:not([hidden])').length === 2")
            store.clear()
            await it.until("document.querySelectorAll('.at-once:not([hidden])').length === 0")

    browser.run(main())


def test_nothing_that_a_model_says_does_harm(browser: Chromium) -> None:
    """No dialog, no window, no request to anywhere else, no markup of its own; and all of it can be read."""
    texts = [text for text in HOSTILE if len(text) < 2_000]
    whole = "\n\n".join(texts)

    def script(conversation: Conversation) -> Steps:
        steps: Steps = [Notice("<img src=x onerror=alert(2)>"), Started(), ThinkingDelta("<script>alert(3)</script>")]
        steps += [TextDelta(whole[at : at + 5]) for at in range(0, len(whole), 5)]
        call = ToolCall("<b>", "<img src=x onerror=alert(4)>", '{"a": "<script>alert(5)</script>"}')
        return [*steps, call, Completed(FinishReason.TOOL_CALLS, whole, STATS)]

    async def main() -> None:
        async with window(browser, script) as it:
            page = await it.look()
            message = f"<img src=https://evil.example/x onerror=alert(1)> {HOSTILE[0]}"
            await it.send(message)
            await it.answered(1)
            for _ in range(2):  # as it was streamed, and as it is kept
                thread = page.locator("#thread")
                assert await thread.locator("script, img, iframe, style, form, input, [onerror], [style]").count() == 0
                addresses = await thread.locator("a").evaluate_all("all => all.map(each => [each.protocol, each.rel])")
                assert {protocol for protocol, _ in addresses} <= {"http:", "https:", "mailto:"}
                assert {rel for _, rel in addresses} == {"noopener noreferrer nofollow"}
                assert "<script>alert(1)</script>" in await page.locator(".prose").inner_text()
                assert "\u202e" not in await page.locator(".prose").inner_text()
                assert await page.locator(".said").inner_text() == message
                assert "<img" in await page.locator("#list .name").inner_text()
                await page.reload()
                await it.answered(1)

    browser.run(main())


def test_the_list_is_searched_renamed_and_cut(browser: Chromium) -> None:
    async def main() -> None:
        async with window(browser) as it:
            page = await it.look()
            for words in ("about tea", "about coffee", "about milk"):
                await page.get_by_role("button", name="New conversation").click()
                await it.until("!document.querySelector('.reply')")  # else the words go into the one before
                await it.send(words)
                await it.answered(1)
            names = page.locator("#list .name")
            await it.until("document.querySelectorAll('#list li').length === 3")
            assert await names.all_inner_texts() == ["about milk", "about coffee", "about tea"]
            # with keys alone
            await page.keyboard.press("Control+k")
            await page.keyboard.type("coffee")
            await it.until("document.querySelectorAll('#list li').length === 1")
            await page.keyboard.press("ArrowDown")
            await page.keyboard.press("Enter")
            await it.shows("You said 'about coffee'.")
            await it.until("document.activeElement.id === 'message'")
            await page.keyboard.press("Control+k")
            await page.keyboard.press("ArrowDown")
            await page.keyboard.press("F2")
            await page.keyboard.type("Beans")
            await page.keyboard.press("Enter")
            await it.until("document.querySelector('#title').textContent === 'Beans'")
            await page.keyboard.press("Control+k")
            await page.keyboard.press("Escape")
            await it.until("document.querySelectorAll('#list li').length === 3")
            await page.locator("#list a", has_text="Beans").focus()
            await page.keyboard.press("Delete")
            await page.locator("#confirm").get_by_role("button", name="Delete").press("Enter")
            await it.until("document.querySelectorAll('#list li').length === 2")
            assert sorted(await names.all_inner_texts()) == ["about milk", "about tea"]
            await it.until("document.querySelector('#title').textContent === 'New conversation'")

    browser.run(main())


def test_keys_and_drafts(browser: Chromium) -> None:
    async def main() -> None:
        async with window(browser) as it:
            page = await it.look()
            await it.until("document.activeElement.id === 'message'")
            await page.keyboard.type("one line")
            await page.keyboard.press("Shift+Enter")
            await page.keyboard.type("and another")
            await page.reload()
            await it.until("document.activeElement.id === 'message'")
            assert await page.locator("#message").input_value() == "one line\nand another"
            await page.keyboard.press("Control+End")
            await page.keyboard.press("Enter")
            await it.shows("You said 'one line\\nand another'.")
            await it.until("document.querySelector('#message').value === ''")
            await page.keyboard.type("a draft")
            await page.get_by_role("button", name="New conversation").click()
            await it.until("document.querySelector('#message').value === ''")
            await page.go_back()
            await it.until("document.querySelector('#message').value === 'a draft'")

    browser.run(main())


def test_a_message_that_is_on_its_way_holds_nobody_up(browser: Chromium) -> None:
    """What is typed meanwhile stays, another conversation is not held up, and nobody is taken back to this one."""

    async def main() -> None:
        async with window(browser) as it:
            held, free = asyncio.Event(), asyncio.Event()

            async def hold(route: Route) -> None:
                if route.request.method == "POST":
                    held.set()
                    await free.wait()
                await route.continue_()

            page = await it.look()
            await it.send("first")
            await it.answered(1)
            first = await page.evaluate("location.hash")
            await page.route("**/chats/*/messages", hold)
            await it.send("second")
            await held.wait()
            await it.until("document.activeElement.id === 'message'")
            await page.keyboard.type(" and more")
            await page.get_by_role("button", name="New conversation").click()
            await page.get_by_role("button", name="Send").wait_for()
            await page.go_back()
            await page.get_by_role("button", name="Stop").wait_for()
            free.set()
            await it.answered(2)
            await it.until("document.querySelector('#message').value === 'and more'")
            await page.unroute("**/chats/*/messages")
            # and one that begins a conversation
            free.clear()
            held.clear()
            await page.route("**/chats", hold)
            await page.get_by_role("button", name="New conversation").click()
            await it.until("document.querySelector('#thread').hidden")  # else the words go into the one before
            await it.send("third")
            await held.wait()
            await page.evaluate("address => { location.hash = address }", first)
            await it.answered(2)
            free.set()
            await page.locator("#list .name", has_text="third").wait_for()
            assert await page.evaluate("location.hash") == first
            assert await page.locator("#message").input_value() == "and more"
            await page.get_by_role("button", name="New conversation").click()
            await it.until("document.querySelector('#message').value === ''")
            await page.locator("#list a", has_text="third").click()
            await it.shows("You said 'third'.")
            await it.until("document.querySelector('#message').value === ''")

    browser.run(main())


def test_a_reply_without_a_word_says_so(browser: Chromium) -> None:
    def script(conversation: Conversation) -> Steps:
        return [Started(), ThinkingDelta("Hm."), Completed(FinishReason.STOP, "", STATS)]

    async def main() -> None:
        async with window(browser, script) as it:
            page = await it.look()
            await it.send("hello")
            await page.get_by_role("button", name="Try again").wait_for()
            assert await page.locator(".outcome").inner_text() == "Empty reply."
            await page.reload()
            await page.get_by_text("Empty reply.").wait_for()

    browser.run(main())


def test_a_message_without_a_reply_stays_where_it_is(browser: Chromium) -> None:
    """Whether the engine failed or the reply was stopped before its first word; and it can be changed and asked."""

    def script(conversation: Conversation) -> Steps:
        assert conversation.last is not None
        if conversation.last.content == "hang":
            return [Started(), Gate(), Completed(FinishReason.STOP, "", STATS)]
        return list(by_message(conversation))

    async def main() -> None:
        async with window(browser, script) as it:
            page = await it.look()
            said = page.locator(".said")
            await it.send("fail")
            await page.locator(".outcome.wrong", has_text="Your message stays here.").wait_for()
            await it.answered(1)
            await it.send("hang")
            await page.locator(".live").wait_for()
            await page.get_by_role("button", name="Stop").click()
            await page.locator(".outcome", has_text="Stopped. Your message stays here.").wait_for()
            await it.answered(1)
            for _ in range(2):  # as it happened, and as it is kept
                assert await said.all_inner_texts() == ["fail", "hang"]
                assert await page.locator(".unheard:visible").count() == 1
                await page.reload()
                await it.answered(1)
            await it.send("hello")
            await it.shows("You said 'hello'.")
            for _ in range(2):
                await it.answered(1)
                assert await said.all_inner_texts() == ["fail", "hang", "hello"]
                notes = await page.locator(".unheard:visible").all_inner_texts()
                assert notes == ["No reply. The model does not see this message."] * 2
                await page.get_by_role("button", name="Regenerate the reply").click()
                await page.locator(".live").wait_for(state="detached")
                await it.answered(1)
                await page.reload()
                await it.answered(1)
            await page.locator(".user").nth(1).hover()
            await page.get_by_role("button", name="Edit this message").nth(1).click()
            assert await page.locator("#message").input_value() == "hang"
            await it.send("go on")
            await it.shows("You said 'go on'.")
            await it.answered(1)
            assert await said.all_inner_texts() == ["fail", "go on"]

    browser.run(main())


def test_letters_with_many_accents_stay_in_their_message(browser: Chromium) -> None:
    async def main() -> None:
        async with window(browser, lambda conversation: say("a" + "\u0301" * 500)) as it:
            page = await it.look()
            await it.send("e" + "\u0301" * 500)
            await it.answered(1)
            for part in (".said", ".prose"):
                assert await page.locator(part).evaluate("each => getComputedStyle(each).overflowY") == "clip"

    browser.run(main())


def test_what_is_not_text_is_shown_as_well(browser: Chromium) -> None:
    def script(conversation: Conversation) -> Steps:
        if len(conversation.turns) == 1:
            call = ToolCall("1", "weather", '{"place": "Rome"}')
            thoughts: Steps = [Notice("The engine was restarted."), Started(), ThinkingDelta("Let me see.")]
            return [*thoughts, TextDelta("Well."), call, Completed(FinishReason.TOOL_CALLS, "Well.", STATS)]
        return list(by_message(conversation))

    async def main() -> None:
        async with window(browser, script) as it:
            page = await it.look()
            await it.send("hello")
            await it.answered(1)
            assert not await page.get_by_text("Let me see.").is_visible(), "thoughts are folded"
            await page.get_by_text("Thoughts").click()
            assert await page.get_by_text("Let me see.").is_visible()
            assert await page.get_by_text("The engine was restarted.").is_visible()
            assert "weather" in await page.locator(".calls").inner_text()
            assert await page.locator(".facts").inner_text() == "scripted · 10.0 tok/s · first token after 500 ms"
            assert await page.locator("#context").inner_text() == "64 of 2,048 tokens"
            await it.send("fail")
            await page.locator(".outcome.wrong").wait_for()
            assert "The engine died. Try again." in await page.locator(".outcome").last.inner_text()
            await page.get_by_role("button", name="Try again").click()
            await it.until("document.querySelectorAll('.outcome.wrong').length === 1")

    browser.run(main())


def test_it_scrolls_along_but_not_under_a_reader(browser: Chromium) -> None:
    paragraphs = [f"Paragraph {number}.\n\n" for number in range(60)]

    def script(conversation: Conversation) -> Steps:
        return gated("".join(paragraphs), "More.\n\n" * 30, "The end.")

    at_end = """(scroller => scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop < 60)(
      document.querySelector("#scroller"))"""

    async def main() -> None:
        async with window(browser, script) as it:
            page = await it.look()
            await it.send("hello")
            await page.get_by_text("Paragraph 59.").wait_for()
            await it.until(at_end)
            await page.locator("#scroller").hover()
            await page.mouse.wheel(0, -900)
            await page.get_by_role("button", name="To the end").wait_for()
            before = await page.evaluate("document.querySelector('#scroller').scrollTop")
            it.served.backend.open_gate()
            await it.until("document.querySelector('.prose').textContent.endsWith('More.')")
            assert await page.evaluate("document.querySelector('#scroller').scrollTop") == before
            await page.get_by_role("button", name="To the end").click()
            await it.until(at_end)
            it.served.backend.open_gate()
            await it.answered(1)
            await it.until(at_end)
            assert not await page.locator("#to-end").is_visible()

    browser.run(main())


def test_code_is_copied_as_it_is(browser: Chromium) -> None:
    """Long code comes in pieces, and is one block all the same: in the list where it stands, with one button."""
    code = "".join(f"line_{number} = '''x\n'''\n" for number in range(60))
    reply = f"- Here:\n  ```python\n{''.join('  ' + line for line in code.splitlines(True))}  ```\n\n```js\n1\n```\n"

    async def main() -> None:
        async with window(browser, lambda conversation: say(*accumulated(reply))) as it:
            await it.context.grant_permissions(["clipboard-read", "clipboard-write"])
            page = await it.look()
            await it.send("hello")
            await it.answered(1)
            for _ in range(2):
                assert await page.locator(".listing").count() == 2
                assert await page.locator(".listing pre").count() > 3
                await page.locator("li .listing").get_by_role("button", name="Copy").click()
                await page.locator("[data-copied]").wait_for()
                assert await page.evaluate("navigator.clipboard.readText()") == code
                await page.reload()
                await it.answered(1)
            await page.get_by_role("button", name="Copy this reply").click()
            await page.locator("[data-copied]").wait_for()
            assert await page.evaluate("navigator.clipboard.readText()") == reply

    browser.run(main())


def accumulated(text: str) -> list[str]:
    """In pieces of many lengths."""
    ends = [*accumulate(1 + number % 9 for number in range(len(text)))]
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False) if start < len(text)]


def test_a_long_conversation_stays_usable(browser: Chromium) -> None:
    async def main() -> None:
        async with window(browser) as it:
            chat = [{"role": role, "content": f"{role} **{n}**"} for n in range(150) for role in ("user", "assistant")]
            page = await it.look()
            made = await page.request.post(f"{it.url}/chats", data={"messages": chat, "title": "Long"})
            id = (await made.json())["id"]
            await page.evaluate("id => { location.hash = id }", id)
            await it.answered(150)
            assert await page.locator(".message.far").count() == 276
            await it.send("hello")
            await it.shows("You said 'hello'.")
            await it.answered(151)
            assert await page.locator(".reply").last.is_visible()

    browser.run(main())


def test_it_opens_without_the_server_and_finds_it_again(browser: Chromium) -> None:
    """The server ends in mid-reply: what was said is shown as cut. The page opens all the same, and keeps what is
    typed; when the server is there again, it goes on."""
    settings = ServeSettings(port=free_port(), grace=0.0)

    def script(conversation: Conversation) -> Steps:
        return gated("It begins", " never.")

    async def main() -> None:
        async with serving(script, settings=settings, journal=Journal()) as served:
            pass
        async with browsing(browser, served, service_workers="allow") as it:
            it.expected = lambda text: "ERR_" in text or "Failed to load" in text
            async with serving(script, settings=settings, journal=Journal()):
                page = await it.look()
                await page.evaluate("navigator.serviceWorker.ready")
                await page.reload()
                await it.send("hello")
                await it.shows("It begins")
            await page.locator("#away").wait_for()
            await page.reload()
            await page.locator("#away").wait_for()
            await page.locator("#message").fill("written while it was away")
            await page.reload()
            await page.locator("#away").wait_for()
            assert await page.locator("#message").input_value() == "written while it was away"
            async with serving(settings=settings, journal=Journal()):
                # Pressed as it is: the page may have found the server by itself, and then the button is gone.
                await page.locator("#away button").evaluate("each => each.click()")
                await it.shows("It begins")
                await page.get_by_text("Stopped.").wait_for()
                assert not await page.locator("#away").is_visible()
                await page.locator("#send").click()
                await it.shows("You said 'written while it was away'.")

    browser.run(main())


def test_a_key_is_asked_for(browser: Chromium) -> None:
    async def main() -> None:
        async with window(browser, settings=ServeSettings(port=0, grace=0.0, api_key="a-secret")) as it:
            it.expected = lambda text: "401" in text
            page = it.page
            it.watch(page)
            await page.goto(it.url)
            await page.locator("#key").fill("wrong")
            await page.get_by_role("button", name="Log in").click()
            await page.get_by_text("the API key is wrong").wait_for()
            for _ in range(3):
                await page.keyboard.press("Escape")
            await it.until("document.querySelector('#login').open")
            await page.locator("#key").fill("a-secret")
            await page.keyboard.press("Enter")
            await page.locator("#list > *").first.wait_for()
            await it.send("hello")
            await it.shows("You said 'hello'.")
            await page.reload()
            await it.answered(1)
            kept = await page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href")
            assert "a-secret" not in kept

    browser.run(main())


def test_on_a_phone(browser: Chromium) -> None:
    wide = "x" * 300 + "\n\n| " + " | ".join(f"column {number}" for number in range(30)) + " |\n" + "|---" * 30 + "|\n"

    async def main() -> None:
        async with window(
            browser,
            lambda conversation: say(wide, "| 1 " * 30, "|\n\n```\n", "y" * 300, "\n```\n"),
            viewport={"width": 360, "height": 640},
            is_mobile=True,
            has_touch=True,
        ) as it:
            page = await it.look()
            assert not await page.locator("#list").is_visible()
            await page.locator("#message").fill("two\nlines")
            await page.locator("#message").press("Enter")
            assert await page.locator(".message").count() == 0, "Enter makes a line where there are no other keys"
            await page.locator("#send").tap()
            await it.answered(1)
            assert await page.evaluate("document.documentElement.scrollWidth") == 360
            assert await page.evaluate("document.querySelector('#scroller').scrollWidth") == 360
            await page.get_by_role("button", name="Conversations").tap()
            await page.locator("#list a").wait_for()
            assert await page.evaluate("document.activeElement.id") == "close-drawer"
            await page.locator("#list a").tap()
            await page.keyboard.press("Escape")
            await page.locator("#list").wait_for(state="hidden")

    browser.run(main())


def test_it_can_be_installed(browser: Chromium) -> None:
    async def main() -> None:
        async with window(browser, service_workers="allow") as it:
            page = await it.look()
            session = await it.context.new_cdp_session(page)
            told = await session.send("Page.getAppManifest")
            assert not told["errors"]
            manifest = json.loads(told["data"])
            width_of = """async url => {
              const image = new Image()
              image.src = url
              await image.decode()
              return image.naturalWidth
            }"""
            for icon in manifest["icons"]:
                width = await page.evaluate(width_of, icon["src"])
                assert icon["sizes"] in ("any", f"{width}x{width}")
            await page.evaluate("navigator.serviceWorker.ready")
            kept = await page.evaluate("""async () => {
              const cache = await caches.open("bitnet-chat-page")
              return (await cache.keys()).map(each => new URL(each.url).pathname)
            }""")
            asked = await page.evaluate("performance.getEntriesByType('resource').map(each => each.name)")
            needed = {url.removeprefix(it.url) for url in asked if "/page/" in url}
            assert needed | {"/", "/manifest.webmanifest"} <= set(kept)
            assert not [path for path in kept if path.startswith(("/chats", "/v1"))]

    browser.run(main())


# What people who see or hear it differently find


AXE_VERSION = "4.10.3"


@pytest.fixture(scope="module")
def axe() -> str:
    """The checker of the web's accessibility rules, fetched once for this computer."""
    kept = AXE_PLACE / f"axe-{AXE_VERSION}.js"
    if not kept.is_file():
        npm = shutil.which("npm")
        if npm is None:
            or_skip("there is no npm to fetch axe-core with")
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            done = subprocess.run(
                [str(npm), "pack", f"axe-core@{AXE_VERSION}", "--pack-destination", folder],
                capture_output=True,
                text=True,
                timeout=300,
            )
            if done.returncode:
                or_skip(f"axe-core cannot be fetched: {done.stderr[-300:]}")
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
                content = archive.extractfile("package/axe.min.js")
                assert content is not None
                fetched = Path(folder) / "axe.js"
                fetched.write_bytes(content.read())
            fetched.replace(kept)
    return kept.read_text("utf-8")


FINISH = """() => document.getAnimations().forEach(
  each => each.effect.getComputedTiming().endTime === Infinity ? each.cancel() : each.finish()
)"""
"""What is in between of two looks has neither's colours; an animation without an end cannot be finished."""


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_finds_nothing(browser: Chromium, axe: str, colours: str) -> None:
    async def main() -> None:
        async with window(browser, lambda conversation: say(*accumulated(SAMPLE)), color_scheme=colours) as it:
            page = await it.look()

            async def look(where: str) -> None:
                await page.evaluate(FINISH)
                if not await page.evaluate("'axe' in globalThis"):
                    await page.evaluate(axe)
                found = await page.evaluate("() => axe.run({ resultTypes: ['violations'] })")
                told = [
                    (each["id"], each["impact"], [node["html"][:200] for node in each["nodes"][:3]])
                    for each in found["violations"]
                ]
                assert not told, where

            await look("a new conversation")
            await it.send("hello")
            await it.answered(1)
            await page.locator(".reply").hover()
            await look("a reply")
            await page.get_by_role("button", name="Regenerate the reply").click()
            await page.locator(".variants:visible").wait_for()
            await look("a variant")
            await page.locator(".menu summary").click()
            await look("a menu")
            await page.get_by_role("button", name="2 variants").click()
            await it.until("document.querySelector('.choice:not(.live-choice)')")
            await look("a choice")
            await page.get_by_role("button", name="Choose reply 2").click()
            await it.answered(1)
            await page.locator("#message").press("ArrowUp")
            await page.locator("#list li").hover()
            await look("a changed message")
            await page.locator("#list").get_by_role("button", name="Delete").click()
            await look("a question")

    browser.run(main())


def test_a_screen_reader_hears_blocks_and_not_tokens(browser: Chromium) -> None:
    heard = """
    globalThis.heard = []
    new MutationObserver(() => heard.push(document.querySelector("#spoken").textContent.trim()))
      .observe(document.querySelector("#spoken"), { childList: true, characterData: true, subtree: true })
    """

    async def main() -> None:
        async with window(browser, lambda conversation: say(*"One two three.\n\n- four\n- five\n\nSix seven.")) as it:
            page = await it.look()
            await page.evaluate(heard)
            await it.send("hello")
            await it.answered(1)
            assert await page.evaluate("heard.filter(Boolean)") == ["One two three.", "four\nfive", "Six seven."]

    browser.run(main())


def test_light_and_dark(browser: Chromium) -> None:
    async def main() -> None:
        async with window(browser, color_scheme="dark") as it:
            page = await it.look()
            ground = "getComputedStyle(document.documentElement).backgroundColor"
            dark = await page.evaluate(ground)
            await page.get_by_role("button", name="Light colours").click()
            light = await page.evaluate(ground)
            assert light != dark
            await page.reload()
            assert await page.evaluate(ground) == light
            await page.get_by_role("button", name="Dark colours").click()
            assert await page.evaluate(ground) == dark

    browser.run(main())


def test_several_models(browser: Chromium) -> None:
    """The one that answers is named at each reply."""
    backends: list[ScriptedBackend] = []
    sources = {
        name: scripted_source(lambda conversation, name=name: say(f"I am {name}."), backends, name=name)
        for name in ("small", "large")
    }

    async def main() -> None:
        async with serving(sources, journal=Journal()) as served, browsing(browser, served) as it:
            page = await it.look()
            await it.send("who?")
            await it.shows("I am small.")
            await it.answered(1)
            await page.locator("#model").select_option("large")
            await it.send("and now?")
            await it.shows("I am large.")
            await it.answered(2)
            facts = await page.locator(".facts").all_inner_texts()
            assert [each.split(" · ")[0] for each in facts] == ["small", "large"]
            await page.reload()
            await it.answered(2)
            assert await page.locator("#model").input_value() == "large"

    browser.run(main())
