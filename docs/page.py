"""Make docs/page.png and page-dark.png: the web page with a fixed reply, in a browser (python docs/page.py)."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent / "tests"), str(DOCS.parent / "tests" / "support")]

from browsing import browsing, chromium  # noqa: E402
from scripted_backend import say  # noqa: E402
from serving import scripted_source, serving  # noqa: E402

from bitnet_chat.conversation import Conversation  # noqa: E402
from bitnet_chat.errors import FinishReason  # noqa: E402
from bitnet_chat.events import Stats  # noqa: E402
from bitnet_chat.journal import Journal  # noqa: E402

REPLY = """\
A **generator** produces one value at a time, and does not store all of them:

```python
def fibonacci(limit: int) -> Iterator[int]:
    \"\"\"All numbers below `limit`.\"\"\"
    a, b = 0, 1
    while a < limit:
        yield a  # the value is returned here
        a, b = b, a + b
```

| way | memory | when |
|---|---|---|
| list | all values | several passes |
| generator | one value | one pass |

A generator can be used only once.
"""
EARLIER = ("A packing list for three days of walking", "Why is the sky red at dusk?", "Names for a grey cat")
STATS = Stats(31, 142, 0.31, 6.2, 1204, 4096, exact=True)


def script(conversation: Conversation) -> list:
    return say(*REPLY, reason=FinishReason.STOP, stats=STATS)


async def draw(page_of: object, served: object) -> None:
    for scheme in ("light", "dark"):
        async with browsing(page_of, served, color_scheme=scheme, viewport={"width": 1100, "height": 760}) as it:
            page = await it.look()
            if scheme == "light":
                for title in EARLIER:
                    body = {"title": title, "messages": [{"role": "user", "content": title}]}
                    await page.request.post(f"{it.url}/chats", data=body)
            await it.send("What is a generator in Python?")
            await it.answered(1)
            await page.mouse.move(600, 5)
            await page.screenshot(path=DOCS / ("page.png" if scheme == "light" else "page-dark.png"))
            await page.request.delete(f"{it.url}/chats/{(await page.evaluate('location.hash'))[1:]}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        os.environ["BITNET_CHAT_DATA"] = folder

        async def work() -> None:
            source = scripted_source(script, [], name="qwen3-4b")
            async with serving(source, journal=Journal()) as served:
                await draw(browser, served)

        browser.run(work())


if __name__ == "__main__":
    main()
