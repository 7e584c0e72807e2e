"""The README names what there is, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bitnet_chat.cli import VERBS
from bitnet_chat.errors import FinishReason
from bitnet_chat.repl.commands import COMMANDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_named(name: str) -> None:
    assert re.search(rf"`[^`]*/{name}\b", README)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_named(verb: str) -> None:
    assert re.search(rf"bitnet-chat {verb}\b|`{verb} |`engine {verb}| replay FILE", README)


@pytest.mark.parametrize("reason", [each for each in FinishReason if each is not FinishReason.CUT_OFF])
def test_every_finish_reason_is_in_the_table_with_its_exit_code(reason: FinishReason) -> None:
    row = next(line for line in README.splitlines() if f"`{reason.value}`" in line and line.startswith("|"))
    assert row.startswith(f"| {reason.exit_code} |")


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert links
    for link in links:
        assert (ROOT / link).is_file(), link


def test_modules_that_are_named_are_there() -> None:
    section = README.partition("## How it works")[2].partition("## Measured")[0]
    names = re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:\.py|/))`", section)
    assert len(names) > 10
    for name in names:
        assert (ROOT / "bitnet_chat" / name).exists(), name
