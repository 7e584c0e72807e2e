"""Where the virtual environment of this checkout is, and which steps of its set-up are done.

A stamp in .venv names the steps, and for what they were done: it holds the place of the checkout (a virtual environment
cannot be moved) and the packaging files as they were. The syntax is that of old Pythons, as in launcher.py.
"""

# ruff: noqa: PTH118, PTH120, PTH123 -- importing pathlib takes longer than all that is done here

import os

TYPE_CHECKING = False  # that of typing, which takes longer to import than all that is done here
if TYPE_CHECKING:
    import typing

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "setup.stamp")
WINDOWS = os.name == "nt"
SCRIPTS = os.path.join(VENV, "Scripts" if WINDOWS else "bin")
PYTHON = os.path.join(SCRIPTS, "python.exe" if WINDOWS else "python")

INTERRUPTED = 130
"""The exit code of Ctrl-C, as a shell reports it."""
FAILED = 3
"""That of bitnet_chat.errors.FinishReason.NO_ENGINE: no engine can answer."""


def done() -> "set[str]":
    """The steps that are done for this checkout as it is now."""
    names, _, stamped = read(STAMP).partition("\n")
    steps = set(names.split()) if stamped == state() else set()
    return steps | {"serve", "remote"} if "tests" in steps else steps  # their packages are among those of the tests


def missing(needed: "list[str]", done: "set[str]") -> "list[str]":
    """What is still to be done. What can be done without is tried once: a browser will do for a window of its own, and
    the bundled model for the first one."""
    return [step for step in needed if step not in done and "no-" + step not in done]


def state() -> str:
    """What the stamp must say for the steps to be still good."""
    return "\n".join([ROOT, read(os.path.join(ROOT, "setup.cfg")), read(os.path.join(ROOT, "pyproject.toml"))])


def read(path: str) -> str:
    """The text of a file; empty if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def without_python(environment: "typing.Mapping[str, str]") -> "dict[str, str]":
    """Without PYTHONPATH and the like, which could put another package in the place of a needed one."""
    return {name: value for name, value in environment.items() if not name.startswith("PYTHON")}
