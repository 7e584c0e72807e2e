"""What is missing is offered once: which question, to whom, and what happens with each answer.

Installations are stand-ins here; test_packaging and the set-up of the tests run the real ones.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from model_files import model_file
from program import CTRL_C, CTRL_D, ENTER, Start, fake_engine, run, start

from bitnet_chat import paths
from bitnet_chat.cli.first_run import question
from bitnet_chat.config import Settings
from bitnet_chat.engine.install import packages, wheels
from bitnet_chat.errors import BuildError
from bitnet_chat.models import hugging_face
from bitnet_chat.models.default_model import SMALL
from bitnet_chat.requirements import Requirement, find_missing
from bitnet_chat.util import resources

__all__ = ["start"]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the scripted engine is a POSIX script")
_ALL = 1 << 40


@pytest.fixture(autouse=True)
def bare(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A computer with nothing, and a hub that cannot be reached. Gives a folder that is all of PATH."""
    (tmp_path / "path").mkdir()
    cat = shutil.which("cat")
    assert cat is not None
    (tmp_path / "path" / "cat").symlink_to(cat)  # for the scripted engine
    for name, value in {"PATH": tmp_path / "path", "HOME": tmp_path, "HF_HUB_OFFLINE": 1}.items():
        monkeypatch.setenv(name, str(value))
    for name in ("BITNET_CHAT_INSTALL", "CI", "OLLAMA_MODELS", "HF_HOME", "HF_HUB_CACHE", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resources, "available", lambda: 16_000_000_000)
    return tmp_path / "path"


def labels(found: tuple[Requirement, ...]) -> list[str]:
    return [each.label for each in found]


# What is missing


def test_a_bare_computer_needs_an_engine_and_the_small_model() -> None:
    engine, model = find_missing(Settings(), "", largest=_ALL)
    assert engine == Requirement("engine", "llama.cpp", wheel_size("llama.cpp"))
    assert model == Requirement("model", SMALL, 92_871_040, optional=True)


def wheel_size(name: str) -> int:
    package = packages.by_name(name)
    assert package is not None
    return wheels.choose(package, wheels.here()).pin.size


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(engine="/any"), [SMALL]),
        (Settings(engine="llama.cpp"), ["the engine", SMALL]),
        (Settings(engine="bitnet", model="/no/such.gguf"), ["the engine bitnet"]),
        (Settings(model="auto"), ["the engine", SMALL]),
        (Settings(model="/no/such.gguf"), ["the engine"]),
        (Settings(model="unknown"), []),
        (Settings(model="bitnet-2b"), ["the engine bitnet", "bitnet-2b"]),
        (Settings(model="bitnet-demo"), ["the engine"]),
        (Settings(engine="/any", model="llama-3.2-3b"), ["llama-3.2-3b"]),
        (Settings(engine="/any", model="here"), []),
        (Settings(backend="openai"), []),
        (Settings(backend="llama-server"), []),
        (Settings(attach="http://127.0.0.1:1"), []),
    ],
)
def test_what_is_named_is_not_offered(settings: Settings, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(b"GGUF")
    assert labels(find_missing(settings, "", largest=_ALL)) == expected


def test_what_is_here_is_not_offered(bare: Path, tmp_path: Path, model: Path) -> None:
    assert labels(find_missing(Settings(), "/configured", largest=_ALL)) == [SMALL]
    fake_engine(tmp_path).rename(bare / "llama-cli")
    assert labels(find_missing(Settings(), "", largest=_ALL)) == [SMALL]
    install(model, "mine")
    assert find_missing(Settings(), "", largest=_ALL) == find_missing(Settings(model="mine"), "", largest=_ALL) == ()


def install(model: Path, name: str) -> None:
    paths.models_dir().mkdir(parents=True, exist_ok=True)
    (paths.models_dir() / f"{name}.gguf").symlink_to(model)


@pytest.fixture
def large(home: Path) -> str:
    """The name of a first model that only the hub has, larger than any of the registry that the offer considers."""
    shape = "shape = { layers = 2, heads = 2, heads_kv = 2, head_size = 64, width = 128, vocabulary = 512 }"
    source = 'repo = "a/b"\nfile = "c.gguf"\nfirst = true\ncontext = 512'
    (home / "models.toml").write_text(f"[large]\n{source}\nsize = 2_999_000_000\n{shape}\n")
    return "large"


def test_with_the_hub_a_larger_one_is_offered_and_the_small_one_in_its_place(
    large: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(hugging_face, "answers", lambda: not asked.append("hub"))
    _, model = find_missing(Settings(), "", largest=3_000_000_000)
    assert (model.label, model.size, model.smaller and model.smaller.label) == (large, 2_999_000_000, SMALL)
    assert asked == ["hub"]
    _, model = find_missing(Settings(), "", largest=300_000_000)  # where nothing is asked
    assert (model.label, model.smaller, asked) == (SMALL, None, ["hub"])


def test_the_engine_is_that_of_the_model(tmp_path: Path, bare: Path) -> None:
    ternary, plain = model_file(tmp_path / "ternary.gguf", 36), model_file(tmp_path / "plain.gguf", 0)
    (engine,) = find_missing(Settings(model=str(ternary)), "", largest=_ALL)
    assert (engine.label, engine.kind, engine.name) == ("the engine bitnet", "engine", "bitnet")
    assert labels(find_missing(Settings(model=str(plain)), "", largest=_ALL)) == ["the engine"]
    (bare / "llama-cli").symlink_to(fake_engine(tmp_path))
    assert labels(find_missing(Settings(model=str(ternary)), "", largest=_ALL)) == ["the engine bitnet"]
    assert labels(find_missing(Settings(model="bitnet-2b"), "", largest=_ALL)) == ["the engine bitnet", "bitnet-2b"]
    assert find_missing(Settings(model=str(plain)), "", largest=_ALL) == ()


def test_without_a_prebuilt_engine_the_compiled_way_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "here", lambda: wheels.Platform("linux", "x86_64", python="PyPy"))
    with pytest.raises(BuildError) as caught:
        find_missing(Settings(), "", largest=_ALL)
    assert "--build" in caught.value.remedy


def test_one_question_names_all_with_their_sizes() -> None:
    engine = Requirement("engine", "llama.cpp", 33_827_498)
    model = Requirement("model", "smollm2-135m", 92_871_040)
    large = Requirement("model", "qwen3-4b", 2_497_280_256)
    assert question([engine, model]) == "Install the engine (34 MB) and smollm2-135m (93 MB)?"
    assert question([engine]) == "Install the engine (34 MB)?"
    assert question([large]) == "Fetch qwen3-4b (2.5 GB)?"
    assert question([Requirement("model", "x", 0)]) == "Fetch x?"


# The program, with stand-ins for what installs.

_PROGRAM = """\
import os, pathlib, sys
sys.path.insert(0, {tests!r})
from bitnet_chat import paths
from bitnet_chat.cli import engine, main, models
from bitnet_chat.errors import BuildError, ModelError

def get_engine(arguments):
    print("engine", *arguments)
    if os.environ.get("FAKE_ENGINE_FAILS"):
        raise BuildError("no engine came", remedy="connect it")
    (pathlib.Path(os.environ["PATH"]) / "llama-cli").symlink_to({engine!r})
    return int(os.environ.get("FAKE_STATUS", "0"))

def get_model(arguments):
    print("models", *arguments)
    if os.environ.get("FAKE_MODEL_FAILS"):
        raise ModelError("no model came")
    paths.models_dir().mkdir(parents=True, exist_ok=True)
    (paths.models_dir() / (arguments[1] + ".gguf")).symlink_to({model!r})
    return 0

engine.run, models.run = get_engine, get_model
if os.environ.get("FAKE_HUB"):
    from bitnet_chat.models import hugging_face
    hugging_face.answers = lambda: True
sys.exit(main())
"""
_QUESTION = f"and {SMALL} (93 MB)? [Y/n]"
_BOTH = ["engine install llama.cpp", f"models pull {SMALL}"]


@pytest.fixture
def program(tmp_path: Path, model: Path) -> Path:
    path = tmp_path / "program.py"
    engine = fake_engine(tmp_path)
    support = Path(__file__).parents[1] / "support"
    path.write_text(_PROGRAM.format(tests=str(support), engine=str(engine), model=str(model)))
    return path


def installed(output: str) -> list[str]:
    lines = [line.strip() for line in output.splitlines()]
    found = [line for line in lines if line.startswith(("engine install", "models pull"))]
    return [line.removesuffix(" --without-engine") for line in found]


@pytest.mark.parametrize("answer", ["", "Y", "yes"])
def test_an_answer_of_yes_installs_and_goes_on(start: Start, program: Path, answer: str) -> None:
    terminal = start("say hello", script=program, columns=100)
    terminal.until(_QUESTION)
    terminal.send(answer, ENTER)
    assert terminal.end() == 0
    assert installed(terminal.scroll) == _BOTH
    assert terminal.text.endswith("hello")


@pytest.mark.parametrize("answer", [("n", ENTER), ("what?", ENTER), (CTRL_D,)])
def test_an_answer_of_no_tells_the_command_and_is_not_kept(
    start: Start, program: Path, answer: tuple[str, ...]
) -> None:
    for _ in range(2):
        terminal = start("say hello", script=program, columns=100)
        terminal.until(_QUESTION)
        terminal.send(*answer)
        assert terminal.end() == 3
        assert installed(terminal.scroll) == []
        assert "\nbitnet-chat: no engine was found\n" in terminal.text
        assert "bitnet-chat engine install" in terminal.text


def test_the_small_model_in_place_of_a_large_one(start: Start, program: Path, large: str) -> None:
    terminal = start("say hello", script=program, columns=120, FAKE_HUB="yes")
    terminal.until(f"Install the engine (34 MB) and {large} (3.0 GB)? [Y/n, s: {SMALL} (93 MB)]")
    terminal.send("s", ENTER)
    assert terminal.end() == 0
    assert installed(terminal.scroll) == _BOTH


def test_a_conversation_without_the_model_greets_as_the_toy(start: Start, program: Path, bare: Path) -> None:
    (bare / "llama-cli").symlink_to(program.with_name("fake-engine"))
    terminal = start(script=program, columns=100)
    terminal.until(f"Fetch {SMALL} (93 MB)? [Y/n]")
    terminal.send("n", ENTER)
    terminal.until("a demo model of 2 MB for tests and offline use")
    terminal.until(f"bitnet-chat models pull {SMALL}")
    terminal.until(lambda: bool(terminal.engines))
    terminal.leave()


def test_a_small_model_is_told_of_once(start: Start, program: Path, bare: Path, model: Path) -> None:
    (bare / "llama-cli").symlink_to(program.with_name("fake-engine"))
    install(model, SMALL)
    first = start(script=program, columns=100)
    first.until("SmolLM2 135M Instruct is a small model (98 MB).")
    first.ready()
    first.leave()
    second = start(script=program, columns=100)
    second.ready()
    assert "a small one" not in second.text
    second.leave()


def test_a_program_cannot_be_asked(program: Path) -> None:
    done = run("say hello", script=program)
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"[Y/n]" not in done.stderr and b"bitnet-chat engine install" in done.stderr
    assert b"toy" not in done.stderr  # nothing answers
    assert installed(done.stderr.decode()) == []


@pytest.mark.parametrize("arguments", [("--input", "jobs"), ("--install", "no", "say hello")])
def test_where_nothing_is_asked_on_a_terminal(
    start: Start, program: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "jobs").write_text('{"prompt": "say hello"}\n')
    terminal = start(*arguments, script=program, columns=100)
    assert terminal.end() == 3
    assert "[Y/n]" not in terminal.text


def test_a_terminal_of_ci_has_no_user(start: Start, program: Path) -> None:
    terminal = start("say hello", script=program, CI="true")
    assert terminal.end() == 3
    assert "[Y/n]" not in terminal.text


@pytest.mark.parametrize("by", ["--yes", "variable", "config"])
def test_without_a_question_where_the_user_has_said_so(program: Path, home: Path, by: str) -> None:
    if by == "config":
        (home / "config.toml").write_text('install = "yes"\n')
    variables = {"BITNET_CHAT_INSTALL": "yes"} if by == "variable" else {}
    flags = ["--yes"] if by == "--yes" else []
    done = run("say hello", *flags, script=program, **variables)
    assert (done.returncode, done.stdout) == (0, b"hello\n")  # and nothing of the installation
    assert installed(done.stderr.decode()) == _BOTH
    assert installed(run("say hello", *flags, script=program, **variables).stderr.decode()) == []


def test_without_the_model_the_toy_answers_and_says_so(program: Path, tmp_path: Path) -> None:
    done = run("say hello", "--yes", script=program, FAKE_MODEL_FAILS="1")
    assert (done.returncode, done.stdout) == (0, b"hello\n")
    assert b"no model came" in done.stderr and b"bitnet-demo is in use, a demo model of 2 MB" in done.stderr
    (tmp_path / "jobs").write_text('{"prompt": "say a"}\n{"prompt": "say b"}\n')
    assert run("--input", "jobs", script=program).stderr.count(b"a demo model of 2 MB") == 1
    named = run("say hello", "-m", "bitnet-demo", script=program)
    assert (named.returncode, named.stderr) == (0, b"")


def test_an_installation_that_fails_or_is_interrupted_ends_it(program: Path) -> None:
    done = run("say hello", "--yes", script=program, FAKE_ENGINE_FAILS="1")
    assert (done.returncode, done.stdout) == (3, b"") and b"no engine came\n  connect it" in done.stderr
    done = run("say hello", "--yes", script=program, FAKE_STATUS="130")
    assert (done.returncode, installed(done.stderr.decode())) == (130, _BOTH[:1])


def test_a_server_asks_nothing_and_installs_when_told(start: Start, program: Path) -> None:
    terminal = start("serve", "--port", "0", script=program, columns=100)
    assert terminal.end() == 3
    terminal = start("serve", "--port", "0", "--yes", script=program, columns=100)
    terminal.until("listening on")
    assert installed(terminal.scroll) == _BOTH
    terminal.send(CTRL_C)
    assert terminal.end() == 130


def test_a_model_of_the_list_is_fetched_by_its_name(start: Start, program: Path, bare: Path) -> None:
    (bare / "llama-cli").symlink_to(program.with_name("fake-engine"))
    terminal = start("-m", "llama-3.2-3b", "say hello", script=program, columns=100)
    terminal.until("Fetch llama-3.2-3b (2.0 GB)? [Y/n]")
    terminal.send("y", ENTER)
    assert terminal.end() == 0
    assert installed(terminal.scroll) == ["models pull llama-3.2-3b"]
    done = run("-m", "llama-3.1-8b", "say hello", script=program)
    assert done.returncode == 4 and b"bitnet-chat models pull llama-3.1-8b fetches it" in done.stderr
