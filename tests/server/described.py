"""The server is what its OpenAPI description says: requests are made from it, right ones and wrong ones.

Nothing of this is by chance: the same requests in each run.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from program import TIMEOUT
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance
from scripted_backend import say
from serving import serving

from bitnet_chat.server.openapi.document import document

# Every field of a request is tried one by one, where others do not share nearly all of them.
_SHARED = ["/v1/completions", "/chats/{id}/messages", "/replies", "/api/generate"]
CONFIG = SchemathesisConfig.from_dict(
    {
        "generation": {"deterministic": True, "database": "none", "with-security-parameters": False},
        "phases": {"stateful": {"enabled": False}},
        "operations": [{"include-path": path, "phases": {"coverage": {"enabled": False}}} for path in _SHARED],
    }
)
schema = schemathesis.openapi.from_dict(document(), config=CONFIG)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server in a thread of its own, which answers whatever it understands."""
    found: list[str] = []
    up, down = threading.Event(), []

    async def main() -> None:
        async with serving(lambda _: say("An ", "answer.")) as served:
            loop, end = asyncio.get_running_loop(), asyncio.Event()
            down.append(lambda: loop.call_soon_threadsafe(end.set))
            found.append(served.url)
            up.set()
            await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert up.wait(TIMEOUT)
    yield found[0]
    down[0]()
    thread.join(TIMEOUT)


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False  # else proxies are looked for in the environment before each request
        yield session


@schema.parametrize()
@settings(
    derandomize=True,
    deadline=None,
    max_examples=10,  # beside those of the coverage phase
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
def test_the_server_is_as_described(case: schemathesis.Case, url: str, session: requests.Session) -> None:
    if case.query and "follow" in case.query:
        del case.query["follow"]  # a stream without an end
    # A schema cannot say in which order messages make sense: some that it allows are refused.
    case.call_and_validate(base_url=url, session=session, timeout=TIMEOUT, excluded_checks=[positive_data_acceptance])


def test_the_description_is_served(url: str, session: requests.Session) -> None:
    response = session.get(f"{url}/openapi.json", timeout=TIMEOUT)
    assert response.headers["content-type"] == "application/json"
    assert response.json() == json.loads(json.dumps(document()))
