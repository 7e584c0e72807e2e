"""Names of this computer: strict for a server, lenient for a client."""

from __future__ import annotations

import pytest

from bitnet_chat.util.loopback import is_loopback_host, leads_to_loopback


@pytest.mark.parametrize("host", ["localhost", "LocalHost.", "127.0.0.1", "127.8.9.1", "::1", "[::1]"])
def test_hosts_of_this_computer(host: str) -> None:
    assert is_loopback_host(host)
    url = f"http://[{host.strip('[]')}]:80" if ":" in host else f"http://{host}:80/v1"
    assert leads_to_loopback(url)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "192.168.1.7", "example.com", "localhost.example.com", "notlocalhost", "127.1"]
)
def test_hosts_of_others(host: str) -> None:
    assert not is_loopback_host(host)
    assert not leads_to_loopback(f"http://{f'[{host}]' if ':' in host else host}/localhost")


def test_a_resolver_may_send_names_below_localhost_elsewhere() -> None:
    assert not is_loopback_host("chat.localhost")
    assert leads_to_loopback("http://chat.localhost:8000/v1")
