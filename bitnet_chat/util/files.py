"""Output files: written completely or not at all, and never over an existing one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.errors import UsageError


def write_exclusive(path: Path, text: str, *, force: bool = False) -> None:
    """Write ``text`` as UTF-8; a surrogate of a byte becomes that byte. ``force``: replace an existing
    file.

    Raises UsageError for an existing file, or if the new one cannot be written; nothing remains then.
    """
    data = text.encode("utf-8", "surrogateescape")
    path = paths.meant(str(path))
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}-", dir=path.parent)  # mode 0600: it is private talk
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", remedy="choose another place") from None
    new = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        if force and (path.is_file() or not path.exists()):  # /dev/null, or a folder, is nothing to replace
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
    """Raises FileExistsError. Atomic if the file system has links."""
    try:
        path.hardlink_to(new)
    except FileExistsError:
        raise
    except OSError:  # FAT, some network drives
        if path.exists():
            raise FileExistsError from None
        new.rename(path)


# How the files of programs begin. Pure.

MAGIC = (
    b"\x7fELF",
    b"MZ",
    *(number.to_bytes(4, order) for number in (0xFEEDFACE, 0xFEEDFACF, 0xCAFEBABE) for order in ("big", "little")),
)
"""ELF, PE, and Mach-O for one processor or several. A file with another beginning is a script, or not a program."""


def is_native_executable(head: bytes) -> bool:
    """``head``: the first bytes of a file."""
    return head.startswith(MAGIC)
