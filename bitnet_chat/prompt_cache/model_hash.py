"""The content hash of a model: the sha256 of its file, or of the hashes of its parts.

Reading a model takes seconds, so a hash is stored with the identity of its file. The hash of an unchanged, verified
download is in its record.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bitnet_chat import paths
from bitnet_chat.errors import ModelError, UsageError
from bitnet_chat.models import store
from bitnet_chat.models.names import part, stem_of

_FORMAT = 1
_MAX_FILES = 200
_MAX_BYTES = 1 << 18
_TICK_SECONDS = 0.02
"""File times have steps of up to 10 ms. A second change within one step does not alter them."""
_RENAME_SECONDS = 10.0
"""Maximum time between the record of a download and its rename to the final name."""


def known_hash(model: Path) -> str | None:
    """The hash if it is known, else None. Fast enough for the event loop: a few calls of ``stat`` and a small file.
    ``model``: the file, or the first of its parts."""
    files = _files(model)
    try:
        hashes = _recorded(model, files) or _remembered_of(files)
    except (OSError, UsageError):
        return None
    return _joined(hashes) if len(hashes) == len(files) else None


def compute_hash(model: Path) -> str:
    """The hash; computed and stored if it is not known. Blocks for seconds: call it in a thread. Raises ModelError for
    a file that cannot be read, or that changes while it is read."""
    known = known_hash(model)
    if known is not None:
        return known
    computed: dict[str, list[str]] = {}
    files = _files(model)
    time.sleep(_TICK_SECONDS)
    for file in files:
        try:
            state = _state(file)
            with file.open("rb") as content:
                hash = hashlib.file_digest(content, "sha256").hexdigest()
            if _state(file) != state:
                raise ModelError(f"{file} has changed while it was read", remedy="try again when it is complete")
        except OSError as error:
            raise ModelError(f"{file} cannot be read: {error.strerror}") from None
        computed[_key(file)] = [state, hash]
    with contextlib.suppress(OSError, UsageError, ValueError):  # ValueError: a path that is not UTF-8
        _remember(computed)
    return _joined([computed[_key(file)][1] for file in files])


def when_hashed(model: Path, use: Callable[[str], None]) -> None:
    """Call ``use`` with the hash: at once if it is known, else in another thread when it is computed; never for a file
    that cannot be read."""
    known = known_hash(model)
    if known is not None:
        use(known)
        return

    def compute() -> None:
        with contextlib.suppress(ModelError):
            use(compute_hash(model))

    threading.Thread(target=compute, name="model hash", daemon=True).start()


def _files(model: Path) -> list[Path]:
    found = part(model.name)
    return [model.with_name(name) for name in found.all()] if found is not None else [model]


def _joined(hashes: list[str]) -> str:
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _recorded(model: Path, files: list[Path]) -> list[str]:
    """The hashes of an installed model that has not been written or moved since its download was verified; else empty.
    Raises OSError."""
    if model.parent != paths.models_dir():
        return []
    installed = store.find(stem_of(model.name))
    if installed is None or installed.record is None or installed.path != model or installed.missing:
        return []
    record = installed.record
    if record.size != installed.size or len(record.hashes) != len(files):
        return []
    written = store.record_path(store.path_of(installed.name)).stat().st_mtime
    for status in (file.stat() for file in files):
        if status.st_mtime > written or status.st_ctime > written + _RENAME_SECONDS:
            return []
    return list(record.hashes)


# Stored hashes: ``[state, sha256]`` by the path of a file.


def _memory() -> Path:
    return paths.data_dir() / "model-hashes.json"


def _key(file: Path) -> str:
    return str(file.resolve())


def _state(file: Path) -> str:
    """The properties of a file that change with its content. Raises OSError."""
    status = file.stat()
    return f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _remembered_of(files: list[Path]) -> list[str]:
    """The stored hashes of the unchanged ones of ``files``. Raises OSError or UsageError."""
    remembered = _remembered()
    found = [(remembered.get(_key(file)), file) for file in files]
    return [each[1] for each, file in found if each is not None and each[0] == _state(file)]


def _remembered() -> dict[str, list[str]]:
    """All stored hashes; empty if the file is missing or damaged. Raises UsageError without a data directory."""
    try:
        with _memory().open("rb") as file:
            content: Any = json.loads(file.read(_MAX_BYTES))
        if content["format"] != _FORMAT:
            return {}
        files = content["files"].items()
        return {path: [state, hash] for path, (state, hash) in files if isinstance(state, str) and _is_sha256(hash)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")


def _remember(computed: dict[str, list[str]]) -> None:
    """Store hashes. Raises OSError, UsageError or ValueError. If two processes do so at the same time, the hashes of
    one of them may be lost; the file stays valid."""
    files = {path: each for path, each in _remembered().items() if path not in computed} | computed
    memory = _memory()
    memory.parent.mkdir(parents=True, exist_ok=True)
    store.write_json(memory, {"format": _FORMAT, "files": dict(list(files.items())[-_MAX_FILES:])})
