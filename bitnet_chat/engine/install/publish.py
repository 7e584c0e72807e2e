"""Publication of a finished engine by a rename, so that it is complete or missing, even after a power failure."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bitnet_chat.engine.install.manifest import Manifest


def publish(files: Mapping[str, Path], manifest: Manifest, target: Path) -> None:
    """Copy files and the manifest to a new folder, and :func:`place` it at ``target``. ``files``: by their final names.
    Raises OSError.
    """
    new = beside(target, "new")
    for name, file in files.items():
        shutil.copyfile(file, new / name)
        (new / name).chmod(0o755 if name in manifest.files else 0o644)
    manifest.write(new)
    place(new, target)


def place(new: Path, target: Path) -> None:
    """Rename the finished folder ``new``, which is in the same directory, to ``target``. Raises OSError.

    An existing ``target`` (for another CPU, or with fewer programs) is renamed first: for a moment the engine is
    missing.
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
    """Remove the folders that a killed installation of ``target`` has left."""
    for kind in ("new", "old"):
        for leftover in target.parent.glob(f".{kind}-{target.name}-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def beside(target: Path, kind: str) -> Path:
    """Create a folder in the directory of ``target``, for its next (``kind`` new) or previous (old) state."""
    folder = Path(tempfile.mkdtemp(prefix=f".{kind}-{target.name}-", dir=target.parent))
    folder.chmod(0o755)
    return folder


def _sync(path: Path) -> None:
    """Write a file or folder to the disk before the next step. Not possible for a folder on Windows."""
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
