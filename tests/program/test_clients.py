"""The published clients of both APIs, unmodified, against ``serve`` with a real engine: chat, streams, tools, answers
in a given form, and errors in the words that a client shows."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import published
import pytest
from program import environment
from serving import served_process

from bitnet_chat.engine.binary import EngineBinary

ROOT = Path(__file__).parents[2]
PYTHON = ("langchain", "litellm", "pydantic_ai", "instructor", "llama_index", "openai_agents", "autogen")
MODELS = ("bitnet-demo=bitnet_chat/models/bitnet-demo.gguf", "tool-demo=tests/data/models/tool-demo.gguf")


@pytest.mark.long
@pytest.mark.engine
def test_published_clients(native: EngineBinary, tmp_path: Path) -> None:
    """All of them in one test: what they import takes longer than what they ask."""
    python, modules = published.python(), published.node_modules()
    models = [f"-m{each.replace('=', f'={ROOT}/')}" for each in MODELS]
    with served_process("--engine", str(native.path), *models, home=tmp_path) as served:
        programs = [
            [str(python), "-I", str(published.CLIENTS / "run.py"), served.url, *PYTHON],
            ["node", str(modules / "ai.mjs"), served.url],
        ]
        got: list[Any] = []
        for program in programs:
            done = subprocess.run(
                program, capture_output=True, timeout=published.TIMEOUT, env=environment(), cwd=tmp_path
            )
            assert done.returncode == 0, done.stderr.decode()
            got.append(json.loads(done.stdout.splitlines()[-1]))
    clients, ai = got
    reply = ai["openai"].get("whole", "")
    assert reply.startswith("bitnet-chat is a terminal chat") and len(reply) > 60, ai
    wrong = [
        f"{name}, {field}: {value!r}"
        for name, found in apart(clients | {"ai": ai})
        for field, value in found.items()
        if not right(field, value, reply)
    ]
    assert not wrong, "\n".join(wrong)
    # Those that have a class of their own for it know that the conversation is to be made shorter.
    assert clients["langchain"]["openai"]["long"][0] == "OpenAIContextOverflowError"
    assert clients["litellm"]["openai"]["long"][0] == "ContextWindowExceededError"


def apart(clients: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """What each client got, by each API that it speaks."""
    both = ("openai", "ollama")
    single = [(name, found) for name, found in clients.items() if not found.keys() & both]
    double = [(f"{name}, {api}", found[api]) for name, found in clients.items() for api in both if api in found]
    return single + double


def right(field: str, value: Any, reply: str) -> bool:
    match field:
        case "whole" | "streamed" | "plain":
            return bool(value == reply)
        case "usage":
            return len(set(value)) == 1 and 5 < value[0] < 60
        case "call":
            return [(name, json.loads(asked) if isinstance(asked, str) else asked) for name, asked in value] == [
                ("get_weather", {"city": "Oslo"})
            ]
        case "told":
            return bool(value == "In Oslo: snow.")
        case "forced":
            return bool(value == {"city": "Oslo"})
        case "structured":
            found = json.loads(value) if isinstance(value, str) else value
            return isinstance(found, dict) and found.keys() == {"yes"} and isinstance(found["yes"], bool)
        case "unknown":
            kind, words = value
            return bool(kind) and "missing" in words and "bitnet-demo" in words
        case "long":
            kind, words = value
            return bool(kind) and "context" in words and "2048" in words
    return False
