"""Messages, help and docstrings are plain technical English: programs are not persons.

The rule of CONTRIBUTING.md, as far as a test can hold it. Strings and docstrings are read from the syntax tree, so
comments and names are not covered.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import bitnet_chat

ROOT = Path(bitnet_chat.__file__).parent
PERSONAL = re.compile(
    r"\b(?:who|whom|whoever|somebody|someone|nobody|anybody|anyone|everybody)\b"
    r"|\b(?:is|are|was|were) no (?!longer\b|more\b)"
    r"|\bthat there (?:is|are)\b",
    re.IGNORECASE,
)
EXCEPTIONS = (
    # Their strings are read by models ("it is no JSON"), which know these words.
    "filters/tool_call_repair.py",
    "filters/tool_calls.py",
)


def is_covered(path: str) -> bool:
    return not any(path == name or path.startswith(f"{name}/") for name in EXCEPTIONS)


def texts(source: str) -> list[tuple[int, str]]:
    """Every string of ``source`` with its line, an f-string as one text with ``…`` for its values."""
    tree = ast.parse(source)
    formatted = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(value) for node in formatted for value in node.values}
    found = [
        (node.lineno, "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values))
        for node in formatted
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            found.append((node.lineno, node.value))
    return [(line, re.sub(r"\s+", " ", text)) for line, text in found]


def personal(source: str) -> list[str]:
    return [
        f"{line}: …{text[max(0, hit.start() - 30) : hit.end() + 30]}…"
        for line, text in texts(source)
        for hit in PERSONAL.finditer(text)
    ]


@pytest.mark.parametrize("path", sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")))
def test_no_personification(path: str) -> None:
    if not is_covered(path):
        pytest.skip("not rewritten yet")
    assert not personal((ROOT / path).read_text("utf-8"))


def test_exceptions_exist() -> None:
    assert all((ROOT / name).exists() for name in EXCEPTIONS)


@pytest.mark.parametrize(
    "text",
    [
        '"""Who answers."""',
        "raise Error(f'{name} is no number')",
        "say('nobody can be asked')",
        "say('there is no tool')",
        "X = 1\n'''The reply that there is.'''",
        "say('a message that there\\nis')",
    ],
)
def test_the_rule_finds(text: str) -> None:
    assert personal(text)


@pytest.mark.parametrize(
    "text", ["say('is no longer needed')", "say('whole')", "say('the model whose name')", "# nobody"]
)
def test_the_rule_leaves(text: str) -> None:
    assert not personal(text)
