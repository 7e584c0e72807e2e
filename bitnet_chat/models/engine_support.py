"""Capabilities of an engine, determined from the names of tensor types and architectures in its binaries.

llama.cpp prints these names, so each is in a binary as text followed by a NUL. Nothing else in a binary shows its fork
and age. Measured on the engine that ``engine install`` builds (13 MB): it contains ``tq2_0`` and ``mxfp4`` but not
``i2_s``; the search takes 20 ms.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from bitnet_chat.errors import ModelError
from bitnet_chat.models.gguf import ModelHeader
from bitnet_chat.models.incompatibility import BITNET_WORD, IK_WORD, MARKERS, EndedEngine, Misfit, misfit, spelled
from bitnet_chat.models.info import ModelInfo, read_info
from bitnet_chat.models.tensor_types import I2_S_FILE
from bitnet_chat.models.verify import lack
from bitnet_chat.util.files import is_native_executable

PULL = "bitnet-chat models pull resumes it"
"""Remedy for an incomplete model."""
_PART = 1 << 22
_GGML_WORD = "q6_K"  # occurs only in ggml; names such as q4_0 also occur as option values in other programs
_LIBRARIES = ("libggml*", "libllama*", "ggml*.dll", "llama*.dll")
_GPU = ("cuda", "hip", "vulkan", "sycl", "cann", "metal", "opencl")  # hundreds of megabytes, without these names


def known(binary: Path, infos: Iterable[ModelInfo]) -> frozenset[str] | None:
    """Return the names in the engine at ``binary``, of all names that these models require and MARKERS.

    None if its files do not show them: for a script, or libraries in an unusual place. Does not raise.
    """
    wanted = {_GGML_WORD, *MARKERS, *(word for info in infos for word in _required_words(info))}
    found = mentioned(binary, wanted)
    return found if _GGML_WORD in found else None


def is_bitnet(binary: Path) -> bool:
    """Whether the engine is a build of BitNet, which supports I2_S weights.

    ik_llama.cpp contains this name too, but computes I2_S wrongly (measured).
    """
    return mentioned(binary, (BITNET_WORD, IK_WORD)) == {BITNET_WORD}


def mentioned(binary: Path, words: Collection[str]) -> frozenset[str]:
    """Return the words that occur in the files of an engine followed by a NUL. Does not raise."""
    wanted, found = set(words), set[str]()
    with contextlib.suppress(OSError):
        for path in _files(binary):
            with contextlib.suppress(OSError):
                found |= _mentioned(path, wanted - found)
            if found == wanted:
                break
    return frozenset(found)


def libraries(binary: Path) -> list[Path]:
    """List the libraries of llama.cpp in the usual places of builds and packages. Does not raise."""
    with contextlib.suppress(OSError):
        return list(_files(binary))[1:]
    return []


def obstacle(info: ModelInfo, names: frozenset[str] | None) -> str:
    """Return the reason why an engine that supports ``names`` cannot run a model; empty if it can.

    If ``names`` is None, an unmodified llama.cpp is assumed, which supports all types except those of BitNet.
    """
    if info.kind not in ("", "model"):
        return f"it is not a model but {info.kind}"
    if (lacking := lack(info.header.path, info.split)) is not None:
        return f"it {lacking.what}"
    if not info.tensor_types:
        return "it contains no weights"
    unknown = [kind for kind, _ in info.tensor_types if kind.startswith("type ")]
    if unknown:
        return f"its weights are of an unknown type ({unknown[0]})"
    found = misfit(info, names, "the engine")
    return found.short if found is not None else ""


def require_right_results(binary: Path, header: ModelHeader) -> None:
    """Raise ModelError for an engine that loads the model but computes it wrongly.

    Reads the files of model and engine only if this is possible for the file type.
    """
    if header.file_type != I2_S_FILE:
        return
    try:
        info = read_info(header.path)
    except ModelError:
        return
    found = misfit(info, known(binary, [info]), binary.name)
    if found is not None and found.loads:
        raise ModelError(found.what, remedy=found.remedy)


def explanation(binary: Path, model: Path, ending: EndedEngine | None = None) -> Misfit | None:
    """Return the reason why the engine at ``binary`` cannot run a model, or failed with ``ending``.

    Reads the files of both; None if they do not show a reason. Does not raise.
    """
    try:
        info = read_info(model)
    except ModelError:
        return None
    if info.is_cut_off:
        return Misfit(info.shortness, f"download it again: {PULL}", "it is cut off")
    return misfit(info, known(binary, [info]), binary.name, ending)


def _required_words(info: ModelInfo) -> set[str]:
    header = info.header
    return {*(spelled(name) for name, _ in info.tensor_types), header.architecture, header.pre_tokenizer} - {""}


def _files(binary: Path) -> Iterator[Path]:
    """Yield the program and the libraries of llama.cpp in the usual places. Yields nothing for a script, which may
    start any other program."""
    real = binary.resolve()
    if real.is_dir():  # a prebuilt package
        yield from sorted(path for path in real.rglob("*") if path.is_file() and _is_library(path))
        return
    with real.open("rb") as file:
        if not is_native_executable(file.read(8)):
            return
    yield real
    base = real.parent.parent
    # A build of BitNet leaves the libraries in its copy of llama.cpp, which the program finds by its RPATH.
    inside = base / "3rdparty" / "llama.cpp"
    for folder in (real.parent, base / "lib", *base.glob("lib/*-linux-gnu*"), inside / "src", inside / "ggml" / "src"):
        for pattern in _LIBRARIES:
            for path in sorted(folder.glob(pattern)):
                if path.is_file() and not any(word in path.name for word in _GPU):
                    yield path


def _is_library(path: Path) -> bool:
    if path.is_symlink() or path.suffix not in (".so", ".dylib", ".dll", ".pyd"):
        return False
    with path.open("rb") as file:
        return is_native_executable(file.read(8))


def _mentioned(path: Path, words: Collection[str]) -> set[str]:
    """Return the words that occur in the file followed by a NUL."""
    patterns = {word: word.encode("utf-8", "replace") + b"\0" for word in words}
    overlap = max((len(pattern) for pattern in patterns.values()), default=1) - 1
    found: set[str] = set()
    tail = b""
    with path.open("rb", buffering=0) as file:
        while part := file.read(_PART):
            part = tail + part
            found |= {word for word, pattern in patterns.items() if word not in found and pattern in part}
            tail = part[-overlap:] if overlap else b""
    return found
