"""TODO"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from bitnet_chat.engine.transport import Child, Sink, Transport, pty_is_available


def spawn(argv: Sequence[str], sink: Sink, *, transport: Transport, cwd: Path | None = None) -> Child:
    """Start ``argv``; needs a running event loop. Raises OSError when it cannot be started."""
    loop = asyncio.get_running_loop()
    if sys.platform != "win32" and transport != "pipe" and pty_is_available():
        from bitnet_chat.engine.transport.pty import PtyChild

        return PtyChild(argv, sink, loop, cwd)
    from bitnet_chat.engine.transport.pipe import PipeChild

    return PipeChild(argv, sink, loop, cwd)
