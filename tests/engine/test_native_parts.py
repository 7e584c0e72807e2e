"""The parts of the native child that decide, each by itself; and how the child is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

import bitnet_chat
from bitnet_chat.backend import Sampling
from bitnet_chat.engine.binary import Dialect, EngineBinary, EngineVariant, HelpOptions
from bitnet_chat.engine.native import __main__ as program
from bitnet_chat.engine.native import ik_api, protocol
from bitnet_chat.engine.native.__main__ import OutputWriter
from bitnet_chat.engine.native.active_reply import ReplyTextDecoder, RunningReply
from bitnet_chat.engine.native.child import PieceCache
from bitnet_chat.engine.native.client import command
from bitnet_chat.engine.native.grammar import of_schema
from bitnet_chat.engine.native.library import (
    GenerationRequest,
    LibrarySettings,
    Sequences,
    batch_size,
    common,
    mean,
    prefill_slices,
)
from bitnet_chat.engine.native.llama_cpp import LlamaCpp
from bitnet_chat.engine.native.protocol import Complete, NativeFailed, Piece, Prefill, Token
from bitnet_chat.errors import GrammarSchemaError, NativeLoadError, NativeProtocolError


def texts(pieces: list[bytes], *stops: str, by_token: bool = False) -> list[tuple[str, tuple[int, ...]]]:
    reply = ReplyTextDecoder(stops)
    said = [reply.add(at, piece) for at, piece in enumerate(pieces)]
    return [*said, reply.end(by_token=by_token)]


@pytest.mark.parametrize("cut", range(1, 10))
def test_a_character_is_sent_when_it_is_whole(cut: int) -> None:
    text = "a🙂é数\ufffd"
    data = text.encode()
    said = texts([data[at : at + cut] for at in range(0, len(data), cut)])
    assert "".join(part for part, _ in said) == text
    assert [token for _, tokens in said for token in tokens] == list(range(-(-len(data) // cut)))
    assert all(character < "\udc80" or character > "\udcff" for part, _ in said for character in part)


def test_bytes_of_no_character_become_surrogates() -> None:
    assert texts([b"\xf0\x9f", b"x\xff"]) == [("", ()), ("\udcf0\udc9fx\udcff", (0, 1)), ("", ())]
    assert texts([b"a", b"\xe4\xb8"]) == [("a", (0,)), ("", ()), ("\udce4\udcb8", (1,))]


def test_the_token_that_ends_a_reply_is_none_of_it() -> None:
    assert texts([b"a", b""], by_token=True) == [("a", (0,)), ("", ()), ("", ())]
    assert texts([b"", b"a", b""], by_token=True) == [("", ()), ("a", (0, 1)), ("", ()), ("", ())]
    reply = ReplyTextDecoder(())
    reply.add(None, b"\xe4\xb8\xad", 2)
    assert reply.count == 2
    reply.add(7, b"")
    assert reply.end(by_token=True) == ("", ()) and reply.count == 2


def test_tokens_that_are_not_all_known_are_not_told() -> None:
    reply = ReplyTextDecoder(())
    assert reply.add(None, "é".encode(), 2) == ("é", ())
    assert reply.add(5, b"x") == ("x", (5,))


def test_a_stop_text_over_several_tokens() -> None:
    assert texts([b"to be", b" or n", b"ot"], "or not") == [("to be", (0,)), (" ", (1,)), ("", ()), ("", ())]
    assert texts([b"to be", b" or"], "or not")[-1] == ("or", ())


def test_what_sequences_share() -> None:
    assert [common((1, 2, 3), other) for other in ((), (1,), (1, 2, 4), (1, 2, 3, 4))] == [0, 1, 2, 3]
    sequences = Sequences(3)
    first = sequences.take([1, 2, 3])
    sequences.put(first, (1, 2, 3))
    second = sequences.take([1, 2, 9])
    assert second != first, "a busy one is not taken"
    assert sequences.donor([1, 2, 9]) == first, "but has something to give"
    sequences.put(second, (1, 2, 9))
    sequences.release(first)
    sequences.release(second)
    assert sequences.take([1, 2, 3, 4]) == first and sequences.last == first
    third = sequences.take([7])
    assert third not in (first, second), "the one used longest ago"
    assert sequences.evaluated(second) == (1, 2, 9)


def test_pieces_are_tokenized_once() -> None:
    asked: list[Piece] = []

    def tokenize(piece: Piece) -> tuple[int, ...]:
        asked.append(piece)
        return tuple(map(ord, piece[0]))

    cache = PieceCache(tokenize, limit=6)
    assert cache.tokens([("ab", False), ("", True), ("ab", True), ("ab", False)]) == (97, 98) * 3
    assert asked == [("ab", False), ("ab", True)]
    cache.tokens([("cdef", False), ("ab", False)])
    assert asked == [("ab", False), ("ab", True), ("cdef", False)], "what was used last is kept"
    assert cache.tokens([("too long for it", False)]) == tuple(map(ord, "too long for it"))


def test_the_sampling_settings_of_the_program_are_those_of_the_child() -> None:
    assert {each.name for each in fields(Sampling)} == set(protocol.SAMPLING)
    every: dict[str, float] = dict.fromkeys(protocol.SAMPLING, 1)
    assert not protocol.problem(Complete(id=1, tokens=(1,), sampling=every))


def test_a_line_that_cannot_be_read_names_its_request_if_it_can() -> None:
    for line, id in (
        (b'{"kind":"x","id":3}', 3),
        (b'{"id":4}', 4),
        (b'{"kind":"stop","id":"5"}', None),
        (b"[6]", None),
    ):
        try:
            request = protocol.decode_request(line)
            assert protocol.problem(request)
        except NativeProtocolError as error:
            assert error.id == id
    lone = Token(id=1, text="\udc80\ud800 é\n", tokens=(1,))
    assert protocol.decode_message(protocol.encode(lone)) == lone
    assert protocol.encode(lone).isascii() and protocol.encode(lone).count(b"\n") == 1


@pytest.mark.parametrize(
    ("name", "size", "threads", "expected"),
    [
        ("toy.gguf", 2_000_000, 1, 512),
        ("smol.gguf", 98_362_432, 1, 64),
        ("smol.gguf", 98_362_432, 2, 64),
        ("smol.gguf", 98_362_432, 4, 128),
        ("2b.gguf", 1_200_000_000, 2, 16),
        ("70b.gguf", 40_000_000_000, 4, 16),
        ("70b-00001-of-00050.gguf", 90_000_000, 1, 16),
        ("empty", 0, 1, 512),
    ],
)
def test_batches_fit_the_model(name: str, size: int, threads: int, expected: int) -> None:
    assert batch_size(name, size, threads, 16) == expected


def test_a_mean_has_the_length_of_1() -> None:
    assert mean([[3.0, 4.0]]) == pytest.approx((0.6, 0.8))
    assert mean([[1.0, 0.0], [0.0, 1.0]]) == pytest.approx((0.5**0.5, 0.5**0.5))
    assert mean([[0.0, 0.0]]) == (0.0, 0.0)


TREE: dict[str, Any] = {
    "$defs": {
        "node": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}
    },
    "$ref": "#/$defs/node",
}
SCHEMAS: list[tuple[dict[str, Any], list[Any], list[Any]]] = [
    ({}, [{}, {"a": [1, "\n", None, True, -2.5e3]}], [[], 1, "x"]),
    ({"type": "object"}, [{"": ""}], [[]]),
    ({"enum": ["a", 'q"\\\n', 5, None]}, ["a", 'q"\\\n', 5, None], ["b", 6]),
    ({"const": {"a": [1]}}, [{"a": [1]}], [{"a": [2]}]),
    (
        {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
        [[1], [1, -2]],
        [[], [1, 2, 3], ["x"]],
    ),
    ({"type": "array", "maxItems": 0}, [[]], [[1]]),
    ({"type": "array", "maxItems": 1}, [[], [{}]], [[1, 2]]),
    ({"type": "array", "minItems": 2}, [[1, 2], [1, 2, 3]], [[1]]),
    ({"type": "string", "minLength": 1, "maxLength": 2}, ["é", '"\\'], ["", "abc"]),
    ({"type": ["string", "null"], "maxLength": 1}, ["a", None], ["ab", 1]),
    (
        {"properties": {"a": {"type": "boolean"}, "b": {"type": "number"}, "c": {}}, "required": ["b"]},
        [{"b": 1}, {"a": True, "b": 0.5}, {"a": False, "b": 1, "c": []}, {"b": 1, "c": {}}],
        [{}, {"a": True}, {"b": "x"}],
    ),
    ({"type": "object", "additionalProperties": {"type": "null"}, "required": ["x"]}, [{"x": None}], [{}, {"x": 1}]),
    ({"type": "object", "properties": {}, "additionalProperties": False}, [{}], [{"a": 1}]),
    (TREE, [{}, {"next": None}, {"next": {"next": {}}}], [{"next": 1}, []]),
    (
        {"properties": {"a": {"type": "null"}}, "additionalProperties": True},
        [{"a": None, "b": 1}, {"b": 2}],
        [{"a": 1}],
    ),
]


class Matcher:
    """Whether a text is one of a grammar (GBNF of the forms that are written here), by trying all ways."""

    def __init__(self, grammar: str) -> None:
        self._rules = dict(line.split(" ::= ", 1) for line in grammar.splitlines())

    def __call__(self, text: str) -> bool:
        return len(text) in self._rule("root", text, 0)

    def _rule(self, name: str, text: str, at: int) -> set[int]:
        return self._choice(self._rules[name], text, at)

    def _choice(self, body: str, text: str, at: int) -> set[int]:
        ends: set[int] = set()
        for option in split(body, "|"):
            here = {at}
            for item, low, high in items(option):
                here = self._repeated(item, low, high, text, here)
            ends |= here
        return ends

    def _repeated(self, item: str, low: int, high: int | None, text: str, here: set[int]) -> set[int]:
        found = set(here) if low == 0 else set()
        count, seen = 0, set(here)
        while here and (high is None or count < high):
            here = {end for at in here for end in self._one(item, text, at)} - (seen if count >= low else set())
            count += 1
            seen |= here
            if count >= low:
                found |= here
        return found

    def _one(self, item: str, text: str, at: int) -> set[int]:
        if item[0] == "(":
            return self._choice(item[1:-1], text, at)
        if item[0] == '"':
            literal = json.loads('"' + item[1:-1].replace("\\-", "-") + '"')
            return {at + len(literal)} if text.startswith(literal, at) else set()
        if item[0] == "[":
            import re

            return {at + 1} if re.compile(item).match(text, at) else set()
        return self._rule(item, text, at)


def split(body: str, mark: str) -> Iterator[str]:
    depth, start = 0, 0
    for at, character in tokens_of(body):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == mark and depth == 0:
            yield body[start:at]
            start = at + 1
    yield body[start:]


def tokens_of(body: str) -> Iterator[tuple[int, str]]:
    """Characters that are not within a literal or a class."""
    within = ""
    skip = False
    for at, character in enumerate(body):
        if skip:
            skip = False
        elif within:
            skip = character == "\\"
            within = "" if character == within else within
        elif character in '"[':
            within = {'"': '"', "[": "]"}[character]
        else:
            yield at, character


def items(option: str) -> Iterator[tuple[str, int, int | None]]:
    import re

    pattern = re.compile(r'("(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|\w+|\()')
    at = 0
    while match := pattern.search(option, at):
        end = match.end()
        if match[1] == "(":
            depth = 0
            for offset, character in tokens_of(option[match.start() :]):
                depth += {"(": 1, ")": -1}.get(character, 0)
                if depth == 0:
                    end = match.start() + offset + 1
                    break
        item = option[match.start() : end]
        count = re.compile(r"[*?+]|\{(\d+),?(\d*)\}").match(option, end)
        low, high = 1, 1
        if count:
            end = count.end()
            bounds = {"*": (0, None), "?": (0, 1), "+": (1, None)}
            low, high = bounds.get(count[0]) or (
                int(count[1]),
                int(count[2]) if count[2] else None if "," in count[0] else int(count[1]),
            )
        yield item, low, high
        at = end


@pytest.mark.parametrize(("schema", "right", "wrong"), SCHEMAS, ids=[json.dumps(each[0])[:40] for each in SCHEMAS])
def test_schemas_as_grammars(schema: dict[str, Any], right: list[Any], wrong: list[Any]) -> None:
    matches = Matcher(of_schema(schema))
    validator = jsonschema_rs.validator_for(schema)
    for value in right:
        assert validator.is_valid(value)
        for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, separators=(",", ":"))):
            assert matches(text) or (text != json.dumps(value, ensure_ascii=False) and matches(json.dumps(value))), text
    for value in wrong:
        assert not matches(json.dumps(value)), value
    assert not matches(json.dumps(right[0]) + "x")


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "string", "pattern": "^a$"}, "pattern"),
        ({"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}}, "minimum"),
        ({"allOf": [{"type": "string"}, {"maxLength": 3}]}, "allOf"),
        ({"type": "text"}, "text"),
        ({"not": {}}, "not"),
        ({"type": "array", "items": False}, "false"),
        ({"$ref": "#/$defs/none"}, "none"),
        ({"$ref": "https://example.org/x"}, "example.org"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "minItems"),
        ({"type": "object", "properties": {}, "additionalProperties": False, "required": ["a"]}, "'a'"),
        ({"enum": []}, "enum"),
    ],
)
def test_what_a_schema_demands_is_never_left_out(schema: dict[str, Any], named: str) -> None:
    with pytest.raises(GrammarSchemaError, match=named):
        of_schema(schema)


def test_keywords_that_a_library_reads_itself() -> None:
    assert of_schema({"type": "string", "pattern": "^a$"}, {"pattern"})
    with pytest.raises(GrammarSchemaError, match="not"):
        of_schema({"type": "array", "items": {"pattern": "^a$", "not": {}}}, {"pattern"})


def test_metadata_for_the_library() -> None:
    entries = ik_api.overrides(("a.b=int:-5", "c=bool:true", "d=float:0.5", "e=str:x=y:z"))
    assert [entry.key for entry in entries] == [b"a.b", b"c", b"d", b"e", b""]
    assert [entry.tag for entry in entries[:4]] == [0, 2, 1, 3]
    assert (entries[0].value.int, entries[1].value.bool, entries[2].value.float) == (-5, True, 0.5)
    assert entries[3].value.str == b"x=y:z"
    for word in (
        "a",
        "a=int",
        "a=int:x",
        "a=word:x",
        "=int:5",
        "a=bool:yes",
        "a=str:" + "x" * 128,
        "k" * 128 + "=int:1",
    ):
        with pytest.raises(NativeLoadError):
            ik_api.overrides((word,))


def test_a_library_of_another_version_is_found_out() -> None:
    class Library:
        @staticmethod
        def llama_model_default_params() -> Any:
            return ik_api.ModelParameters(split_mode=1, n_seq_max=1, n_ubatch=512)

        llama_context_default_params = ik_api.ContextParameters

    assert "use_mmap" in ik_api.unexpected(Library) and "n_ctx" in ik_api.unexpected(Library)


def test_a_reply_does_not_wait_for_a_parent_that_does_not_read() -> None:
    reader, writer = os.pipe()
    output = OutputWriter(writer)
    for number in range(5000):
        output.send(Token(id=number, text="x" * 100))
    output.close(0.01)
    received = b""
    while received.count(b"\n") < 5000:
        received += os.read(reader, 1 << 20)
    assert b'"id":4999' in received
    output.close(10)
    os.close(reader)
    os.close(writer)


def test_a_stop_is_heard_once() -> None:
    heard: list[int] = []
    running = RunningReply(Complete(id=1), lambda _: None)
    running.when_stopped(lambda: heard.append(1))
    assert not running.is_cut
    running.stop()
    running.stop()
    running.when_stopped(lambda: heard.append(2))
    assert heard == [1, 2] and running.is_cut
    assert running.ended("cut").reason == "interrupted"


def engine(make: EngineVariant) -> EngineBinary:
    return EngineBinary(Path("/engines/x"), Dialect.NATIVE, "1", HelpOptions(), make)


def test_the_command_line() -> None:
    words = command(
        engine(EngineVariant.IK), Path("m.gguf"), context_size=512, threads=2, sequences=3, overrides=["a=int:1"]
    )
    assert words[:6] == [sys.executable, "-I", "-S", "-X", "utf8", "-c"]
    name, settings = program.arguments(words[8:])
    assert (name, settings.model, settings.context_size) == ("ik_llama.cpp", Path("m.gguf"), 512)
    assert (settings.threads, settings.sequences, settings.overrides) == (2, 3, ("a=int:1",))
    assert (settings.batch_size, settings.embeddings, settings.state_folder) == (0, False, None)
    name, settings = program.arguments(
        command(engine(EngineVariant.LLAMA), Path("m"), embeddings=True, state_folder=Path("s"), batch_size=8)[8:]
    )
    assert (name, settings.embeddings, settings.state_folder, settings.batch_size) == ("llama.cpp", True, Path("s"), 8)


def test_the_program_by_its_name() -> None:
    argv = [sys.executable, "-m", "bitnet_chat.engine.native"]
    done = subprocess.run([*argv, "--help"], capture_output=True, text=True, check=True)
    assert "--library" in done.stdout and "--state-folder" in done.stdout
    for words in (
        ["--library", "other"],
        ["--library", "llama.cpp", "--folder", "x", "--model", "y", "--threads", "-1"],
    ):
        assert subprocess.run([*argv, *words], capture_output=True, check=False).returncode == 2


@pytest.fixture(scope="module")
def in_a_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = Path(bitnet_chat.__file__).parent
    path = tmp_path_factory.mktemp("zip") / "program é.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.py")):
            archive.write(file, file.relative_to(root.parent))
    return path


def test_it_runs_from_a_zip_and_says_what_is_missing(in_a_zip: Path, tmp_path: Path) -> None:
    """Whatever is printed to stdout by others goes to stderr."""
    (tmp_path / "xllamacpp.py").write_text(
        "import os\nprint('noise')\nos.system('echo noise')\nraise ImportError('no')\n"
    )
    words = command(engine(EngineVariant.LLAMA), Path("m.gguf"))
    words[7] = str(in_a_zip)
    words[words.index("--folder") + 1] = str(tmp_path)
    done = subprocess.run(words, input=b"", capture_output=True, check=False)
    messages = [protocol.decode_message(line) for line in done.stdout.splitlines()]
    if done.returncode:  # the end of the input may be heard first
        assert done.returncode == 1 and isinstance(messages[-1], NativeFailed) and "no" in messages[-1].what
    assert b"noise" not in done.stdout


def test_the_child_imports_little() -> None:
    """Its start is waited for."""
    words = command(engine(EngineVariant.IK), Path("m.gguf"))
    package = "bitnet_chat.engine.native"
    names = f"{package}.__main__, {package}.ik_llama_cpp, {package}.llama_cpp"
    code = f"import sys; sys.path.insert(0, sys.argv.pop(1)); import {names}; print(*sys.modules)"
    done = subprocess.run([*words[:6], code, words[7]], capture_output=True, text=True, check=True)
    ours = {name.removeprefix("bitnet_chat.") for name in done.stdout.split() if name.startswith("bitnet_chat.")}
    allowed = {"engine", "errors", "text", "text.utf8", "filters", "filters.stop_texts", "version"}
    assert {name for name in ours if not name.startswith("engine.native")} <= allowed
    assert not {"asyncio", "pathlib._local", "subprocess", "platformdirs", "psutil", "numpy"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("start", "size", "batch", "ends"),
    [
        (0, 10, 16, []),
        (0, 16, 16, []),
        (0, 17, 16, [16]),
        (5, 40, 16, [21, 37]),
        (0, 192, 64, [64, 128]),
        (0, 190, 64, [64, 128, 160]),
        (0, 160, 64, [64, 128]),
        (100, 150, 64, []),
        (7, 7, 16, []),
        (9, 7, 16, []),
    ],
)
def test_a_prompt_is_read_in_slices(start: int, size: int, batch: int, ends: list[int]) -> None:
    assert list(prefill_slices(start, size, batch)) == ends


class ScriptedServer:
    """A library that reports the prefill of each request as llama.cpp does. ``after``: called after each request."""

    __version__, listening_address = "0", "http://127.0.0.1:1"

    def __init__(self, after: Callable[[int], None] = lambda count: None) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._cache: list[int] = []
        self._after = after

    def handle_completions(self, body: str, take: Callable[[str], bool]) -> None:
        request = json.loads(body)
        self.bodies.append(request)
        prompt = request["prompt"]
        cached = min(common(self._cache, prompt), len(prompt) - 1)
        self._cache = prompt
        choice = {"text": "", "index": 0, "logprobs": None, "finish_reason": "length"}
        for processed in (cached, len(prompt)):
            progress = {"total": len(prompt), "cache": cached, "processed": processed}
            take(json.dumps({"choices": [choice | {"finish_reason": None}], "prompt_progress": progress}))
        take(json.dumps({"choices": [choice], "timings": {"predicted_n": 0}}))
        self._after(len(self.bodies))


def scripted_library(monkeypatch: pytest.MonkeyPatch, server: ScriptedServer, **options: Any) -> LlamaCpp:
    facts = {
        "/props": {"default_generation_settings": {"n_ctx": 256}},
        "/v1/models": {"data": [{"meta": {"n_vocab": 9}}]},
    }
    monkeypatch.setattr(LlamaCpp, "_http", lambda self, method, path, body=None: facts[path])
    return LlamaCpp(server, server, "", LibrarySettings(Path(), Path(), **options), 16)


def test_a_stop_in_a_slice_is_the_end_of_a_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[protocol.Message] = []
    reply = RunningReply(Complete(id=1, tokens=(1,)), messages.append)
    server = ScriptedServer(lambda count: reply.stop() if count == 2 else None)
    library = scripted_library(monkeypatch, server)
    generation = GenerationRequest(tuple(range(100)), None, {}, "", None)
    assert library.complete(generation, reply) == "cut"
    assert [(len(body["prompt"]), body["n_predict"]) for body in server.bodies] == [(16, 0), (32, 0)]
    assert [message.done for message in messages if isinstance(message, Prefill)] == [0, 16, 32]
    server = ScriptedServer()
    library = scripted_library(monkeypatch, server)
    messages.clear()
    again = RunningReply(Complete(id=1, tokens=(1,)), messages.append)
    library.complete(generation, again)
    assert [len(body["prompt"]) for body in server.bodies] == [16, 32, 48, 64, 80, 96, 100]
    assert {(each.total, each.cached) for each in messages if isinstance(each, Prefill)} == {(100, 0)}
    server.bodies.clear()
    library.complete(GenerationRequest((*range(100), *range(20)), None, {}, "", None), again)
    assert [len(body["prompt"]) for body in server.bodies] == [116, 120], "the slot has the first hundred"


@pytest.mark.parametrize(("size", "options"), [(256, {}), (100, {"variants": 1})])
def test_a_prompt_that_is_one_request(monkeypatch: pytest.MonkeyPatch, size: int, options: dict[str, int]) -> None:
    """One that is refused, and one for a model with a state of its own for each sequence."""
    server = ScriptedServer()
    reply = RunningReply(Complete(id=1, tokens=(1,)), lambda message: None)
    generation = GenerationRequest(tuple(range(size)), None, {}, "", None)
    scripted_library(monkeypatch, server, **options).complete(generation, reply)
    assert [len(body["prompt"]) for body in server.bodies] == [size]
