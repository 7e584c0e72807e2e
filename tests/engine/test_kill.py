"""kill -9 at any moment: the journal opens, and has what had been said.

As a script this file is a fork server: one interpreter with everything imported, of which each program is a fork, so
that 60 starts cost no more than they must. The programs of all fork servers write to the same journal.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from replies import is_story

from bitnet_chat.journal import Journal, ReplyState

if __name__ != "__main__":
    from program import (
        CTRL_C,
        ENTER,
        TIMEOUT,
        Start,
        assert_gone,
        command,
        engines_of,
        environment,
        fake_engine,
        start,
    )

    __all__ = ["start"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and forks are those of POSIX")

KILLS = 30
FORK_SERVERS = 6  # each waits for its program most of the time
LONGEST = 1.0
"""Seconds from the first word to the kill at most."""
GRACE = 0.4
"""Seconds before the kill; what had been shown by then has to be there. The goal is 0.2, but who measures it from
outside also measures how busy the computer is: see :func:`owed`. tests/test_journal_writer.py has the exact bound."""


def owed(seen: list[tuple[float, int]], killed: float) -> int:
    """How many characters the journal has to have, by when each had been seen. While this computer did nothing at all
    for a while, the program cannot have written either: the longest pause counts as well."""
    times = [at for at, _ in seen] + [killed]
    pause = max((after - before for before, after in pairwise(times)), default=0.0)
    return max((length for at, length in seen if at <= killed - GRACE - 2 * pause), default=0)


# The fork server


def serve_forks(engine: str, database: str, name: str, kills: int, seed: int) -> None:
    """Starts and kills ``kills`` programs, and prints what was seen of each as a line of JSON."""
    from bitnet_chat.cli import main

    shown = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    assert main(["--engine", engine, f"say it to {name}"]) == 0  # what it imports, the forks have
    os.dup2(shown, 1)
    moments = random.Random(seed)
    journal = Journal(Path(database))
    for number in range(kills):
        question = f"story {name} {number}"
        delay = moments.random() * LONGEST
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            code = 70
            try:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(writing, 1)
                os.close(reading)
                os.close(writing)
                code = main(["--engine", engine, question])
            finally:
                os._exit(code)
        os.close(writing)
        seen = list(watch(reading, child, delay))
        killed = time.monotonic()
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(reading)
        print(json.dumps(examined(journal, question, seen, killed) | {"status": status, "delay": delay}), flush=True)


def watch(descriptor: int, child: int, delay: float) -> Iterator[tuple[float, int]]:
    """When how many characters had come, until ``delay`` after the first."""
    length, end = 0, time.monotonic() + 60
    while (left := end - time.monotonic()) > 0:
        if not select.select([descriptor], [], [], left)[0]:
            return
        data = os.read(descriptor, 65536)
        now = time.monotonic()
        if not data:
            return
        if not length:
            end = now + delay
        length += len(data)
        yield now, length


def examined(journal: Journal, question: str, seen: list[tuple[float, int]], killed: float) -> dict[str, object]:
    found = {entry.title: entry for entry in journal.list()}
    facts = {"question": question, "owed": owed(seen, killed), "check": journal.check()}
    if question not in found:  # it was asked a moment ago, on a computer that had no time for it
        return facts | {"state": "absent", "kept": 0, "lost seconds": round(killed - seen[0][0], 3)}
    entry = found[question]
    stored = journal.load(entry.id)
    last = stored.conversation.last
    kept = last.content if last is not None else ""
    lost = next((at for at, length in seen if length > len(kept)), killed)
    return facts | {
        "state": stored.state.value,
        "same state": entry.state is stored.state,
        "finish": last.finish.value if last is not None and last.finish is not None else None,
        "asked": stored.unanswered or stored.conversation.messages[0].content,
        "is story": is_story(kept),
        "kept": len(kept),
        "seen": seen[-1][1] if seen else 0,
        "lost seconds": round(killed - lost, 3),
    }


@pytest.mark.long
def test_kills_in_mid_reply(tmp_path: Path, home: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # shown when it fails
    database = home / "data" / "journal.db"
    shares = [KILLS // FORK_SERVERS + (number < KILLS % FORK_SERVERS) for number in range(FORK_SERVERS)]
    engine = str(fake_engine(tmp_path))
    servers = [
        subprocess.Popen(
            command(engine, str(database), f"n{number}", str(share), str(seed + number), script=Path(__file__)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        for number, share in enumerate(shares)
    ]
    results = []
    for server in servers:
        output, errors = server.communicate(timeout=300)
        assert (server.returncode, errors) == (0, "")
        results += [json.loads(line) for line in output.splitlines()]
    assert len(results) == KILLS
    for result in results:
        assert result["status"] == signal.SIGKILL, result
        assert result["check"] == "" and result["kept"] >= result["owed"], result
        if result["state"] == "absent":
            continue
        assert result["same state"] and result["asked"] == result["question"] and result["is story"], result
        expected = ("cut_off", "cut_off") if result["kept"] else ("unanswered", None)
        assert (result["state"], result["finish"]) == expected, result
    held = [result for result in results if result["owed"]]
    assert len(held) > KILLS // 10, "hardly any reply was long enough to lose something"
    lost = sorted(result["lost seconds"] for result in results)
    print(f"lost: median {lost[KILLS // 2]} s, 95 % {lost[KILLS * 95 // 100]} s, most {lost[-1]} s; {len(held)} held")
    journal = Journal(database)
    absent = sum(result["state"] == "absent" for result in results)
    assert len(journal.list()) == KILLS + FORK_SERVERS - absent
    assert len(journal.search("word1")) == sum(result["kept"] > len("word0 word1") for result in results)
    assert not [path for path in database.parent.iterdir() if ".damaged-" in path.name]


# Other moments


def test_while_the_engine_loads(tmp_path: Path, home: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    program = subprocess.Popen(
        command("--engine", str(fake_engine(tmp_path)), "say it"),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment(FAKE_ENGINE_GATE=str(gate)),
    )  # fmt: skip
    descriptor = os.open(gate, os.O_WRONLY)  # returns when the engine has it open
    journal = Journal(home / "data" / "journal.db")
    deadline = time.monotonic() + TIMEOUT
    while not journal.list():
        assert time.monotonic() < deadline
    [entry] = journal.list()
    assert entry.state is ReplyState.ANSWERING
    engines = engines_of(program.pid)
    program.kill()
    program.communicate()
    os.close(descriptor)
    assert_gone(engines)
    stored = journal.load(entry.id)
    assert (stored.state, stored.unanswered, stored.records) == (ReplyState.UNANSWERED, "say it", ())


@pytest.mark.parametrize("moment", ["idle", "stopped", "next message"])
def test_the_repl_between_replies(start: Start, tmp_path: Path, home: Path, moment: str) -> None:
    terminal = start("--engine", str(fake_engine(tmp_path)))
    terminal.until(lambda: terminal.prompt == "")
    terminal.say("say something")
    if moment == "stopped":
        terminal.send("story", ENTER)
        terminal.until("word50")
        terminal.send(CTRL_C)
        terminal.ready()
    elif moment == "next message":
        terminal.send("half of a mess")
        terminal.until(lambda: terminal.prompt == "half of a mess")
    terminal.child.kill(signal.SIGKILL)
    assert terminal.end() == -signal.SIGKILL
    stored = Journal(home / "data" / "journal.db").load(1)
    contents = [message.content for message in stored.conversation.messages]
    assert contents[:2] == ["say something", "something"]
    if moment == "stopped":
        assert "word50" in contents[3] and stored.state in (ReplyState.WHOLE, ReplyState.CUT_OFF)
    else:
        assert (len(contents), stored.state) == (2, ReplyState.WHOLE)


if __name__ == "__main__":
    _engine, _database, _name, _kills, _seed = sys.argv[1:]
    serve_forks(_engine, _database, _name, int(_kills), int(_seed))
