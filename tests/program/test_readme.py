"""The README and docs/ name every command, verb and finish reason, and their links and module names resolve."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bitnet_chat.cli import VERBS
from bitnet_chat.errors import FinishReason
from bitnet_chat.repl.commands import COMMANDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
USING = (ROOT / "docs/using.md").read_text("utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("models/*.md")])
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_named(name: str) -> None:
    assert re.search(rf"`[^`]*/{name}\b", USING)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_named(verb: str) -> None:
    assert re.search(rf"bitnet-chat {verb}\b|`engine {verb}| replay FILE", USING)


@pytest.mark.parametrize("reason", [each for each in FinishReason if each is not FinishReason.CUT_OFF])
def test_every_finish_reason_is_in_the_table_with_its_exit_code(reason: FinishReason) -> None:
    row = next(line for line in USING.splitlines() if f"`{reason.value}`" in line and line.startswith("|"))
    assert row.startswith(f"| {reason.exit_code} |")


def test_the_readme_is_short_and_has_no_relative_link() -> None:
    """It is also the description on a package index, where a relative link leads nowhere."""
    assert len(README.splitlines()) <= 120
    assert not _LINK.findall(README)


def test_files_that_the_readme_names_exist() -> None:
    names = re.findall(r"`((?:docs/)?[\w-]+\.md)`", README)
    assert len(names) > 8
    assert {f"docs/{path.name}" for path in ROOT.glob("docs/*.md")} <= {*names}
    assert not [name for name in names if not (ROOT / name).is_file()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_resolve(document: Path) -> None:
    assert not [link for link in _LINK.findall(document.read_text("utf-8")) if not (document.parent / link).is_file()]


@pytest.mark.parametrize("document", ["docs/architecture.md", "SECURITY.md"])
def test_modules_that_are_named_exist(document: str) -> None:
    names = {*re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:\.py|/))`", (ROOT / document).read_text("utf-8"))}
    assert len(names) > 10
    assert not [name for name in names if not any((top / name).exists() for top in (ROOT / "bitnet_chat", ROOT))]


def test_the_picture_of_the_layers_is_that_of_the_contract() -> None:
    contract = (ROOT / "setup.cfg").read_text("utf-8").partition("layers =\n")[2].partition("exhaustive")[0]
    layers = [re.findall(r"\w+", line) for line in contract.splitlines() if line.strip()]
    picture = re.findall(r"^│(.*?)│", (ROOT / "docs/architecture.md").read_text("utf-8"), re.MULTILINE)
    assert [re.findall(r"\w+", line) for line in picture] == layers
