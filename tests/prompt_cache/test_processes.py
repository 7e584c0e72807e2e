"""Several processes in one folder of states, killed at any moment."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitnet_chat.conversation import Message
from bitnet_chat.prompt_cache import names
from bitnet_chat.prompt_cache.key import StateIdentity, prefix_digests
from bitnet_chat.prompt_cache.store import StateStore

IDENTITY = StateIdentity("m", "e", "v", 1, 4096, "f16", "f16", "t")
DIGESTS = prefix_digests("system", (), [Message("user", str(number)) for number in range(6)])
ROOT = Path(names.__file__).parents[2]
EVENTS = ("open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.chmod", "os.utime", "os.mkdir")
LIMIT = 400


def content(digest: str, size: int = 100) -> bytes:
    """What belongs to a digest, and to no other one."""
    return (digest.encode() * 10)[:size]


def keep(store: StateStore, boundary: int, conversation: int, size: int = 100) -> None:
    pending = store.begin(IDENTITY, DIGESTS[: boundary + 1])
    assert pending is not None
    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
        pending.path.write_bytes(content(DIGESTS[boundary], size))
    owner = store.owner(store.folder / "../journal.db", conversation, boundary) if conversation else None
    store.commit(pending, tokens=1, seconds=1, owner=owner)


def is_sound(folder: Path) -> None:
    """After the next opening all files belong to usable states, all states hold what belongs to them, and all together
    keep to the limit."""
    lines: list[str] = []
    store = StateStore(folder, LIMIT, lines.append)
    store.tidy()
    found = names.listing(path.name for path in folder.iterdir())
    assert not found.unfinished and set(found.usable) == set(found.records) >= set(found.owners)
    assert sum(len(names.files_of(found, stem)) for stem in found.records) == len(list(folder.iterdir()))
    assert len({stem[: names.KEY_LENGTH] for stem in found.records}) == len(found.records), "one state for each key"
    usage = store.usage()
    assert usage.bytes <= LIMIT and usage.count == len(found.records)
    for stem in found.records:
        digest = names.digest_of(stem)
        state = store.find(IDENTITY, [digest])
        assert state is not None and store.verify(state) and content(digest, state.bytes) == state.path.read_bytes()
    assert lines == []


# Killed before each call of the operating system


def work(folder: Path) -> None:
    store, journal = StateStore(folder, LIMIT, lambda line: None), folder / "../journal.db"
    store.tidy()
    keep(store, 1, 2)  # in place of another one, with its owner
    keep(store, 4, 3, 200)  # beyond the limit
    state = store.find(IDENTITY, DIGESTS)
    if state is not None:
        store.touch(state, store.owner(journal, 2, 9))
        store.remove_owner(journal, 3)
    store.clear()


def killed_everywhere(folder: Path) -> None:
    """Kill a process before its first call, another one before its second, and so on, each in a folder of its own."""
    for number in itertools.count(1):
        place = folder / str(number)
        before = StateStore(place, LIMIT, print)
        for boundary in (0, 1, 2):
            keep(before, boundary, boundary)
        pid = os.fork()
        if not pid:
            left = number

            def count(event: str, arguments: tuple[object, ...], place: Path = place) -> None:
                nonlocal left
                if event in EVENTS and str(arguments[0]).startswith(str(place)):
                    left -= 1
                    if not left:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(count)
            work(place)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        is_sound(place)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            return


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
def test_a_kill_before_any_call_leaves_nothing_for_ever(tmp_path: Path) -> None:
    assert run("everywhere", tmp_path).wait() == 0
    assert len(list(tmp_path.iterdir())) > 40, "kills, each in a folder"


# At the same time


def at_random(folder: Path, seconds: float) -> None:
    """Use the folder in all ways. What is found must belong to what was searched, unless it was removed meanwhile."""
    store, journal = StateStore(folder, LIMIT, lambda line: None), folder / "../journal.db"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        boundary, conversation = random.randrange(1, 6), random.randrange(4)
        match random.randrange(12):
            case 0:
                store.remove_owner(journal, conversation)
            case 1:
                store.tidy()
            case 2:
                store.heads(journal)
                store.usage()
            case 3 if random.random() < 0.05:
                store.clear()
            case 4 | 5 | 6:
                state = store.find(IDENTITY, DIGESTS[: boundary + 1])
                if state is not None and store.verify(state):
                    with contextlib.suppress(FileNotFoundError):
                        assert state.path.read_bytes() == content(state.digest, state.bytes)
                    store.touch(state, store.owner(journal, conversation, boundary))
            case _:
                keep(store, boundary, conversation, random.choice([30, 100, 200]))


def run(what: str, folder: Path, seconds: float = 0) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, __file__, what, str(folder), str(seconds)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_processes_at_the_same_time(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    processes = [run("at random", folder, 3) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    is_sound(folder)


def test_processes_that_are_killed(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    beside = run("at random", folder, 60)
    try:
        for _ in range(8):
            process = run("at random", folder, 60)
            try:
                until_used_by(process, folder)
                time.sleep(random.uniform(0, 0.2))
                assert process.poll() is None is beside.poll(), "it has failed"
            finally:
                process.kill()
                process.wait()
    finally:
        beside.kill()
        beside.wait()
    is_sound(folder)


def until_used_by(process: subprocess.Popen[bytes], folder: Path) -> None:
    end = time.monotonic() + 60
    while not any(f".{process.pid}-" in path.name for path in (folder.iterdir() if folder.exists() else ())):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)


if __name__ == "__main__":
    if sys.argv[1] == "everywhere":
        killed_everywhere(Path(sys.argv[2]))
    else:
        at_random(Path(sys.argv[2]), float(sys.argv[3]))
