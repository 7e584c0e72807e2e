"""The files of the page, as routes. They contain no user data and need no key. A browser revalidates its copy each
time, and receives a file only if it has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute

from bitnet_chat.server.auth import CSP
from bitnet_chat.server.routing import route

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "webmanifest": "application/manifest+json",
}
_AT_ROOT = {"index.html": "/", "sw.js": "/sw.js", "manifest.webmanifest": "/manifest.webmanifest"}
"""The scope of a service worker and a manifest is their folder; all other files are in ``/page/``."""
PAGE_CSP = f"{CSP}; require-trusted-types-for 'script'; trusted-types bitnet-chat"
"""Only one module (``html.js``) can add HTML to the page."""
_GREETING = "Ollama is running"
"""The text by which Ollama clients detect a server at ``/``."""


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    kind: str
    tag: str
    """The ETag: changes with the content."""

    async def __call__(self, request: Request) -> Response:
        headers = {"ETag": self.tag, "Cache-Control": "no-cache", "Content-Security-Policy": PAGE_CSP}
        known = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
        if self.tag in known:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers, media_type=self.kind)


def routes() -> list[BaseRoute]:
    """Return the routes of the page and its files, which are read once."""
    found = dict(_files())
    at = {_AT_ROOT.get(name, f"/page/{name}"): file for name, file in found.items()}
    at["/favicon.ico"] = found["icon-192.png"]
    page = at.pop("/")

    async def root(request: Request) -> Response:
        # No cache confuses the two: the page is revalidated each time, and the greeting is not stored.
        return await page(request) if _wants_html(request) else PlainTextResponse(_GREETING)

    return [route("/", GET=root), *(route(path, GET=file) for path, file in at.items())]


def _wants_html(request: Request) -> bool:
    """Whether the client accepts HTML, as browsers and the worker of the page do."""
    return "text/html" in request.headers.get("accept", "")


def _files() -> Iterator[tuple[str, _File]]:
    for each in files(__package__).iterdir():
        kind = _TYPES.get(each.name.rpartition(".")[2])
        if kind is not None:
            content = each.read_bytes()
            yield each.name, _File(content, kind, f'"{hashlib.sha256(content).hexdigest()[:20]}"')
