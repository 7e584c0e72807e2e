"""A system prompt that was read once is not read again: by another question, a batch, or a server and its clients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from kept_states import LONG, PERSONA, SHORT, prompts
from program import TIMEOUT, run
from serving import served_process

from bitnet_chat import paths
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import EngineBinary

pytestmark = pytest.mark.engine
FLAGS = ("--threads", "1", "--max-tokens", "4", "--temp", "0")
TOOL_DEMO = Path(__file__).parents[1] / "data" / "models" / "tool-demo.gguf"


def entries(native: EngineBinary, folder: Path, *texts: str, flags: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """What a batch of questions has written."""
    given, written = folder / "in.jsonl", folder / "out.jsonl"
    given.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    written.unlink(missing_ok=True)
    files = ("--input", str(given), "--output", str(written))
    done = run("--engine", str(native.path), *FLAGS, "--system", PERSONA, *files, *flags)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in written.read_text().splitlines()]


def evaluated(entry: dict[str, Any]) -> int:
    tokens = entry["timings"]["prompt_tokens"]
    assert isinstance(tokens, int)
    return tokens


def test_the_first_question_of_a_batch_reads_it_and_the_next_run_restores_it(
    native: EngineBinary, tmp_path: Path
) -> None:
    first = [evaluated(each) for each in entries(native, tmp_path, "What is one?", "What is two?", "What is three?")]
    assert first[0] > LONG and max(first[1:]) < SHORT
    assert prompts(paths.states_dir()) == 1
    assert [evaluated(each) < SHORT for each in entries(native, tmp_path, "What is four?", "Five?")] == [True, True]
    done = run("--engine", str(native.path), *FLAGS, "--system", PERSONA, "--json", "What is six?")
    assert evaluated(json.loads(done.stdout)) < SHORT, "nor does a single question read it"


@pytest.mark.parametrize("flags", [("--no-journal",), ("--state-limit", "0")])
def test_nothing_is_kept_where_nothing_is_to_be(native: EngineBinary, tmp_path: Path, flags: tuple[str, ...]) -> None:
    entries(native, tmp_path, "What is one?", "What is two?", flags=flags)
    assert not list(paths.states_dir().glob("*"))


@pytest.mark.parametrize("offers", ["system prompt", "tools"])
def test_clients_of_a_server_that_send_the_same_prompt(native: EngineBinary, offers: str) -> None:
    """After a restart of the server, too."""
    conversation = Conversation().with_system(PERSONA if offers == "system prompt" else "")
    tools = [
        {
            "type": "function",
            "function": {"name": f"tool_{number}", "description": "Adds two numbers.", "parameters": {}},
        }
        for number in range(20)
    ]

    def asked(client: httpx.Client, text: str) -> int:
        """The number of evaluated tokens."""
        messages = [{"role": each.role, "content": each.content} for each in conversation.with_user(text).messages]
        body: dict[str, Any] = {"messages": messages, "max_tokens": 4, "temperature": 0}
        answer = client.post("/v1/chat/completions", json=body | ({"tools": tools} if offers == "tools" else {}))
        usage = answer.raise_for_status().json()["usage"]
        return int(usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"])

    flags = ("--threads", "1", "--model", str(TOOL_DEMO), "--engine", str(native.path))
    for start in range(2):
        with served_process(*flags) as process, httpx.Client(base_url=process.url, timeout=TIMEOUT) as client:
            counts = [asked(client, f"What is {start} + {number}?") for number in range(2)]
            process.end()
        assert [count < SHORT for count in counts] == [bool(start), True], counts
    assert prompts(paths.states_dir()) == 1
