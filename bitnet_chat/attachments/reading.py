"""Reading of files and stdin as attachments. May block on a disk: a front end with an event loop calls it in a
thread."""

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
from bitnet_chat.errors import EmptyFileError, NotTextError, UsageError

TEXT_LIMIT = 4_000_000
"""Maximum bytes of a text file: ten times the largest context windows."""
PDF_LIMIT = 64_000_000
"""Maximum bytes of a PDF."""

_NOTICE_SECONDS = 2.0
"""Seconds without input on stdin after which a message reports the wait."""
_PDF = b"%PDF-"
_HEAD = 1024  # the signature of a PDF may be anywhere in the first 1024 bytes, as in other readers


def attach(path: str) -> Attachment:
    """Read a file as an attachment, whose name is ``path`` unchanged; ``~`` is the home directory.

    Never blocks on a device or pipe. Raises UsageError for a file that is missing, unreadable, not a regular file,
    empty, too large, or not a text.
    """
    try:
        location = Path(path).expanduser()
        with _open(location, path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_HEAD) or b""  # None: a file that behaves like a device, without data at present
            limit = PDF_LIMIT if _PDF in head else TEXT_LIMIT
            # Checked before reading. A file that reports size 0, as in /proc, or grows is read up to the limit.
            if size > limit:
                raise _too_large(path, size, limit)
            data = head + (file.read(limit + 1 - len(head)) or b"")
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: unknown ~user; ValueError: NUL in the name
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"{path} cannot be read: {why}") from None
    return from_bytes(path, data)


def attach_all(paths: Sequence[str]) -> list[Attachment]:
    """Read each file once. Raises UsageError for the first that cannot be attached."""
    return [attach(path) for path in dict.fromkeys(paths)]


def mentioned(text: str) -> list[str]:
    """Return the paths of the files that a typed message mentions, each once. A mention without a file is a word."""
    found = (next(filter(_is_file, mention.paths), None) for mention in mentions(text))
    return [*dict.fromkeys(path for path in found if path is not None)]


def missing(text: str) -> list[str]:
    """Return the paths in mentions that look like files but do not exist, each once."""
    found = [each for each in mentions(text) if looks_like_file(each, text) and not any(map(_is_file, each.paths))]
    return [*dict.fromkeys(each.paths[-1] for each in found)]


def file_mentions(text: str) -> list[str]:
    """Return the paths in mentions that exist or look like files, each once; for texts in which mentions do not attach
    files."""
    return [*dict.fromkeys([*mentioned(text), *missing(text)])]


def attach_stdin(say: Callable[[str], None]) -> Attachment:
    """Read all of stdin as an attachment with the name ``stdin``. Raises UsageError.

    ``say`` is called with a message for the user after some seconds without input.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError("stdin is closed: nothing to attach")
    _notify_waiting(say)
    return from_bytes("stdin", sys.stdin.buffer.read(PDF_LIMIT + 1))


def stdin_is_given() -> bool:
    """Whether stdin is a pipe or a file, and so contains input.

    A terminal, a socket or /dev/null may be connected without any input, and is not read. A pipe is read to its end, as
    by every filter. If it stays open without a writer, as in ``ssh HOST bitnet-chat ...`` without -n, a message reports
    the wait.
    """
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):  # closed, or an object without a descriptor
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def from_bytes(name: str, data: bytes) -> Attachment:
    """Make an attachment of ``data``. Raises UsageError for data that is empty, too large or not a text."""
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
    from bitnet_chat.attachments.pdf import pdf_text
    from bitnet_chat.errors import PdfError

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


def _open(location: Path, name: str) -> BinaryIO:
    """Open a file without blocking. Its kind is checked first, because opening has an effect on some devices."""
    _must_be_file(location.stat().st_mode, name)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    file = open(os.open(location, flags), "rb", closefd=True)  # noqa: PTH123, SIM115 -- of a descriptor; the caller closes
    try:
        _must_be_file(os.fstat(file.fileno()).st_mode, name)  # again, since the file may have been replaced
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


def _notify_waiting(say: Callable[[str], None]) -> None:
    if sys.stdin.isatty():
        say("reading the attachment from the terminal; Ctrl-D ends the input")
    elif sys.platform != "win32":  # on Windows, select supports sockets only
        import select

        if not select.select([sys.stdin], [], [], _NOTICE_SECONDS)[0]:
            say("waiting for stdin, an open pipe; use </dev/null if it has no data")


# First bytes of file formats, from their registries and specifications.
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
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, since it begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8"),
)
# Encodings that are in use. With all encodings of Python as candidates, charset-normalizer 3.5.2 takes short Western
# texts for cp1006 and hp_roman8, and KOI8-R for Japanese.
_CANDIDATES = [
    *("cp1252", "cp932", "euc_jp", "gb18030", "big5", "cp949"),
    *("cp1251", "koi8_r", "cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "iso8859_2", "iso8859_5"),
]
_SAMPLE = 64_000
"""Number of bytes from which the encoding is detected, since detection takes seconds per megabyte."""

_CONTROL = re.compile(rb"[\x00-\x07\x0b\x0e-\x1a\x1c-\x1f]")  # texts may contain \b \t \n \f \r ESC


def decoded(data: bytes) -> tuple[str, str]:
    r"""Return the text, with ``\n`` as line ends, and its encoding: UTF-8 if valid, else detected. Raises
    NotTextError."""
    text, encoding = _decode(data)
    return text.replace("\r\n", "\n"), encoding


def _decode(data: bytes) -> tuple[str, str]:
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            try:
                return data.decode("utf-8-sig" if encoding == "utf-8" else encoding), encoding
            except UnicodeDecodeError:
                break  # a coincidence, or a damaged file: continue with other methods
    if b"\0" in data:
        return _decode_utf_16(data)
    # ISO-2022-JP consists of ASCII bytes; other texts do not contain this sequence.
    encodings = ("iso2022_jp", "utf-8") if b"\x1b$" in data else ("utf-8",)
    for encoding in encodings:
        try:
            return data.decode(encoding), encoding.replace("_", "-")
        except UnicodeDecodeError:
            pass
    what = _identify(data, unambiguous=True)
    if what or len(_CONTROL.findall(data[:_SAMPLE])) > len(data[:_SAMPLE]) / 50:
        raise NotTextError(what or "binary data")
    return _detect(data)


def _identify(data: bytes, *, unambiguous: bool = False) -> str:
    """Return the file format of ``data``; empty if unknown.

    ``unambiguous``: ignore signatures of letters, with which a text may begin (``BMW``).
    """
    for signature, what in _SIGNATURES:
        if data.startswith(signature) and not (unambiguous and signature.decode("latin-1").isprintable()):
            return what
    return next((what for signature, what in _FORMATS_AT_4 if data[4:].startswith(signature)), "")


def _decode_utf_16(data: bytes) -> tuple[str, str]:
    """Decode UTF-16 without a byte order mark. Recognized by NUL in nearly every second byte. Raises NotTextError."""
    head = data[:_SAMPLE]
    high, low = head[0::2].count(0), head[1::2].count(0)
    for encoding, zeros, others in (("utf-16-le", low, high), ("utf-16-be", high, low)):
        if not _identify(data) and len(data) % 2 == 0 and zeros > len(head) / 5 and others < len(head) / 100:
            try:
                return data.decode(encoding), encoding
            except UnicodeDecodeError:
                break
    raise NotTextError(_identify(data) or "binary data")


def _detect(data: bytes) -> tuple[str, str]:
    """Detect the encoding. Raises NotTextError."""
    from charset_normalizer import from_bytes  # imported late: most files are UTF-8

    # The sample begins at the line of the first byte that is not ASCII, and ends with a line: an incomplete character
    # would rule out all multibyte encodings.
    first = re.search(rb"[\x80-\xff]", data)
    start = data.rfind(b"\n", 0, first.start() if first else 0) + 1
    sample = data[start : start + _SAMPLE]
    if start + _SAMPLE < len(data) and b"\n" in sample:
        sample = sample[: sample.rfind(b"\n") + 1]
    found = list(from_bytes(sample, cp_isolation=_CANDIDATES))
    guesses = [match.encoding for match in found]
    western = from_bytes(sample, cp_isolation=["cp1252"]).best()
    # If windows-1252 fits as well as the best guess, prefer it as the most common one. Not to Turkish (cp1254), which
    # differs in six letters only, and is only detected if they occur.
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
    """Return the usual name of an encoding: ``windows-1252``, ``Shift-JIS``."""
    names = {"cp932": "shift-jis", "cp949": "euc-kr", "gb18030": "gb18030", "latin-1": "iso-8859-1"}
    if encoding in names:
        return names[encoding]
    return encoding.replace("cp", "windows-").replace("iso8859_", "iso-8859-").replace("_", "-")
