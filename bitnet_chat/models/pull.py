"""Fetches a model into the folder of installed models: all of it, checked, under its name; or nothing."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.engine.lock import held
from bitnet_chat.errors import ModelError, UsageError
from bitnet_chat.models import store
from bitnet_chat.models.download import Download, Remote
from bitnet_chat.models.info import ModelInfo, read_info
from bitnet_chat.models.source import Source
from bitnet_chat.models.store import Installed, Record


@dataclass(frozen=True, slots=True)
class Pulled:
    model: Installed
    was_here: bool
    """It had been pulled before, and nothing was fetched."""
    warning: str = ""


def pull(
    source: Source,
    *,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
    on_wait: Callable[[str], None] = lambda holder: None,
) -> Pulled:
    """Fetches and checks ``source``. ``on_bytes(done, total)`` hears how far it is, ``on_wait(process)`` that another
    program fetches the same model.

    Raises ModelError; what has arrived stays, and the next pull goes on with it. UsageError where another model has
    the name.
    """
    path = store.path_of(source.name)
    try:
        paths.models_dir().mkdir(parents=True, exist_ok=True)
        with held(path.with_name(f"{path.name}.lock"), on_wait):
            found = store.find(source.name)
            if found is not None:
                return Pulled(_same(found, source), was_here=True)
            return _fetch(source, path, on_bytes)
    except OSError as error:
        raise ModelError(f"{error.filename or paths.models_dir()} cannot be written: {error.strerror}") from None


def _same(found: Installed, source: Source) -> Installed:
    """The model that is there, if it is what was asked for."""
    record = found.record
    by_hash = record is not None and source.sha256 and record.sha256 == source.sha256
    if by_hash or (record is not None and record.origin == source.origin and not source.sha256):
        return found
    came = f"it came from {record.origin}" if record else "it was put there by hand"
    raise UsageError(
        f"there is another model called {source.name} already: {came}",
        remedy=f"choose another name with --name NAME, or remove that one: bitnet-chat models rm {source.name}",
    )


def _fetch(source: Source, path: Path, on_bytes: Callable[[int, int], None]) -> Pulled:
    if source.repo:
        from bitnet_chat.models.hub import locate

        remote, revision = locate(source)
    else:
        remote, revision = Remote(source.url, source.origin, size=source.size, sha256=source.sha256), source.revision
    part = store.part_path(path)
    download = Download(remote, part, on_bytes)
    sha256 = download.run()
    info, warning = _looked_at(part, remote, download)
    size = part.stat().st_size
    record = Record(
        origin=source.origin,
        size=size,
        sha256=sha256,
        revision=revision,
        license=source.license or (info.license if info else ""),
        pulled=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    store.write_record(path, record)  # first: a record without a model is nothing, a model without one is a riddle
    part.replace(path)
    store.state_path(path).unlink(missing_ok=True)
    return Pulled(Installed(source.name, path, size, record), was_here=False, warning=warning)


def _looked_at(part: Path, remote: Remote, download: Download) -> tuple[ModelInfo | None, str]:
    """What the finished file says about itself. Bytes that a hash vouches for are kept even if they make no sense
    here, for they may to a newer engine; others are deleted."""
    try:
        info = read_info(part)
        if not info.is_cut_off:
            return info, ""
        what = f"its weights end at byte {info.whole_size}, the file at {info.header.size}"
    except ModelError as error:
        what = error.what.replace(str(part), "it")
    if remote.sha256:
        return None, f"{remote.origin} is the file that was expected, but cannot be used: {what}"
    download.discard()
    raise ModelError(f"what came from {remote.origin} is no whole model and was deleted: {what}")
