"""Atomic publication of a finished engine, also across a power failure."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bitnet_chat.engine.install.manifest import Manifest


def publish(files: Mapping[str, Path], manifest: Manifest, target: Path) -> None:
    """Copy files, each under its final name, and the manifest into a new folder, then :func:`place`."""
    new = beside(target, "new")
    for name, file in files.items():
        shutil.copyfile(file, new / name)
        (new / name).chmod(0o755 if name in manifest.files else 0o644)
    manifest.write(new)
    place(new, target)


def place(new: Path, target: Path) -> None:
    """Rename a finished folder beside ``target`` to it.

    An existing folder of that name (of another CPU, or without a program that is wanted now) is moved away first: for
    an instant the engine is missing, but it is never incomplete.
    """
    for path in (*new.rglob("*"), new):
        _sync(path)
    if target.exists():
        old = beside(target, "old")
        target.rename(old / target.name)
        new.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        new.rename(target)
    _sync(target.parent)


def sweep(target: Path) -> None:
    """Remove the remains of a killed :func:`place` beside ``target``."""
    for kind in ("new", "old"):
        for leftover in target.parent.glob(f".{kind}-{target.name}-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def beside(target: Path, kind: str) -> Path:
    """A new folder beside ``target``, for its next or its previous state."""
    folder = Path(tempfile.mkdtemp(prefix=f".{kind}-{target.name}-", dir=target.parent))
    folder.chmod(0o755)
    return folder


def _sync(path: Path) -> None:
    """Flush to the disk, so that a power failure leaves the old state or the new one. Not possible for a folder on
    Windows.
    """
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
