"""The training corpus of the demo model: its data files, and what is drawn from them."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "models" / "demo"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its programs import each other by name."""
    monkeypatch.syspath_prepend(str(DEMO))
    for name in ("intents", "corpus"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("demo")
def test_every_intent_can_be_asked_and_answered() -> None:
    from intents import INTENTS  # type: ignore[import-not-found]

    assert len(INTENTS) == len({intent.name for intent in INTENTS}) == 74
    assert sum(len(each.actions) + len(each.questions) + len(each.subjects) for each in INTENTS) == 2179
    for intent in INTENTS:
        assert intent.replies and (intent.actions or intent.questions), intent.name
        wordings = (*intent.actions, *intent.questions, *intent.subjects)
        assert all(wording and wording == wording.strip() for wording in wordings), intent.name
        assert any(part in reply for part in intent.expect for reply in intent.replies), intent.name


@pytest.mark.usefixtures("demo")
def test_the_corpus_depends_on_the_seed_only_and_has_no_question_of_the_evaluation() -> None:
    from corpus import INTENTS, conversation, normalised, question  # type: ignore[import-not-found]

    rows = [json.loads(row) for row in (DEMO / "heldout.jsonl").read_text("utf-8").splitlines()]
    held_out = {normalised(row["prompt"]) for row in rows}
    assert repr(conversation(random.Random(1))) == repr(conversation(random.Random(1)))
    rng = random.Random(2)
    asked = [question(intent, rng) for intent in INTENTS for _ in range(20)]
    assert held_out.isdisjoint(map(normalised, asked))
