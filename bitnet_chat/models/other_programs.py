"""Models of other programs on this computer. They are used in place, and never written, moved or removed.

A model is named ``PROGRAM:NAME``. For Ollama, NAME is its name there (``ollama:qwen3:4b``). For LM Studio, the cache of
the hub and that of llama.cpp, it is the file name without ``.gguf`` (``lmstudio:Qwen3-4B-Q4_K_M``), preceded by its
directories if two files have the same name. An unambiguous NAME can be used without ``PROGRAM:``.

The directories of other programs may contain anything: circular links, broken JSON, a million files. Reading is
limited, links to directories are not followed, and no error is raised.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.errors import UsageError
from bitnet_chat.models import hugging_face
from bitnet_chat.models.names import part, stem_of

_MAX_ENTRIES, _MAX_DEPTH, _MAX_MODELS = 5000, 8, 40
_MAX_MANIFEST = 1 << 20
_SKIPPED = re.compile(r"blobs|refs|\.locks|\.no_exist|(?:datasets|spaces)--.*")  # large parts of the cache of the hub
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_CACHES = {"darwin": ("", ("Library", "Caches")), "win32": ("LOCALAPPDATA", ("AppData", "Local"))}
_COMPANION = re.compile(r"mmproj|imatrix|(?:^|/)mtp-", re.IGNORECASE)
_MODEL_LAYER, _ADAPTER_LAYER = "application/vnd.ollama.image.model", "application/vnd.ollama.image.adapter"


@dataclass(frozen=True, slots=True)
class OtherModel:
    """A model of another program."""

    name: str
    """``PROGRAM:NAME``."""
    path: Path
    """The file; for a model in parts the first one."""
    size: int
    """Bytes of all files."""
    program: str
    """Name of the program for messages."""


@dataclass(frozen=True, slots=True)
class _Program:
    """A program with models."""

    prefix: str
    title: str
    folders: Callable[[], list[Path]]
    scan: Callable[[Path], Iterator[tuple[str, Path]]]
    """Yields name and file of each model in a directory."""
    remedy: str
    """How to remove a model with that program; ``{name}`` and ``{path}`` are replaced."""


def found() -> list[OtherModel]:
    """List all models of other programs, by name. Does not raise."""
    models: dict[str, OtherModel] = {}
    for program in _PROGRAMS:
        for folder in program.folders():
            with contextlib.suppress(OSError, ValueError, RecursionError):
                for model in _models_of(program, folder):
                    models.setdefault(model.name, model)
    return sorted(models.values(), key=lambda each: each.name)


def find(name: str) -> OtherModel | None:
    """Return the model with this name; None without one, or if a name without its program is ambiguous."""
    models = found()
    exact = [each for each in models if each.name == name]
    plain = exact or [each for each in models if each.name.partition(":")[2] == name]
    return plain[0] if len(plain) == 1 else None


def may_have(path: Path) -> bool:
    """Whether the file is in a directory of another program."""
    return any(path.is_relative_to(folder) for program in _PROGRAMS for folder in program.folders())


def may_be(text: str) -> bool:
    """Whether a text has the form of such a name, and not that of a path."""
    return ":" in text and "\\" not in text and not text.startswith((".", "/", "~"))


def refusal(model: OtherModel, done: str) -> UsageError:
    """Make the error for an operation that is possible for own models only. ``done`` completes "cannot be"."""
    program = _BY_PREFIX[model.name.partition(":")[0]]
    remedy = program.remedy.format(name=model.name.partition(":")[2], path=model.path)
    return UsageError(
        f"{model.name} cannot be {done} here: it belongs to {program.title} ({model.path})", remedy=remedy
    )


def _models_of(program: _Program, folder: Path) -> Iterator[OtherModel]:
    for count, (name, path) in enumerate(program.scan(folder)):
        if count >= _MAX_MODELS:
            return
        with contextlib.suppress(OSError):
            files = _files(path)
            if name.isprintable() and all(each.is_file() for each in files):
                size = sum(each.stat().st_size for each in files)
                yield OtherModel(f"{program.prefix}:{name}", path, size, program.title)


def _files(path: Path) -> list[Path]:
    piece = part(path.name)
    return [path.with_name(each) for each in piece.all()] if piece is not None else [path]


# Ollama: a manifest contains the hash of the model file.


def _ollama_folders() -> list[Path]:
    chosen = os.environ.get("OLLAMA_MODELS")
    if chosen:
        return [Path(chosen)]
    return [*_under_home(".ollama", "models"), Path("/usr/share/ollama/.ollama/models"), Path("/var/lib/ollama/models")]


def _ollama(folder: Path) -> Iterator[tuple[str, Path]]:
    root = folder / "manifests"
    for path in _walk(root):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            place = path.relative_to(root).parts
            digest = _model_of(path)
            if len(place) >= 3 and digest:
                named = (folder / "blobs" / f"sha256{mark}{digest}" for mark in "-:")
                blob = next((each for each in named if each.is_file()), None)
                if blob is not None:
                    yield _ollama_name(place), blob


def _ollama_name(place: tuple[str, ...]) -> str:
    """The name in ``ollama list`` for the manifest ``registry.ollama.ai/library/qwen3/4b``."""
    host, *names, tag = place
    if host == "registry.ollama.ai":
        host = ""
        names = names[1:] if names[:1] == ["library"] else names
    return "/".join(filter(None, (host, *names))) + f":{tag}"


def _model_of(manifest: Path) -> str:
    """Return the hash of the only model of a manifest; empty without one, for several, and for one with an adapter."""
    if not manifest.is_file() or manifest.stat().st_size > _MAX_MANIFEST:
        return ""
    content = json.loads(manifest.read_bytes())
    layers = content.get("layers") if isinstance(content, dict) else None
    layers = [each for each in layers if isinstance(each, dict)] if isinstance(layers, list) else []
    kinds = [each.get("mediaType") for each in layers]
    models = [each.get("digest") for each in layers if each.get("mediaType") == _MODEL_LAYER]
    match = _DIGEST.fullmatch(str(models[0])) if len(models) == 1 and _ADAPTER_LAYER not in kinds else None
    return match[1] if match is not None else ""


# The other programs: directories with GGUF files.


def _lmstudio_folders() -> list[Path]:
    return [*_under_home(".lmstudio", "models"), *_under_home(".cache", "lm-studio", "models")]


def _hub_folders() -> list[Path]:
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    home = hugging_face.home()
    return [Path(chosen)] if chosen else [home / "hub"] if home is not None else []


def _llama_cpp_folders() -> list[Path]:
    chosen = os.environ.get("LLAMA_CACHE")
    if chosen:
        return [Path(chosen)]
    variable, usual = _CACHES.get(sys.platform, ("XDG_CACHE_HOME", (".cache",)))
    base = os.environ.get(variable) if variable else None
    return [Path(base) / "llama.cpp"] if base else _under_home(*usual, "llama.cpp")


def _under_home(*parts: str) -> list[Path]:
    home = paths.home()
    return [home.joinpath(*parts)] if home is not None else []


def _folder(folder: Path) -> Iterator[tuple[str, Path]]:
    yield from _with_names({path: path.relative_to(folder).parts[:-1] for path in _models(folder)})


def _hub(folder: Path) -> Iterator[tuple[str, Path]]:
    """Models in ``models--user--repo/snapshots/COMMIT/file.gguf``, which are links; the newest snapshot of a file
    counts."""
    newest: dict[tuple[str, ...], Path] = {}
    for path in sorted(_models(folder), key=_modified):
        place = path.relative_to(folder).parts
        if len(place) >= 4 and place[1] == "snapshots" and place[0].startswith("models--"):
            repo = place[0].removeprefix("models--").split("--")
            newest[(*repo, *place[3:])] = path
    yield from _with_names({path: place[:-1] for place, path in newest.items()})


def _modified(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0


def _models(folder: Path) -> list[Path]:
    """List whole models and first parts, without companions such as image projectors."""
    pieces = [path for path in _walk(folder) if path.suffix == ".gguf" and not _COMPANION.search(path.name)]
    return [path for path in pieces if (piece := part(path.name)) is None or piece.number == 1]


def _with_names(places: Mapping[Path, tuple[str, ...]]) -> Iterator[tuple[str, Path]]:
    """Yield each file with its name, preceded by its directories if another file has the same name."""
    stems = Counter(stem_of(path.name) for path in places)
    for path, folders in places.items():
        stem = stem_of(path.name)
        yield (stem if stems[stem] == 1 else "/".join((*folders, stem))), path


def _walk(root: Path) -> Iterator[Path]:
    """Yield all files below ``root``, within limits. Links to directories are not followed."""
    seen = 0
    waiting = [(root, 0)]
    while waiting:
        folder, depth = waiting.pop(0)
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                seen += 1
                if seen > _MAX_ENTRIES:
                    return
                if entry.is_dir(follow_symlinks=False):
                    if depth < _MAX_DEPTH and not _SKIPPED.fullmatch(entry.name):
                        waiting.append((Path(entry.path), depth + 1))
                else:
                    yield Path(entry.path)


_PROGRAMS = (
    _Program("ollama", "Ollama", _ollama_folders, _ollama, "ollama rm {name} removes it"),
    _Program("lmstudio", "LM Studio", _lmstudio_folders, _folder, "LM Studio removes it; or remove the file {path}"),
    _Program("hub", "the hub's cache", _hub_folders, _hub, "hf cache lists and removes its models"),
    _Program("llama.cpp", "llama.cpp's cache", _llama_cpp_folders, _folder, "remove the file {path}"),
)
_BY_PREFIX = {program.prefix: program for program in _PROGRAMS}
