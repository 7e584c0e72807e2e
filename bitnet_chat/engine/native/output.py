"""Lines to the parent. A thread writes, so that a reply never waits for a parent that does not read."""

from __future__ import annotations

import os
import queue
import threading

from bitnet_chat.engine.native.protocol import Message, encode


class OutputWriter:
    """The queue is limited by the size of a window: a reply ends there, and requests come from the parent alone."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="output", daemon=True)
        self._thread.start()

    def send(self, message: Message) -> None:
        """Queue a message. Returns at once."""
        self._lines.put(encode(message))

    def send_first(self, message: Message) -> None:
        """Returns when it is written: loading a model may keep all other threads waiting. Only before :meth:`send`."""
        self._put(encode(message))

    def close(self, timeout: float) -> None:
        """Write the queued lines, for at most ``timeout`` seconds."""
        self._lines.put(None)
        self._thread.join(timeout)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            self._put(line)

    def _put(self, line: bytes) -> None:
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError:  # the parent is gone
            os._exit(0)
