"""Ask a real engine the held-out questions and count the right answers.

::

    python models/demo/evaluate.py --engine /path/to/llama-completion

One engine process per conversation, resident and interactive as bitnet-chat runs it, at temperature 0. A reply counts
as right when it contains one of the expected strings, and as ended when the engine came back for the next message by
itself before the time was up. The exit status is 1 below ``--minimum``.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

PREFIX = "\n<|im_start|>user\n"
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"

# Every question must be answered correctly at any place in the conversation.
DIALOGUES: tuple[tuple[tuple[str, str], ...], ...] = (
    (
        ("Hello!", "Hello"),
        ("How can I forget the whole chat?", "/clear"),
        ("And how do I undo my last question?", "/undo"),
        ("What is the flag for the temperature?", "--temp"),
        ("Thanks, how do I leave?", "/exit"),
    ),
    (
        ("My name is Ada.", "Ada"),
        ("Which key searches my old messages?", "Ctrl-R"),
        ("tell me a joke", "ternary"),
        ("What is my name?", "Ada"),
        ("What does exit code 124 mean?", "timeout"),
    ),
    (
        ("count to 100", "1, 2, 3"),
        ("How do I stop a reply?", "Esc"),
        ("how do I get JSON?", "--json"),
        ("你好", "你好"),
        ("where do I get a better model?", "microsoft/bitnet-b1.58-2B-4T-gguf"),
    ),
    (
        ("tell me a long story", "Once upon a time"),
        ("thank you", "welcome"),
        ("What is the capital of Peru?", "do not know"),
        ("How do I insert a new line?", "Alt-Enter"),
        ("see you later", "Goodbye"),
    ),
    (
        ("who are you?", "bitnet-demo"),
        ("what can you do?", "commands, keys and flags"),
        ("show me some emoji", "🎉"),
        ("how many threads does it use?", "--threads"),
        ("write a Python program", "```python"),
    ),
)


class Engine:
    """A resident ``llama-completion`` on pipes, one conversation long."""

    def __init__(self, binary: Path, model: Path, first: str = "") -> None:
        command = [
            str(binary),
            "-m",
            str(model),
            "-i",
            "-if",
            "--simple-io",
            "--no-display-prompt",
            "--no-escape",
            "--in-prefix",
            PREFIX,
            "--in-suffix",
            SUFFIX,
            "-p",
            first,
            "-n",
            "-1",
            "--temp",
            "0",
            "-c",
            "2048",
            "-t",
            "1",
            "-no-cnv",
            "--color",
            "off",
            "-lv",
            "1",
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        assert self.process.stdin and self.process.stdout
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.stdout, selectors.EVENT_READ)
        self._read_until(PREFIX, 30.0)

    def _read_until(self, ending: str, seconds: float) -> tuple[str, bool]:
        data = b""
        wanted = ending.encode()
        deadline = time.monotonic() + seconds
        while not data.endswith(wanted):
            if not self.selector.select(max(0.0, deadline - time.monotonic())):
                return data.decode(errors="replace"), False
            chunk = os.read(self.stdout.fileno(), 65536)
            if not chunk:
                return data.decode(errors="replace"), False
            data += chunk
        return data[: -len(wanted)].decode(errors="replace"), True

    def ask(self, question: str, seconds: float = 20.0) -> tuple[str, bool]:
        """The reply, and whether it ended by itself."""
        try:
            self.stdin.write(question.encode() + b"\n")
        except BrokenPipeError:  # an engine ends when its context is full
            return "", False
        text, ended = self._read_until(PREFIX, seconds)
        return text.removeprefix(SUFFIX).strip(), ended

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def is_right(reply: str, expected: Sequence[str]) -> bool:
    """Any of the expected strings, as it stands."""
    return any(text in reply for text in expected)


def main() -> int:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description="Evaluate the demo model through a real engine.")
    parser.add_argument("--engine", type=Path, required=True, help="a llama-completion binary")
    parser.add_argument("--model", type=Path, default=here.parents[1] / "bitnet_chat/models/bitnet-demo.gguf")
    parser.add_argument("--questions", type=Path, default=here / "heldout.jsonl")
    parser.add_argument("--minimum", type=float, default=0.9, help="share of right replies that is enough")
    arguments = parser.parse_args()

    rows = [json.loads(line) for line in arguments.questions.read_text(encoding="utf-8").splitlines()]
    ended = 0
    right: Counter[int] = Counter()
    asked = Counter(row["set"] for row in rows)
    failed: Counter[str] = Counter()
    for row in rows:
        with Engine(arguments.engine, arguments.model) as engine:
            reply, complete = engine.ask(row["prompt"])
        ended += complete
        if is_right(reply, row["expect"]):
            right[row["set"]] += 1
        else:
            failed[row["intent"]] += 1
            print(f"WRONG {row['set']} {row['intent']}: {row['prompt']!r} -> {reply[:100]!r}")
        if not complete:
            print(f"OPEN  {row['intent']}: {row['prompt']!r}")
    turns = turns_right = held = 0
    for dialogue in DIALOGUES:
        good = True
        with Engine(arguments.engine, arguments.model) as engine:
            for number, (prompt, expected) in enumerate(dialogue, start=1):
                reply, complete = engine.ask(prompt)
                turns += 1
                if complete and is_right(reply, [expected]):
                    turns_right += 1
                else:
                    good = False
                    print(f"WRONG turn {number}: {prompt!r} -> {reply[:100]!r}")
        held += good
    share = right.total() / len(rows)
    print(f"failed: {dict(failed)}")
    for number in sorted(asked):
        count, total = right[number], asked[number]
        print(f"held-out set {number}: {count} of {total} right ({count / total:.1%})")
    print(f"held-out: {right.total()} of {len(rows)} right ({share:.1%}), {ended} ended their turn")
    print(f"dialogues of five turns: {held} of {len(DIALOGUES)} without a fault, {turns_right} of {turns} turns")
    return 0 if share >= arguments.minimum else 1


if __name__ == "__main__":
    sys.exit(main())
