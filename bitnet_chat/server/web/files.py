"""The files of the page, as routes. They contain no user data and need no key; a browser revalidates its copy each
time, and receives the file only if it has changed.
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
"""HTML may become part of the page in one place only (``html.js``)."""
_GREETING = "Ollama is running"
"""Ollama clients use ``/`` to detect a server."""


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    kind: str
    tag: str
    """Changes with the content."""

    async def __call__(self, request: Request) -> Response:
        headers = {"ETag": self.tag, "Cache-Control": "no-cache", "Content-Security-Policy": PAGE_CSP}
        known = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
        if self.tag in known:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers, media_type=self.kind)


def routes() -> list[BaseRoute]:
    """``/`` and what it needs. The files are read once."""
    found = dict(_files())
    at = {_AT_ROOT.get(name, f"/page/{name}"): file for name, file in found.items()}
    at["/favicon.ico"] = found["icon-192.png"]
    page = at.pop("/")

    async def root(request: Request) -> Response:
        # No cache mixes them up: the page is asked for anew each time, and the greeting is not kept.
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
