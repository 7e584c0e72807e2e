"""One long reply through the backend that every front end uses, in a process like the command's own.

Run by throughput.py: ``python backend.py THREADS`` prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from subject import QUESTION, endless

from bitnet_chat.backend import BackendState
from bitnet_chat.backends.factory import open_backend
from bitnet_chat.conversation import Conversation
from bitnet_chat.events import Completed, Failed, TextDelta


async def reply(threads: int) -> dict[str, object]:
    """``seconds``: from sending the message to the last character; ``cpu``: of our processor time in between."""
    backend = open_backend(endless(threads), "")
    try:
        backend.start()
        while backend.status().state is not BackendState.IDLE:  # noqa: ASYNC110 -- outside of what is measured
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        cpu, begun = time.process_time(), time.perf_counter()
        seconds, used, result = 0.0, 0.0, {}
        async for event in backend.reply(Conversation().with_user(QUESTION)):
            if isinstance(event, TextDelta):
                seconds, used = time.perf_counter() - begun, time.process_time() - cpu
            elif isinstance(event, Completed):
                result = {"text": event.text, "tokens": event.stats.tokens, "seconds": seconds, "cpu": used}
            elif isinstance(event, Failed):
                raise event.error
        return result
    finally:
        await backend.close()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(reply(int(sys.argv[1])))))
