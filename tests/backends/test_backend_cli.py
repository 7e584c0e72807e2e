"""``--backend`` as a user has it: the program itself, with servers behind it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest
from api_server import Answer, Request, Threaded, ollama, piece, sse, whole
from program import engines_of, run

from bitnet_chat.cli import main
from bitnet_chat.engine.binary import EngineBinary

pytestmark = pytest.mark.engine


def test_questions_to_a_server_of_our_own(classic: EngineBinary, tmp_path: Path) -> None:
    arguments = ("--backend", "llama-server", "--engine", str(classic.path), "--temp", "0", "--no-journal")
    streamed = run("How do I save the conversation?", *arguments)
    assert streamed.returncode == 0, streamed.stderr
    answer = json.loads(run("--json", "How do I save the conversation?", *arguments).stdout)
    assert answer["engine"] == "llama-server" and answer["finish_reason"] == "stop"
    assert streamed.stdout.decode() == answer["reply"] + "\n"
    # Lines with a history, and with special-token text, go to the same one.
    lines = [
        {"prompt": "How do I save the conversation?"},
        {"prompt": "What is <|im_end|>?"},
        {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."},
                      {"role": "user", "content": "What is BitNet?"}]},
    ]  # fmt: skip
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)))
    done = run("--input", str(source), "--output", str(target), *arguments)
    assert done.returncode == 0, done.stderr
    replies = [json.loads(line) for line in target.read_text().splitlines()]
    assert len(replies) == 3 and replies[0]["reply"] == answer["reply"]
    # Of all processes, those of other tests end at any time.
    servers = {each.pid for each in psutil.process_iter(["name"]) if "llama-server" in (each.info["name"] or "")}
    assert not servers & {each.pid for each in engines_of(os.getpid())}


def test_a_conversation_through_ollama() -> None:
    with Threaded(ollama) as server:
        arguments = ("--backend", "ollama", "--base-url", server.url, "--no-journal")
        found = run("-i", *arguments, stdin="say 3 words\nsay 2 words\n/stats\n/exit\n")
        assert found.returncode == 0, found.stderr
        text = (found.stdout + found.stderr).decode()
        assert "one two three" in text and "words:latest" in text


def test_a_server_that_is_hostile() -> None:
    def script(request: Request) -> Answer:
        if request.path.endswith("/models"):
            return whole({"data": [{"id": "\x1b[31mred\x07"}]})
        return Answer(sse(piece("\x1b[2Jclear\x9b"), piece(finish="stop")))

    with Threaded(script) as server:
        found = run("Hi", "--backend", "openai", "--base-url", server.url, "--no-journal")
        assert found.returncode == 0 and b"\x1b" not in found.stdout + found.stderr
        assert "\u241b[2Jclear" in found.stdout.decode()
    failed = run("Hi", "--backend", "openai", "--base-url", server.url, "--no-journal")
    assert failed.returncode == 3 and b"no server answers" in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--backend", "openai"), 2, "--base-url"),
        (("--backend", "openai", "--base-url", "file:///etc"), 2, "is not a server address"),
        (("--backend", "llama-server", "--engine", "/nowhere"), 3, "llama-server"),
        (("--backend", "magic"), 2, "magic"),
    ],
)
def test_what_cannot_be_used(
    arguments: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["Hi", *arguments]) == code
    assert words in capsys.readouterr().err


def test_a_key_is_never_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(*arguments: str) -> str:
        assert main(["config", *arguments]) == 0
        told = capsys.readouterr()
        assert secret not in told.out + told.err
        return told.out

    secret = "correct-horse"
    assert "(secret)" in shown("show", "--backend-key", secret)
    folder = Path(os.environ["BITNET_CHAT_CONFIG"]).with_name("personas")
    folder.mkdir()
    (folder / "mine.toml").write_text(f'backend_key = "{secret}"\n')
    assert "(secret)" in shown("personas", "--json") and "mine" in shown("personas")
    Path(os.environ["BITNET_CHAT_CONFIG"]).write_text(f'backend_key = "{secret}"\n')
    monkeypatch.setenv("EDITOR", "true")
    assert "(secret)" in shown("show") and not shown("edit")
    monkeypatch.setenv("BITNET_CHAT_BACKEND_KEY", secret)
    monkeypatch.setenv("BITNET_CHAT_API_KEY", secret)
    for output in ((), ("--json",)):
        assert "(secret)" in shown("show", *output)
