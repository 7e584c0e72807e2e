"""Messages, help and docstrings are plain technical English: programs are not persons.

The rule of CONTRIBUTING.md, as far as a test can hold it: for strings, docstrings and comments of the package, of the
programs around it, and for the documentation. Names are not covered.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

import bitnet_chat

ROOT = Path(bitnet_chat.__file__).parent
PATHS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
PERSONAL = re.compile(
    r"\b(?:who|whom|whoever|somebody|someone|nobody|anybody|anyone|everybody)\b"
    r"|\b(?:is|are|was|were) no (?!longer\b|more\b)"
    r"|\bthat there (?:is|are)\b",
    re.IGNORECASE,
)
ODD = re.compile(
    r"\b(?:is|are|was|were) to be \w+(?:ed|en|n|t)\b"  # "has to be", "must be", or an infinitive
    r"|(?-i:(?<!there )\b(?:is|are|was|were) none\b)"  # "empty without one", "is not …"
    r"|\bstands? (?:for|in)\b"  # "represents", "is in"
    r"|\bthere (?:is|are) not\b|\bby itself \w+ed\b"
    r"|\b(?:lets?|is let|are let) go\b|\bshall\b|\bhears?\b|\bin vain\b|\bof (?:its|their) own accord\b",
    re.IGNORECASE,
)
FOR_MODELS = (
    "filters/tool_call_repair.py",
    "filters/tool_calls.py",
)
"""Modules with texts for models ("it is no JSON"): a changed word there changes replies, so only ODD is looked for."""


QUESTIONS = ("who are you?",)
"""Texts of the demo model, which are not prose of ours."""


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


def found(rule: re.Pattern[str], said: list[tuple[int, str]]) -> list[str]:
    """The places in texts that break a rule."""
    return [
        f"{line}: …{text[max(0, hit.start() - 30) : hit.end() + 30]}…"
        for line, text in said
        for hit in rule.finditer(text)
    ]


def test_the_package_is_in_plain_sentences() -> None:
    places = {
        path: [
            *(found(PERSONAL, said) if path not in FOR_MODELS else ()),
            *found(ODD, said),
        ]
        for path in PATHS
        for said in [texts((ROOT / path).read_text("utf-8"))]
    }
    assert {path: faults for path, faults in places.items() if faults} == {}


def comments(source: str) -> list[tuple[int, str]]:
    """Every comment of ``source`` with its line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]


def test_comments_and_other_programs_are_in_plain_sentences() -> None:
    faults = {}
    for folder in ("bitnet_chat", "bin", "bench", "docs", "models"):
        for path in (ROOT.parent / folder).rglob("*.py"):
            source = path.read_text("utf-8")
            said = comments(source) + (texts(source) if folder != "bitnet_chat" else [])
            said = [(line, text) for line, text in said if text not in QUESTIONS]
            faults[str(path)] = [*found(PERSONAL, said), *found(ODD, said)]
    assert {path: each for path, each in faults.items() if each} == {}


def test_the_documentation_is_in_plain_sentences() -> None:
    top = ROOT.parent
    pages = [*top.glob("*.md"), *(top / "docs").glob("*.md"), *(top / "models").glob("*.md")]
    assert len(pages) > 10
    faults = {}
    for page in pages:
        prose = re.sub(r"^```.*?^```$|\"[^\"]*\"", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        said = [(0, paragraph.replace("\n", " ")) for paragraph in prose.split("\n\n")]
        faults[page.name] = [*found(PERSONAL, said), *found(ODD, said)]
    assert {page: each for page, each in faults.items() if each} == {}


def test_modules_with_texts_for_models_exist() -> None:
    assert set(FOR_MODELS) <= set(PATHS)


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
def test_what_makes_programs_persons(text: str) -> None:
    assert found(PERSONAL, texts(text))


@pytest.mark.parametrize(
    "text",
    [
        "is to be given", "were to be\\nwritten", "a line that is none", "it stands for all", "there is not one",
        "by itself asked", "lets go of it", "it shall end", "it hears of it", "waited in vain", "of its own accord",
    ],
)  # fmt: skip
def test_odd_sentences(text: str) -> None:
    assert found(ODD, texts(f"say('{text}')"))


@pytest.mark.parametrize(
    "text", ["say('is no longer needed')", "say('whole')", "say('the model whose name')", "say('is None')", "# nobody"]
)
def test_what_breaks_no_rule(text: str) -> None:
    assert not found(PERSONAL, texts(text)) and not found(ODD, texts(text))
