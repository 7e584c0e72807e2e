"""Extraction of the text of a PDF in a separate process.

Reading a PDF executes instructions in it, which may never end or use all memory, so the reader runs in a process with
fixed limits. This file is also the script of that process: it reads a PDF from stdin and writes one JSON object. As a
script it imports nothing of this package, whose directory is not on its path.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

PAGES = 500
"""Maximum number of pages."""
SECONDS = 60
"""Maximum time, as wall-clock time and as CPU time."""
MEMORY = 1_500_000_000
"""Maximum bytes of address space, if the platform can limit it. A large normal PDF needs less than half of it."""
CHARACTERS = 4_000_000
"""Maximum number of characters of the extracted text."""


@dataclass(frozen=True, slots=True)
class PdfText:
    """The text of a PDF."""

    text: str
    pages: int
    empty: int
    """Number of pages without text."""


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
    """Extract the text of a PDF. Blocks for at most ``SECONDS``. Raises PdfError."""
    from bitnet_chat.errors import PdfError  # imported here because the separate process does not find the package

    try:
        done = subprocess.run(
            # -P: neither the directory of this file nor the current directory is searched for modules. -I also ignores
            # PYTHONPATH, if this program does.
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
    """Extract the text, in the separate process. The text of each page ends with a newline; an empty line separates
    pages."""
    import io

    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError, WrongPasswordError

    try:
        reader = PdfReader(io.BytesIO(data))
        # Many PDFs are encrypted with an empty password, and may be read.
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
    except Exception:  # pypdf raises many kinds of exceptions for damaged files
        return {"problem": "broken"}
    if not any(pages):
        return {"problem": "scanned" if pages else "broken"}
    text = "\n\n".join(page for page in pages if page)
    return {"text": f"{text}\n", "pages": count, "empty": sum(not page for page in pages)}


def _limit() -> None:
    """Set the limits of the separate process."""
    if sys.platform != "win32":
        import contextlib
        import resource

        for kind, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_CORE, 0)):
            with contextlib.suppress(OSError, ValueError):  # macOS defines some limits without supporting them
                resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    _limit()
    json.dump(_extracted(sys.stdin.buffer.read()), sys.stdout)
