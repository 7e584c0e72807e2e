"""Files and stdin as attachments. May block on a disk: a front end with an event loop calls this in a thread."""

from __future__ import annotations

import codecs
import os
import re
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from bitnet_chat.attachments.attachment import Attachment, looks_like_file, mentions
from bitnet_chat.errors import EmptyFileError, UsageError

TEXT_LIMIT = 4_000_000
"""Bytes of a text: ten times the largest context windows."""
PDF_LIMIT = 64_000_000

_PATIENCE = 2.0
"""Seconds of waiting for stdin after which a line reports it."""
_PDF = b"%PDF-"
_HEAD = 1024  # bytes in which the mark of a PDF may come, as readers of PDF have always had it


def attach(path: str) -> Attachment:
    """Read a file. Raises UsageError for one that is missing, unreadable, not a file, empty, too large or not a text.

    Never blocks on a device or a pipe. ``~`` is the home of the user; the name of the attachment is ``path``,
    unchanged.
    """
    try:
        place = Path(path).expanduser()
        with _opened(place, path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_HEAD) or b""  # None: a file that is a device in disguise, and has nothing now
            limit = PDF_LIMIT if _PDF in head else TEXT_LIMIT
            # Before it is read; what says 0, as files of /proc do, or grows meanwhile, is stopped at the limit.
            if size > limit:
                raise _too_large(path, size, limit)
            data = head + (file.read(limit + 1 - len(head)) or b"")
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~nobody; ValueError: a NUL in the name
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"{path} cannot be read: {why}") from None
    return from_bytes(path, data)


def attach_all(paths: Sequence[str]) -> list[Attachment]:
    """Each of them once. Raises UsageError for the first that cannot be attached."""
    return [attach(path) for path in dict.fromkeys(paths)]


def mentioned(text: str) -> list[str]:
    """The paths of the files that a typed message mentions, each once; a mention without a file is a word."""
    found = (next(filter(_is_file, mention.paths), None) for mention in mentions(text))
    return [*dict.fromkeys(path for path in found if path is not None)]


def missing(text: str) -> list[str]:
    """The paths that a typed message mentions as files and that are not files, each once."""
    found = [each for each in mentions(text) if looks_like_file(each, text) and not any(map(_is_file, each.paths))]
    return [*dict.fromkeys(each.paths[-1] for each in found)]


def meant(text: str) -> list[str]:
    """The paths in mentions that look like files, each once, for texts in which a mention attaches nothing."""
    return [*dict.fromkeys([*mentioned(text), *missing(text)])]


def attach_stdin(say: Callable[[str], None]) -> Attachment:
    """All of stdin under the name ``stdin``. Raises UsageError.

    ``say`` is called, with a line for the user, after some seconds without input.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError("stdin is closed: nothing to attach")
    _tell_who_waits(say)
    return from_bytes("stdin", sys.stdin.buffer.read(PDF_LIMIT + 1))


def stdin_is_given() -> bool:
    """True if stdin is a pipe or a file, and so contains input.

    A terminal, a socket or /dev/null may be connected without any input, and is not read. A pipe is read to its end, as
    every filter does, however long its writer takes; if it stays open without a writer, as in ``ssh HOST bitnet-chat
    ...`` without -n, a line reports the wait.
    """
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):  # closed, or a stand-in without a descriptor
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def from_bytes(name: str, data: bytes) -> Attachment:
    """Raises UsageError for data that is empty, too large or not a text."""
    if not data:
        raise EmptyFileError(f"{name} is empty: nothing to attach")
    if _PDF in data[:_HEAD]:
        return _from_pdf(name, data)
    if len(data) > TEXT_LIMIT:
        raise _too_large(name, len(data), TEXT_LIMIT)
    try:
        text, encoding = decoded(data)
    except NotTextError as error:
        raise UsageError(
            f"{name} is not a text file: it seems to be {error}",
            remedy="attach text or a PDF; most programs can export one",
        ) from None
    return Attachment(name, text, len(data), encoding=encoding)


def _from_pdf(name: str, data: bytes) -> Attachment:
    from bitnet_chat.attachments.pdf import PdfError, pdf_text

    if len(data) > PDF_LIMIT:
        raise _too_large(name, len(data), PDF_LIMIT)
    try:
        found = pdf_text(data)
    except PdfError as error:
        raise UsageError(f"{name} {error.what}", remedy=error.remedy) from None
    remark = f"{found.empty} without text" if found.empty else ""
    return Attachment(name, found.text, len(data), kind="pdf", pages=found.pages, remark=remark)


def _too_large(name: str, size: int, limit: int) -> UsageError:
    return UsageError(
        f"{name} is too large: {size / 1e6:.1f} MB or more, and the limit is {limit // 1_000_000} MB",
        remedy="attach the relevant part",
    )


_KINDS = (
    (stat.S_ISDIR, "a folder", "name files inside it"),
    (stat.S_ISFIFO, "a named pipe", "pass its data on stdin"),
    (stat.S_ISSOCK, "a socket", "only files can be attached"),
    (stat.S_ISCHR, "a device", "only files can be attached"),
    (stat.S_ISBLK, "a device", "only files can be attached"),
)


def _opened(place: Path, name: str) -> BinaryIO:
    """The file, opened without blocking; checked before, because opening has an effect on some devices."""
    _must_be_file(place.stat().st_mode, name)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    file = open(os.open(place, flags), "rb", closefd=True)  # noqa: PTH123, SIM115 -- of a descriptor; the caller closes
    try:
        _must_be_file(os.fstat(file.fileno()).st_mode, name)  # it may have been replaced in between
    except BaseException:
        file.close()
        raise
    return file


def _must_be_file(mode: int, name: str) -> None:
    if not stat.S_ISREG(mode):
        what, remedy = next(((what, do) for test, what, do in _KINDS if test(mode)), ("not a file", ""))
        raise UsageError(f"{name} is {what} and cannot be attached", remedy=remedy)


def _is_file(path: str) -> bool:
    try:
        return Path(path).expanduser().is_file()
    except (OSError, RuntimeError, ValueError):
        return False


def _tell_who_waits(say: Callable[[str], None]) -> None:
    if sys.stdin.isatty():
        say("reading the attachment from the terminal; Ctrl-D ends the input")
    elif sys.platform != "win32":  # where select knows sockets only
        import select

        if not select.select([sys.stdin], [], [], _PATIENCE)[0]:
            say("waiting for stdin, an open pipe; use </dev/null if it has no data")


# Bytes of a file become text, or a word for what they are instead. Pure.

# From the registries and specifications of the formats. What begins like text and is none is told by its bytes.
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"BM", "a BMP picture"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"\x7fELF", "a program or library (ELF)"),
    (b"MZ", "a Windows program"),
    (b"\xcf\xfa\xed\xfe", "a macOS program"),
    (b"\xca\xfe\xba\xbe", "a Java class or a macOS program"),
    (b"GGUF", "a model (GGUF)"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"OggS", "Ogg sound or video"),
    (b"fLaC", "FLAC sound"),
    (b"ID3", "MP3 sound"),
    (b"RIFF", "sound, video or a WebP picture"),
    (b"\x1aE\xdf\xa3", "Matroska or WebM video"),
    (b"wOF", "a font"),
    (b"\0asm", "a WebAssembly program"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
)
_FORMATS_AT_4 = ((b"ftyp", "MP4 or QuickTime video, or a HEIC picture"),)

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8"),
)
# Encodings of real files. With all encodings of Python as candidates, charset-normalizer 3.5.2 detects short Western
# texts as cp1006 and hp_roman8, and KOI8-R as Japanese.
_CANDIDATES = [
    *("cp1252", "cp932", "euc_jp", "gb18030", "big5", "cp949"),
    *("cp1251", "koi8_r", "cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "iso8859_2", "iso8859_5"),
]
_SAMPLE = 64_000
"""Bytes from which the encoding is detected: detection takes seconds per megabyte."""

_CONTROL = re.compile(rb"[\x00-\x07\x0b\x0e-\x1a\x1c-\x1f]")  # of a text may be: \b \t \n \f \r ESC


class NotTextError(Exception):
    """``str(error)`` is the apparent format: ``a PNG picture``."""


def decoded(data: bytes) -> tuple[str, str]:
    r"""The text, with line ends as ``\n``, and its encoding: UTF-8 if valid. Raises NotTextError."""
    text, encoding = _decoded(data)
    return text.replace("\r\n", "\n"), encoding


def _decoded(data: bytes) -> tuple[str, str]:
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            try:
                return data.decode("utf-8-sig" if encoding == "utf-8" else encoding), encoding
            except UnicodeDecodeError:
                break  # chance, or a damaged file: what the rest says
    if b"\0" in data:
        return _utf_16_without_a_mark(data)
    # Made of ASCII bytes alone; no other text has this sequence.
    encodings = ("iso2022_jp", "utf-8") if b"\x1b$" in data else ("utf-8",)
    for encoding in encodings:
        try:
            return data.decode(encoding), encoding.replace("_", "-")
        except UnicodeDecodeError:
            pass
    what = _named(data, beyond_doubt=True)
    if what or len(_CONTROL.findall(data[:_SAMPLE])) > len(data[:_SAMPLE]) / 50:
        raise NotTextError(what or "binary data")
    return _guessed(data)


def _named(data: bytes, *, beyond_doubt: bool = False) -> str:
    """``beyond_doubt``: not by letters alone, with which a text may begin, too: ``BMW``."""
    for signature, what in _SIGNATURES:
        if data.startswith(signature) and not (beyond_doubt and signature.decode("latin-1").isprintable()):
            return what
    return next((what for signature, what in _FORMATS_AT_4 if data[4:].startswith(signature)), "")


def _utf_16_without_a_mark(data: bytes) -> tuple[str, str]:
    """A text in which nearly every second byte is NUL is UTF-16: no other text has any."""
    head = data[:_SAMPLE]
    high, low = head[0::2].count(0), head[1::2].count(0)
    for encoding, zeros, others in (("utf-16-le", low, high), ("utf-16-be", high, low)):
        if not _named(data) and len(data) % 2 == 0 and zeros > len(head) / 5 and others < len(head) / 100:
            try:
                return data.decode(encoding), encoding
            except UnicodeDecodeError:
                break
    raise NotTextError(_named(data) or "binary data")


def _guessed(data: bytes) -> tuple[str, str]:
    from charset_normalizer import from_bytes  # imported late: most files are UTF-8

    # The sample is taken around the first byte that is not ASCII, and ends with a line: a cut through a character
    # would speak against every encoding that has longer ones.
    first = re.search(rb"[\x80-\xff]", data)
    start = data.rfind(b"\n", 0, first.start() if first else 0) + 1
    sample = data[start : start + _SAMPLE]
    if start + _SAMPLE < len(data) and b"\n" in sample:
        sample = sample[: sample.rfind(b"\n") + 1]
    found = list(from_bytes(sample, cp_isolation=_CANDIDATES))
    guesses = [match.encoding for match in found]
    western = from_bytes(sample, cp_isolation=["cp1252"]).best()
    # Of two that fit alike the most common one: the order of the guesses is then by chance. Turkish differs from it in
    # six letters only; where it is found, they were there.
    if western is not None and guesses[:1] != ["cp1254"]:
        best = found[0] if found else western
        if western.chaos <= best.chaos and western.coherence >= best.coherence - 0.1:
            guesses.insert(0, "cp1252")
    for encoding in (*guesses, "cp1252", "latin-1"):
        try:
            return data.decode(encoding), _plain_name(encoding)
        except UnicodeDecodeError:
            continue
    raise NotTextError("binary data")


def _plain_name(encoding: str) -> str:
    """The usual spelling: ``windows-1252``, ``Shift-JIS``."""
    names = {"cp932": "shift-jis", "cp949": "euc-kr", "gb18030": "gb18030", "latin-1": "iso-8859-1"}
    if encoding in names:
        return names[encoding]
    return encoding.replace("cp", "windows-").replace("iso8859_", "iso-8859-").replace("_", "-")
