"""One file over HTTP into a part file that survives the process: received bytes are never requested again.

A part is resumed only if the server states, or a known hash will show, that it belongs to the same file; the part of a
different file is discarded. Standard library only: the client of the hub downloads only from the hub, shows no
progress, and does not stop at the first bytes of something that is not a model.
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

from bitnet_chat.errors import ModelError
from bitnet_chat.models.store import state_path, write_json
from bitnet_chat.util.progress import size as shown
from bitnet_chat.version import __version__

_CHUNK = 1 << 18
_SILENCE = 30.0  # seconds without a byte after which a connection counts as cut
_CUTS = 5  # in a row, none of which brought a megabyte
_PROGRESS = 1_000_000
_ROOM = 50_000_000  # bytes that stay free on the disk
_DIGITS = re.compile("[0-9]{1,18}")  # of a server, which may write ² or a thousand of them
_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18}|\*)")
_GOES_ON = "run the same command to resume"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to fetch."""

    url: str
    origin: str
    """Its name in messages and on disk, without secrets."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """For the host of the URL only, not for hosts that it redirects to."""
    size: int = 0
    """Bytes, if known in advance."""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class _DownloadState:
    """Facts about a part, in a file beside it."""

    origin: str = ""
    sha256: str = ""
    etag: str = ""
    modified: str = ""


class _Cut(Exception):
    """The connection ended early; a retry is useful."""


class _Stale(Exception):
    """The part belongs to no file of this server."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects on the web, and never from https to http. The default of Python would follow to any FTP server,
    too.
    """

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
    """Fetches ``remote`` into ``part``. ``on_bytes(done, total)`` receives the progress; total 0: unknown."""

    def __init__(
        self,
        remote: RemoteFile,
        part: Path,
        on_bytes: Callable[[int, int], None],
        *,
        more: int = 0,
        pause: Callable[[float], None] = time.sleep,
        silence: float = _SILENCE,
    ) -> None:
        """``more``: bytes that follow this file, for which space is required too."""
        self._remote, self._part, self._on_bytes, self._more = remote, part, on_bytes, more
        self._state_path = state_path(part.with_suffix(""))
        self._pause, self._silence = pause, silence
        self._hash = hashlib.sha256()
        self._hashed = 0  # bytes of the part that are in the hash

    def run(self) -> str:
        """The sha256 of the whole file, which is then in the part. Raises ModelError; a reusable part is kept."""
        cuts, restarts = 0, 0
        while True:
            before = self._done()
            try:
                self._attempt()
                return self._checked()
            except _Stale:
                restarts += 1
                if restarts > 2:
                    raise ModelError(
                        f"the server of {self._remote.origin} sends contradictory information about the file"
                    ) from None
                self.discard()
            except _Cut as cut:
                cuts = 0 if self._done() - before >= _PROGRESS else cuts + 1
                if cuts > _CUTS:
                    raise ModelError(
                        f"the download of {self._remote.origin} was interrupted too often ({cut})",
                        remedy=f"{shown(self._done())} are stored; {_GOES_ON}",
                    ) from None
                self._pause(min(30.0, 0.5 * 2**cuts))

    def discard(self) -> None:
        self._hash, self._hashed = hashlib.sha256(), 0
        with self._on_disk():
            for path in (self._part, self._state_path):
                path.unlink(missing_ok=True)

    def _attempt(self) -> None:
        """One request and its data. Raises _Cut, _Stale or ModelError."""
        done = self._resumable()
        request = urllib.request.Request(
            self._remote.url, headers={"User-Agent": f"bitnet-chat/{__version__}", "Accept-Encoding": "identity"}
        )
        for name, value in self._remote.headers.items():
            request.add_unredirected_header(name, value)  # a redirect elsewhere must not take a token along
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
                self._refused(error, done)
        except (ValueError, http.client.InvalidURL) as error:  # also of an address that it redirects to
            raise ModelError(f"{self._remote.origin} cannot be fetched: {error}") from None
        except (OSError, http.client.HTTPException) as error:  # of the network: what the disk says is a ModelError
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            final = isinstance(reason, ssl.SSLCertVerificationError)
            if final or (isinstance(reason, socket.gaierror | ConnectionRefusedError) and not self._done()):
                raise ModelError(
                    f"{self._remote.origin} cannot be reached ({reason})",
                    remedy="its certificate is not trusted" if final else "check the network connection",
                ) from None
            raise _Cut(str(reason) or type(reason).__name__) from None

    def _receive(self, response: Any, done: int) -> None:
        headers = response.headers
        if headers.get("Content-Encoding", "identity") != "identity":
            raise ModelError(f"the server of {self._remote.origin} sends the file compressed, which was not requested")
        total = number(headers.get("Content-Length"))
        if response.status == 206:
            match = _RANGE.fullmatch(headers.get("Content-Range", ""))
            if not done or match is None or int(match[1]) != done:
                raise _Stale
            total = int(match[2]) if match[2].isdigit() else total and total + done
        else:  # the whole file: there was nothing to go on with, or the server cannot, or the file is another one now
            done = 0
            self.discard()
        if self._remote.size and total and total != self._remote.size:
            if done:
                raise _Stale
            raise ModelError(
                f"{self._remote.origin} is {total} bytes; {self._remote.size} were expected: it is a different file",
                remedy="check its page; hf:user/repo/file.gguf pulls it nevertheless",
            )
        total = total or self._remote.size
        self._make_room(max(0, total - done) + self._more)
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
                    raise _Stale
                self._write(file, chunk)
                done += len(chunk)
                self._on_bytes(done, total)
            with contextlib.suppress(OSError):
                os.fsync(file.fileno())
        if done < total:
            raise _Cut(f"after {done} of {total} bytes")

    def _refused(self, error: urllib.error.HTTPError, done: int) -> None:
        """The error for a status of 400 and above."""
        status, origin = error.code, self._remote.origin
        if status == 416 and done:
            length = number((error.headers.get("Content-Range") or "").rpartition("/")[2])
            if length != done:
                raise _Stale
            self._hash_part(done)
            return  # all of it had arrived before
        if status in (401, 403):
            raise ModelError(
                f"{origin} requires authorization (HTTP {status})",
                remedy="accept the licence on its page, if any, and provide a token (`hf auth login`, HF_TOKEN)",
            )
        if status in (404, 410):
            raise ModelError(f"{origin} does not exist (HTTP {status})", remedy="check the name on its page")
        if status in (408, 429) or status >= 500:
            raise _Cut(f"HTTP {status}")
        raise ModelError(f"{origin} cannot be fetched: HTTP {status} {error.reason}")

    def _checked(self) -> str:
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
        """Bytes to resume from; a part that cannot belong to this file is discarded."""
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
        """The header by which the server can tell whether the file is unchanged. A weak ETag allows no ranges."""
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
        """Compute the hash of the first ``done`` bytes of the part."""
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

    def _make_room(self, wanted: int) -> None:
        with self._on_disk():
            require_room(self._part.parent, wanted, self._remote.origin)

    @contextlib.contextmanager
    def _on_disk(self) -> Iterator[None]:
        """Report errors in the block as faults of the disk, not as a lost connection."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise ModelError(
                    f"the disk of {self._part.parent} is full ({error.strerror})",
                    remedy=f"free disk space; {_GOES_ON}. BITNET_CHAT_DATA=FOLDER chooses another place",
                ) from None
            raise ModelError(f"{self._part} cannot be written: {error.strerror}") from None


def require_room(folder: Path, wanted: int, what: str) -> None:
    """Raises ModelError if the disk of the folder lacks the bytes for ``what``, or OSError."""
    free = shutil.disk_usage(folder).free
    if wanted + _ROOM > free:
        raise ModelError(
            f"{what} needs {shown(wanted)} more on the disk of {folder}, which has {shown(free)} free",
            remedy="free disk space and try again, or choose another place with BITNET_CHAT_DATA=FOLDER",
        )


def number(text: str | None) -> int:
    return int(text) if text is not None and _DIGITS.fullmatch(text) else 0
