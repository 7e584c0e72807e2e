"""The examples of docs/server.md work: each is run unchanged, against a server with the bundled model.

Only the address differs, since the port of the examples may be in use.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import ServedProcess, served_process

PAGE = (Path(__file__).parents[2] / "docs/server.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8033"
TIMEOUT = 60.0
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples(language: str) -> list[str]:
    found = [code for name, code in _FENCE.findall(PAGE) if name == language]
    assert found, f"docs/server.md has no {language} example"
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    with served_process("--temp", "0", home=tmp_path_factory.mktemp("server")) as process:
        yield process


def run(argv: list[str], code: str) -> str:
    done = subprocess.run(argv, input=code, capture_output=True, text=True, encoding="utf-8", timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.engine
@pytest.mark.skipif(not (shutil.which("bash") and shutil.which("curl")), reason="bash and curl run these")
@pytest.mark.parametrize("code", examples("bash"))
def test_curl(server: ServedProcess, code: str) -> None:
    output = run(["bash", "-eu", "-o", "pipefail"], code.replace(ADDRESS, server.url))
    assert "Ctrl-D" in output or "/exit" in output or '"models"' in output


@pytest.mark.engine
@pytest.mark.parametrize("code", examples("python"))
def test_python(server: ServedProcess, code: str) -> None:
    output = run([sys.executable, "-"], code.replace(ADDRESS, server.url))
    assert "Ctrl-D" in output or "/exit" in output


@pytest.mark.engine
@pytest.mark.parametrize("code", examples("js"))
def test_browser(server: ServedProcess, code: str) -> None:
    """In a page of the server's own origin, as a page of the user's would be with ``--cors``."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        assert not os.environ.get("CI"), "there is no Chromium"
        pytest.skip("there is no Chromium")

    async def look() -> str:
        from playwright.async_api import async_playwright

        async with async_playwright() as playwright:
            chromium = await playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            try:
                page = await chromium.new_page()
                await page.goto(f"{server.url}/health")
                async with asyncio.timeout(TIMEOUT):
                    script = code.replace(ADDRESS, server.url)
                    return str(await page.evaluate(f"async () => {{ {script}\n return document.body.textContent; }}"))
            finally:
                await chromium.close()

    text = asyncio.run(look())
    assert "Ctrl-D" in text or "/exit" in text
