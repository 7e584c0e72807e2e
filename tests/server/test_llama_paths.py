"""What clients ask a llama-server about its model is answered as one answers it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from bare_server import BareServer, compiled
from program import TIMEOUT
from scripted_backend import by_message
from serving import scripted_source, serving

from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.server.settings import ServeSettings

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "naïve 数据 👩‍💻 <|im_end|> x = 1"},
    {"role": "assistant", "content": "OK."},
    {"role": "user", "content": "And  now?\n"},
]
TEXTS = ("", "Hello, world!", "naïve 数据 👩‍💻\n\n  x = 12345;\t'll", "<|im_start|>user\nhi<|im_end|>\n", "a" * 500)


@pytest.fixture
def bare(classic: EngineBinary, model: Path) -> Any:
    if not classic.path.with_name("llama-server").is_file():
        pytest.skip("no llama-server was built")
    with compiled(classic.path, model) as server:
        yield server


def test_it_says_what_a_llama_server_says(bare: BareServer, model: Path) -> None:
    async def main() -> None:
        source = replace(scripted_source(by_message, [], name="demo", parallel=2), path=model)
        async with serving(source) as served, httpx.AsyncClient(base_url=served.url, timeout=TIMEOUT) as client:

            async def both(path: str, body: dict[str, Any]) -> tuple[Any, Any]:
                answer = await client.post(path, json=body)
                assert answer.status_code == 200, answer.text
                return answer.json(), await asyncio.to_thread(bare._post, path, body)

            for text in TEXTS:
                for more in ({}, {"add_special": True}, {"parse_special": False}):
                    ours, theirs = await both("/tokenize", {"content": text} | more)
                    assert ours == theirs, (text, more)
                ours, theirs = await both("/detokenize", ours)
                assert ours == theirs == {"content": text}
            assert (await client.post("/tokenize/", json={"content": "hi", "with_pieces": True})).json()["tokens"]
            for body in ({"messages": TALK}, {"messages": TALK[:2], "model": "demo:latest"}):
                ours, theirs = await both("/apply-template", body)
                assert ours["prompt"] == theirs["prompt"]
            props = (await client.get("/props")).json()
            assert (props["total_slots"], props["default_generation_settings"]["n_ctx"]) == (2, 2048)
            assert "im_start" in props["chat_template"] and str(model.parent) not in str(props)
            slots = (await client.get("/slots")).json()
            assert [slot["id"] for slot in slots] == [0, 1] and not any("prompt" in slot for slot in slots)

    asyncio.run(main())


def test_what_cannot_be_answered_is_said() -> None:
    async def main() -> None:
        async with serving(by_message) as served, httpx.AsyncClient(base_url=served.url, timeout=TIMEOUT) as client:
            far = await client.post("/tokenize", json={"content": "hi"})
            assert far.status_code == 501 and "on another computer" in far.json()["error"]["message"]
            assert (await client.get("/props")).json()["model_alias"] == "scripted"
            assert (await client.post("/props", json={})).status_code == 405
            assert (await client.get("/props", params={"model": "nothing"})).status_code == 404
            assert (await client.post("/tokenize", json={"content": 5, "model": "scripted"})).status_code in (400, 501)

    asyncio.run(main())


TEMPLATE = "{% for each in messages %}{{ each.role }}: {{ each.content }}\n{% endfor %}{{ x or enable_thinking }}"
LATER = [{"role": "user", "content": "Hi", "name": "Bob"}, {"role": "system", "content": "Be brief."}]


def test_a_template_is_applied_to_what_a_reply_would_be_made_from(model: Path) -> None:
    """Messages in any order, and the arguments of the template."""

    async def main() -> None:
        source = replace(scripted_source(by_message, [], name="demo"), path=model, chat_template=TEMPLATE)
        body = {"messages": LATER, "chat_template_kwargs": {"x": "low"}, "store": True}
        for settings, prompt in ((None, "system: Be brief.\nuser: Hi\nlow"), (ServeSettings(strict=True), None)):
            async with (
                serving(source, settings=settings) as served,
                httpx.AsyncClient(base_url=served.url, timeout=TIMEOUT) as client,
            ):
                answer = await client.post("/apply-template", json=body)
                assert answer.json().get("prompt") == prompt, answer.text
                think = {"messages": LATER[:1], "think": False}
                if prompt:
                    assert (await client.post("/apply-template", json=think)).json()["prompt"] == "user: Hi\nFalse"

    asyncio.run(main())


def test_bodies_of_these_paths_are_checked(model: Path) -> None:
    async def main() -> None:
        source = replace(scripted_source(by_message, [], name="demo"), path=model)
        async with serving(source) as served, httpx.AsyncClient(base_url=served.url, timeout=TIMEOUT) as client:
            for path, body in (
                *(("/tokenize", {}), ("/tokenize", {"content": 5}), ("/tokenize", {"content": "a" * 400_001})),
                *(("/detokenize", {"tokens": each}) for each in ("x", [1.5], [-1], [1 << 40], [True])),
                *(("/apply-template", {"messages": each}) for each in ("x", [{"role": "user", "content": 5}])),
            ):
                answer = await client.post(path, json=body)
                assert answer.status_code == 400 and "error" in answer.json(), (path, answer.text)

    asyncio.run(main())
