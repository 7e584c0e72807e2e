"""Whether this program sets the number of prompt tokens that an engine evaluates at once. Pure.

It does so that a cancel ends a prefill on a CPU soon: llama.cpp checks only between two batches whether a reply was
stopped. A GPU evaluates batches of 512 tokens and more in that time, and needs them to be fast.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

_DEVICE = re.compile(r"^\s+(\w+): .*\(\d+ MiB, \d+ MiB free\)\s*$", re.MULTILINE)
_CPU = re.compile(r"CPU|BLAS")
"""Devices that compute on the CPU: BLAS is a library for it."""
_BATCH = {"-b", "--batch-size", "-ub", "--ubatch-size", "LLAMA_ARG_BATCH", "LLAMA_ARG_UBATCH"}
_CHOSEN = {"-dev", "--device", "LLAMA_ARG_DEVICE"}
_LAYERS = {"-ngl", "--gpu-layers", "--n-gpu-layers", "LLAMA_ARG_N_GPU_LAYERS"}


def gpus_in(text: str) -> tuple[str, ...] | None:
    """Return the names of the GPUs in the output of ``--list-devices``; None for the output of an engine without this
    option."""
    if "Available devices:" not in text:
        return None
    return tuple(name for name in _DEVICE.findall(text) if not _CPU.match(name))


def sets_batch_size(
    gpus: Sequence[str] | None, flags: Sequence[str], environment: Mapping[str, str], platform: str
) -> bool:
    """Return whether the CPU evaluates the prompt, and the user has not chosen the batch size. ``gpus``: see
    :func:`gpus_in`; None: not known. ``flags``: those of the user for the engine.

    Without layers on its GPU (``-ngl 0``) an engine still evaluates large batches there, unless no device is used. If
    an engine does not list its devices, a flag for layers on a GPU tells that it has one; on macOS each build has.
    """
    given = dict(_given(flags, environment))
    if given.keys() & _BATCH:
        return False
    if any(given.get(name) == "none" for name in _CHOSEN):
        return True
    if gpus is not None:
        return not gpus
    layers = {given[name] for name in _LAYERS if name in given}
    return platform != "darwin" and layers <= {"0"}


def _given(flags: Sequence[str], environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield from ((name.upper(), value) for name, value in environment.items())  # not case-sensitive on Windows
    yield from pairwise((*flags, ""))
