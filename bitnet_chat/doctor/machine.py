"""Memory and room on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.doctor.finding import Finding, ok, warn
from bitnet_chat.models import memory as need_of
from bitnet_chat.models.info import ModelInfo
from bitnet_chat.util import resources
from bitnet_chat.util.progress import size

_LITTLE_ROOM = 100_000_000  # bytes: a journal of years, or a fifth of an engine that is being built


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes."""

    total: int
    available: int
    swap: int
    swap_used: int


def memory() -> Memory | None:
    """None where nothing tells."""
    try:
        import psutil
    except ImportError:  # it wants modules that some platforms do not have
        return None
    try:
        whole, swap = psutil.virtual_memory(), psutil.swap_memory()
    except (psutil.Error, OSError, RuntimeError):
        return None
    available = resources.available()
    return Memory(int(whole.total), int(whole.available) if available is None else available, swap.total, swap.used)


def judge(has: Memory | None, needed: int | None) -> Finding:
    """``needed``: bytes for the model with its context; None where there is no model. Pure."""
    group, name = "memory", "memory"
    if has is None:
        return ok(group, name, "this platform does not tell how much memory there is")
    facts: dict[str, object] = {"total": has.total, "available": has.available, "swap_used": has.swap_used}
    seen = f"{size(has.available)} of {size(has.total)} are free"
    if has.swap:
        seen += f", {size(has.swap_used)} of {size(has.swap)} swap in use"
    if needed is None:
        return ok(group, name, seen, **facts)
    facts["needed"] = needed
    seen += f"; the model with its context takes up to {size(needed)}"
    if needed > has.total:
        return warn(group, name, f"{seen}: more than there is", "take a smaller model, or a smaller --ctx", **facts)
    if needed > has.available:
        return warn(group, name, f"{seen}: more than is free", "end other programs, or take a smaller --ctx", **facts)
    return ok(group, name, seen, **facts)


def needed(info: ModelInfo, context: int) -> int:
    """Bytes. ``context``: tokens that were asked for; 0: what a conversation gets."""
    return need_of.need(info.header.size, info.shape, need_of.context_for(info.header.context_length, context))


def disk() -> Iterator[Finding]:
    group, name = "memory", "disk"
    folder = paths.data_dir()
    place = _present(folder)
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        yield warn(group, name, f"{place} does not tell how much room there is ({error.strerror})", "look at the disk")
        return
    seen = f"{size(free)} are free for {folder}"
    if free < _LITTLE_ROOM:
        yield warn(group, name, seen, "make some room, or choose another place with BITNET_CHAT_DATA=FOLDER", free=free)
    else:
        yield ok(group, name, seen, free=free)


def _present(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next((each for each in (folder, *folder.parents) if each.is_dir()), Path.cwd())
