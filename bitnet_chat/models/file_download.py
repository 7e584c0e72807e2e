"""Download of one file over HTTP into a part file that survives the process, so that received bytes are not requested
again.

A part file is resumed only if the server confirms, or a known hash will show, that it belongs to the same file; the
part of another file is discarded. Uses only the standard library: the client library of the hub downloads only from the
hub, does not show progress, and does not stop at the first bytes of a file that is not a model.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bitnet_chat.errors import DownloadInterruptedError, ModelError, StalePartError
from bitnet_chat.models.store import state_path, write_json
from bitnet_chat.util.progress import size as shown
from bitnet_chat.version import __version__

_CHUNK = 1 << 18
_TIMEOUT = 30.0  # seconds without data after which a connection counts as lost
_MAX_FAILURES = 5  # maximum number of consecutive lost connections with less than _PROGRESS bytes each
_PROGRESS = 1_000_000
_RESERVED = 50_000_000  # bytes that stay free on the disk
_DIGITS = re.compile("[0-9]{1,18}")  # a server may send ² or a thousand digits
_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18}|\*)")
_RESUME = "run the same command to resume"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to download."""

    url: str
    origin: str
    """Name of the source in messages and on disk, without secrets."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers for the host of the URL only, not for hosts that it redirects to."""
    size: int = 0
    """Bytes, if known in advance, else 0."""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class _DownloadState:
    """Metadata of a part file, stored in a JSON file of the same directory."""

    origin: str = ""
    sha256: str = ""
    etag: str = ""
    modified: str = ""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https URLs, but never from https to http. The default of Python also follows to FTP
    servers."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("https", urlsplit(req.full_url).scheme):
            fp.close()
            raise ModelError(
                f"the server of {req.full_url.partition('?')[0]} redirects to a URL of the scheme {scheme!r}",
                remedy="use an https URL of the file itself",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Download:
    """The download of ``remote`` into ``part``. ``on_bytes(done, total)`` receives the progress in bytes; total 0:
    unknown."""

    def __init__(
        self,
        remote: RemoteFile,
        part: Path,
        on_bytes: Callable[[int, int], None],
        *,
        more: int = 0,
        pause: Callable[[float], None] = time.sleep,
        silence: float = _TIMEOUT,
    ) -> None:
        """Prepare the download.

        ``more``: bytes of further files, for which disk space is required too. ``silence``: seconds without data after
        which the connection counts as lost.
        """
        self._remote, self._part, self._on_bytes, self._more = remote, part, on_bytes, more
        self._state_path = state_path(part.with_suffix(""))
        self._pause, self._silence = pause, silence
        self._hash = hashlib.sha256()
        self._hashed = 0  # number of bytes included in the hash

    def run(self) -> str:
        """Download the file and return its SHA-256. The complete file is then in the part file.

        Raises ModelError; the part file is kept if it can be resumed.
        """
        failures, restarts = 0, 0
        while True:
            before = self._done()
            try:
                self._attempt()
                return self._check_hash()
            except StalePartError:
                restarts += 1
                if restarts > 2:
                    raise ModelError(
                        f"the server of {self._remote.origin} sends contradictory information about the file"
                    ) from None
                self.discard()
            except DownloadInterruptedError as cut:
                failures = 0 if self._done() - before >= _PROGRESS else failures + 1
                if failures > _MAX_FAILURES:
                    raise ModelError(
                        f"the download of {self._remote.origin} was interrupted too often ({cut})",
                        remedy=f"{shown(self._done())} are stored; {_RESUME}",
                    ) from None
                self._pause(min(30.0, 0.5 * 2**failures))

    def discard(self) -> None:
        """Delete the part file."""
        self._hash, self._hashed = hashlib.sha256(), 0
        with self._on_disk():
            for path in (self._part, self._state_path):
                path.unlink(missing_ok=True)

    def _attempt(self) -> None:
        """Send one request and receive its data. Raises DownloadInterruptedError, StalePartError or ModelError."""
        done = self._resumable()
        request = urllib.request.Request(
            self._remote.url, headers={"User-Agent": f"bitnet-chat/{__version__}", "Accept-Encoding": "identity"}
        )
        for name, value in self._remote.headers.items():
            request.add_unredirected_header(name, value)  # a token must not be sent to another host
        if done:
            request.add_header("Range", f"bytes={done}-")
            validator = self._validator()
            if validator and not self._remote.sha256:
                request.add_header("If-Range", validator)
        try:
            opener = urllib.request.build_opener(_Redirects)
            with opener.open(request, timeout=self._silence) as response:
                self._receive(response, done)
        except urllib.error.HTTPError as error:
            with error:
                self._handle_status(error, done)
        except (ValueError, http.client.InvalidURL) as error:  # also for the target of a redirect
            raise ModelError(f"{self._remote.origin} cannot be fetched: {error}") from None
        except (OSError, http.client.HTTPException) as error:  # of the network; errors of the disk are ModelError
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            final = isinstance(reason, ssl.SSLCertVerificationError)
            if final or (isinstance(reason, socket.gaierror | ConnectionRefusedError) and not self._done()):
                raise ModelError(
                    f"{self._remote.origin} cannot be reached ({reason})",
                    remedy="its certificate is not trusted" if final else "check the network connection",
                ) from None
            raise DownloadInterruptedError(str(reason) or type(reason).__name__) from None

    def _receive(self, response: Any, done: int) -> None:
        headers = response.headers
        if headers.get("Content-Encoding", "identity") != "identity":
            raise ModelError(f"the server of {self._remote.origin} sends the file compressed, which was not requested")
        total = number(headers.get("Content-Length"))
        if response.status == 206:
            match = _RANGE.fullmatch(headers.get("Content-Range", ""))
            if not done or match is None or int(match[1]) != done:
                raise StalePartError
            total = int(match[2]) if match[2].isdigit() else total and total + done
        else:  # the whole file: a part did not exist, the server does not support ranges, or the file has changed
            done = 0
            self.discard()
        if self._remote.size and total and total != self._remote.size:
            if done:
                raise StalePartError
            raise ModelError(
                f"{self._remote.origin} is {total} bytes; {self._remote.size} were expected: it is a different file",
                remedy="check its page; hf:user/repo/file.gguf pulls it nevertheless",
            )
        total = total or self._remote.size
        self._require_room(max(0, total - done) + self._more)
        etag = headers.get("ETag", "")
        self._write_state(
            _DownloadState(self._remote.origin, self._remote.sha256, etag, headers.get("Last-Modified", ""))
        )
        self._hash_part(done)
        with self._on_disk():
            file = self._part.open("ab", buffering=0)
        with file:
            while chunk := response.read1(_CHUNK):
                if not done and not b"GGUF".startswith(chunk[:4]):
                    self.discard()
                    raise ModelError(
                        f"{self._remote.origin} is not a GGUF model (it begins with {chunk[:16]!r})",
                        remedy="use the URL of the file itself, not of a page about it",
                    )
                if total and done + len(chunk) > total:
                    raise StalePartError
                self._write(file, chunk)
                done += len(chunk)
                self._on_bytes(done, total)
            with contextlib.suppress(OSError):
                os.fsync(file.fileno())
        if done < total:
            raise DownloadInterruptedError(f"after {done} of {total} bytes")

    def _handle_status(self, error: urllib.error.HTTPError, done: int) -> None:
        """Raise the error for a status of 400 or above. Returns if the file was already complete (416)."""
        status, origin = error.code, self._remote.origin
        if status == 416 and done:
            length = number((error.headers.get("Content-Range") or "").rpartition("/")[2])
            if length != done:
                raise StalePartError
            self._hash_part(done)
            return  # the part file is already complete
        if status in (401, 403):
            raise ModelError(
                f"{origin} requires authorization (HTTP {status})",
                remedy="accept the licence on its page, if any, and provide a token (`hf auth login`, HF_TOKEN)",
            )
        if status in (404, 410):
            raise ModelError(f"{origin} does not exist (HTTP {status})", remedy="check the name on its page")
        if status in (408, 429) or status >= 500:
            raise DownloadInterruptedError(f"HTTP {status}")
        raise ModelError(f"{origin} cannot be fetched: HTTP {status} {error.reason}")

    def _check_hash(self) -> str:
        """Compare the hash with the expected one and return it."""
        found = self._hash.hexdigest()
        if self._remote.sha256 and found != self._remote.sha256:
            self.discard()
            raise ModelError(
                f"the file from {self._remote.origin} is not the expected one, and was deleted",
                remedy="try again; if the error persists, the file on the server was changed or damaged",
                detail=f"sha256   {found}\nexpected {self._remote.sha256}",
            )
        return found

    # The part on disk.

    def _done(self) -> int:
        try:
            return self._part.stat().st_size
        except FileNotFoundError:
            return 0

    def _resumable(self) -> int:
        """Number of bytes to resume from. A part file that cannot belong to this file is discarded."""
        done, state = self._done(), self._state()
        if not done:
            return 0
        same = bool(state.sha256) and state.sha256 == self._remote.sha256
        validated = state.origin == self._remote.origin and state.sha256 == self._remote.sha256 and self._validator()
        if not (same or validated) or (self._remote.size and done > self._remote.size):
            self.discard()
            return 0
        return done

    def _validator(self) -> str:
        """The value for If-Range, with which the server detects a changed file. A weak ETag does not permit ranges."""
        state = self._state()
        return state.etag if state.etag and not state.etag.startswith("W/") else state.modified

    def _state(self) -> _DownloadState:
        try:
            content = json.loads(self._state_path.read_text("utf-8"))
            return _DownloadState(**{key: str(value) for key, value in content.items()})
        except (OSError, ValueError, TypeError, AttributeError):
            return _DownloadState()

    def _write_state(self, state: _DownloadState) -> None:
        if state != self._state():
            with self._on_disk():
                write_json(self._state_path, asdict(state))

    def _hash_part(self, done: int) -> None:
        """Compute the hash of the first ``done`` bytes of the part file."""
        if self._hashed == done:
            return
        self._hash, self._hashed = hashlib.sha256(), done
        with self._on_disk(), self._part.open("rb", buffering=0) as file:
            while chunk := file.read(1 << 20):
                self._hash.update(chunk)

    def _write(self, file: Any, chunk: bytes) -> None:
        rest = memoryview(chunk)
        with self._on_disk():
            while rest:
                written = file.write(rest)
                self._hash.update(rest[:written])
                self._hashed += written
                rest = rest[written:]

    def _require_room(self, wanted: int) -> None:
        with self._on_disk():
            require_room(self._part.parent, wanted, self._remote.origin)

    @contextlib.contextmanager
    def _on_disk(self) -> Iterator[None]:
        """Convert OSError in the block to ModelError, so that it is not taken for a lost connection."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise ModelError(
                    f"the disk of {self._part.parent} is full ({error.strerror})",
                    remedy=f"free disk space; {_RESUME}. BITNET_CHAT_DATA=FOLDER chooses another place",
                ) from None
            raise ModelError(f"{self._part} cannot be written: {error.strerror}") from None


def require_room(folder: Path, wanted: int, what: str) -> None:
    """Check that the disk has ``wanted`` bytes for ``what``. Raises ModelError, or OSError."""
    free = shutil.disk_usage(folder).free
    if wanted + _RESERVED > free:
        raise ModelError(
            f"{what} needs {shown(wanted)} more on the disk of {folder}, which has {shown(free)} free",
            remedy="free disk space and try again, or choose another place with BITNET_CHAT_DATA=FOLDER",
        )


def number(text: str | None) -> int:
    """Parse a header with a number of bytes; 0 for a missing or invalid one."""
    return int(text) if text is not None and _DIGITS.fullmatch(text) else 0
