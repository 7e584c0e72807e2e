"""The training corpus of the demo model, generated from a seed and the wordings in ``data/``.

The corpus is a stream, not a file: every training step draws fresh conversations, so a wording is seen in many
disguises (openings, synonyms, casing, missing punctuation, typos) and rarely twice in the same form. That is what
lets a model of a few million parameters answer wordings that it has never seen.

Run it to look at samples::

    python models/demo/corpus.py --samples 5
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from intents import FOLDER, INTENTS, Intent, lines, load

_PHRASES = load("phrases")
OPENINGS, THIRD_PERSON, GERUND = (lines(_PHRASES[name]) for name in ("openings", "third_person", "gerund"))
SUBJECT_QUESTIONS, LEADS, TAILS = (lines(_PHRASES[name]) for name in ("subject_questions", "leads", "tails"))
THINGS, NAMES = lines(_PHRASES["things"]), lines(_PHRASES["names"])
NAME_STATEMENTS, NAME_QUESTIONS = lines(_PHRASES["name_statements"]), lines(_PHRASES["name_questions"])
SYSTEM_TEXTS, PIRATE_TEXTS = lines(_PHRASES["system_texts"]), lines(_PHRASES["pirate_texts"])
DOUBLED, DROPPABLE = frozenset(lines(_PHRASES["doubled"])), frozenset(lines(_PHRASES["droppable"]))
IRREGULAR_THIRD: Mapping[str, str] = _PHRASES["irregular_third"]
ACRONYMS: Mapping[str, str] = _PHRASES["acronyms"]
SYNONYMS: Mapping[str, list[str]] = _PHRASES["synonyms"]
PIRATE_PREFIX = "Arr! "


@dataclass
class Turn:
    """One user message and its reply; ``cut`` keeps only that share of the reply and leaves it open."""

    user: str
    reply: str
    cut: float | None = None
    exact: bool = False  # the reply repeats something from the message, which therefore has to stay legible


@dataclass
class Conversation:
    """A system message (or none) and the turns; ``newline_first`` is how the first user turn begins."""

    turns: list[Turn] = field(default_factory=list)
    system: str | None = None
    newline_first: bool = False


def normalised(text: str) -> str:
    """The text without case, spacing and punctuation: what counts as the same wording."""
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


HELDOUT_WORDINGS = frozenset(
    normalised(json.loads(row)["prompt"]) for row in (FOLDER / "heldout.jsonl").read_text("utf-8").splitlines()
)
"""Questions of the evaluation sets: wordings that the training stream never emits (see :func:`question`)."""


def _replace_words(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    for position, word in enumerate(words):
        bare = word.strip("?,.!").lower()
        if bare in SYNONYMS and rng.random() < 0.22:
            words[position] = word.lower().replace(bare, rng.choice(SYNONYMS[bare]))
    if len(words) > 4 and rng.random() < 0.15:
        droppable = [i for i, word in enumerate(words) if word.lower() in DROPPABLE]
        if droppable:
            del words[rng.choice(droppable)]
    if len(words) > 4 and rng.random() < 0.1:  # a wording that is understood from what is left of it
        words = [word for word in words if rng.random() > 0.2] or words
    return " ".join(words)


def _misspell(text: str, rng: random.Random) -> str:
    """One slip of the finger in one ordinary word; commands and flags stay as they are."""
    words = text.split(" ")
    candidates = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha() and word.isascii()]
    if not candidates:
        return text
    index = rng.choice(candidates)
    word = words[index]
    at = rng.randrange(1, len(word) - 1)
    match rng.randrange(4):
        case 0:
            word = word[:at] + word[at + 1 :]
        case 1:
            word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        case 2:
            word = word[:at] + word[at] + word[at:]
        case _:
            word = word[:at] + rng.choice("abcdefghijklmnopqrstuvwxyz") + word[at + 1 :]
    words[index] = word
    return " ".join(words)


def _disguise(text: str, rng: random.Random, small_talk: bool) -> str:
    """A wording as people type it: with or without a lead, a capital, a question mark, and sometimes misspelt."""
    ending = text[-1] if text[-1] in "?!" else ""
    if ending:
        text = text[:-1]
    text = _replace_words(text, rng)
    if rng.random() < (0.12 if small_talk else 0.22):
        text = f"{rng.choice(LEADS)} {text}"
    if text.isascii() and rng.random() < (0.05 if small_talk else 0.15):
        text = f"{text} {rng.choice(TAILS)}"
    if rng.random() < 0.13:
        text = _misspell(text, rng)
    if rng.random() < 0.6:
        text = " ".join(ACRONYMS.get(word, word) for word in text.split(" "))
    case = rng.random()
    if case < 0.55:
        text = text[0].upper() + text[1:]
    elif case < 0.75:
        text = text.lower()
    elif case < 0.78:
        text = text.upper()
    ending = rng.choice((ending, ending, ending, "", "?", "." if not ending else "?", "!" if small_talk else ""))
    space = rng.random()
    text = text + ending
    if space < 0.03:
        text = text + "\n"
    elif space < 0.05:
        text = "\n" + text
    return text


def _third_person(action: str) -> str:
    verb, _, rest = action.partition(" ")
    if verb in IRREGULAR_THIRD:
        form = IRREGULAR_THIRD[verb]
    elif verb.endswith(("s", "sh", "ch", "x", "z")):
        form = verb + "es"
    elif verb.endswith("y") and verb[-2] not in "aeiou":
        form = verb[:-1] + "ies"
    else:
        form = verb + "s"
    return f"{form} {rest}".strip()


def _gerund(action: str) -> str:
    verb, _, rest = action.partition(" ")
    if verb in DOUBLED:
        form = verb + verb[-1] + "ing"
    elif verb.endswith("e") and not verb.endswith(("ee", "be")):
        form = verb[:-1] + "ing"
    else:
        form = verb + "ing"
    return f"{form} {rest}".strip()


def _ask_for(action: str, rng: random.Random) -> str:
    """A question about an action, in one of several grammatical forms."""
    kind = rng.random()
    if kind < 0.12:
        return action
    if kind < 0.24:
        return rng.choice(THIRD_PERSON).format(x=_third_person(action))
    if kind < 0.34:
        return rng.choice(GERUND).format(x=_gerund(action))
    return f"{rng.choice(OPENINGS)} {action}"


def question(intent: Intent, rng: random.Random) -> str:
    """A training question for the intent; never a held-out wording, whatever the augmentation made of it."""
    while True:
        kind = rng.random()
        if intent.subjects and kind < 0.1:
            text = rng.choice(SUBJECT_QUESTIONS).format(s=rng.choice(intent.subjects))
        elif intent.actions and (kind < 0.5 or not intent.questions):
            text = _ask_for(rng.choice(intent.actions), rng)
        else:
            text = rng.choice(intent.questions)
        while "{thing}" in text:
            text = text.replace("{thing}", rng.choice(THINGS), 1)
        text = _disguise(text, rng, intent.small_talk)
        if normalised(text) not in HELDOUT_WORDINGS:
            return text


_WEIGHTS = [intent.weight for intent in INTENTS]


def _name_turn(rng: random.Random, known: str | None) -> tuple[Turn, str | None]:
    if known is None and rng.random() < 0.3:
        reply = "You have not told me your name yet."
        return Turn(_disguise(rng.choice(NAME_QUESTIONS), rng, True), reply), None
    if known is not None and rng.random() < 0.75:
        return Turn(_disguise(rng.choice(NAME_QUESTIONS), rng, True), f"Your name is {known}."), known
    name = rng.choice(NAMES)
    text = rng.choice(NAME_STATEMENTS).replace("{n}", name)
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.4:
        text += rng.choice((".", "!"))
    return Turn(text, f"Nice to meet you, {name}!", exact=True), name


def conversation(rng: random.Random, long: float = 0.2) -> Conversation:
    """One conversation: mostly a single turn or a few, a share ``long`` of them with up to twenty turns."""
    kind = rng.random()
    if kind < long:
        count = rng.randint(7, 20)
    elif kind < long + 0.35:
        count = rng.randint(2, 6)
    else:
        count = 1
    result = Conversation(newline_first=rng.random() < 0.5)
    pirate = False
    if rng.random() < 0.2:
        pirate = rng.random() < 0.4
        result.system = rng.choice(PIRATE_TEXTS if pirate else SYSTEM_TEXTS)
    known: str | None = None
    for _ in range(count):
        if rng.random() < (0.14 if known is None else 0.25):
            turn, known = _name_turn(rng, known)
        else:
            intent = rng.choices(INTENTS, _WEIGHTS)[0]
            turn = Turn(question(intent, rng), rng.choice(intent.replies), exact=intent.name.startswith("exit_"))
        if pirate:
            turn.reply = PIRATE_PREFIX + turn.reply
        # A long reply is what people interrupt; any other one now and then.
        if rng.random() < (0.3 if len(turn.reply) > 250 else 0.06):
            turn.cut = rng.random()
        result.turns.append(turn)
    return result


def sample_text(count: int, seed: int) -> Iterator[str]:
    """Plain text for the tokenizer's training: user messages, replies and system messages."""
    rng = random.Random(seed)
    for _ in range(count):
        sample = conversation(rng)
        if sample.system:
            yield sample.system
        for turn in sample.turns:
            yield turn.user
            yield turn.reply


def main() -> None:
    parser = argparse.ArgumentParser(description="Print samples of the corpus.")
    parser.add_argument("--samples", type=int, default=5, help="number of conversations (default 5)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    for _ in range(arguments.samples):
        print(conversation(rng))


if __name__ == "__main__":
    main()
