#!/usr/bin/env python3
"""A classic or modern engine for faults and timing: it writes what the recordings of the real ones show.

What it does is told by the message it gets; see ``answer``. Each launch appends a JSON object with its arguments and
prompt to the file named by ``FAKE_ENGINE_RECORD``, each message a line to ``FAKE_ENGINE_HEARD``, without the
``user`` and newline of the chat template in front. It can be had unordered (BitNet 2024: the colour before the
in-prefix, a log that tells each token) with ``FAKE_ENGINE_UNORDERED``, and modern with ``FAKE_ENGINE_MODERN``. An empty
line makes a classic one go on with ``FAKE_ENGINE_MORE``, read as a message is.

As BitNet 2024 it also keeps account of its context window, in the tokens of the model of its recording: one for each
byte, and one for a mark of the template. When the window is full it ends, as ``--no-context-shift`` demands, and adds a
line to ``FAKE_ENGINE_OVERFLOWS``.
"""

import json
import os
import re
import signal
import sys
import time

# ruff: noqa: PTH123 -- a test starts many of these; importing pathlib and argparse took longer than all else they do

COLOUR, RESET, INFO, ERROR = "\x1b[1m\x1b[32m", "\x1b[0m", "\x1b[35m", "\x1b[1m\x1b[31m"
MODERN = bool(os.environ.get("FAKE_ENGINE_MODERN"))
UNORDERED = bool(os.environ.get("FAKE_ENGINE_UNORDERED"))
HELP = """usage
-m, --model FNAME      model
-c, --ctx-size N       context
-t, --threads N        threads
-n, --n-predict N      limit
-s, --seed SEED        seed
--temp N               temperature
--top-k N              top-k
--top-p N              top-p
--min-p N              min-p
--repeat-penalty N     penalty
--presence-penalty N   penalty
--frequency-penalty N  penalty
--chat-template JINJA_TEMPLATE
--log-prefix           prefix
--simple-io            simple
-sys, --system-prompt PROMPT
-sysf, --system-prompt-file FNAME
-st, --single-turn     one turn
"""
CLASSIC_HELP = """--in-prefix STRING
--in-suffix STRING
-f, --file FNAME
--no-display-prompt
-i, --interactive
-if, --interactive-first
-no-cnv
-lv, --log-verbosity N
--no-context-shift
"""
MARK = re.compile(rb"<\|\w+\|>")


class Interrupted(Exception):
    pass


class Options:
    """The flags that it knows, each with a value; ``rest`` has the others."""

    def __init__(self, argv: list[str]) -> None:
        self.in_prefix = self.in_suffix = self.file = self.system_prompt_file = ""
        self.ctx_size = "2048"
        self.rest: list[str] = []
        words = iter(argv)
        for word in words:
            name = word.removeprefix("--").replace("-", "_")
            if word.startswith("--") and name in vars(self) and name != "rest":
                setattr(self, name, next(words))
            else:
                self.rest.append(word)


def read(name: str) -> bytes:
    with open(name, "rb") as file:
        return file.read()


def launches() -> list[bytes]:
    return read(os.environ["FAKE_ENGINE_RECORD"]).splitlines()


class Engine:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.generating = False
        self.size = int(options.ctx_size)
        self.used = 0
        self.context = b""
        signal.signal(signal.SIGINT, self.on_interrupt)

    def on_interrupt(self, *_: object) -> None:
        if self.generating:
            raise Interrupted
        self.write(RESET + ("\n\nExiting...\n" if MODERN else "\nInterrupted by user\n"))
        os._exit(0 if MODERN else 130)

    @staticmethod
    def write(text: str) -> None:
        os.write(1, text.encode("utf-8", "surrogateescape"))

    @staticmethod
    def log(text: str) -> None:
        os.write(2, (text + "\n").encode())

    def evaluate(self, data: bytes) -> None:
        """As in examples/main/main.cpp of that time."""
        self.context += data
        self.used += len(MARK.sub(b"?", data))
        if UNORDERED and self.used >= self.size:
            assert "--no-context-shift" in self.options.rest, "the older half would be dropped in silence"
            if overflows := os.environ.get("FAKE_ENGINE_OVERFLOWS"):
                with open(overflows, "a") as file:
                    file.write(f"{self.used}\n")
            self.log("D \n\nmain: context full and context shift is disabled => stopping")
            self.write("\n\n")
            os._exit(0)

    def prompt(self, newline: str) -> None:
        if MODERN:
            if newline != "first":
                self.write("\n" + INFO + "\n[ Prompt: 1.0 t/s | Generation: 2.0 t/s ]\n" + RESET)
            self.write(COLOUR + "\n> ")
            return
        newline = "" if newline == "first" else newline
        if UNORDERED:
            self.write(COLOUR + newline + self.options.in_prefix)
        else:
            self.write(newline)
            self.write(self.options.in_prefix)
            self.write(COLOUR)

    def read(self) -> str | None:
        message = ""
        while line := sys.stdin.buffer.readline():
            text = line.decode("utf-8", "surrogateescape").removesuffix("\n")
            if text.endswith("/"):
                return message + text[:-1]
            more = text.endswith("\\")
            message += text[:-1] if more else text
            if not more:
                return message
            message += "\n"
        return None

    def tell(self, text: str) -> None:
        """As at the verbosity that tells each token."""
        if not MODERN and "--log-verbosity" in self.options.rest:
            self.log("D " + text)

    def run(self, prompt: str) -> None:
        self.log(f"I generate: n_ctx = {self.size}, n_batch = 2048")
        self.evaluate(prompt.encode("utf-8", "surrogateescape"))
        self.tell("waiting for user input")
        self.prompt("first")
        heard = os.environ.get("FAKE_ENGINE_HEARD")
        while (message := self.read()) is not None:
            typed, message = message, message.removeprefix("user\n")
            if heard:
                with open(heard, "a") as file:
                    file.write(json.dumps(message) + "\n")
            if MODERN and message.startswith("/exit"):
                return
            if MODERN and not message:
                self.write(RESET + COLOUR + "\n> ")
                continue
            if MODERN and message.startswith("/clear"):
                self.write(RESET + "Chat history cleared.\n" + COLOUR + "\n> ")
                continue
            self.generating = True
            natural = True
            if message:
                self.tell(f"buffer: '{typed}'")
                written = self.options.in_prefix + typed + self.options.in_suffix
                self.evaluate(written.encode("utf-8", "surrogateescape"))
            try:
                self.write(RESET + ("" if MODERN or not message else self.options.in_suffix))
                self.answer(message.strip() if message else os.environ.get("FAKE_ENGINE_MORE", "say  and more"))
            except Interrupted:
                natural = False
            self.generating = False
            if natural:
                self.tell("found an EOG token")
            self.tell("waiting for user input")
            self.prompt("\n" if natural else "")

    def answer(self, message: str) -> None:
        verb, _, rest = message.partition(" ")
        if verb == "say":
            self.evaluate(rest.encode("utf-8", "surrogateescape") + b"<|im_end|>")
            self.write(rest)
        elif verb == "recite":  # what it has in its context, this message included
            import hashlib

            name = hashlib.sha1(self.context).hexdigest()
            self.evaluate(name.encode() + b"<|im_end|>")
            self.write(name)
        elif verb == "Summarise":
            words = os.environ.get("FAKE_ENGINE_SUMMARY", "they talked")
            self.answer(words if words in ("silence", "kill", "ponder") else f"say {words}")
        elif verb == "exit":  # exit CODE [text first]
            code, _, text = rest.partition(" ")
            self.write(text)
            os._exit(int(code))
        elif verb == "kill":  # as the kernel does when memory is out
            self.write(rest)
            os.kill(os.getpid(), signal.SIGKILL)
        elif verb == "once":  # once [text first]; dies, but only the first time in this record
            self.write(rest)
            if len(launches()) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            self.write("survived")
        elif verb == "story":  # for ever
            number = 0
            while True:
                self.evaluate(f"word{number} ".encode())
                self.write(f"word{number} ")
                number += 1
                time.sleep(0.001)
        elif verb == "ponder":
            self.write("<think>")
            self.answer("story")
        elif verb == "silence":  # a long prefill
            while True:
                time.sleep(10)
        elif verb in ("deaf", "reading"):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self.write("I cannot hear you" if verb == "deaf" else "")
            while True:
                time.sleep(10)
        elif verb == "race":  # finishes just when the signal is on its way, and dies of it
            self.write("the end")
            try:
                while True:
                    time.sleep(10)
            except Interrupted:
                self.tell("waiting for user input")
                self.prompt("\n")
                self.generating = False
                self.on_interrupt()
        elif verb == "early":  # the same, before it has come as far as its prompt
            self.write(rest)
            try:
                while True:
                    time.sleep(10)
            except Interrupted:
                self.write("\n" + self.options.in_prefix + "\nInterrupted by user\n")
                os._exit(130)
        elif verb in ("full", "huge"):  # full [text first]; huge [a message that fills the window]
            self.write(rest if verb == "full" else "")
            self.log("W \n\nfake: context full and context shift is disabled => stopping")
            self.write("\n\n")
            os._exit(0)
        elif verb == "swap":  # full, and goes on with the newer half, once [text first]
            self.write(rest)
            if len(launches()) == 1:
                self.log("D context full, swapping: n_past = 255, n_left = 255, n_ctx = 256, n_keep = 0, n_discard = 1")
                self.answer("story")
        elif verb == "error":
            self.write(f"{ERROR}Error: {rest}\n{RESET}")
        elif verb == "stray":
            self.write("fine")
            self.tell("found an EOG token")
            self.tell("waiting for user input")
            self.prompt("\n")
            self.write("and here is something that nobody asked for")
            time.sleep(60)
        elif verb == "bytes":
            os.write(1, bytes.fromhex(rest))
        elif verb == "chatter":  # a log that fills its pipe, and no output
            for _ in range(int(rest)):
                self.log("D " + "chatter " * 120)
            self.write("done")
        elif verb == "flood":
            block = b"plain text, nothing but plain text. " * 100
            for _ in range(int(rest)):
                os.write(1, block)
        else:
            self.write(f"you said: {message}")


def help_text(*, modern: bool, unordered: bool) -> str:
    if modern:
        return HELP
    return HELP + CLASSIC_HELP + ("--color\n--log-prefix\n" if unordered else "--color [on|off|auto]\n")


def wrapper(script: str) -> str:
    """A shell script that is this engine. What it says of itself it says without a Python: it is asked in most tests.
    It is started by this interpreter without its site packages, as fast as Python can."""
    return f"""#!/bin/sh
case " $* " in
*" --help "*)
    if [ "$FAKE_ENGINE_MODERN" ]; then cat <<'END'
{help_text(modern=True, unordered=False)}
END
    elif [ "$FAKE_ENGINE_UNORDERED" ]; then cat <<'END'
{help_text(modern=False, unordered=True)}
END
    else cat <<'END'
{help_text(modern=False, unordered=False)}
END
    fi;;
*" --version "*) echo "version: 1 (fake)";;
*) exec "{sys.executable}" -S -E "{script}" "$@";;
esac
"""


def main() -> None:
    options = Options(sys.argv[1:])
    rest = options.rest
    name = options.file or options.system_prompt_file
    prompt = read(name).decode("utf-8", "surrogateescape") if name else ""
    record = os.environ.get("FAKE_ENGINE_RECORD")
    if record:
        with open(record, "a") as file:
            file.write(json.dumps({"pid": os.getpid(), "argv": sys.argv[1:], "prompt": prompt}) + "\n")
    if "--refuse" in rest:
        print("E fake: failed to load model: unknown model architecture: 'strange'", file=sys.stderr)
        sys.exit(1)
    if "--refuse-late" in rest or "FAKE_ENGINE_SILENT_DEATHS" in os.environ:
        if len(launches()) > int(os.environ.get("FAKE_ENGINE_SILENT_DEATHS", "1")):
            print("E fake: the reason comes late", file=sys.stderr)
        sys.exit(1)
    gate = os.environ.get("FAKE_ENGINE_GATE")
    if gate:  # loading lasts until somebody opens this FIFO for writing
        read(gate)
    limit = os.environ.get("FAKE_ENGINE_PROMPT_LIMIT")
    if limit and len(prompt) > int(limit):
        print(f"E fake: prompt is too long ({len(prompt)} tokens, max {limit})", file=sys.stderr)
        sys.exit(1)
    Engine(options).run(prompt)


if __name__ == "__main__":
    main()
