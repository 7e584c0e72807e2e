"""A program for one picture: the REPL with a fixed reply in place of a model, because a small model does not write such
Markdown.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

from bitnet_chat import repl
from bitnet_chat.backend import BackendStatus, ReplyOptions
from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Event, Started, Stats, TextDelta

NAME = "a fixed reply"
REPLY = """\
## Ternary weights

Every weight is **-1, 0 or 1**, and *nothing* has to be multiplied:

- add for `1`, subtract for `-1`, skip for `0`
- store 5 weights in one byte: 3⁵ = 243

| format | bits | 2 B weights |
|--------|-----:|------------:|
| F16    |   16 |      4.0 GB |
| TQ2_0  | 2.06 |      0.5 GB |

> A dot product becomes a walk through additions.

```python
def dot(weights: list[int], x: list[float]) -> float:
    # no multiplication anywhere
    return sum(v if w > 0 else -v for w, v in zip(weights, x) if w)
```
"""


class FixedReply:
    """A backend that replies to every message with ``REPLY``, in small pieces."""

    async def reply(self, conversation: Conversation, options: ReplyOptions | None = None) -> AsyncIterator[Event]:
        pieces = [REPLY[at : at + 4] for at in range(0, len(REPLY), 4)]
        yield Started()
        for piece in pieces:
            yield TextDelta(piece)
            await asyncio.sleep(0)
        yield Completed(FinishReason.STOP, REPLY, Stats(tokens=len(pieces)))

    def status(self) -> BackendStatus:
        return BackendStatus(NAME, NAME, "idle")

    def start(self) -> None: ...
    def prepare(self, history: Conversation) -> None: ...
    def count(self, text: str) -> TokenCount | None: ...
    def interrupt(self) -> None: ...
    async def close(self) -> None: ...


if __name__ == "__main__":
    sys.exit(asyncio.run(repl.run(FixedReply(), repl.ReplSettings(model=NAME))))
