"""The text of a PDF, extracted by a process of its own.

A PDF is a program of a kind, and may have been written to never end or to use all memory: its reader runs with fixed
limits in a process of its own. This file is that process, too: run as a script it reads a PDF from stdin and writes one
JSON object. Then it imports nothing of this package: its folder is not on the path.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

PAGES = 500
SECONDS = 60
MEMORY = 1_500_000_000
"""Bytes of address space, if the platform can limit it; a large but honest PDF takes less than half of it."""
CHARACTERS = 4_000_000


@dataclass(frozen=True, slots=True)
class PdfText:
    text: str
    pages: int
    empty: int
    """Pages without any text."""


class PdfError(Exception):
    """``what``: the fault, to follow the name. ``remedy``: what to do."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


_SPLIT = "extract the relevant pages, for example with qpdf --pages"
_PROBLEMS = {
    "encrypted": ("is encrypted", "remove its password, for example with qpdf --decrypt"),
    "scanned": ("contains images of pages and no text", "run text recognition over it, for example ocrmypdf"),
    "pages": (f"has more than {PAGES} pages", _SPLIT),
    "long": (f"contains more than {CHARACTERS:,} characters", _SPLIT),
    "broken": ("is a damaged PDF", "rewrite it, for example with qpdf, or export its text"),
    "limits": (f"cannot be read within {SECONDS} seconds and {MEMORY / 1e9:.1f} GB", _SPLIT),
}


def pdf_text(data: bytes) -> PdfText:
    """Raises PdfError. Blocks for at most ``SECONDS``."""
    try:
        done = subprocess.run(
            # -P: no folder of this package, and not the one the user is in, becomes a place of modules. -I also leaves
            # out PYTHONPATH, where it is left out for this program.
            [sys.executable, "-I" if sys.flags.isolated else "-P", __file__],
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise PdfError(*_PROBLEMS["limits"]) from None
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:  # killed by its limits
        raise PdfError(*_PROBLEMS["limits"]) from None
    if "problem" in answer:
        raise PdfError(*_PROBLEMS[answer["problem"]])
    return PdfText(**answer)


def _extracted(data: bytes) -> dict[str, Any]:
    """In the separate process. The text of a page ends with a newline; an empty line is between pages."""
    import io

    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError, WrongPasswordError

    try:
        reader = PdfReader(io.BytesIO(data))
        # Many are encrypted with an empty password: everybody may read them.
        if reader.is_encrypted and not reader.decrypt(""):
            return {"problem": "encrypted"}
        count = len(reader.pages)
        if count > PAGES:
            return {"problem": "pages"}
        pages, length = [], 0
        for page in reader.pages:
            text = page.extract_text().encode("utf-8", "replace").decode("utf-8").strip()
            length += len(text)
            if length > CHARACTERS:
                return {"problem": "long"}
            pages.append(text)
    except (DependencyError, FileNotDecryptedError, WrongPasswordError):
        return {"problem": "encrypted"}
    except MemoryError:
        return {"problem": "limits"}
    except Exception:  # whatever a broken file makes of a reader: pypdf lets many kinds through
        return {"problem": "broken"}
    if not any(pages):
        return {"problem": "scanned" if pages else "broken"}
    text = "\n\n".join(page for page in pages if page)
    return {"text": f"{text}\n", "pages": count, "empty": sum(not page for page in pages)}


def _limit() -> None:
    if sys.platform != "win32":
        import contextlib
        import resource

        for kind, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_CORE, 0)):
            with contextlib.suppress(OSError, ValueError):  # macOS knows some of them by name only
                resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    _limit()
    json.dump(_extracted(sys.stdin.buffer.read()), sys.stdout)
