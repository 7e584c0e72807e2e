"""The public names: complete, sorted, and next to free to import."""

from __future__ import annotations

import ast
import builtins
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import bitnet_chat
from bitnet_chat import errors, events
from bitnet_chat.engine.process import ProcessState, Signal, next_state

ROOT = Path(bitnet_chat.__file__).parent


def test_the_list_of_public_names_is_complete() -> None:
    public = bitnet_chat.__all__
    assert public == sorted(public)
    for name in public:
        assert getattr(bitnet_chat, name) is not None
    wanted = {
        name
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, errors.BitnetChatError)
    }
    wanted |= {each.__name__ for each in get_args(events.Event)}
    assert wanted <= set(public)
    told = errors.__doc__ or ""
    assert all(name in told for name in wanted if name.endswith("Error"))


def test_each_exception_is_in_errors_with_a_line_about_it() -> None:
    known = {name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, Exception)}
    assert all(name.endswith("Error") and name in (errors.__doc__ or "") for name in known)
    builtin = {name for name, each in vars(builtins).items() if isinstance(each, type) and issubclass(each, Exception)}
    for path in ROOT.rglob("*.py"):
        if path == ROOT / "errors.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                assert not bases & (known | builtin), f"{path}: {node.name} belongs into errors.py"


def test_the_base_has_no_reason_and_each_branch_has_one() -> None:
    assert not hasattr(errors.BitnetChatError, "reason")
    with pytest.raises(TypeError, match="has no reason"):
        type("OddError", (errors.BitnetChatError,), {})


def test_an_import_loads_next_to_nothing() -> None:
    code = "import sys, bitnet_chat; print([m for m in sys.modules if m.startswith('bitnet_chat')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent)
    assert sorted(ast.literal_eval(done.stdout)) == ["bitnet_chat", "bitnet_chat.version"]


def test_an_illegal_transition_is_a_named_error() -> None:
    with pytest.raises(errors.InvalidTransitionError, match=r"send.*starting"):
        next_state(ProcessState.STARTING, Signal.SEND)
