"""A server that continues conversations from saved states: after an unload, a restart or a kill."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from program import TIMEOUT, assert_gone, engines_of
from restored_replies import CLIENT, LEAVE, NAME, STORY, TOKEN, EarlierRuns, earlier, flags, kill, replies, states
from serving import ServedProcess, served_process

from bitnet_chat.engine.binary import EngineBinary

__all__ = ["earlier"]
pytestmark = pytest.mark.engine
TOOL_DEMO = Path(__file__).parents[1] / "data" / "models" / "tool-demo.gguf"


class ServerClient:
    """A client of a server that runs."""

    def __init__(self, process: ServedProcess, http: httpx.Client) -> None:
        self.process, self._http = process, http

    def get(self, path: str) -> Any:
        return self._http.get(path).raise_for_status().json()

    def post(self, path: str, **body: object) -> Any:
        return self._http.post(path, json=body).raise_for_status().json()

    def send(self, chat: int, text: str) -> dict[str, Any]:
        """Send a message as the page does; gives the event that ends its reply."""
        with self._http.stream("POST", f"/chats/{chat}/messages", json={"content": text}) as stream:
            lines = stream.raise_for_status().iter_lines()
            while next(lines) != "event: complete":
                pass
            return dict(json.loads(next(line for line in lines if line.startswith("data: ")).removeprefix("data: ")))

    def complete(self, *messages: str) -> tuple[str, int]:
        """Ask as a client of the API of OpenAI does. ``messages``: of the user and the assistant in turn. Returns the
        reply and the number of evaluated tokens."""
        roles = ("user", "assistant")
        sent = [{"role": roles[number % 2], "content": text} for number, text in enumerate(messages)]
        answer = self.post("/v1/chat/completions", messages=sent)
        usage = answer["usage"]
        evaluated = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
        return str(answer["choices"][0]["message"]["content"]), int(evaluated)

    def is_saved(self, chat: int) -> bool:
        """What the page is told, in the list and for the conversation."""
        saved = bool(self.get(f"/chats/{chat}")["saved_state"])
        assert saved is {each["id"]: each["saved_state"] for each in self.get("/chats")["chats"]}[chat]
        return saved

    def until_saved(self, chat: int) -> None:
        end = time.monotonic() + TIMEOUT
        while not self.get(f"/chats/{chat}")["saved_state"]:
            assert time.monotonic() < end
            time.sleep(0.02)

    def unload(self) -> None:
        engines = engines_of(self.process.pid)
        self.post("/api/generate", model=self.get("/v1/models")["data"][0]["id"], keep_alive=0, stream=False)
        assert_gone(engines)


@contextmanager
def server(native: EngineBinary, *more: str) -> Iterator[ServerClient]:
    with (
        served_process(*flags(native), *more) as process,
        httpx.Client(base_url=process.url, trust_env=False, timeout=TIMEOUT) as http,
    ):
        yield ServerClient(process, http)


def test_a_message_on_the_page_continues_a_conversation_of_the_terminal(
    native: EngineBinary, earlier: EarlierRuns
) -> None:
    """And the next one after the model was unloaded."""
    undisturbed = earlier.replies(STORY, LEAVE, TOKEN, NAME)
    earlier.leave(STORY, LEAVE)
    with server(native) as client:
        assert client.is_saved(1)
        usage = client.send(1, TOKEN)["usage"]
        assert usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"] == undisturbed[2].evaluated
        client.unload()
        assert client.is_saved(1)
        client.send(1, NAME)
        assert client.process.end() == 143
    found = replies()
    assert found[2].restores(found[1].used, undisturbed[2])
    assert found[3].restores(found[2].used, undisturbed[3])


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_chat_whose_server_and_engine_were_killed(native: EngineBinary, earlier: EarlierRuns) -> None:
    undisturbed = earlier.replies(STORY, LEAVE)
    with server(native) as client:
        assert client.post("/chats")["id"] == 1
        client.send(1, STORY)
        client.until_saved(1)
        kill(lambda: client.process.end(signal.SIGKILL), engines_of(client.process.pid))
    with server(native) as client:
        assert client.is_saved(1)
        client.send(1, LEAVE)
    found = replies()
    assert found[1].restores(found[0].used, undisturbed[1])


def test_a_model_that_made_way_for_another(native: EngineBinary, earlier: EarlierRuns, model: Path) -> None:
    """There is memory for one of them."""
    undisturbed = earlier.replies(STORY, LEAVE)
    with server(native, "-m", f"demo={model}", "-m", f"other={TOOL_DEMO}", "--memory-limit", "110M") as client:
        client.post("/chats", model="demo")
        client.send(1, STORY)
        client.post("/v1/chat/completions", model="other", messages=[{"role": "user", "content": "Hello."}])
        assert [each["name"] for each in client.get("/api/ps")["models"]] == ["other:latest"]
        client.send(1, LEAVE)
        assert [each["name"] for each in client.get("/api/ps")["models"]] == ["demo:latest"]
    found = replies()
    assert found[1].restores(found[0].used, undisturbed[1])


@pytest.mark.parametrize("end", ["unload", "restart"])
def test_a_client_that_sends_a_known_prefix(native: EngineBinary, earlier: EarlierRuns, end: str) -> None:
    undisturbed = earlier.replies(CLIENT, LEAVE, TOKEN)
    sent = [CLIENT]
    with server(native) as client:
        for expected, text in zip(undisturbed, (LEAVE, TOKEN), strict=False):
            answer = client.complete(*sent)
            assert answer == (expected.text, expected.evaluated)
            sent += [answer[0], text]
        if end == "unload":
            client.unload()
            answer = client.complete(*sent)
        else:
            assert client.process.end() == 143
    if end == "restart":
        with server(native) as client:
            answer = client.complete(*sent)
    assert answer == (undisturbed[2].text, undisturbed[2].evaluated)


def test_a_damaged_state_costs_a_reading_and_a_line_in_the_log(native: EngineBinary, earlier: EarlierRuns) -> None:
    """A missing one is not said to be saved."""
    earlier.leave(STORY, LEAVE)
    (state,) = states()
    content = state.read_bytes()
    with server(native) as client:
        assert client.is_saved(1)
        state.unlink()
        assert not client.is_saved(1)
        state.write_bytes(content[:-500] + bytes([content[-500] ^ 1]) + content[-499:])
        client.send(1, TOKEN)
        assert client.process.end() == 143
        lines = [line for line in client.process.lines if "state" in line]
    found = replies()
    assert (found[2].source, found[2].evaluated) == ("cold", found[2].size)
    assert lines == [f"bitnet-chat: an engine state of {found[1].used} tokens is removed: it is damaged\n"]
