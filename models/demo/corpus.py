"""The training corpus and the held-out questions of the demo model, generated from a seed.

The corpus is a stream, not a file: every training step draws fresh conversations, so a wording is seen in many
disguises (openings, synonyms, casing, missing punctuation, typos) and rarely twice in the same form. That is what
lets a model of a few million parameters answer wordings that it has never seen.

Run it to write the held-out set, or to look at samples::

    python models/demo/corpus.py --heldout models/demo/heldout.jsonl
    python models/demo/corpus.py --samples 5
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from intents import INTENTS, Intent
from unseen import UNSEEN_QUESTIONS
from wordings import BLIND_QUESTIONS

OPENINGS = (
    "how do I",
    "how can I",
    "how could I",
    "how would I",
    "how to",
    "how should I",
    "how does one",
    "how might I",
    "what do I type to",
    "what should I type to",
    "what do I enter to",
    "what do I press to",
    "what must I do to",
    "what can I do to",
    "what do I do if I want to",
    "what do I need to do to",
    "what lets me",
    "what is the way to",
    "which command do I use to",
    "which way is there to",
    "what is the command to",
    "what is the best way to",
    "what's the proper way to",
    "what is the right way to",
    "what's the trick to",
    "is there a way to",
    "is there something to",
    "is it possible to",
    "is there an easy way to",
    "can I",
    "could I",
    "may I",
    "am I able to",
    "I want to",
    "I need to",
    "I'd like to",
    "I would like to",
    "I have to",
    "I wish to",
    "I am trying to",
    "I would rather",
    "I'd love to",
    "let me",
    "help me",
    "help me to",
    "please help me",
    "tell me how to",
    "show me how to",
    "explain how to",
    "can you tell me how to",
    "could you show me how to",
    "can you explain how to",
    "do you know how to",
    "I don't know how to",
    "I have no idea how to",
    "I forgot how to",
    "any idea how to",
    "any way to",
    "where can I",
    "where do I",
    "need to",
    "want to",
    "trying to",
    "it should",
    "I wonder how to",
    "what if I want to",
    "what would I do to",
    "how does someone",
    "how do people",
)

# An action in other grammatical forms: "stop the reply" as "which key stops the reply?" and "stopping the reply".
THIRD_PERSON = (
    "what {x}?",
    "which command {x}?",
    "which flag {x}?",
    "which key {x}?",
    "which option {x}?",
    "what command {x}?",
    "is there something that {x}?",
    "is there a command that {x}?",
    "is there a flag that {x}?",
    "is there a key that {x}?",
    "I need something that {x}",
    "I am looking for the thing that {x}",
    "tell me what {x}",
    "do you have something that {x}?",
)
GERUND = (
    "what about {x}?",
    "how does {x} work?",
    "is {x} possible?",
    "{x}?",
    "{x}, how?",
    "I am looking for a way of {x}",
    "I am thinking of {x}",
    "what do I need for {x}?",
    "what is there for {x}?",
    "I have trouble {x}",
    "do you support {x}?",
    "what is your advice on {x}?",
    "is there a command for {x}?",
    "explain {x}",
    "{x} please",
    "I am interested in {x}",
)
DOUBLED = frozenset(
    ["get", "stop", "set", "put", "run", "cut", "begin", "quit", "forget", "drop", "submit", "shut", "log", "plug"]
)
IRREGULAR_THIRD = {"have": "has", "go": "goes", "do": "does", "undo": "undoes", "redo": "redoes", "be": "is"}

SUBJECT_QUESTIONS = (
    "what does {s} do?",
    "what is {s}?",
    "what is {s} for?",
    "explain {s}",
    "what happens with {s}?",
    "what about {s}?",
    "how do I use {s}?",
    "how does {s} work?",
    "when do I use {s}?",
    "why would I use {s}?",
    "{s}?",
    "tell me about {s}",
    "what does {s} mean?",
    "can you explain {s}?",
    "what is the use of {s}?",
    "what is the effect of {s}?",
    "describe {s}",
    "is there a {s}?",
    "do you have {s}?",
    "help with {s}",
    "I do not understand {s}",
)

LEADS = (
    "please",
    "hey,",
    "hi,",
    "hello,",
    "excuse me,",
    "sorry,",
    "ok,",
    "okay,",
    "so",
    "and",
    "well,",
    "um,",
    "also,",
    "now",
    "by the way,",
    "quick question:",
    "one question:",
    "a question:",
    "another thing:",
    "next:",
    "hmm,",
    "oh,",
    "thanks,",
    "good,",
    "alright,",
    "hi bot,",
    "dear bot,",
    "great,",
    "I wonder,",
    "tell me,",
    "one more thing:",
    "and now",
    "right,",
    "say,",
    "then",
    "but",
)

TAILS = (
    "please",
    "thanks",
    "here",
    "in bitnet-chat",
    "with bitnet-chat",
    "in this chat",
    "in this program",
    "actually",
    "exactly",
    "again",
    "now",
    "for me",
    "somehow",
    "quickly",
    "in the terminal",
    "thank you",
    "pls",
    "then",
    "right now",
    "with this tool",
    "at the moment",
    "if possible",
    "in here",
)

# Words that may stand for each other. Directed: the key is replaced by one of its values. Words that belong to a
# command ("chat template", "system prompt") are no keys.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "answer": ("reply", "response"),
    "answers": ("replies", "responses"),
    "reply": ("answer", "response"),
    "replies": ("answers", "responses"),
    "conversation": ("chat", "talk", "discussion", "dialogue", "session"),
    "history": ("conversation", "log", "chat"),
    "delete": ("remove", "erase", "wipe", "discard", "clear"),
    "remove": ("delete", "erase", "drop", "discard"),
    "erase": ("delete", "wipe", "remove", "clear"),
    "wipe": ("erase", "delete", "clear"),
    "empty": ("clear", "wipe", "blank"),
    "drop": ("remove", "delete", "discard"),
    "see": ("view", "look at", "check", "display", "show", "look up", "know"),
    "show": ("display", "print", "list", "view"),
    "check": ("see", "verify", "look up", "inspect", "tell"),
    "test": ("check", "verify", "try", "examine"),
    "choose": ("select", "pick", "specify", "set", "decide on"),
    "pick": ("choose", "select"),
    "select": ("pick", "choose"),
    "set": ("define", "specify", "configure", "adjust", "choose", "fix", "enter"),
    "change": ("modify", "alter", "adjust", "edit", "switch", "replace"),
    "get": ("obtain", "receive", "have", "request", "find"),
    "have": ("get", "want"),
    "use": ("employ", "take", "work with", "apply"),
    "bigger": ("larger", "greater", "longer"),
    "larger": ("bigger", "greater"),
    "increase": ("raise", "enlarge", "extend", "grow"),
    "reduce": ("lower", "decrease", "shrink", "turn down"),
    "big": ("large",),
    "small": ("little", "tiny"),
    "stop": ("halt", "interrupt", "end", "abort", "cancel", "cut off"),
    "quit": ("leave", "exit", "close", "end"),
    "leave": ("quit", "exit"),
    "start": ("begin", "launch", "open"),
    "begin": ("start",),
    "restart": ("start over",),
    "key": ("shortcut", "key combination", "button", "keystroke", "keys"),
    "keys": ("shortcuts", "key combinations", "buttons"),
    "flag": ("option", "switch", "parameter", "argument", "setting"),
    "flags": ("options", "switches", "parameters", "arguments"),
    "option": ("flag", "switch", "parameter"),
    "options": ("flags", "arguments", "switches", "parameters"),
    "program": ("application", "app", "tool", "software", "thing"),
    "which": ("what",),
    "what": ("which",),
    "limit": ("cap", "restrict", "bound", "control"),
    "last": ("previous", "latest", "most recent", "recent"),
    "earlier": ("previous", "past", "former", "old", "prior"),
    "previous": ("earlier", "last", "past"),
    "new": ("fresh", "another", "different"),
    "another": ("a different", "an alternative", "a new", "one more", "a second"),
    "different": ("other", "new", "alternative"),
    "several": ("multiple", "many", "two", "some", "three"),
    "many": ("lots of", "several", "a lot of", "hundreds of", "multiple", "plenty of", "a bunch of"),
    "computer": ("machine", "system", "pc", "laptop", "box"),
    "machine": ("computer", "system", "laptop"),
    "installed": ("available", "present", "there", "set up"),
    "available": ("there", "present", "offered", "supported"),
    "question": ("prompt", "query"),
    "questions": ("prompts", "queries"),
    "message": ("text", "input", "prompt"),
    "messages": ("inputs", "prompts", "questions"),
    "find": ("locate", "look up", "discover", "get"),
    "write": ("type", "compose", "enter"),
    "type": ("write", "enter", "put in"),
    "create": ("make",),
    "fast": ("quick", "speedy"),
    "slow": ("sluggish",),
    "slowly": ("gradually",),
    "mistake": ("error", "typo"),
    "running": ("active", "loaded", "in use"),
    "current": ("active", "present"),
    "loaded": ("active", "in use", "running"),
    "forget": ("drop", "lose"),
    "redo": ("repeat", "rewrite", "regenerate"),
    "retry": ("repeat", "try again with"),
    "regenerate": ("redo", "recreate", "rewrite"),
    "bad": ("poor", "wrong", "useless"),
    "wrong": ("bad", "incorrect", "false"),
    "instructions": ("rules", "orders", "guidelines"),
    "role": ("personality", "persona", "character"),
    "speed": ("pace", "performance"),
    "statistics": ("stats", "numbers", "figures", "metrics"),
    "figures": ("numbers", "statistics"),
    "file": ("document",),
    "download": ("fetch", "get", "obtain"),
    "install": ("set up", "get", "add"),
    "works": ("runs", "is usable"),
    "supported": ("compatible", "usable", "okay"),
    "compatible": ("supported", "usable"),
    "binary": ("executable", "program"),
    "settings": ("preferences", "options", "defaults", "configuration"),
    "save": ("keep", "store", "remember", "persist"),
    "store": ("save", "keep"),
    "reproducible": ("repeatable", "deterministic", "the same"),
    "random": ("varied", "chaotic"),
    "randomness": ("variety", "variation", "chance"),
    "cores": ("processors", "CPUs", "threads"),
    "complete": ("finish", "fill in"),
    "print": ("show", "output", "display"),
    "list": ("show", "overview", "enumerate"),
    "open": ("launch", "start", "bring up"),
    "search": ("look through", "scan", "browse"),
    "pass": ("give", "hand over", "provide", "supply", "forward"),
    "give": ("pass", "provide", "supply", "hand"),
    "extra": ("additional", "further", "more", "other"),
    "other": ("additional", "further"),
    "real": ("proper", "serious", "full", "good", "true"),
    "better": ("smarter", "more capable", "stronger", "cleverer"),
    "maximum": ("max", "largest", "highest"),
    "avoid": ("prevent", "not have", "skip"),
    "disable": ("turn off", "switch off", "deactivate"),
    "too": ("far too", "much too"),
    "means": ("signals", "indicates", "stands for", "tells"),
    "mean": ("signify", "stand for", "tell me", "indicate"),
    "exist": ("are there", "are available"),
    "name": ("title",),
    "tell": ("explain to", "inform"),
    "line": ("row",),
    "lines": ("rows",),
    "crashed": ("died", "broke"),
    "broken": ("damaged", "invalid", "defective"),
    "missing": ("absent", "not there"),
    "unsent": ("not sent",),
    "press": ("hit", "push", "use"),
    "sends": ("submits", "delivers"),
    "send": ("submit", "deliver"),
    "sent": ("submitted", "delivered"),
    "want": ("need", "would like", "wish"),
    "need": ("want", "require"),
    "very": ("really", "so", "quite"),
    "long": ("lengthy", "very long"),
    "nice": ("good", "lovely"),
    "great": ("good", "excellent"),
    "good": ("nice", "great", "fine"),
    "today": ("right now", "at the moment", "this morning"),
    "funny": ("amusing",),
    "some": ("a few", "a couple of"),
    "please": ("kindly",),
    "can": ("could", "would"),
    "seconds": ("secs",),
    "minute": ("few minutes",),
    "once": ("one time",),
    "environment": ("env",),
    "all": ("every one of the", "all of the"),
    "everything": ("it all", "all of it", "all this"),
    "whole": ("entire", "full", "complete"),
}

ACRONYMS = {
    "json": "JSON",
    "jsonl": "JSONL",
    "gguf": "GGUF",
    "pty": "PTY",
    "ptys": "PTYs",
    "chatml": "ChatML",
    "cpu": "CPU",
    "llama.cpp": "Llama.cpp",
    "bitnet": "BitNet",
    "python": "Python",
    "markdown": "Markdown",
    "emacs": "Emacs",
    "vim": "Vim",
}

DROPPABLE = frozenset(
    [
        "the",
        "a",
        "an",
        "my",
        "do",
        "i",
        "to",
        "is",
        "of",
        "does",
        "it",
        "for",
        "me",
        "you",
        "are",
        "please",
        "this",
        "that",
        "can",
    ]
)

THINGS = (
    "pasta",
    "a cake",
    "Einstein",
    "the moon",
    "Paris",
    "football",
    "history",
    "gravity",
    "music",
    "a cat",
    "dogs",
    "Mozart",
    "a car",
    "bread",
    "the sun",
    "chess",
    "coffee",
    "tea",
    "Shakespeare",
    "biology",
    "a bicycle",
    "Rome",
    "Berlin",
    "China",
    "the ocean",
    "a volcano",
    "quantum physics",
    "mathematics",
    "love",
    "money",
    "a house",
    "pizza",
    "soup",
    "the telephone",
    "electricity",
    "a spider",
    "plants",
    "photography",
    "Germany",
    "the war",
    "a king",
    "a city",
    "rain",
    "snow",
    "trees",
    "a city in Spain",
    "chemistry",
    "the internet",
    "Napoleon",
    "a horse",
    "fish",
    "birds",
    "an elephant",
    "glass",
    "gold",
    "a book",
    "a movie",
    "rock music",
    "basketball",
    "a river",
    "the Nile",
    "mountains",
    "London",
    "New York",
    "philosophy",
    "politics",
    "the economy",
    "a plane",
    "a train",
    "the steam engine",
    "rockets",
    "Mars",
    "stars",
    "black holes",
    "DNA",
    "cells",
    "the heart",
    "medicine",
    "sleep",
    "dreams",
    "colors",
    "a rainbow",
    "rice",
    "an apple",
    "cheese",
    "wine",
    "a potato",
    "a dragon",
    "the pyramids",
    "Egypt",
    "Brazil",
    "Africa",
    "the earth",
    "a guitar",
    "a piano",
    "insects",
    "legs",
    "wheels",
    "the brain",
    "a shark",
    "evolution",
    "atoms",
    "oxygen",
    "poetry",
    "art",
    "paintings",
    "a museum",
)

NAMES = (
    "Ada",
    "Alan",
    "Anna",
    "Ben",
    "Bob",
    "Alice",
    "Carla",
    "David",
    "Emma",
    "Eva",
    "Felix",
    "Grace",
    "Hana",
    "Ivan",
    "Jack",
    "Jane",
    "John",
    "Julia",
    "Karl",
    "Laura",
    "Leo",
    "Linus",
    "Lisa",
    "Lucy",
    "Maria",
    "Mark",
    "Max",
    "Mia",
    "Mike",
    "Nina",
    "Noah",
    "Olga",
    "Oscar",
    "Paul",
    "Peter",
    "Rosa",
    "Sam",
    "Sara",
    "Tom",
    "Yuki",
)

NAME_STATEMENTS = (
    "my name is {n}",
    "I am {n}",
    "I'm {n}",
    "call me {n}",
    "hello, I am {n}",
    "hi, my name is {n}",
    "you can call me {n}",
)
NAME_QUESTIONS = (
    "what is my name?",
    "who am I?",
    "do you know my name?",
    "do you remember my name?",
    "what's my name?",
    "tell me my name",
)

SYSTEM_TEXTS = (
    "You are a helpful assistant.",
    "Be brief.",
    "You are a friendly assistant.",
    "Answer in one sentence.",
    "You help users of bitnet-chat.",
    "Be polite and kind.",
    "Answer the questions of the user.",
    "You are an expert.",
    "You are a teacher.",
    "Keep your answers short.",
    "You are a careful technical writer.",
    "Always tell the truth.",
    "You are BitNet.",
    "Respond in English.",
    "You are a demo.",
    "Help me.",
    "Do not use slang.",
    "You are a chatbot.",
)
PIRATE_TEXTS = (
    "Talk like a pirate.",
    "You are a pirate.",
    "Speak like a pirate",
    "Answer like a pirate.",
    "be a pirate",
    "Please talk like a pirate!",
    "You are an old pirate captain.",
    "Reply as a pirate would.",
    "act like a pirate",
)
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


def heldout_questions() -> Iterator[dict[str, object]]:
    """The evaluation sets: wordings that the training stream never emits (checked in :func:`question`)."""
    for intent in INTENTS:
        second = BLIND_QUESTIONS.get(intent.name, "").strip().splitlines()
        for number, wordings in enumerate((intent.heldout, second), start=1):
            for wording in map(str.strip, wordings):
                text = wording[0].upper() + wording[1:]
                yield {"prompt": text, "expect": list(intent.expect), "intent": intent.name, "set": number}
    for wording, expect in UNSEEN_QUESTIONS:
        yield {"prompt": wording, "expect": list(expect), "intent": "", "set": 3}


HELDOUT_WORDINGS = frozenset(normalised(str(row["prompt"])) for row in heldout_questions())


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
    parser = argparse.ArgumentParser(description="Write the held-out questions or show samples of the corpus.")
    parser.add_argument("--heldout", type=Path, help="write the held-out questions to this file")
    parser.add_argument("--samples", type=int, default=0, help="print this many conversations")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.heldout:
        rows = [json.dumps(row, ensure_ascii=False) for row in heldout_questions()]
        arguments.heldout.write_text("\n".join(rows) + "\n", encoding="utf-8")
        print(f"{len(rows)} questions for {len(INTENTS)} intents")
    rng = random.Random(arguments.seed)
    for _ in range(arguments.samples):
        print(conversation(rng))


if __name__ == "__main__":
    main()
