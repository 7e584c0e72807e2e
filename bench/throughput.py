"""A long reply three ways in turn: the bare pty, the backend that every front end uses, the REPL on a terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

import psutil
from bare import converse
from report import Figure, Goal, Section, ratios
from subject import INSTALLED, QUESTION, endless, endless_flags, talk_of
from terminal import Terminal, plain

from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.log import EngineLog, LogStatsParser
from bitnet_chat.engine.protocols import LaunchCommand
from bitnet_chat.engine_output import USER_INPUT, ReplyText
from bitnet_chat.text.utf8 import Utf8Decoder

_GOAL = 95.0
_SUMMARY = b"first token after"


@dataclass(frozen=True, slots=True)
class Run:
    """One reply. Seconds: from sending the message to the last character of it. ``cpu``: our processor time."""

    text: str
    tokens: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        return len(self.text.encode("utf-8", "surrogateescape")) / self.seconds

    @property
    def cpu_per_token(self) -> float:
        """Microseconds."""
        return 1e6 * self.cpu / self.tokens


def measure(runs: int, environment: Mapping[str, str], threads: int = 0) -> Section:
    """``threads``: of the engine; 0: as many as bitnet-chat chooses for this model."""
    bare: list[Run] = []
    backend: list[Run] = []
    repl: list[Run] = []
    for number in range(runs + 1):
        one = through_pty(threads)
        two = _through_backend(threads)
        three = _through_repl(one, environment, threads)
        if number:  # the first round warms the caches
            bare.append(one)
            backend.append(two)
            repl.append(three)
    count = f"{threads} engine thread{'s' * (threads > 1)}" if threads else "engine threads as bitnet-chat has it"
    section = Section(f"A long reply, {count}")
    section.notes += [
        f"{bare[0].tokens:,} tokens, {len(bare[0].text):,} characters, {runs} rounds in turn,"
        f" {_agreement([run.text.rstrip() for run in (*bare, *backend)])}",
    ]
    rates = [run.rate for run in bare]
    for name, all_runs in (("bare pty", bare), ("bitnet-chat, backend", backend), ("bitnet-chat, REPL", repl)):
        section.figures += [
            Figure.of(f"{name}: bytes", "B/s", (run.rate for run in all_runs)),
            Figure.of(f"{name}: tokens", "tok/s", (run.tokens / run.seconds for run in all_runs)),
            Figure.of(f"{name}: processor time of the reader", "µs/token", (run.cpu_per_token for run in all_runs)),
        ]
    for name, all_runs in (("backend", backend), ("REPL", repl)):
        figure = Figure.of(f"{name} against bare pty", "%", ratios([run.rate for run in all_runs], rates))
        section.figures.append(figure)
        section.goals.append(Goal(f"{name} against bare pty, {count}", figure.median, "%", _GOAL, at_least=True))
    return section


def _agreement(texts: list[str]) -> str:
    """How far the replies are alike. An engine whose context is full may exit before it has written its last words."""
    whole = max(texts, key=len)
    other = [text for text in texts if text != whole]
    if not other:
        return "the same text each time"
    if all(whole.startswith(text) for text in other):
        lost = max(len(whole) - len(text) for text in other)
        return f"the same text, but up to {lost} characters of the end missing in {len(other)} of {len(texts)}"
    return f"ANOTHER TEXT in {len(other)} of {len(texts)}"


def through_pty(threads: int) -> Run:
    protocol = talk_of(endless(threads))
    launch = protocol.launch(Conversation())
    message = protocol.input(launch, launch.context, Conversation(), QUESTION)
    if message is None:  # no text can be typed behind an empty history: it is started with the message
        launch = protocol.launch(Conversation(), message=QUESTION)
        message = protocol.input(launch, launch.context, Conversation(), QUESTION)
    assert message is not None
    with NamedTemporaryFile("w", encoding="utf-8", suffix=".prompt") as file:
        file.write(launch.prompt)
        file.flush()
        prompt = [launch.prompt_flag, file.name] if launch.prompt else []
        reply = converse([launch.argv[0], *prompt, *launch.argv[1:]], USER_INPUT.encode(), message.data)
    return Run(_text(launch, reply.data), _tokens(reply.log), reply.seconds, reply.cpu)


def _text(launch: LaunchCommand, data: bytes) -> str:
    framer = launch.framer
    framer.sent()
    frames = [*framer.feed(Utf8Decoder().decode(data)), *framer.eof(clean=True)]
    return "".join(frame.text for frame in frames if isinstance(frame, ReplyText))


def _tokens(log: bytes) -> int:
    meter = LogStatsParser()
    meter.sent()
    EngineLog(meter.line).feed(log)
    assert meter.tokens is not None
    return meter.tokens


def _through_backend(threads: int) -> Run:
    command = [sys.executable, str(Path(__file__).with_name("backend.py")), str(threads)]
    return Run(**json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def _through_repl(expected: Run, environment: Mapping[str, str], threads: int) -> Run:
    """The text is the one that the engine gave before: on the screen it is looked for by its last words."""
    terminal = Terminal([str(INSTALLED), *endless_flags(threads)], environment)
    tail = expected.text.rstrip()[-40:].encode().replace(b"\n", b"\r\n")
    try:
        terminal.until(lambda seen: b"> " in plain(seen))
        terminal.idle(1.5)  # it loads
        process = psutil.Process(terminal.pid)
        before = process.cpu_times()
        begun = terminal.send(QUESTION.encode() + b"\r")
        terminal.until(lambda seen: _SUMMARY in seen[-400:])
        after = process.cpu_times()
        last = terminal.came_at(terminal.seen.rindex(tail) + len(tail) - 1)
    finally:
        terminal.close()
    used = after.user + after.system - before.user - before.system
    return Run(expected.text, expected.tokens, last - begun, used)
