"""Start of an engine process on the transport that the platform offers: a pseudo-terminal, or pipes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from bitnet_chat.engine.transport import Transport, TransportKind, TransportListener, pty_is_available


def spawn(
    argv: Sequence[str], sink: TransportListener, *, transport: TransportKind, cwd: Path | None = None
) -> Transport:
    """Start ``argv``; needs a running event loop. Raises OSError when it cannot be started."""
    loop = asyncio.get_running_loop()
    if sys.platform != "win32" and transport != "pipe" and pty_is_available():
        from bitnet_chat.engine.transport.pty import PtyTransport

        return PtyTransport(argv, sink, loop, cwd)
    from bitnet_chat.engine.transport.pipe import PipeTransport

    return PipeTransport(argv, sink, loop, cwd)
