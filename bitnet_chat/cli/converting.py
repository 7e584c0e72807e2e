"""A conversion in front of the user: what it takes, how far it is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_chat.models import conversion
from bitnet_chat.progress import ProgressLine
from bitnet_chat.stream.sanitize import visible

if TYPE_CHECKING:
    from bitnet_chat.backends.resident import ResidentBackend


def convert(backend: ResidentBackend) -> Path:
    """The converted file. Raises ModelError; KeyboardInterrupt leaves nothing behind."""
    print(f"bitnet-chat: {visible(conversion.announcement(backend.model))}", file=sys.stderr)
    line = ProgressLine(sys.stderr)
    try:
        return backend.convert(line)
    finally:
        line.close()
