"""Names and addresses of this computer alone. Pure."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback_host(host: str) -> bool:
    """Whether a name or an address reaches this computer only from itself: safe to listen on without a key."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def leads_to_loopback(url: str) -> bool:
    """Whether a request to ``url`` stays on this computer. Names below ``localhost`` do as well (RFC 6761, section
    6.3), but a resolver may ignore that: not safe to listen on."""
    host = urlsplit(url).hostname or ""
    return is_loopback_host(host) or host.endswith(".localhost")
