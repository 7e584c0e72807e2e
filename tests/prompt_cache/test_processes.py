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
from collections.abc import Callable
from pathlib import Path

import pytest

from bitnet_chat.conversation import Message
from bitnet_chat.prompt_cache import names
from bitnet_chat.prompt_cache.key import StateIdentity, prefix_digests
from bitnet_chat.prompt_cache.store import StateStore

IDENTITY = StateIdentity("m", "e", "v", 1, 4096, "f16", "f16", "t")
ROOT = Path(names.__file__).parents[2]
EVENTS = ("open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.chmod", "os.utime", "os.mkdir")
LIMIT = 400


def digests(text: str) -> tuple[str, ...]:
    """Those of a conversation with a message for each character, so that texts are branches."""
    return prefix_digests("system", (), [Message("user", sign) for sign in text])


TEXTS = {digests(text)[-1]: text for text in ("a", "ab", "abc", "abcd", "abx", "y", "yz")}


def content(digest: str, size: int = 100) -> bytes:
    """What belongs to a digest, and to no other one."""
    return (digest.encode() * 10)[:size]


def keep(store: StateStore, text: str, conversation: int, size: int = 100) -> None:
    pending = store.begin(IDENTITY, digests(text))
    assert pending is not None
    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
        pending.path.write_bytes(content(digests(text)[-1], size))
    owner = store.owner(store.folder / "../journal.db", conversation, len(text)) if conversation else None
    store.commit(pending, tokens=1, seconds=1, owner=owner)


def kept(folder: Path) -> set[str]:
    """The texts of all states."""
    return {TEXTS[names.digest_of(path.name)] for path in folder.glob("*.state")}


def owners(folder: Path) -> set[int]:
    """The conversations that own a state."""
    return {conversation for conversation, _ in StateStore(folder).heads(folder / "../journal.db")}


def is_sound(folder: Path) -> None:
    """After the next opening all files belong to usable states, all states hold what belongs to them and are found, and
    all together keep to the limit."""
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
        whole = digests(TEXTS[digest])
        written = (folder / names.state_name(stem)).read_bytes()
        assert written == content(digest, len(written))
        best = store.find(IDENTITY, whole)
        assert best is not None and best[1] == len(whole) - 1 and best[0].digests[: len(whole)] == whole
        assert store.verify(best[0]) and content(best[0].digests[-1], best[0].bytes) == best[0].path.read_bytes()
    assert set(lines) <= {"an engine state is removed: its file is missing"}  # of a removal that was cut off


# Killed before each call of the operating system


def use_everything(folder: Path) -> None:
    store, journal = StateStore(folder, LIMIT, lambda line: None), folder / "../journal.db"
    store.tidy()
    keep(store, "a", 2)  # in place of another one, with its owner
    keep(store, "abcd", 3, 200)  # beyond the limit
    found = store.find(IDENTITY, digests("abc"))
    if found is not None:
        store.touch(found[0], store.owner(journal, 2, 9))
        store.remove_owner(journal, 3)
    store.clear()


def replace(folder: Path) -> None:
    keep(StateStore(folder, LIMIT, lambda line: None), "abc", 3)


def killed_everywhere(folder: Path, work: Callable[[Path], None], check: Callable[[Path], None]) -> None:
    """Kill a process before its first call, another one before its second, and so on, each in a folder of its own."""
    for number in itertools.count(1):
        place = folder / str(number)
        before = StateStore(place, LIMIT, print)
        for conversation, text in enumerate(("ab", "a", "y"), 1):  # a shorter one does not replace a longer one
            keep(before, text, conversation if text != "y" else 0)
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
        check(place)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            return


def no_owner_is_lost(folder: Path) -> None:
    """And what the kill has left is gone with the next state of the branch."""
    assert owners(folder) >= {1, 2}, "an owner is lost"
    assert "y" in kept(folder) and kept(folder) & {"ab", "abc"}
    had = owners(folder)
    keep(StateStore(folder, LIMIT, print), "abcd", 4)
    is_sound(folder)
    assert kept(folder) == {"abcd", "y"} and owners(folder) == had | {4}


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
def test_a_kill_before_any_call_leaves_nothing_for_ever(tmp_path: Path) -> None:
    assert run("everywhere", tmp_path).wait() == 0
    assert len(list(tmp_path.iterdir())) > 40, "kills, each in a folder"


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
def test_a_kill_while_a_state_replaces_others_loses_no_owner(tmp_path: Path) -> None:
    assert run("replace", tmp_path).wait() == 0
    assert len(list(tmp_path.iterdir())) > 15, "kills, each in a folder"


# At the same time


def at_random(folder: Path, seconds: float) -> None:
    """Use the folder in all ways. What is found must belong to what was searched, unless it was removed meanwhile."""
    store, journal = StateStore(folder, LIMIT, lambda line: None), folder / "../journal.db"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        text, conversation = random.choice(list(TEXTS.values())), random.randrange(4)
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
                found = store.find(IDENTITY, digests(text))
                if found is None:
                    continue
                state, shared = found
                assert state.digests[: shared + 1] == digests(text)[: shared + 1]
                if store.verify(state):
                    with contextlib.suppress(FileNotFoundError):
                        assert state.path.read_bytes() == content(state.digests[-1], state.bytes)
                    store.touch(state, store.owner(journal, conversation, len(text)))
            case _:
                keep(store, text, conversation, random.choice([30, 100, 200]))


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
    what, place = sys.argv[1], Path(sys.argv[2])
    if what == "everywhere":
        killed_everywhere(place, use_everything, lambda folder: None)
    elif what == "replace":
        killed_everywhere(place, replace, no_owner_is_lost)
    else:
        at_random(place, float(sys.argv[3]))
