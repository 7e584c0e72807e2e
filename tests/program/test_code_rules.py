"""The rules of the house, as far as a test can hold them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import bitnet_chat

ROOT = Path(bitnet_chat.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parsed() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text("utf-8")) for path in MODULES}


@cache
def nodes() -> dict[Path, list[ast.AST]]:
    return {path: list(ast.walk(tree)) for path, tree in parsed().items()}


@pytest.fixture(scope="module", autouse=True)
def trees() -> Iterator[None]:
    """They are half a million objects: not for longer than these tests."""
    yield
    parsed.cache_clear()
    nodes.cache_clear()


def inside(path: Path, *places: str) -> bool:
    return any(f"{name_of(path)}.".startswith(f"bitnet_chat.{place}.") for place in places)


PURE = ("text", "engine_output", "filters", "templates", "context", "conversation", "markdown")
PURE += ("prompt_cache.budget", "prompt_cache.key", "prompt_cache.names")
PROTOCOLS = ("engine.protocols.classic", "engine.protocols.modern", "engine.protocols.native")
DECIDING = [path for path in MODULES if inside(path, *PURE, *PROTOCOLS) and not inside(path, "templates.sandbox")]
DOING = {"os", "io", "socket", "subprocess", "asyncio", "threading", "time", "pathlib", "sys", "tempfile", "selectors"}


def test_code_that_decides_does_no_io() -> None:
    found = set[tuple[str, str]]()
    for path in DECIDING:
        names = set[str]()
        for node in nodes()[path]:
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names} & DOING
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module.split(".")[0]} & DOING
            elif isinstance(node, ast.Call):
                names |= {ast.unparse(node.func)} & {"open", "print", "input"}
        found |= {(name_of(path), name) for name in names}
    assert DECIDING and not found


def test_a_module_says_what_it_is() -> None:
    """A module begins with what it is for."""
    silent = [path for path, tree in parsed().items() if len((ast.get_docstring(tree) or "").split()) < 3]
    assert not silent
    assert not [path for path in MODULES if path.stem in ("utils", "helpers", "misc", "common")]


def test_nothing_says_a_host_or_a_place_of_one_computer() -> None:
    for path in MODULES:
        text = path.read_text("utf-8")
        for word in ("/root/", "/home/", "pypi.org", "pythonhosted"):
            assert word not in text, f"{path.name} names {word}"


def test_no_text_is_ever_run() -> None:
    """Neither by a shell nor by Python: what a model or a file says stays words, a ``!command`` among them."""
    never = {"eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads"}
    for path in MODULES:
        for node in nodes()[path]:
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in never, f"{name_of(path)}: {called}"
                shell = [word.value for word in node.keywords if word.arg == "shell"]
                off = all(isinstance(value, ast.Constant) and not value.value for value in shell)
                assert off, f"{name_of(path)}: {called}"


def test_a_chat_template_is_never_read_in_this_process() -> None:
    """But for those of our own, which :func:`bitnet_chat.templates.sandbox.program_of` knows."""
    calls = [
        node
        for path in MODULES
        for node in nodes()[path]
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ChatTemplate")
    ]
    assert calls and all("read=program_of" in ast.unparse(call) for call in calls)


def test_imports_of_the_public_names() -> None:
    for name in bitnet_chat.__all__:
        assert getattr(bitnet_chat, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = bitnet_chat.nothing_like_this  # type: ignore[attr-defined]


SHARED_NAMES: set[str] = set()
"""Class names that may be defined more than once: none."""


def test_no_class_name_is_defined_twice() -> None:
    places: dict[str, list[str]] = {}
    for path in MODULES:
        for node in nodes()[path]:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(name_of(path))
    assert {name: found for name, found in places.items() if len(found) > 1 and name not in SHARED_NAMES} == {}


CHANGING = {
    *("backends.attached_server.backend", "backends.http.client", "backends.http.wire_format", "backends.pool"),
    *("conversation.api_messages", "journal.branch", "journal.transactions", "markdown.table", "server.broadcast"),
    *("engine.variants", "server.model_manager", "server.scheduler", "trace.playback"),
}
"""Modules with a dataclass that collects something while it lives."""


def test_dataclasses_are_frozen_and_have_slots() -> None:
    for path in MODULES:
        frozen = name_of(path).removeprefix("bitnet_chat.") not in CHANGING
        for node in nodes()[path]:
            for decorator in node.decorator_list if isinstance(node, ast.ClassDef) else ():
                written = ast.unparse(decorator)
                if written.startswith("dataclass"):
                    assert "slots=True" in written, f"{name_of(path)}: {written}"
                    assert not frozen or "frozen=True" in written, f"{name_of(path)}: {written}"
