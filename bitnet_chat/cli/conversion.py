"""Conversion of a model for its engine, with progress on stderr."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_chat.cli.messages import write_lines
from bitnet_chat.errors import EngineNotFoundError
from bitnet_chat.text.sanitize import visible
from bitnet_chat.util.progress import ProgressLine, size

if TYPE_CHECKING:
    from bitnet_chat.engine.binary import EngineBinary
    from bitnet_chat.engine.selection import EngineRequest


def convert(model: Path, engine: EngineBinary) -> Path:
    """Convert ``model`` for ``engine`` and return the converted file. Raises ModelError. KeyboardInterrupt leaves no
    partial file.
    """
    from bitnet_chat.engine import conversion  # imported here because few models need it

    _say(conversion.announcement(model))
    line = ProgressLine(sys.stderr)
    try:
        return conversion.obtain(model, engine, on_progress=line)
    finally:
        line.close()


def after_pull(model: Path, wish: EngineRequest, *, alone: bool) -> None:
    """Convert a downloaded model if the engine that would be selected for it requires that. ``alone``: remove the
    original after the conversion.
    """
    from bitnet_chat.engine import conversion
    from bitnet_chat.engine.selection import select

    try:
        chosen = select(wish, model).contender
    except EngineNotFoundError:
        return
    if not chosen.converts:
        return
    before, existing = model.stat().st_size, conversion.present(model)
    converted = existing or convert(model, chosen.engine)
    after = size(converted.stat().st_size)
    if alone:
        conversion.replace_source(model)
        _say(f"{model.stem} is ready ({after}); the original ({size(before)}) was removed")
    elif existing is None:
        _say(
            f"{model.stem} is ready ({after}); the original ({size(before)}), which BitNet builds read, is kept:"
            f" bitnet-chat models pull {model.stem} --only-converted removes it"
        )


def _say(line: str) -> None:
    write_lines(f"bitnet-chat: {visible(line)}")
