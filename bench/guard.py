#!/usr/bin/env python3
"""The runaway guard: false alarms, what it finds and when, and what it costs. ``python bench/guard.py [--texts N]``.

Normal texts are made by rule (``tests/support/replies.py``) and taken from the files of this computer: pieces of 16,000
characters of source code in all its languages, markup, data, manual pages and licences, none of them in a code block,
each judged with the role markers of all templates at once. Runaways are made by rule. Time is processor time: it does
not matter what else the computer does.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

from report import Figure, Goal, Section

from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import FinishReason
from bitnet_chat.filters.role_markers import markers_of, relevant
from bitnet_chat.filters.runaway_guard import ReplyGuard
from bitnet_chat.templates.builtin import TEMPLATES
from bitnet_chat.templates.chat_template import ChatTemplate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from replies import COUNTERS, LOOPS, NORMAL, prose, sentence, stammer

_TESTS = Path(__file__).resolve().parent.parent / "tests"
_LIMIT = 12
_TOKENS = 400
_PIECE = 16_000
_FOLDERS = ("/usr/share", "/usr/lib", "/usr/include", "/etc", str(Path(os.__file__).parent))
_KINDS = frozenset(
    "c cc cfg cmake conf cpp css csv diff el go h hpp html ini java js json log lua md patch php pl pm po py rb rs rst "  # noqa: SIM905
    "sh sql svg tcl tex toml ts txt vim xml yaml yml".split()
)
_ASKED = Conversation().with_user("please go on")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100, metavar="N", help="of each kind (default: 100)")
    parser.add_argument("--seed", type=int, default=1)
    flags = parser.parse_args()
    known = _markers()
    for section in (
        _false_alarms(known, flags.texts, flags.seed),
        _found(known, flags.texts, flags.seed),
        _real_loops(),
        _roles(flags.seed),
        _cost(known),
    ):
        print(section)
        for goal in section.goals:
            print(goal)
        print()
    return 0


def _template(name: str) -> ChatTemplate:
    return ChatTemplate(TEMPLATES[name], name=name, bos="<s>", eos="</s>")


def _markers(*names: str) -> tuple[str, ...]:
    found: list[str] = []
    for name in names or TEMPLATES:
        marks = _template(name).marks()
        found += markers_of(marks.in_prefix, marks.in_suffix)
    return relevant(found, _ASKED)


def _watch(known: tuple[str, ...], text: str) -> tuple[int, FinishReason | None]:
    guard = ReplyGuard(known, _LIMIT)
    shown = len(guard.feed(text))
    return shown + len(guard.flush()), guard.finding


def _installed(count: int, random: Random) -> Iterator[tuple[str, str, str]]:
    """Kind, path and text of so many files of each kind."""
    kinds: dict[str, list[Path]] = {}
    for folder in _FOLDERS:
        for place, _, names in os.walk(folder):
            for name in names:
                kind = "licence" if name == "copyright" else name.rpartition(".")[2].lower()
                if kind == "gz" and "/man/" in f"{place}/":
                    kind = "manual page"
                elif kind != "licence" and kind not in _KINDS:
                    continue
                kinds.setdefault(kind, []).append(Path(place, name))
    for kind, found in sorted(kinds.items()):
        for path in random.sample(sorted(found), min(count, len(found))):
            try:
                with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                    text = file.read(400_000).decode("utf-8", "surrogateescape")
            except (OSError, EOFError):
                continue
            if len(text) > 200 and "\0" not in text:
                at = text.find("\n", random.randrange(max(1, len(text) - _PIECE))) + 1
                yield kind, str(path), text[at : at + _PIECE]


def _false_alarms(known: tuple[str, ...], count: int, seed: int) -> Section:
    section = Section("False alarms on normal texts")
    made = [(kind, "", make(Random(seed * 1000 + number))) for kind, make in NORMAL.items() for number in range(count)]
    for name, texts in (("made by rule", made), ("files of this computer", list(_installed(count, Random(seed))))):
        alarms: Counter[str] = Counter()
        for kind, path, text in texts:
            shown, finding = _watch(known, text)
            if finding is not None:
                alarms[kind] += 1
                section.notes.append(f"{finding.value} after {shown} characters of {kind} {path}")
        kinds = len({kind for kind, _, _ in texts})
        section.notes.append(f"{name}: {len(texts)} texts of {kinds} kinds, {sum(alarms.values())} alarms")
        rate = 1000 * sum(alarms.values()) / max(1, len(texts))
        section.goals.append(Goal(f"false alarms, {name}", rate, "of 1,000", 2.0))
    return section


def _found(known: tuple[str, ...], count: int, seed: int) -> Section:
    section = Section("Characters of a runaway until it is stopped")
    makers = {name: lambda random, make=make: _repeated(make(random)) for name, make in LOOPS.items()}
    makers |= {name: lambda random, make=make: _counted(random, make) for name, make in COUNTERS.items()}
    makers["a few words in no order"] = stammer
    missed = total = 0
    for name, make in makers.items():
        delays = []
        for number in range(count):
            random = Random(seed * 1000 + number)
            good = prose(random, random.choice([0, 300, 2000]))
            shown, finding = _watch(known, good + make(random))
            total += 1
            if finding is None or shown < len(good):
                missed += 1
            else:
                delays.append(float(shown - len(good)))
        section.figures.append(Figure.of(name, "chars", delays))
    section.notes.append(f"{total} runaways, {missed} missed")
    section.goals.append(Goal("runaways missed", 100 * missed / total, "%", 0.0))
    return section


def _real_loops() -> Section:
    """Of SmolLM2-135M, as ``tests/data/loops.json`` has them, in tokens of its own vocabulary."""
    section = Section("Tokens of a real model's loop until it is stopped")
    delays: list[float] = []
    loops = json.loads((_TESTS / "data" / "loops.json").read_text("utf-8"))["loops"]
    for each in loops:
        before, loop, tokens = each["before"], each.get("rest") or each["unit"], each["tokens"][1]
        density = tokens / len(loop)
        guard = ReplyGuard((), _LIMIT, count=lambda text, density=density: round(len(text) * density))
        shown = len(guard.feed(before + (loop if "rest" in each else loop * (20_000 // len(loop)))))
        delays.append((shown - len(before)) * density)
        if delays[-1] > _TOKENS:
            section.notes.append(f"{delays[-1]:,.0f} tokens: {each['prompt']}")
    section.figures.append(Figure.of(f"{len(loops)} loops", "tokens", delays))
    late = sum(delay > _TOKENS for delay in delays)
    section.goals.append(Goal(f"loops stopped after more than {_TOKENS} tokens", late, f"of {len(loops)}", 0))
    return section


def _repeated(unit: str) -> str:
    return unit * (30_000 // len(unit))


def _counted(random: Random, make: object) -> str:
    text = sentence(random, 4, 12)
    return "".join(make(text, number) for number in range(1, 400))  # type: ignore[operator]


def _roles(seed: int) -> Section:
    section = Section("Replies that go on as the user")
    for name in TEMPLATES:
        turns = _ASKED.with_assistant("REPLY").with_user("And then?").with_assistant("Nothing.").with_user("Thanks")
        rest = _template(name).render(turns, reply_follows=True).partition("REPLY")[2]
        exact = 0
        for number in range(100):
            reply = prose(Random(seed * 1000 + number), 400).strip()
            exact += _watch(_markers(name), reply + rest) == (len(reply), FinishReason.ROLE_MARKER)
        section.notes.append(f"{name}: {exact} of 100 end with the last character of the reply")
    return section


def _cost(known: tuple[str, ...]) -> Section:
    section = Section("Cost")
    text = prose(Random(1), 400_000)
    for size in (4, 64, 4096, 1 << 16):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        seconds, late = [], []
        for _ in range(5):
            guard = ReplyGuard(known, _LIMIT)
            begun = time.process_time()
            for piece in pieces[: len(pieces) // 2]:
                guard.feed(piece)
            middle = time.process_time()
            for piece in pieces[len(pieces) // 2 :]:
                guard.feed(piece)
            seconds.append(time.process_time() - begun)
            late.append(100 * (seconds[-1] - (middle - begun)) / (middle - begun))
        each = [1e6 * second / len(pieces) for second in seconds]
        section.figures.append(Figure.of(f"pieces of {size} characters", "µs/piece", each))
        section.figures.append(
            Figure.of(f"pieces of {size} characters", "µs/KB", [1e9 * second / len(text) for second in seconds])
        )
        section.figures.append(Figure.of(f"pieces of {size}, second half against first", "%", late))
    rate = statistics.median(len(text) / 1e6 / second for second in seconds)
    section.goals.append(Goal("the guard alone, large pieces", rate, "MB/s", 20.0, at_least=True))
    return section


if __name__ == "__main__":
    sys.exit(main())
