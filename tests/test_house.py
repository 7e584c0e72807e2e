"""The rules of the house, as far as a test can hold them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import bitnet_chat

ROOT = Path(bitnet_chat.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
FRONT_ENDS = ("repl", "batch", "serve", "cli")
PROGRAM = ("bitnet_chat", "bitnet_chat.__main__")
"""The package names its public parts, and its main module starts the command line."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """All modules of this package that a file imports, those imported late included, those for types alone not."""
    tree = ast.parse(path.read_text("utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("bitnet_chat"):
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("bitnet_chat"))


def inside(path: Path, *places: str) -> bool:
    return any(f"{name_of(path)}.".startswith(f"bitnet_chat.{place}.") for place in places)


def uses(path: Path, *places: str) -> list[str]:
    return [each for each in imports(path) if any(f"{each}.".startswith(f"bitnet_chat.{place}.") for place in places)]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    if inside(path, "stream", "prompt", "conversation", "markdown", "events", "errors"):
        assert not uses(path, "engine", "backends", *FRONT_ENDS), "pure code knows neither engines nor front ends"
    if not inside(path, *FRONT_ENDS) and name_of(path) not in PROGRAM:
        assert not uses(path, *FRONT_ENDS), "what is behind the front ends knows none of them"
    if inside(path, "journal", "attachments", "personas"):
        assert not uses(path, "engine", "backends"), "what is kept or sent knows nothing of who answers"
    for front in ("repl", "batch", "serve"):
        if inside(path, front):
            others = [other for other in FRONT_ENDS if other != front]
            assert not uses(path, *others), "front ends do not know one another"
            assert not uses(path, "engine"), "a front end knows backends, not engines"


PURE = ("stream", "prompt", "conversation", "markdown")
DOING = {"os", "io", "socket", "subprocess", "asyncio", "threading", "time", "pathlib", "sys", "tempfile", "selectors"}


@pytest.mark.parametrize("path", [path for path in MODULES if inside(path, *PURE)], ids=name_of)
def test_code_that_decides_does_no_io(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    nodes = list(ast.walk(tree))
    named = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    assert not named & DOING
    called = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    assert not called & {"open", "print", "input"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_is(path: Path) -> None:
    text = path.read_text("utf-8")
    assert ast.get_docstring(ast.parse(text)), "a module begins with what it is for"
    assert path.stem not in ("utils", "helpers", "misc", "common")


def test_nothing_says_a_host_or_a_place_of_one_computer() -> None:
    for path in MODULES:
        text = path.read_text("utf-8")
        for word in ("/root/", "/home/", "pypi.org", "pythonhosted"):
            assert word not in text, f"{path.name} names {word}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_text_is_ever_run(path: Path) -> None:
    """Neither by a shell nor by Python: what a model or a file says stays words, a ``!command`` among them."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads"), called
            shell = [word.value for word in node.keywords if word.arg == "shell"]
            assert all(isinstance(value, ast.Constant) and not value.value for value in shell), called


def test_a_chat_template_is_never_read_in_this_process() -> None:
    """But for those of our own, which :func:`bitnet_chat.templates.sandbox.program_of` knows."""
    calls = [
        node
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ChatTemplate")
    ]
    assert calls and all("read=program_of" in ast.unparse(call) for call in calls)


def test_imports_of_the_public_names() -> None:
    for name in bitnet_chat.__all__:
        assert getattr(bitnet_chat, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = bitnet_chat.nothing_like_this  # type: ignore[attr-defined]
