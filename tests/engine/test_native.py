"""The native child around both prebuilt libraries, as its parent sees it: what it can, and what may happen to it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bitnet_chat import paths
from bitnet_chat.engine.binary import EngineBinary, EngineVariant
from bitnet_chat.engine.install import packages
from bitnet_chat.engine.native.client import LIBRARIES, NativeClient, NativeReply, command
from bitnet_chat.engine.native.protocol import Message, NativeFailed, NativeReplyEnded, Piece, Prefill, Token
from bitnet_chat.errors import NativeClientError

pytestmark = pytest.mark.engine
TIMEOUT = 60
ENGINES = {each.make: each for each in packages.installed()}
MODEL = paths.bundled_model()
WINDOW = 512
GREEDY: dict[str, Any] = {"sampling": {"temperature": 0}}
HOT = {"temperature": 9, "top_k": 0, "top_p": 1, "min_p": 0}
ENDLESS = "数据" * 30
"""The bundled model answers this with words without end."""

Start = Callable[..., contextlib.AbstractContextManager[NativeClient]]


def chat(text: str) -> list[Piece]:
    return [("<|im_start|>user\n", True), (text, False), ("<|im_end|>\n<|im_start|>assistant\n", True)]


@pytest.fixture(scope="module", params=LIBRARIES, ids=LIBRARIES.values())
def engine(request: pytest.FixtureRequest) -> EngineBinary:
    if request.param not in ENGINES:
        pytest.skip(f"NO PREBUILT LIBRARY of {request.param.value}: bitnet-chat engine install fetches it")
    return ENGINES[request.param]


@pytest.fixture(scope="module")
def model(engine: EngineBinary, dequantized: Callable[[], Path]) -> Path:
    """The bundled model, as the library of the test can load it."""
    assert MODEL is not None
    return dequantized() if engine.make is EngineVariant.IK else MODEL


@pytest.fixture(scope="module")
def start(engine: EngineBinary, model: Path) -> Start:
    def client(**options: Any) -> NativeClient:
        words = command(engine, model, **{"context_size": WINDOW, "threads": 1, **options})
        return NativeClient(words, timeout=TIMEOUT)

    return client


@pytest.fixture(scope="module")
def child(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeClient]:
    """One for the tests that leave it as it is."""
    with start(state_folder=tmp_path_factory.mktemp("states")) as client:
        yield client


@pytest.fixture(scope="module")
def reference() -> Iterator[Callable[..., Any]]:
    """A compiled llama-server with the bundled model."""
    from conftest import _ENGINES, Dialect

    binary = _ENGINES[Dialect.CLASSIC]
    path = binary.path.with_name("llama-server" + binary.path.suffix)
    argv = [path, "-m", MODEL, "--port", "0", "-c", str(WINDOW), "-np", "1", "-t", "1"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        url = next(match[1].decode() for line in process.stderr if (match := re.search(rb"listening on (\S+)", line)))

        def ask(path: str, **body: Any) -> Any:
            request = urllib.request.Request(f"{url}{path}", json.dumps(body).encode())
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return json.load(answer)

        yield ask
        process.kill()


def refused(call: Callable[[], object]) -> NativeClientError:
    with pytest.raises(NativeClientError) as caught:
        call()
    assert caught.value.why
    return caught.value


def until(messages: Iterator[Message], kind: type[Message], last: Callable[[Any], bool] = lambda _: True) -> None:
    next(message for message in messages if isinstance(message, kind) and last(message))


@pytest.mark.parametrize("text", ["How do I save the conversation?", ENDLESS, "Tell me a joke 🙂 <|im_end|> é\n"])
def test_a_reply_is_that_of_llama_server(child: NativeClient, reference: Callable[..., Any], text: str) -> None:
    """Token by token: those of the prompt and those of the reply."""
    tokens = child.tokenize(chat(text))
    parts = [reference("/tokenize", content=each, parse_special=special)["tokens"] for each, special in chat(text)]
    assert list(tokens) == [token for part in parts for token in part]
    expected = reference("/completion", prompt=tokens, n_predict=60, temperature=0, return_tokens=True)
    for prompt in (chat(text), tokens):
        reply = child.complete(prompt, max_tokens=60, **GREEDY)
        assert reply.text == expected["content"]
        assert list(reply.tokens) == [
            token for token in expected["tokens"] if child.detokenize([token]) != "<|im_end|>"
        ]
        assert reply.ended.reason == ("stop" if expected["stop_type"] == "eos" else "length")
        assert reply.ended.prompt_size == len(tokens)
        assert reply.ended.tokens == len(reply.tokens)
        assert reply.ended.context_used == len(tokens) + len(reply.tokens)


def test_tokens_and_text(child: NativeClient) -> None:
    assert child.tokenize("<|im_end|>") != child.tokenize([("<|im_end|>", True)])
    assert len(child.tokenize([("<|im_end|>", True)])) == 1
    text = "Hello <|im_end|> é 🙂 数据\n\n  x"
    assert child.detokenize(child.tokenize(text)) == text
    assert child.tokenize("") == ()
    assert child.tokenize("a\udcffb\ud800") == child.tokenize("a\ufffdb\ufffd"), "what is none is read as U+FFFD"
    assert child.tokenize("a\0b") != child.tokenize("a")


# What these do to a reply that says the same again and again.
@pytest.mark.parametrize("name", ["repeat_penalty", "presence_penalty", "frequency_penalty"])
def test_each_penalty_reaches_the_library(child: NativeClient, name: str) -> None:
    plain = child.complete(chat(ENDLESS), max_tokens=30, **GREEDY)
    changed = child.complete(chat(ENDLESS), max_tokens=30, sampling={"temperature": 0, name: 2.0})
    assert changed.text != plain.text


@pytest.mark.parametrize("setting", [{"top_k": 1}, {"top_p": 0.0001}, {"min_p": 1.0}, {"temperature": 0.0001}])
def test_each_sampling_setting_reaches_the_library(child: NativeClient, setting: dict[str, float]) -> None:
    """Each by itself makes the hottest reply the coldest."""
    hot = HOT | {"seed": 3}
    cold = child.complete(chat(ENDLESS), max_tokens=12, **GREEDY)
    assert child.complete(chat(ENDLESS), max_tokens=12, sampling=hot).text != cold.text
    assert child.complete(chat(ENDLESS), max_tokens=12, sampling=hot | setting).text == cold.text


def test_a_seed_repeats_a_reply(child: NativeClient) -> None:
    def reply(seed: int) -> str:
        return child.complete(chat("Hello"), max_tokens=20, sampling=HOT | {"seed": seed}).text

    replies = [reply(seed) for seed in (1, 1, 2, 2**40 + 1)]
    assert replies[0] == replies[1] and len(set(replies)) > 1


def test_bytes_of_all_kinds_arrive(child: NativeClient) -> None:
    """A character when it is whole, and what is none as surrogates; nothing is lost and nothing is cut."""
    special = {token for token in range(300) if child.detokenize([token])[:2] == "<|"}
    for seed in range(12):
        reply = child.complete(chat("x"), max_tokens=40, sampling=HOT | {"seed": seed})
        assert reply.ended.tokens <= 40 and (reply.ended.reason != "length" or reply.ended.tokens > 36)
        if child.ready.library == "llama.cpp":  # which tells only the last token of those that make a character
            assert len(reply.tokens) <= reply.ended.tokens
        else:
            spelled = child.detokenize([token for token in reply.tokens if token not in special])
            assert (reply.text, len(reply.tokens)) == (spelled, reply.ended.tokens)
    joke = child.complete(chat("Tell me a joke 🙂"), **GREEDY)
    assert joke.text.endswith("😄")


@pytest.mark.parametrize(
    "stop", ["the conv", "forget", "t", "Type", " /clear to forget the conversation and start over."]
)
def test_no_part_of_a_stop_text_is_sent(child: NativeClient, stop: str) -> None:
    """Also where it begins and ends within tokens."""
    prompt = chat("How do I save the conversation?")
    whole = child.complete(prompt, **GREEDY).text
    reply = child.complete(prompt, stop=("never", stop), **GREEDY)
    assert reply.text == whole[: whole.index(stop)]
    assert reply.ended.reason == "stop_text"
    assert child.complete(prompt, stop=(whole + "?",), **GREEDY).text == whole, "what was held back is sent"


def test_limits(child: NativeClient) -> None:
    assert child.complete(chat(ENDLESS), max_tokens=7, **GREEDY).ended.tokens == 7
    nothing = child.complete(chat("read and no more"), max_tokens=0)
    assert (nothing.text, nothing.ended.reason, nothing.ended.tokens) == ("", "length", 0)
    assert child.complete(chat("read and no more"), max_tokens=1).ended.prompt_tokens == 1
    full = child.complete(chat(ENDLESS), **GREEDY).ended
    assert (full.reason, full.context_used) == ("context_full", child.ready.context_size)
    failed = refused(lambda: child.complete([1] * child.ready.context_size))
    assert failed.why == "context_full"
    assert child.complete([5] * (child.ready.context_size - 1), max_tokens=9).ended.reason == "context_full"


def test_grammars_and_schemas(child: NativeClient) -> None:
    assert child.complete(chat("x"), grammar='root ::= "yes 🙂" | "no"').text in ("yes 🙂", "no")
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}, "b": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}},
        "required": ["a", "b"],
    }
    content = json.loads(child.complete(chat("x"), schema=schema, sampling=HOT | {"seed": 1}).text)
    assert content["a"] in ("x", "y") and len(content["b"]) <= 2
    assert child.complete(chat("x"), schema={}, **GREEDY).text.startswith("{")
    limited = {"type": "integer", "minimum": 5, "maximum": 7}
    if child.ready.library == "llama.cpp":
        assert 5 <= json.loads(child.complete(chat("x"), schema=limited, **GREEDY).text) <= 7
    else:
        assert "minimum" in refused(lambda: child.complete(chat("x"), schema=limited)).args[0]
    failed = refused(lambda: child.complete(chat("x"), schema={"type": "integer", "minimum": 5, "not": {"const": 6}}))
    assert failed.why == "unsupported" and "not" in str(failed), "what is not obeyed is refused"
    assert refused(lambda: child.complete(chat("x"), grammar="root ::= ((")).why == "usage"
    assert refused(lambda: child.complete(chat("x"), grammar='a ::= "a"')).why == "usage"
    assert refused(lambda: child.complete(chat("x"), grammar="root ::= root")).why == "usage"
    assert refused(lambda: child.complete(chat("x"), grammar='root ::= "a"', schema={})).why == "usage"


def test_a_stop_ends_a_reply(child: NativeClient) -> None:
    expected = child.complete(chat("Hello"), **GREEDY).text
    id = child.begin(chat(ENDLESS), **GREEDY)
    messages = child.messages(id)
    until(messages, Token)
    child.stop(id)
    last = list(messages)[-1]
    assert isinstance(last, NativeReplyEnded) and last.reason in ("interrupted", "context_full")
    child.stop(id)
    child.stop(4711)
    assert child.complete(chat("Hello"), **GREEDY).text == expected


def test_a_stop_ends_the_reading_of_a_prompt(start: Start) -> None:
    tokens = [5 + at % 400 for at in range(900)]
    with start(context_size=1024, batch_size=4) as child:
        id = child.begin(tokens, **GREEDY)
        messages = child.messages(id)
        until(messages, Prefill, lambda message: message.done > 0)
        child.stop(id)
        ended = list(messages)[-1]
        assert isinstance(ended, NativeReplyEnded) and ended.reason == "interrupted"
        assert 0 < ended.prompt_tokens == ended.context_used < ended.prompt_size == len(tokens)
        again = child.complete(tokens, max_tokens=3, **GREEDY)
        assert again.ended.prompt_tokens < len(tokens), "what was read is kept"
        assert [each.done for each in again.prefill] == sorted(each.done for each in again.prefill)
        assert (again.prefill[-1].done, again.prefill[-1].total) == (len(tokens), len(tokens))
        child.complete([9, 8, 7], max_tokens=1)
        assert child.complete(tokens, max_tokens=3, **GREEDY).tokens == again.tokens


def test_what_two_requests_share_is_read_once(child: NativeClient) -> None:
    first = child.complete(chat("How do I save the conversation?"), **GREEDY)
    more = [*chat("How do I save the conversation?"), (first.text, False), ("<|im_end|>\n", True), *chat("And then?")]
    second = child.complete(more, **GREEDY)
    assert second.ended.prompt_size - second.ended.prompt_tokens >= first.ended.context_used
    assert second.prefill[0].cached == second.ended.prompt_size - second.ended.prompt_tokens


@pytest.mark.parametrize("sequences", [1, 2])
def test_a_state_outlives_the_process(start: Start, tmp_path: Path, sequences: int) -> None:
    tokens = [5 + at % 400 for at in range(300)]
    with start(state_folder=tmp_path, sequences=sequences) as child:
        assert refused(lambda: child.save("nothing yet")).why == "failed"
        expected = child.complete(tokens, max_tokens=8, **GREEDY)
        saved = child.save("here")
        assert saved >= len(tokens)
    with start(state_folder=tmp_path, sequences=sequences) as child:
        child.complete([9, 8, 7], max_tokens=1)
        assert child.restore("here") == saved
        again = child.complete(tokens, max_tokens=8, **GREEDY)
        assert (again.tokens, again.ended.prompt_tokens) == (expected.tokens, 1)
        (tmp_path / "broken").write_bytes(b"nothing")
        assert refused(lambda: child.restore("broken")).why in ("failed", "usage")
        assert refused(lambda: child.restore("none")).why in ("failed", "usage")
        for name in ("../here", "a/b", "", "..", "C:x"):
            assert refused(lambda name=name: child.save(name)).why == "usage"  # type: ignore[misc]
        assert child.complete(tokens, max_tokens=8, **GREEDY).tokens == expected.tokens


def test_a_prompt_behind_a_restored_state_is_read_in_slices(start: Start, tmp_path: Path) -> None:
    tokens = [5 + at % 400 for at in range(300)]
    for prompt, shared in ((tokens, 200), ([*tokens[:100], 9, *tokens[100:]], 100)):
        with start(state_folder=tmp_path, batch_size=16) as child:
            child.complete(tokens[:200], max_tokens=1, **GREEDY)
            child.save("here")
            expected = child.complete(prompt, max_tokens=8, **GREEDY)
        with start(state_folder=tmp_path, batch_size=16) as child:
            assert child.restore("here") >= 200
            again = child.complete(prompt, max_tokens=8, **GREEDY)
            assert again.tokens == expected.tokens
            assert (again.ended.prompt_size, again.ended.prompt_tokens) == (len(prompt), len(prompt) - shared)
            assert again.prefill[0].cached == shared and again.prefill[-1].done == len(prompt)
            assert child.complete(prompt, max_tokens=8, **GREEDY).ended.prompt_tokens == 1, "all of it is in the slot"


def test_what_was_not_asked_for_is_refused_by_name(start: Start) -> None:
    with start() as child:
        for call in (lambda: child.embed("x"), lambda: child.save("x"), lambda: child.restore("x")):
            assert refused(call).why == "unsupported"


def test_embeddings(start: Start) -> None:
    with start(embeddings=True) as child:
        assert "embed" in child.ready.can
        first, same, other = child.embed("Hello there"), child.embed("Hello there"), child.embed("数据")
        assert first == pytest.approx(same) and first != pytest.approx(other)
        assert sum(value * value for value in first) == pytest.approx(1)
        assert refused(lambda: child.embed("")).why == "usage"
        assert refused(lambda: child.embed("x" * 4000)).why == "context_full"
        assert child.embed("Hello there") == pytest.approx(first)


def test_several_sequences_at_once(start: Start, child: NativeClient) -> None:
    texts = ["How do I save the conversation?", "Tell me a joke", ENDLESS, "Hello", "Who are you?"]
    shared: list[Piece] = [("<|im_start|>system\n", True), ("Be brief. " * 9, False), ("<|im_end|>\n", True)]

    def alone(text: str) -> NativeReply:
        return child.complete([*shared, *chat(text)], max_tokens=40, **GREEDY)

    expected = [alone(text).tokens for text in texts]
    with start(sequences=3) as many:
        assert many.ready.sequences == 3 and many.ready.context_size >= WINDOW
        ids = [many.begin([*shared, *chat(text)], max_tokens=40, **GREEDY) for text in texts]
        assert [many.reply(id).tokens for id in ids] == expected
        ids = [many.begin(chat(ENDLESS), **GREEDY) for _ in range(4)]
        until(many.messages(ids[0]), Token)
        many.stop(ids[3])
        waiting = many.reply(ids[3]).ended
        assert waiting.reason == "interrupted"
        for id in ids[:3]:
            many.stop(id)
        assert {many.reply(id).ended.reason for id in ids[:3]} <= {"interrupted", "context_full"}
        seeded = {
            "max_tokens": 20,
            "sampling": HOT | {"seed": 5, "top_k": 4},
        }  # the rest of the vocabulary is all alike
        ids = [many.begin(chat("Hello"), **seeded) for _ in range(3)]
        assert len({many.reply(id).tokens for id in ids}) == 1, "replies made at once share no random numbers"


def test_requests_that_are_wrong_end_nothing(child: NativeClient) -> None:
    lines = [
        {"kind": "nothing", "id": 900},
        {"kind": "complete", "id": 900, "what": 1},
        {"kind": "complete", "id": 900, "prompt": "text"},
        {"kind": "complete", "id": 900, "prompt": [["text", 1]]},
        {"kind": "complete", "id": 900, "tokens": [-1]},
        {"kind": "complete", "id": 900, "tokens": [10**9]},
        {"kind": "complete", "id": 900, "tokens": [True]},
        {"kind": "complete", "id": 900},
        {"kind": "complete", "id": 900, "tokens": [5], "prompt": [["text", False]]},
        {"kind": "complete", "id": 900, "tokens": [5], "max_tokens": -1},
        {"kind": "complete", "id": 900, "tokens": [5], "sampling": {"temp": 1}},
        {"kind": "complete", "id": 900, "tokens": [5], "sampling": {"temperature": "hot"}},
        {"kind": "complete", "id": 900, "tokens": [5], "sampling": {"temperature": float("nan")}},
        {"kind": "complete", "id": 900, "tokens": [5], "sampling": {"top_k": 0.5}},
        {"kind": "complete", "id": 900, "tokens": [5], "stop": "text"},
        {"kind": "complete", "id": 900, "tokens": [5], "schema": []},
        {"kind": "detokenize", "id": 900, "tokens": [10**9]},
        {"kind": "save", "id": 900, "file": "/etc/passwd"},
    ]
    for line in lines:
        child.send_line(json.dumps(line).encode() + b"\n")
        (message,) = child.messages(900)
        assert isinstance(message, NativeFailed) and message.why == "usage", (line, message)
    assert child.complete(chat("Hello"), **GREEDY).text


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"[" * 100_000 + b"\n",
        b"\xff\n",
        b'{"kind":"stop","id":"5"}\n',
    ],
)
def test_a_line_that_names_no_request_ends_the_child(start: Start, line: bytes) -> None:
    with start() as child:
        child.send_line(line)
        failed = refused(lambda: next(child.messages(1)))
        assert failed.why == "usage" and str(failed)
        assert child.wait() == 2


def test_an_id_is_used_once_at_a_time(child: NativeClient) -> None:
    id = child.begin(chat(ENDLESS), **GREEDY)
    child.send_line(b'{"kind":"complete","id":%d,"tokens":[5]}\n' % id)
    messages = list(child.messages(id))
    assert isinstance(messages[-1], NativeFailed) and messages[-1].why == "usage"
    child.stop(id)
    assert child.reply(id).ended.reason in ("interrupted", "context_full")


def test_the_end_of_the_input_ends_the_child(start: Start) -> None:
    with start() as child:
        until(child.messages(child.begin(chat(ENDLESS), **GREEDY)), Token)
        assert child._process.stdin is not None
        child._process.stdin.close()
        assert child.wait() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_signals(start: Start) -> None:
    with start() as child:
        os.kill(child.pid, signal.SIGINT)
        assert child.complete(chat("Hello"), **GREEDY).text
        os.kill(child.pid, signal.SIGTERM)
        assert child.wait() == -signal.SIGTERM


def test_it_dies_with_its_parent(engine: EngineBinary, model: Path) -> None:
    program = (
        "import subprocess, sys, json, os, signal\n"
        "child = subprocess.Popen(json.loads(sys.argv[1]), stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "while b'ready' not in child.stdout.readline(): pass\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    words = json.dumps(command(engine, model, context_size=WINDOW, threads=1))
    done = subprocess.run([sys.executable, "-c", program, words], capture_output=True, timeout=TIMEOUT, check=False)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(TIMEOUT)


@pytest.mark.parametrize("content", [b"", b"nothing", b"GGUF\x03\x00\x00\x00" + b"\xff" * 40, None])
def test_a_model_that_cannot_be_loaded(engine: EngineBinary, tmp_path: Path, content: bytes | None) -> None:
    """With the library's reason, the name of the file not among the guesses."""
    file = tmp_path / "broken é.gguf"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(NativeClientError) as caught:
        NativeClient(command(engine, file, context_size=WINDOW, threads=1), timeout=TIMEOUT)
    assert caught.value.why == "model"
    assert len(str(caught.value)) > 20 and "check the input params" not in str(caught.value)


def test_a_folder_without_the_library(engine: EngineBinary, tmp_path: Path, model: Path) -> None:
    words = command(engine, model)
    words[words.index("--folder") + 1] = str(tmp_path)
    with pytest.raises(NativeClientError) as caught:
        NativeClient(words, timeout=TIMEOUT)
    assert caught.value.why == "failed" and str(tmp_path) in str(caught.value)


def test_metadata_from_outside(engine: EngineBinary, start: Start) -> None:
    with pytest.raises(NativeClientError) as caught:
        start(overrides=["bitnet.context_length=text:300"])
    assert caught.value.why == ("usage" if engine.make is EngineVariant.IK else "unsupported")
    if engine.make is EngineVariant.IK:
        with start(context_size=None, overrides=["bitnet.context_length=int:256"]) as child:
            assert child.ready.context_size == 256


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal")
def test_a_raw_terminal(engine: EngineBinary, model: Path) -> None:
    """Long lines in, long lines out; the end of the terminal is the end."""
    import pty
    import tty

    ours, its = pty.openpty()
    tty.setraw(its)
    words = command(engine, model, context_size=4096, threads=1)
    process = subprocess.Popen(words, stdin=its, stdout=its, stderr=subprocess.DEVNULL, start_new_session=True)
    os.close(its)
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        received = b""
        while b'"ready"' not in received:
            received += terminal.read(1 << 16)
        text = "a\u0003\u0004\u001a é" * 2000
        line = json.dumps({"kind": "tokenize", "id": 1, "prompt": [[text, False]]}).encode() + b"\n"
        while line:
            line = line[terminal.write(line) :]
        received = b""
        while b"\n" not in received:
            received += terminal.read(1 << 16)
        assert len(json.loads(received)["tokens"]) > 4000
    assert process.wait(TIMEOUT) in (0, -getattr(signal, "SIGHUP", 1))


def variants(client: NativeClient, prompt: Any, count: int = 3, **fields: Any) -> list[NativeReply]:
    id = client.begin(prompt, count=count, **fields)
    return [client.reply(id + number) for number in range(count)]


@pytest.fixture
def varied(child: NativeClient) -> NativeClient:
    if "variants" not in child.ready.can:
        with pytest.raises(NativeClientError, match="as it was started: variants"):
            variants(child, chat("Hello."))
        pytest.skip("a library that generates one reply at a time, and says so")
    return child


@pytest.mark.parametrize("temperature", [0, 0.9])
def test_variants_are_the_single_replies(varied: NativeClient, temperature: float) -> None:
    """The prompt is evaluated once for all, and the next turn on any of them evaluates at most the reply."""
    asked, limits = chat("Tell me a story about a mill. " * 5), {"max_tokens": 40}
    alone = [
        varied.complete(asked, sampling={"temperature": temperature, "seed": 7 + number}, **limits)
        for number in range(3)
    ]
    varied.complete(chat("Hello."), max_tokens=1)
    together = variants(varied, asked, sampling={"temperature": temperature, "seed": 7}, **limits)
    assert [each.tokens for each in together] == [each.tokens for each in alone]
    assert [each.text for each in together] == [each.text for each in alone]
    sizes = {(each.ended.prompt_tokens, each.ended.prompt_size) for each in together}
    ((evaluated, size),) = sizes
    assert size // 2 < evaluated <= size == alone[0].ended.prompt_size
    for each in together:
        again = [*asked, (each.text, False), ("<|im_end|>\n<|im_start|>user\n", True), ("And?", False)]
        followed = varied.complete(again, max_tokens=1)
        assert followed.ended.prompt_tokens < followed.ended.prompt_size - size + 3


def test_the_ends_of_variants(varied: NativeClient) -> None:
    asked = [(ENDLESS, False)]
    assert [each.ended.reason for each in variants(varied, asked, max_tokens=5)] == ["length"] * 3
    word = varied.complete(asked, max_tokens=30, **GREEDY).text[12:16]
    alone = varied.complete(asked, max_tokens=30, stop=[word], **GREEDY)
    for each in variants(varied, asked, max_tokens=30, stop=[word], **GREEDY):
        assert (each.ended.reason, each.text) == ("stop_text", alone.text)
    id = varied.begin(asked, count=3)
    while not isinstance(next(varied.messages(id)), Token):
        pass
    for number in (1, 0, 2):
        varied.stop(id + number)
    # A fast computer may have filled the window before.
    assert {varied.reply(id + number).ended.reason for number in range(3)} <= {"interrupted", "context_full"}
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    for each in variants(varied, chat("A number?"), schema=schema, max_tokens=60, sampling={"seed": 1}):
        assert each.text.startswith("{")
    id = varied.begin(asked, count=2, grammar="root ::= (")
    for number in range(2):
        with pytest.raises(NativeClientError, match="grammar"):
            varied.reply(id + number)
    assert varied.complete(asked, max_tokens=3, **GREEDY).ended.tokens == 3


def test_variants_share_the_window(varied: NativeClient) -> None:
    found = variants(varied, [(ENDLESS, False)], sampling={**HOT, "seed": 1})
    if any(each.ended.reason == "stop" for each in found):
        pytest.skip("the model ended a reply")
    assert {each.ended.reason for each in found} == {"context_full"}
    assert sum(each.ended.tokens for each in found) + found[0].ended.prompt_size <= WINDOW + 8
    assert varied.complete([(ENDLESS, False)], max_tokens=3, **GREEDY).ended.tokens == 3


@pytest.mark.parametrize("options", [{"variants": 1}, {"batch_size": 4}, {"sequences": 2}], ids=str)
def test_a_child_without_variants(start: Start, options: dict[str, int]) -> None:
    with start(**options) as child:
        assert "variants" not in child.ready.can
        assert child.complete(chat("Hello."), max_tokens=3, **GREEDY).ended.tokens == 3


@pytest.mark.parametrize("count", [0, 9, 1.5])
def test_a_number_of_variants_that_is_refused(child: NativeClient, count: Any) -> None:
    with pytest.raises(NativeClientError, match="count of the request 'complete' must be an integer from 1 to 8"):
        child.complete(chat("Hello."), count=count)
