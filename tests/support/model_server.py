"""A web server on this computer that has one file or several, and the bad habits that servers and networks have."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Behaviour:
    """What the server does; a test changes it between requests."""

    content: bytes
    etag: str = '"one"'
    modified: str = ""
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    """After how many bytes of the body each of the next replies breaks off."""
    statuses: list[int] = field(default_factory=list)
    """Answered to the next requests instead of the file."""
    length: int | None = None
    """Told instead of the true one."""
    chunked: bool = False
    encoding: str = ""
    whole: str | None = None
    """Told as the length of the file where a range begins behind its end."""
    shift: int = 0
    """Added to the begin of a range that is answered."""
    redirect: str = ""
    """Where every GET of the hub's address is sent."""
    hold: threading.Event | None = None
    """Waited for where a reply would break off, the connection open."""
    linked: bool = True
    """As the hub: HEAD tells the sha256 and the size of the file itself."""
    files: dict[str, bytes] = field(default_factory=dict)
    """By path: what a repository has, and what is sent for these files instead of ``content``."""
    elsewhere: str = ""
    """Where HEAD of a file and the next page of a list are sent, as another server would have it."""
    renamed: str = ""
    """The repository that is called ``user/repo`` now, as the hub tells by a redirect."""
    refusal: tuple[int, str] | None = None
    """Status and error code of the hub for each request."""

    def of(self, path: str) -> bytes:
        place = path.partition("?")[0]
        return next((content for name, content in self.files.items() if place.endswith(f"/{name}")), self.content)


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]


class ModelServer:
    def __init__(self, content: bytes) -> None:
        self.behaviour = Behaviour(content)
        self.seen: list[Seen] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def gets(self) -> list[Seen]:
        return [each for each in self.seen if each.method == "GET"]

    def close(self) -> None:
        if self.behaviour.hold is not None:
            self.behaviour.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(server: ModelServer) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self._note()
                does = server.behaviour
                if does.refusal or "missing" in self.path:
                    return self._status(*(does.refusal or (404, "EntryNotFound")))
                if does.renamed and self.path.startswith(f"/{does.renamed}/"):
                    self.send_response(307)
                    self.send_header("Location", self.path.replace(does.renamed, "user/repo", 1))
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                if does.elsewhere:
                    self.send_response(302)
                    self.send_header("Location", f"//{does.elsewhere}/x")
                    self.send_header("Content-Length", "7")
                    return self.end_headers()
                content = does.of(self.path)
                self.send_response(302 if does.redirect else 200)
                self.send_header("X-Repo-Commit", COMMIT)
                if does.linked:
                    self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
                    self.send_header("X-Linked-Size", str(len(content)))
                self.send_header("ETag", does.etag)
                if does.redirect:
                    self.send_header("Location", does.redirect)
                self.send_header("Content-Length", "0" if does.redirect else str(len(content)))
                return self.end_headers()

            def do_GET(self) -> None:
                self._note()
                does = server.behaviour
                if does.statuses:
                    return self._status(does.statuses.pop(0))
                if does.refusal:
                    return self._status(*does.refusal)
                if self.path.startswith("/api/models/"):
                    return self._listing(does)
                if does.redirect and not self.path.startswith("/cdn"):
                    self.send_response(302)
                    self.send_header("Location", does.redirect)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return None
                return self._file(does)

            def _note(self) -> None:
                server.seen.append(Seen(self.command, self.path, dict(self.headers.items())))

            def _listing(self, does: Behaviour) -> None:
                """Two files a page."""
                path, _, cursor = self.path.partition("&cursor=")
                begin = int(cursor or 0)
                listed = [
                    {"type": "file", "path": name, "size": len(content), "oid": "0"}
                    for name, content in [*does.files.items()][begin : begin + 2]
                ]
                body = json.dumps([{"type": "directory", "path": "folder"}, *listed]).encode()
                self.send_response(200)
                if begin + 2 < len(does.files):
                    base = f"http://{does.elsewhere}" if does.elsewhere else server.base
                    self.send_header("Link", f'<{base}{path}&cursor={begin + 2}>; rel="next"')
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _status(self, status: int, code: str = "") -> None:
                self.send_response(status)
                if code:
                    self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _file(self, does: Behaviour) -> None:
                content = does.of(self.path)
                begin, total = 0, len(content)
                wanted = self.headers.get("Range")
                fresh = self.headers.get("If-Range") in (None, does.etag, does.modified)
                if wanted and does.ranges and fresh:
                    begin = int(wanted.removeprefix("bytes=").rstrip("-"))
                    if begin >= total:
                        self.send_response(416)
                        self.send_header("Content-Range", f"bytes */{total if does.whole is None else does.whole}")
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                        return
                    begin += does.shift
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
                else:
                    self.send_response(200)
                if does.etag:
                    self.send_header("ETag", does.etag)
                if does.modified:
                    self.send_header("Last-Modified", does.modified)
                if does.encoding:
                    self.send_header("Content-Encoding", does.encoding)
                body = content[begin:]
                if does.chunked:
                    self.send_header("Transfer-Encoding", "chunked")
                else:
                    self.send_header("Content-Length", str(does.length if does.length is not None else len(body)))
                self.end_headers()
                cut = does.cuts.pop(0) if does.cuts else None
                self._send(body if cut is None else body[:cut], does.chunked)
                if cut is not None:
                    self.wfile.flush()
                    if does.hold is not None:
                        does.hold.wait(60)
                    self.close_connection = True
                    with contextlib.suppress(OSError):
                        self.connection.shutdown(socket.SHUT_RDWR)
                elif does.chunked:
                    with contextlib.suppress(OSError):
                        self.wfile.write(b"0\r\n\r\n")
                elif does.length is not None:
                    self.close_connection = True

            def _send(self, body: bytes, chunked: bool) -> None:
                with contextlib.suppress(OSError):  # whoever asked has heard enough
                    if chunked:
                        for start in range(0, len(body), 65536):
                            part = body[start : start + 65536]
                            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                    else:
                        self.wfile.write(body)

        return Handler


@contextlib.contextmanager
def serving(content: bytes) -> Iterator[ModelServer]:
    server = ModelServer(content)
    try:
        yield server
    finally:
        server.close()
