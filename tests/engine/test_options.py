"""Options: how each generation of engines lists them, and the command lines that are made of them.

``options/*.txt`` has the options of six generations in the forms in which their ``--help`` lists them, without its
prose; ``options/commands.txt`` the command lines: name of the list, mode, words. After a change of what is passed,
``PRINT_COMMANDS=1 pytest tests/test_options.py -s`` prints them anew.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from bitnet_chat import paths
from bitnet_chat.backend import Sampling
from bitnet_chat.backends.llama_server import LlamaServer
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine import rpc
from bitnet_chat.engine.binary import Dialect, EngineBinary, HelpOption, read_options, recognise
from bitnet_chat.engine.protocols import EngineOptions, common_flags, left_out

HERE = Path(__file__).parents[1] / "data" / "options"
LISTS = {path.stem: path.read_text("utf-8") for path in sorted(HERE.glob("*-*.txt"))}
SERVERS = [name for name in LISTS if name.endswith("server")]
CHATS = [name for name in LISTS if name not in SERVERS]
ALL = {  # with every setting set
    "ctx": 512,
    "threads": 1,
    "temperature": 0.5,
    "seed": 7,
    "max_tokens": 9,
    "chat_template": "chatml",
    "journal": False,
}
MODES = {
    "chat": Settings(journal=False, ctx=512),
    "chat, everything set": Settings(**ALL),  # type: ignore[arg-type]
    "pipe": Settings(**ALL, io="pipe"),  # type: ignore[arg-type]
    "rpc": Settings(**ALL, rpc="127.0.0.1:50052"),  # type: ignore[arg-type]
}
CASES = [(name, mode) for name in CHATS for mode in MODES if mode != "rpc" or "--rpc" in LISTS[name]]
CASES += [
    (name, mode) for name in SERVERS for mode in ("server", "server, rpc") if mode == "server" or "--rpc" in LISTS[name]
]


def binary(name: str) -> EngineBinary:
    found = recognise(Path(name.rpartition("-")[2]), LISTS[name], "")
    assert found is not None
    return found


def listed(word: str, text: str) -> str:
    """The line of a list that has an option, read without the code under test."""
    lines = [line for line in text.splitlines() if re.search(rf"(^|[\s,]){re.escape(word)}(?=[\s,]|$)", line)]
    assert lines, f"{word} is not listed"
    return lines[0]


def check(words: list[str], text: str) -> None:
    """Each option is listed, and has a value just where one is listed."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        line = listed(word, text)
        value = re.sub(r"(^|(?<=[\s,]))--?[A-Za-z][\w.-]*", "", line).strip(" ,")
        if value:
            given = rest.pop(0)
            if choices := re.fullmatch(r"[\[{(<](\w+(?:[|,]\w+)+)[\]})>]", value):
                assert given in re.split("[|,]", choices[1]), f"{word} {given}: {line}"


def command(name: str, mode: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    path = folder / ("llama-server" if name in SERVERS else "llama-cli")
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{LISTS[name]}\nEND\n")
    path.chmod(0o755)
    model = paths.bundled_model()
    assert model is not None
    monkeypatch.setattr(rpc, "knock", lambda servers: None)
    if name in SERVERS:
        servers = "127.0.0.1:50052" if "rpc" in mode else ""
        settings = Settings(**{**ALL, "engine": str(path), "model": str(model), "rpc": servers})  # type: ignore[arg-type]
        words = LlamaServer(settings, parallel=2).command()
    else:
        from dataclasses import replace

        backend = LocalEngineBackend(replace(MODES[mode], engine=str(path), model=str(model)))
        launch = backend.protocol().launch(Conversation().with_system("Be brief."))
        words = [launch.argv[0], launch.prompt_flag, "PROMPT", *launch.argv[1:]]
    assert words[0] == str(path)
    return [{str(model): "MODEL"}.get(word, word) for word in words[1:]]


@pytest.mark.skipif(sys.platform == "win32", reason="programs are shell scripts here")
@pytest.mark.parametrize(("name", "mode"), CASES)
def test_a_command_line_has_what_is_listed_as_it_is_listed(
    name: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = command(name, mode, tmp_path, monkeypatch)
    check(words, LISTS[name])
    kinds = {"--in-prefix": "PREFIX", "--in-suffix": "SUFFIX", "--chat-template": "TEMPLATE"}
    shown = [kinds.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    line = f"{name} | {mode} | {shlex.join(shown)}"
    if "PRINT_COMMANDS" in os.environ:
        print(f"\n{line}")
    else:
        assert line in (HERE / "commands.txt").read_text("utf-8").splitlines()


def test_a_setting_that_an_engine_does_not_list_is_told() -> None:
    text = "\n".join(line for line in LISTS["bitnet-2024-llama-cli"].splitlines() if "--min-p" not in line)
    wanted = EngineOptions(Path("m.gguf"), sampling=Sampling(min_p=0.1, top_k=3))
    for listed, line in ((text, "this engine does not list --min-p: left out"), (LISTS["bitnet-2024-llama-cli"], "")):
        binary = recognise(Path("llama-cli"), listed, "")
        assert binary is not None
        assert left_out(binary, wanted) == line
        assert ("--min-p" in common_flags(binary, wanted)) == (not line)


def test_the_check_finds_what_stopped_every_build_of_bitnet() -> None:
    text = LISTS["bitnet-2024-llama-cli"]
    for words in (["--log-colors", "off"], ["--no-log-timestamps"], ["--color", "on"]):
        with pytest.raises(AssertionError, match="is not listed"):
            check(words, text)
    with pytest.raises(AssertionError, match="--color"):
        check(["--color", "true"], LISTS["llama.cpp-2026-llama-cli"])


@pytest.mark.parametrize("name", LISTS)
def test_each_line_is_read(name: str) -> None:
    """Names and values, against another way to read them."""
    for line in LISTS[name].splitlines():
        if re.match(r"\s{20}", line):
            continue
        names = re.findall(r"(?:^|(?<=[\s,]))--?[A-Za-z][\w.-]*", line)
        (option,) = read_options(line).listed
        assert option.names == tuple(names)
        line = re.split(r"(?<=\S) {2,}(?![ -])", line)[0]  # ik_llama.cpp: some values stand where prose does
        assert bool(option.value) == bool(re.sub(r"(^|(?<=[\s,]))--?[A-Za-z][\w.-]*", "", line).strip(" ,()s"))


@pytest.mark.parametrize(
    ("line", "names", "value"),
    [
        ("-c,    --ctx-size N                   size of the prompt context", ("-c", "--ctx-size"), "N"),
        ("  -c N, --ctx-size N    size of the context", ("-c", "--ctx-size"), "N"),
        ("  -ts SPLIT --tensor-split SPLIT", ("-ts", "--tensor-split"), "SPLIT"),
        ("-fa, --flash-attn                       enable it", ("-fa", "--flash-attn"), ""),
        ("-fa,   --flash-attn [on|off|auto]       set it", ("-fa", "--flash-attn"), "[on|off|auto]"),
        ("--color                                 colour it", ("--color",), ""),
        ("  --color               colour it", ("--color",), ""),
        ("--color\tcolour it", ("--color",), ""),
        ("  --a-very-long-name prose without a second space", ("--a-very-long-name",), ""),
        ("  --frequency-penalty N repeat alpha", ("--frequency-penalty",), "N repeat alpha"),
        ("  --lora-scaled FNAME S apply it (implies --no-mmap)", ("--lora-scaled",), "FNAME S apply it (implies"),
        ("  -mqkv,  --merge-qkv,             merge", ("-mqkv", "--merge-qkv"), ""),
        ("-cram-n-min --cache-ram-n-min N", ("-cram-n-min", "--cache-ram-n-min"), "N"),
        (
            "  -ot, --override-tensor <name pattern>=<type>,...",
            ("-ot", "--override-tensor"),
            "<name pattern>=<type>,...",
        ),
        ("--perf, --no-perf                       measure", ("--perf", "--no-perf"), ""),
    ],
)
def test_forms(line: str, names: tuple[str, ...], value: str) -> None:
    assert read_options(line).listed == (HelpOption(names, value),)


@pytest.mark.parametrize(
    "line", ["", "usage: x [options]", " " * 40 + "--hf-repo (default: unused)", "- none: nothing", "-1"]
)
def test_prose_is_no_option(line: str) -> None:
    assert read_options(line).listed == ()


@pytest.mark.parametrize(
    ("text", "name", "value", "words"),
    [
        ("--log-colors", "--log-colors", "off", []),
        ("--log-colors", "--log-colors", "on", ["--log-colors"]),
        ("--log-colors [on|off|auto]", "--log-colors", "off", ["--log-colors", "off"]),
        ("--cpu-strict <0|1>", "--cpu-strict", "on", ["--cpu-strict", "1"]),
        ("--cpu-strict <true|false>", "--cpu-strict", "off", ["--cpu-strict", "false"]),
        ("--webui NAME", "--ui", "off", []),
        ("--no-webui", "--ui", "off", ["--no-webui"]),
        ("--ui, --webui, --no-ui, --no-webui", "--ui", "off", ["--no-ui"]),
        ("-no-cnv", "--conversation", "off", ["-no-cnv"]),
        ("--no-conversation", "--conversation", "off", ["--no-conversation"]),
        ("-cnv, --conversation", "--conversation", "off", []),
        ("-n, --predict N", "--n-predict", "-2", ["--predict", "-2"]),
        ("-t N", "--threads", "2", ["-t", "2"]),
        ("--no-context-shift\n--context-shift (auto|on|off)", "--context-shift", "off", ["--no-context-shift"]),
        ("--context-shift (auto|on|off)", "--context-shift", "off", ["--context-shift", "off"]),
        ("--temp N", "--temp", "1", ["--temp", "1"]),
        ("--temp", "--temp", "1", []),  # it cannot be given a value
        ("--temp N", "--temp", "on", []),  # nor this one
        ("--simple-io", "--simple", "on", []),
        ("", "--color", "on", []),
    ],
)
def test_words(text: str, name: str, value: str, words: list[str]) -> None:
    assert read_options(text).words(name, value) == words


def test_what_no_option_tells() -> None:
    """The log thread, the full context, the level that tells each token."""
    facts = {
        name: (engine.traits.ordered, engine.endless, engine.verbosity())
        for name in CHATS
        if (engine := binary(name)).dialect is Dialect.CLASSIC
    }
    assert facts == {
        "bitnet-2024-llama-cli": (False, "-1", "1"),
        "ik_llama.cpp-llama-cli": (True, "-2", None),
        "llama.cpp-2023-main": (True, "-2", None),
        "llama.cpp-2024-llama-cli": (True, "-2", None),
        "llama.cpp-2025-llama-cli": (False, "-1", "1"),
        "llama.cpp-2026-llama-completion": (True, "-1", "5"),
    }
    assert binary("llama.cpp-2026-llama-cli").verbosity("trace") == "4"


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_lists_the_options_of_a_chat_is_one_by_its_name(name: str) -> None:
    assert binary(name).dialect is Dialect.SERVER


@pytest.mark.parametrize("name", ["ik_llama.cpp-llama-cli", "llama.cpp-2024-llama-cli"])
def test_programs_that_all_list_the_same_are_told_apart_by_name(name: str) -> None:
    assert binary(name).dialect is Dialect.CLASSIC
    server = recognise(Path("llama-server"), LISTS[name], "")
    assert server is not None and server.dialect is Dialect.SERVER
