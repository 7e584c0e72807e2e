"""bin/bitnet-chat and bin/test in a copy of the checkout, with a stand-in for the environment's python."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_build import script

from bitnet_chat import paths
from bitnet_chat.models.default_model import SMALL

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins are scripts with a #! line")

REPOSITORY = Path(__file__).parents[2]

# All that the scripts may need before anything is installed.
FIRST_MODULES = [
    *("__init__.py", "version.py", "errors.py"),
    *(f"util/{name}.py" for name in ("__init__", "subprocess_errors", "subprocess_log", "file_lock", "progress")),
    "terminal.py",
]

# Writes down its arguments. As ``-m venv`` it makes an environment with itself as python, as ``-m pip`` it "installs" a
# bitnet-chat that shows its arguments, and what it does not know it leaves to the real one. FAKE_PRESENT: extras that
# pip finds to be there; FAKE_PIP_REFUSES: one that it cannot install.
_PYTHON = """
import os, sys
args = sys.argv[1:]
if args[:1] == ["-c"]:
    sys.exit(0)
if args[:1] != ["-m"]:
    os.execv(REAL, [REAL, "-S", *args])
import json, pathlib, shutil, time
root = pathlib.Path(ROOT)
with (root / "calls").open("a") as calls:
    calls.write(json.dumps(args) + "\\n")
scripts = root / ".venv" / "bin"
module = args[1]
name = (args[2] if module == "bitnet_chat" else module).upper()
if module == "venv":
    scripts.mkdir(parents=True)
    shutil.copy(__file__, scripts / "python")
if module == "pip" and "--no-index" in args:
    sys.exit(args[-1] not in os.environ.get("FAKE_PRESENT", "").split())
if module == "pip" and args[-1].endswith(os.environ.get("FAKE_PIP_REFUSES", "nothing")):
    sys.exit(1)
if module == "pip":
    while (root / "wait").exists():
        time.sleep(0.01)
    (scripts / "bitnet-chat").write_text("#!" + REAL + " -SE\\nimport sys; print(sys.argv[1:]); sys.exit(7)\\n")
    (scripts / "bitnet-chat").chmod(0o755)
if module == "bitnet_chat":
    print("stdin:", repr(sys.stdin.read()))
print(os.environ.get("FAKE_" + name + "_SAYS", ""))
sys.exit(int(os.environ.get("FAKE_" + name + "_STATUS", "0")))
"""


class Checkout:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("BITNET_CHAT", "FAKE_"))}
        self.env["BITNET_CHAT_CONFIG"] = str(root / "config.toml")
        self.env["PATH"] = f"{root / 'path'}{os.pathsep}{os.environ['PATH']}"
        shutil.copytree(REPOSITORY / "bin", root / "bin")  # with what is compiled, as its times are kept
        for name in ("setup.cfg", "pyproject.toml"):
            shutil.copy(REPOSITORY / name, root / name)
        for name in FIRST_MODULES:
            source = REPOSITORY / "bitnet_chat" / name
            compiled = Path(importlib.util.cache_from_source(str(source)))
            for each in filter(Path.exists, (source, compiled)):
                target = root / each.relative_to(REPOSITORY)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(each, target)
        script(root / "python", f"ROOT = {str(root)!r}\nREAL = {sys.executable!r}\n{_PYTHON}")

    def argv(self, program: str, *arguments: str, line: str = "pass") -> list[str]:
        """The command with the stand-in as the Python that environments are made with."""
        code = (
            f"import sys; sys._base_executable = {str(self.root / 'python')!r}; sys.argv[0] = {program!r};"
            f"sys.path.insert(0, {str(self.root / 'bin')!r}); import launcher; {line};"
            f"sys.exit(launcher.{'test' if program == 'test' else 'chat'}(sys.argv[1:]))"
        )
        return [sys.executable, "-I", "-S", "-c", code, *arguments]

    def run(self, program: str, *arguments: str, line: str = "pass", **env: str) -> subprocess.CompletedProcess[str]:
        return self.execute(self.argv(program, *arguments, line=line), **env)

    def execute(self, argv: list[str], **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, input="a question", capture_output=True, text=True, env=self.env | env, timeout=120)

    def start(self) -> subprocess.Popen[str]:
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        argv = self.argv("bitnet-chat")
        return subprocess.Popen(argv, stdin=nothing, stdout=pipe, stderr=pipe, text=True, env=self.env)

    def calls(self) -> list[list[str]]:
        path = self.root / "calls"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return found


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "a checkout")


@pytest.fixture
def ready(checkout: Checkout) -> Checkout:
    """A checkout that is set up."""
    assert checkout.run("bitnet-chat").returncode == 7
    checkout.calls()
    return checkout


def modules(calls: list[list[str]]) -> list[str]:
    """What was run with -m; of bitnet_chat, which verb."""
    return [call[2] if call[1] == "bitnet_chat" else call[1] for call in calls]


def test_the_first_run_sets_up_and_then_runs(checkout: Checkout) -> None:
    done = checkout.run("bitnet-chat", "--no-stream", "a b", "")
    assert done.returncode == 7
    assert done.stdout == "['--no-stream', 'a b', '']\n"  # and nothing of the set-up
    calls = checkout.calls()
    assert modules(calls) == ["venv", "pip", "engine", "models"]
    assert calls[1][-2:] == ["--editable", str(checkout.root)]
    assert calls[2][2:] == ["engine", "install", "--if-missing"]
    assert calls[3][2:] == ["models", "pull", SMALL, "--if-missing"]
    assert "stdin: ''" in done.stderr  # the question is not the installer's
    assert "\x1b" not in done.stderr and "\r" not in done.stderr
    assert "pip" in (checkout.root / ".venv" / "setup.log").read_text()


def test_later_runs_go_straight_to_the_program(ready: Checkout) -> None:
    done = ready.execute([str(ready.root / "bin" / "bitnet-chat"), "--version"])
    assert (done.returncode, done.stdout, done.stderr) == (7, "['--version']\n", "")
    assert ready.calls() == []


def test_the_short_cut_works_through_a_link_and_from_anywhere(ready: Checkout, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "chat").symlink_to(ready.root / "bin" / "bitnet-chat")
    done = ready.execute(["sh", "-c", 'cd "$1" && ./chat hello', "sh", str(tmp_path / "elsewhere")])
    assert (done.returncode, done.stdout) == (7, "['hello']\n")
    done = ready.execute(["sh", "-c", 'cd "$1" && sh bitnet-chat hello', "sh", str(ready.root / "bin")])
    assert (done.returncode, done.stdout) == (7, "['hello']\n")
    assert ready.calls() == []


def test_the_short_cut_imports_next_to_nothing(ready: Checkout) -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import launcher; launcher.done(); print(*sys.modules)"
    argv = [sys.executable, "-I", "-S", "-c", code, str(ready.root / "bin")]
    loaded = set(ready.execute(argv).stdout.split())
    assert not loaded & {"pathlib", "subprocess", "re", "hashlib", "bitnet_chat", "firstrun"}


@pytest.mark.parametrize("name", ["setup.cfg", "pyproject.toml"])
def test_changed_packaging_is_installed_again(ready: Checkout, name: str) -> None:
    with (ready.root / name).open("a") as file:
        file.write("# changed\n")
    assert ready.run("bitnet-chat").returncode == 7
    assert modules(ready.calls()) == ["pip", "engine", "models"]
    assert ready.run("bitnet-chat").returncode == 7
    assert ready.calls() == []


def test_a_moved_checkout_is_set_up_again(ready: Checkout) -> None:
    moved = ready.root.with_name("moved")
    ready.root.rename(moved)
    stamp = (moved / ".venv" / "setup.stamp").read_text()
    assert str(ready.root) in stamp
    code = f"import sys; sys.path.insert(0, {str(moved / 'bin')!r}); import launcher; print(launcher.done())"
    assert ready.execute([sys.executable, "-c", code]).stdout == "set()\n"


def test_a_python_that_is_gone_makes_the_environment_anew(ready: Checkout) -> None:
    script(ready.root / ".venv" / "bin" / "bitnet-chat", "")
    (ready.root / ".venv" / "bin" / "bitnet-chat").write_text("#!/no/such/python\n")
    assert ready.run("bitnet-chat").returncode == 7
    assert modules(ready.calls()) == ["venv", "pip", "engine", "models"]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--engine", "x"], ["models"]),
        (["--engine=x", "hi"], ["models"]),
        (["-m", "x"], ["engine"]),
        (["-mx"], ["engine"]),
        (["hi", "--model=x"], ["engine"]),
        (["--engine", "x", "--model", "y"], []),
        (["--install", "no"], []),
        (["engine", "list"], []),
    ],
)
def test_what_is_named_is_not_installed(checkout: Checkout, arguments: list[str], wanted: list[str]) -> None:
    assert checkout.run("bitnet-chat", *arguments).returncode == 7
    assert modules(checkout.calls()) == ["venv", "pip", *wanted]
    assert checkout.run("bitnet-chat", "hello").returncode == 7
    assert modules(checkout.calls()) == [verb for verb in ("engine", "models") if verb not in wanted]


@pytest.mark.parametrize(("variable", "wanted"), [("ENGINE", "models"), ("MODEL", "engine")])
def test_what_the_environment_names_is_not_installed(checkout: Checkout, variable: str, wanted: str) -> None:
    assert checkout.run("bitnet-chat", **{f"BITNET_CHAT_{variable}": "x"}).returncode == 7
    assert modules(checkout.calls()) == ["venv", "pip", wanted]


@pytest.mark.parametrize("flag", ["--engine", "-m"])
def test_an_engines_own_flag_is_not_ours(checkout: Checkout, flag: str) -> None:
    assert checkout.run("bitnet-chat", "--", flag).returncode == 7
    assert modules(checkout.calls()) == ["venv", "pip", "engine", "models"]


def test_the_tests_are_run_with_their_packages_engines_and_a_model(checkout: Checkout) -> None:
    done = checkout.run("test", "-k", "stream or pacer", FAKE_PYTEST_SAYS="ran", FAKE_PYTEST_STATUS="5")
    assert (done.returncode, done.stdout) == (5, "ran\n")
    calls = checkout.calls()
    assert calls[1][-1] == f"{checkout.root}[test]"
    features = ["server", "cli", *(["rpc"] if sys.platform == "linux" else [])]
    needed = [
        ["engine", "install", "--build", *(word for name in features for word in ("--with", name))],
        ["engine", "install", "llama.cpp"],
        ["engine", "install", "bitnet"],
        ["models", "pull", SMALL],
    ]
    assert [call[2:] for call in calls[2:-1]] == needed
    assert calls[-1][1:] == ["pytest", "-k", "stream or pacer"]
    assert checkout.run("test").returncode == 0
    assert [call[2:] for call in checkout.calls()[:-1]] == needed
    assert checkout.run("bitnet-chat").returncode == 7
    assert checkout.calls() == []


def test_the_tests_go_on_without_the_model(checkout: Checkout) -> None:
    done = checkout.run("test", FAKE_MODELS_STATUS="4", FAKE_MODELS_SAYS="no network")
    assert done.returncode == 0
    assert "no network" in done.stderr and "tests that need what is missing are skipped" in done.stderr
    assert modules(checkout.calls())[-1] == "pytest"
    assert checkout.run("test", FAKE_ENGINE_STATUS="3").returncode == 3


def test_without_a_model_the_bundled_one_answers(checkout: Checkout) -> None:
    """Tried once; the program is told not to ask for it in the same run."""
    line = "launcher.run_program = lambda _: print(launcher.os.environ.get('BITNET_CHAT_INSTALL')) or 7"
    done = checkout.run("bitnet-chat", line=line, FAKE_MODELS_STATUS="4")
    assert (done.returncode, done.stdout) == (7, "no\n")
    assert "the step “Getting a model” failed: the bundled model answers, a toy of 2 MB." in done.stderr
    assert f"bitnet-chat models pull {SMALL}" in done.stderr
    checkout.calls()
    assert checkout.run("bitnet-chat").returncode == 7
    assert checkout.calls() == []


def test_a_model_that_was_interrupted_is_gone_on_with(checkout: Checkout) -> None:
    done = checkout.run("bitnet-chat", FAKE_MODELS_STATUS="130")
    assert (done.returncode, done.stdout) == (130, "")
    assert "the step “Getting a model” was interrupted; the same command goes on from here" in done.stderr
    checkout.calls()
    assert checkout.run("bitnet-chat").returncode == 7
    assert modules(checkout.calls()) == ["models"]


def extras(calls: list[list[str]]) -> list[str]:
    """What pip was asked for from the index, of the extras."""
    return [call[-1].partition("[")[2].rstrip("]") for call in calls if call[1] == "pip" and "--no-index" not in call]


@pytest.mark.parametrize(
    ("arguments", "env", "wanted", "engine"),
    [
        (["serve"], {}, ["", "serve"], True),
        (["serve", "--engine", "x"], {}, ["", "serve"], False),
        (["app"], {}, ["", "serve", "app"], True),
        (["serve", "--backend", "llama-server"], {}, ["", "serve", "remote"], True),
        (["serve", "--backend=ollama"], {}, ["", "serve", "remote"], False),
        (["hello", "--backend", "openai", "--base-url", "x"], {}, ["", "remote"], False),
        (["--backend", "engine"], {"BITNET_CHAT_BACKEND": "openai"}, [""], True),
        (["hello"], {"BITNET_CHAT_BACKEND": "ollama"}, ["", "remote"], False),
        (["--attach"], {}, ["", "remote"], False),
        (["hello"], {"BITNET_CHAT_ATTACH": "http://127.0.0.1:1"}, ["", "remote"], False),
        (["hello", "--", "--attach"], {}, [""], True),
        (["config", "show"], {"BITNET_CHAT_BACKEND": "openai"}, [""], False),
    ],
)
def test_what_a_command_needs_is_installed(
    checkout: Checkout, arguments: list[str], env: dict[str, str], wanted: list[str], engine: bool
) -> None:
    assert checkout.run("bitnet-chat", *arguments, **env).returncode == 7
    calls = checkout.calls()
    assert extras(calls) == wanted
    assert ("engine" in modules(calls)) is engine
    servers = [call for call in calls if "server" in call]
    assert bool(servers) is ("llama-server" in "".join(arguments))  # of which there is no prebuilt one
    assert checkout.run("bitnet-chat", *arguments, **env).returncode == 7
    assert checkout.calls() == []


def test_a_backend_in_the_config_file_counts(ready: Checkout, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("# backend = 'none'\nbackend = \"llama-server\"  # ours\n", encoding="utf-8")
    assert ready.run("bitnet-chat", BITNET_CHAT_CONFIG=str(config)).returncode == 7
    assert extras(ready.calls()) == ["remote"]


@pytest.mark.parametrize("variables", [{}, {"XDG_CONFIG_HOME": "/x"}, {"BITNET_CHAT_CONFIG_DIR": "~/y"}])
def test_the_config_file_is_the_one_of_the_program(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in ("BITNET_CHAT_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code = "import sys; sys.path.insert(0, 'bin'); import launcher; print(launcher.config_file())"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str(paths.config_file())


def test_extras_that_are_there_need_no_network(ready: Checkout) -> None:
    done = ready.run("bitnet-chat", "serve", FAKE_PRESENT="bitnet-chat[serve]", FAKE_PIP_REFUSES="]")
    assert done.returncode == 7
    assert modules(ready.calls()) == ["pip"]
    assert ready.run("bitnet-chat", "serve").returncode == 7
    assert ready.calls() == []


def test_those_of_the_tests_hold_those_of_the_server(checkout: Checkout) -> None:
    checkout.run("test")
    assert checkout.run("bitnet-chat", "--backend", "openai", "serve").returncode == 7
    checkout.calls()
    assert checkout.run("bitnet-chat", "serve", "--backend", "openai").returncode == 7
    assert checkout.calls() == []


def test_an_extra_that_cannot_be_had_says_so_and_is_tried_again(ready: Checkout) -> None:
    done = ready.run("bitnet-chat", "serve", FAKE_PIP_REFUSES="[serve]")
    assert done.returncode == 3
    assert "the step “Installing what serve needs” failed" in done.stderr
    assert ready.run("bitnet-chat").returncode == 7  # nothing else is the worse for it
    ready.calls()
    assert ready.run("bitnet-chat", "serve").returncode == 7
    assert extras(ready.calls()) == ["serve"]


def test_without_a_window_of_its_own_a_browser_will_do(ready: Checkout) -> None:
    done = ready.run("bitnet-chat", "app", FAKE_PIP_REFUSES="[app]")
    assert (done.returncode, done.stdout) == (7, "['app']\n")
    assert "no window of its own" in done.stderr and "browser" in done.stderr
    assert extras(ready.calls()) == ["serve", "app"]
    assert ready.run("bitnet-chat", "app").returncode == 7
    assert ready.calls() == []


HELP = [["--help"], ["serve", "--help"], ["app", "-h"], ["--backend", "ollama", "-h"], ["--version"]]


@pytest.mark.parametrize("arguments", HELP)
def test_help_needs_nothing(checkout: Checkout, arguments: list[str]) -> None:
    shutil.copytree(REPOSITORY / "bitnet_chat", checkout.root / "bitnet_chat", dirs_exist_ok=True)
    done = checkout.run("bitnet-chat", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    words = "bitnet-chat " if "--version" in arguments else "usage: bitnet-chat "
    assert done.stdout.startswith(words + arguments[0] if arguments[0] in ("serve", "app") else words)
    assert checkout.calls() == [] and not (checkout.root / ".venv").exists()


@pytest.mark.parametrize("arguments", HELP)
def test_help_needs_nothing_more_than_the_package(checkout: Checkout, arguments: list[str]) -> None:
    assert checkout.run("bitnet-chat", "--engine", "x").returncode == 7
    checkout.calls()
    done = checkout.run("bitnet-chat", *arguments)
    assert (done.returncode, done.stdout, checkout.calls()) == (7, f"{arguments}\n", [])


def test_a_call_for_help_to_the_engine_is_not_ours(checkout: Checkout) -> None:
    assert checkout.run("bitnet-chat", "hello", "--", "--help").returncode == 7
    assert modules(checkout.calls()) == ["venv", "pip", "engine", "models"]


# A step that fails names itself, its log and the remedy.


def test_no_network(checkout: Checkout) -> None:
    says = "WARNING: Retrying after connection broken by 'NewConnectionError'\nERROR: No matching distribution found"
    done = checkout.run("bitnet-chat", FAKE_PIP_SAYS=says, FAKE_PIP_STATUS="1")
    assert done.returncode == 3
    assert "bitnet-chat: the step “Installing bitnet-chat” failed" in done.stderr
    assert "no network" in done.stderr
    assert "Connect this computer" in done.stderr
    assert str(checkout.root / ".venv" / "setup.log") in done.stderr
    assert done.stdout == ""
    assert checkout.run("bitnet-chat").returncode == 7  # and the next time it goes on


def test_no_venv(checkout: Checkout) -> None:
    says = "The virtual environment was not created successfully because ensurepip is not available."
    done = checkout.run("bitnet-chat", FAKE_VENV_SAYS=says, FAKE_VENV_STATUS="1")
    assert done.returncode == 3
    assert "“Making the virtual environment” failed" in done.stderr
    assert "apt-get install python3-venv" in done.stderr
    assert "setup.log" in done.stderr
    assert modules(checkout.calls()) == ["venv"]


def test_no_engine(checkout: Checkout) -> None:
    done = checkout.run("bitnet-chat", FAKE_ENGINE_SAYS="there is no compiler", FAKE_ENGINE_STATUS="3")
    assert done.returncode == 3
    assert "there is no compiler" in done.stderr
    assert "the step “Getting an engine” failed" in done.stderr
    assert done.stdout == ""
    checkout.calls()
    assert checkout.run("bitnet-chat").returncode == 7
    assert modules(checkout.calls()) == ["engine", "models"]


def test_a_place_that_cannot_be_written(checkout: Checkout) -> None:
    (checkout.root / ".venv").write_text("a file")
    done = checkout.run("bitnet-chat")
    assert done.returncode == 3
    assert "failed" in done.stderr and "Traceback" not in done.stderr


def test_a_python_that_is_too_old(checkout: Checkout) -> None:
    done = checkout.run("bitnet-chat", line="launcher.OLDEST = (3, 99)")
    assert done.returncode == 3
    assert "needs Python 3.99 or newer" in done.stderr
    assert sys.executable in done.stderr
    assert not (checkout.root / ".venv").exists()


def test_an_old_python_can_read_what_tells_it_so() -> None:
    for name in ("bitnet-chat", "test", "launcher.py", "setup_state.py"):
        ast.parse((REPOSITORY / "bin" / name).read_text(), feature_version=(3, 6))


def test_no_python_at_all(checkout: Checkout) -> None:
    for name in ("bitnet-chat", "test"):
        done = checkout.execute(["/bin/sh", str(checkout.root / "bin" / name)], PATH=str(checkout.root / "nothing"))
        assert done.returncode == 3
        assert "Install Python 3.11" in done.stderr


def test_two_at_once_set_up_once(checkout: Checkout) -> None:
    (checkout.root / "wait").touch()
    with checkout.start() as first:
        deadline = time.monotonic() + 60
        while not ((checkout.root / "calls").exists() and "pip" in (checkout.root / "calls").read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with checkout.start() as second:
            assert second.stderr is not None
            assert f"Waiting for another set-up (process {first.pid})" in second.stderr.readline()
            (checkout.root / "wait").unlink()
            assert second.communicate(timeout=120)[0] == "[]\n"
        assert first.communicate(timeout=120)[0] == "[]\n"
    assert (first.returncode, second.returncode) == (7, 7)
    assert modules(checkout.calls()) == ["venv", "pip", "engine", "models"]
