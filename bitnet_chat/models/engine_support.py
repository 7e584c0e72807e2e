"""Capabilities of an engine: the tensor types and architectures that are named in its program or its libraries.

llama.cpp prints those names, so each is in it as a text that ends in a NUL; nothing else in a binary shows its fork and
age. Measured on the engine that ``engine install`` builds, 13 MB: ``tq2_0`` and ``mxfp4`` are in it, ``i2_s`` is not;
the search takes 20 ms.
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
_PART = 1 << 22
_KNOWN_EVERYWHERE = "q6_K"  # of ggml alone: names such as q4_0 are among the options of every program
_LIBRARIES = ("libggml*", "libllama*", "ggml*.dll", "llama*.dll")
_GPU = ("cuda", "hip", "vulkan", "sycl", "cann", "metal", "opencl")  # hundreds of megabytes, and no names in them


def known(binary: Path, infos: Iterable[ModelInfo]) -> frozenset[str] | None:
    """The names that the engine at ``binary`` supports, among all names that these models need, and MARKERS.

    None if its files do not show them: a script, or libraries in an unusual place. Raises nothing.
    """
    wanted = {_KNOWN_EVERYWHERE, *MARKERS, *(word for info in infos for word in _words(info))}
    found = mentioned(binary, wanted)
    return found if _KNOWN_EVERYWHERE in found else None


def is_bitnet(binary: Path) -> bool:
    """Whether the engine is a build of BitNet, which supports I2_S weights. ik_llama.cpp contains the name, too, and
    computes wrong results with them (measured).
    """
    return mentioned(binary, (BITNET_WORD, IK_WORD)) == {BITNET_WORD}


def mentioned(binary: Path, words: Collection[str]) -> frozenset[str]:
    """The words that are in the files of an engine, each followed by a NUL. Raises nothing."""
    wanted, found = set(words), set[str]()
    with contextlib.suppress(OSError):
        for path in _files(binary):
            with contextlib.suppress(OSError):
                found |= _mentioned(path, wanted - found)
            if found == wanted:
                break
    return frozenset(found)


def libraries(binary: Path) -> list[Path]:
    """Libraries of llama.cpp in the places of builds and packages. Raises nothing."""
    with contextlib.suppress(OSError):
        return list(_files(binary))[1:]
    return []


def obstacle(info: ModelInfo, names: frozenset[str] | None) -> str:
    """The reason why an engine that supports ``names`` cannot run a model; empty if it can.

    An engine with unknown names counts as an unmodified llama.cpp: it runs all but the types of BitNet.
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
    """Raises ModelError for an engine that loads the model and computes it wrongly. Reads both files if there is a sign
    of it.
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
    """The reason why the engine at ``binary`` cannot run a model, or failed with ``ending``. Reads both files; None if
    they do not show it. Raises nothing.
    """
    try:
        info = read_info(model)
    except ModelError:
        return None
    if info.is_cut_off:
        return Misfit(info.shortness, f"download it again: {PULL}", "it is cut off")
    return misfit(info, known(binary, [info]), binary.name, ending)


def _words(info: ModelInfo) -> set[str]:
    header = info.header
    return {*(spelled(name) for name, _ in info.tensor_types), header.architecture, header.pre_tokenizer} - {""}


def _files(binary: Path) -> Iterator[Path]:
    """The program, and the libraries of llama.cpp in the places of builds and packages. None for a script, which may
    start any other file.
    """
    real = binary.resolve()
    if real.is_dir():  # a prebuilt package
        yield from sorted(path for path in real.rglob("*") if path.is_file() and _is_library(path))
        return
    with real.open("rb") as file:
        if not is_native_executable(file.read(8)):
            return
    yield real
    base = real.parent.parent
    # BitNet's build leaves them in its copy of llama.cpp, to which the program has the way written inside.
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
    """The words that are in the file, each followed by a NUL."""
    patterns = {word: word.encode("utf-8", "replace") + b"\0" for word in words}
    overlap = max((len(pattern) for pattern in patterns.values()), default=1) - 1
    found: set[str] = set()
    kept = b""
    with path.open("rb", buffering=0) as file:
        while part := file.read(_PART):
            part = kept + part
            found |= {word for word, pattern in patterns.items() if word not in found and pattern in part}
            kept = part[-overlap:] if overlap else b""
    return found
