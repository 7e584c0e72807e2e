"""Checks of a request before its handler: Host, Origin, API key, size and Content-Type.

A browser runs pages of any origin, and each of them may send requests to this computer. Three headers tell them apart:
the ``Host`` that the browser connects to (a foreign name that resolves to this computer is refused), the ``Origin`` of
the page, and ``Sec-Fetch-Site``. A program sends neither of the last two.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from bitnet_chat.errors import TooManyAttemptsError
from bitnet_chat.server.api_key import COOKIE, ApiKeyAuth, key_in, too_many_guesses
from bitnet_chat.server.errors import RejectedRequest
from bitnet_chat.server.origins import AllowedHosts, AllowedOrigins
from bitnet_chat.server.settings import ServeSettings
from bitnet_chat.util.loopback import is_loopback_host

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:\d{1,5})?")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_OPEN = frozenset({"/", "/health", "/login", "/sw.js", "/manifest.webmanifest", "/favicon.ico"})
"""Paths without a key: the page, which contains no user data, and health."""
_OPEN_FOLDER = "/page/"
_ANY_ADDRESS = frozenset({"0.0.0.0", "::", ""})
_JSON = re.compile(r"application/(?:json|[\w.+-]+\+json)\s*(?:;.*)?", re.IGNORECASE)
_BODIES = frozenset({"POST", "PUT", "PATCH"})

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "manifest-src 'self'; worker-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}
"""Default headers of every reply."""


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """The parts of a request that the checks read. Names of headers are lower case."""

    method: str
    path: str
    scheme: str
    address: str
    """Address of the client."""
    headers: Mapping[str, str]
    hosts: int = 1
    """Number of ``Host`` headers."""
    cookies: Mapping[str, str] = field(default_factory=dict)


class RequestGuard:
    """Checks Host, Origin, API key, size and Content-Type."""

    def __init__(self, settings: ServeSettings, keys: ApiKeyAuth) -> None:
        self._settings, self._keys = settings, keys
        self._origins = AllowedOrigins(settings.cors)
        self._is_open = settings.host in _ANY_ADDRESS
        self._hosts = AllowedHosts(("localhost", ".localhost", *settings.allow_host))
        self._own = {settings.host.lower()}
        if self._is_open:
            name = socket.gethostname().lower()
            self._own = {name, name.partition(".")[0], f"{name.partition('.')[0]}.local"}

    def refusal(self, facts: RequestInfo) -> RejectedRequest | None:
        """Return the error of a request; None if it is allowed."""
        return self._of_host(facts) or self._of_origin(facts) or self._of_key(facts) or self._of_body(facts)

    def allowed_origin(self, facts: RequestInfo) -> str:
        """Return the origin of the foreign page that may read the reply, or an empty string."""
        origin = facts.headers.get("origin", "").lower()
        return origin if origin in self._origins else ""

    def _of_host(self, facts: RequestInfo) -> RejectedRequest | None:
        host = facts.headers.get("host", "")
        match = _HOST.fullmatch(host)
        if facts.hosts != 1 or match is None:
            return RejectedRequest(400, "exactly one Host header is required", code="bad_host")
        name = match[1].lower().strip("[]").rstrip(".")
        if name in self._own or name in self._hosts:
            return None
        # DNS rebinding needs a name, so an address is safe. 0.0.0.0 is this computer as well.
        if is_loopback_host(name) or name in _ANY_ADDRESS or (self._is_open and _is_address(name)):
            return None
        return RejectedRequest(
            403,
            f"{match[1]} is not an allowed host",
            f"--allow-host {match[1]} allows it",
            "permission_error",
            "host_not_allowed",
        )

    def _of_origin(self, facts: RequestInfo) -> RejectedRequest | None:
        if self.allowed_origin(facts):
            return None
        origin = facts.headers.get("origin")
        if origin is not None and not _is_own(facts):
            return RejectedRequest(
                403,
                f"origin {origin[:100]} is not allowed",
                f"--cors {origin[:100]} allows it, if you trust it" if "://" in origin else "",
                "permission_error",
                "origin_not_allowed",
            )
        site = facts.headers.get("sec-fetch-site", "none")
        if origin is None and site == "cross-site" and facts.method not in _SAFE:
            return RejectedRequest(
                403, "requests of pages of other sites are not allowed", "", "permission_error", "cross_site"
            )
        return None

    def _of_key(self, facts: RequestInfo) -> RejectedRequest | None:
        if not self._keys.wanted or facts.path in _OPEN or facts.path.startswith(_OPEN_FOLDER):
            return None
        if facts.method == "OPTIONS" and "access-control-request-method" in facts.headers:
            return None
        # The cookie is valid for our page only, but browsers send it for other pages of this computer as well.
        if _is_own(facts) and self._keys.is_session(facts.cookies.get(COOKIE, "")):
            return None
        key = key_in(facts.headers.get("authorization", ""), facts.headers.get("x-api-key", ""))
        remedy = "send Authorization: Bearer KEY"
        try:
            if key and self._keys.is_right(key, facts.address):
                return None
        except TooManyAttemptsError as error:
            return too_many_guesses(error)
        what = "the API key is wrong" if key else "an API key is required"
        code = "invalid_api_key" if key else "missing_api_key"
        return RejectedRequest(401, what, remedy, "authentication_error", code, {"www-authenticate": "Bearer"})

    def _of_body(self, facts: RequestInfo) -> RejectedRequest | None:
        size = facts.headers.get("content-length", "")
        if size.isdecimal() and int(size[:20]) > self._settings.body_limit:
            return too_large(self._settings.body_limit)
        has_body = size not in ("", "0") or "transfer-encoding" in facts.headers
        if facts.method not in _BODIES or not has_body:
            return None
        kind = facts.headers.get("content-type", "")
        if _JSON.fullmatch(kind.strip()):
            return None
        # curl and some clients label JSON as a form or not at all. A page can send such a request without a preflight;
        # a request of a page must therefore be labelled as JSON, which a browser sends after a preflight only.
        if "origin" not in facts.headers and "sec-fetch-site" not in facts.headers:
            return None
        return RejectedRequest(
            415,
            f"unsupported Content-Type: {kind[:100] or 'none'}",
            "send Content-Type: application/json",
        )


def _is_own(facts: RequestInfo) -> bool:
    """Whether the request comes from our own page or from a program, according to its Origin."""
    origin, here = facts.headers.get("origin"), facts.headers.get("host", "").lower()
    return origin is None or origin.lower() in (f"http://{here}", f"https://{here}")


def too_large(limit: int) -> RejectedRequest:
    return RejectedRequest(
        413,
        f"the request is larger than {limit:,} bytes",
        "send a shorter request, or begin another conversation",
        code="request_too_large",
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def preflight_headers(origin: str, wanted: str) -> dict[str, str]:
    """Return the headers for a preflight request. ``wanted``: the requested headers, separated by commas."""
    named = ", ".join(name for name in (each.strip().lower() for each in wanted.split(",")) if _TOKEN.fullmatch(name))
    return {
        **cors_headers(origin),
        "access-control-allow-methods": "GET, HEAD, POST, PATCH, DELETE",
        "access-control-allow-headers": named or "content-type",
        "access-control-max-age": "600",
    }


def cors_headers(origin: str) -> dict[str, str]:
    return {
        "access-control-allow-origin": origin,
        "access-control-expose-headers": "*",
    }


_TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
