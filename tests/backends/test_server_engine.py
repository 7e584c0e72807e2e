"""Which engine a server takes that was not told: one that needs no new process for another conversation."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import httpx
import psutil
import pytest
from program import TIMEOUT, fake_engine

from bitnet_chat.cli.parser import parse
from bitnet_chat.cli.serve import open_server, parser, read
from bitnet_chat.cli.server_engine import preferred
from bitnet_chat.config import Settings
from bitnet_chat.engine.binary import Dialect, EngineBinary
from bitnet_chat.engine.discovery import find_server
from bitnet_chat.errors import EngineNotFoundError


@pytest.fixture
def at_hand(home: Path, native: EngineBinary, classic: EngineBinary, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program for a terminal on PATH, found first, and the prebuilt library."""
    programs, engines = home / "programs", home / "data" / "engine"
    programs.mkdir()
    engines.mkdir(parents=True)
    (programs / classic.path.name).symlink_to(classic.path)
    (engines / native.path.name).symlink_to(native.path)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)


def test_three_requests_that_have_nothing_in_common_take_one_process(
    at_hand: None, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serving, settings, configured, models = read(
        *parse(["--port", "0", "-m", str(model), "--max-tokens", "8"], parser()), {"BITNET_CHAT_JOURNAL": "no"}
    )

    before = {each.pid for each in psutil.Process().children()}

    async def main() -> set[int]:
        pids: set[int] = set()
        async with (
            open_server(serving, settings, configured, models) as server,
            httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client,
        ):
            for text in ("hi", "how do I quit?", "what is a journal?"):
                said = {"messages": [{"role": "system", "content": text}, {"role": "user", "content": text}]}
                answer = await client.post("/v1/chat/completions", json=said)
                assert answer.status_code == 200, answer.text
                pids |= {each.pid for each in psutil.Process().children()}
        return pids - before

    assert len(asyncio.run(main())) == 1
    assert "using the prebuilt engine llama.cpp" in capsys.readouterr().err
    for flags in (["--engine", str(fake_engine(tmp_path))], ["--", "--flash-attn", "on"]):
        _, named, _, _ = read(*parse(["-m", str(model), *flags], parser()), {})
        assert preferred(named, "", parallel=1, any_backend=True).dialect is None


def test_several_at_once_have_one_llama_server(
    at_hand: None, home: Path, model: Path, classic: EngineBinary, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(model=str(model))
    taken = preferred(settings, "", parallel=4, any_backend=True)
    assert (taken.settings.backend, taken.dialect) == ("engine", Dialect.NATIVE), "no llama-server is at hand"
    try:
        server = find_server(str(classic.path))
    except EngineNotFoundError:
        pytest.skip("no llama-server was built")
    (home / "programs" / server.path.name).symlink_to(server.path)
    taken = preferred(settings, "", parallel=4, any_backend=True)
    assert taken.settings.backend == "llama-server" and "using llama-server" in taken.notice
    assert preferred(settings, "", parallel=4, any_backend=False).settings.backend == "engine"
    assert preferred(settings, "", parallel=1, any_backend=True).dialect is Dialect.NATIVE
