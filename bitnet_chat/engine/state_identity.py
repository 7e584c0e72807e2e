"""The parts of a state's identity that users give to an engine: flags, variables, and the files that flags name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bitnet_chat.engine.environment_variables import reason

_PREFIX = "LLAMA_ARG_"
"""Variables that llama.cpp reads as flags, such as the types of the cache, RoPE and adapters."""


def identity_flags(flags: Sequence[str], overrides: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return what can change the context of an engine. ``flags``: those of the user, in their order. ``overrides``:
    metadata of the model. ``environment``: that of this program. A file that a flag or a variable names, such as an
    adapter, counts with its size and time: it may be written again.
    """
    variables = {
        name: value for name, value in environment.items() if name.upper().startswith(_PREFIX) and not reason(name)
    }
    named = (*flags, *(value for _, value in sorted(variables.items())))
    return (*flags, *overrides, *(f"{name}={value}" for name, value in sorted(variables.items())), *_file_marks(named))


def identity_version(version: str, program: Path) -> str:
    """Return the version of an engine; for one that does not tell it, its path with size and time."""
    return version or "".join(_file_marks([str(program)])) or str(program)


def _file_marks(words: Sequence[str]) -> Iterator[str]:
    for word in words:
        for name in (word, word.rpartition("=")[2]):  # --flag=FILE
            try:
                found = Path(name).stat() if name and Path(name).is_file() else None
            except (OSError, ValueError):
                continue
            if found is not None:
                yield f"{name}:{found.st_size}:{found.st_mtime_ns}"
                break
