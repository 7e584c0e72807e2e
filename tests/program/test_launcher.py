"""bin/bitnet-chat runs the program of .venv, and nothing that lies about."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(__file__).parents[2] / "bin"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the programs are scripts here")

# Shows where it would import from, and what its own children would get.
_PROGRAM = """\
import json, os, random, sys
print(json.dumps({
    "argv": sys.argv[1:], "path": sys.path, "flags": [sys.flags.safe_path, sys.flags.inspect, sys.flags.utf8_mode],
    "random": random.__file__, "variables": {k: v for k, v in os.environ.items() if k.startswith("PYTHON")},
}))
"""


def ran(line: str, folder: Path, tmp_path: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """``line``: that calls the launcher, as ``bin/bitnet-chat`` does, with nothing left to be set up."""
    program = tmp_path / "program"
    program.write_text(f"#!{sys.executable}\n{_PROGRAM}")
    code = (
        f"import sys; sys.path.insert(0, {str(BIN)!r}); import launcher; launcher.PYTHON = {sys.executable!r};"
        f"launcher.PROGRAM = {str(program)!r}; launcher.missing = lambda *_: []; launcher.set_up = lambda *_: 0; {line}"
    )
    argv = [sys.executable, "-I", "-S", "-c", code]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, env=os.environ | more, input="", timeout=60)


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A folder with modules of the names of ours and of Python's."""
    folder = tmp_path / "trap"
    (folder / "bitnet_chat").mkdir(parents=True)
    for name in ("random.py", "json.py", "sitecustomize.py", "bitnet_chat/__init__.py", "bitnet_chat/__main__.py"):
        (folder / name).write_text("print('caught')\n")
    return folder


def test_neither_the_folder_nor_variables_of_python_count(trap: Path, tmp_path: Path) -> None:
    variables = {
        "PYTHONPATH": f"{trap}{os.pathsep}.{os.pathsep}",
        "PYTHONINSPECT": "1",
        "PYTHONSTARTUP": str(trap / "random.py"),
        "PYTHONUTF8": "0",
        "PYTHONHOME": "/nowhere",
    }
    done = ran("sys.exit(launcher.chat(['naïve 🙂', '-x']))", trap, tmp_path, LC_ALL="C", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)  # one line: nothing was caught
    assert seen["argv"] == ["naïve 🙂", "-x"]
    assert not {str(trap), "", "."} & set(seen["path"]) and str(trap) not in seen["random"]
    assert seen["flags"] == [True, 0, 1]
    # An editor or an engine of the user's may be a Python program.
    assert variables.items() <= seen["variables"].items()


def test_the_tests_get_none_of_them(trap: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I "{tmp_path}/program" "$@"\n')
    python.chmod(0o755)
    line = f"launcher.PYTHON = {str(python)!r}; sys.exit(launcher.test(['-k', 'x']))"
    done = ran(line, trap, tmp_path, PYTHONPATH=str(trap), PYTHONINSPECT="")
    seen = json.loads(done.stdout)
    assert (seen["argv"], seen["variables"]) == (["-m", "pytest", "-k", "x"], {})


@pytest.mark.parametrize("there", [None, "#!/no/such/python\n"])
def test_a_program_that_is_gone_is_set_up_anew(tmp_path: Path, there: str | None) -> None:
    program = tmp_path / "other"
    if there is not None:
        program.write_text(there)
    line = f"launcher.set_up = lambda needed, anew=False: print(anew) or 9; launcher.PROGRAM = {str(program)!r}"
    done = ran(f"{line}; sys.exit(launcher.chat([]))", tmp_path, tmp_path)
    assert (done.returncode, done.stdout) == (9, "True\n")


def test_a_variable_that_is_empty_is_not_set(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('backend = "ollama"\n')
    line = "print(launcher.steps([]), launcher.setting('backend', []))"
    more = {"BITNET_CHAT_CONFIG": str(config), "BITNET_CHAT_BACKEND": "", "BITNET_CHAT_ATTACH": ""}
    assert ran(line, tmp_path, tmp_path, **more).stdout == "['package', 'remote'] ollama\n"
    assert ran(line, tmp_path, tmp_path, **more | {"BITNET_CHAT_BACKEND": "engine"}).stdout.endswith(" engine\n")
