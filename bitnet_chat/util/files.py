"""Writing of output files, completely or not at all and without overwriting, and recognition of executables."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.errors import UsageError


def write_exclusive(path: Path, text: str, *, force: bool = False) -> None:
    """Write ``text`` as UTF-8; lone surrogates for bytes become these bytes. ``force``: replace an existing file.

    The file is readable by the owner only. Raises UsageError for an existing file, or if it cannot be written; an
    incomplete file is removed.
    """
    data = text.encode("utf-8", "surrogateescape")
    path = paths.expand(str(path))
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}-", dir=path.parent)  # mode 0600: it may be private
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", remedy="choose another place") from None
    new = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        if force and (path.is_file() or not path.exists()):  # never replace /dev/null or a directory
            new.replace(path)
        else:
            _take_name(new, path)
    except FileExistsError:
        raise UsageError(f"{path} already exists (not overwritten)", remedy="choose another name") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", remedy="choose another place") from None
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def _take_name(new: Path, path: Path) -> None:
    """Move ``new`` to ``path``; atomic if the file system supports hard links. Raises FileExistsError."""
    try:
        path.hardlink_to(new)
    except FileExistsError:
        raise
    except OSError:  # FAT, some network drives
        if path.exists():
            raise FileExistsError from None
        new.rename(path)


MAGIC = (
    b"\x7fELF",
    b"MZ",
    *(number.to_bytes(4, order) for number in (0xFEEDFACE, 0xFEEDFACF, 0xCAFEBABE) for order in ("big", "little")),
)
"""First bytes of executables: ELF, PE, and Mach-O for one or several architectures. Other executables are scripts."""


def is_native_executable(head: bytes) -> bool:
    """Whether ``head``, the first bytes of a file, are those of a native executable."""
    return head.startswith(MAGIC)
