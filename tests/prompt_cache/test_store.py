"""The folder of saved states in one process."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bitnet_chat import paths
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Message
from bitnet_chat.engine.native.protocol import Save, decode_request, encode
from bitnet_chat.prompt_cache import store as module
from bitnet_chat.prompt_cache.budget import KEPT_BRANCHES
from bitnet_chat.prompt_cache.key import FORMAT, StateIdentity, prefix_digests
from bitnet_chat.prompt_cache.names import StateOwner
from bitnet_chat.prompt_cache.record import SavedState
from bitnet_chat.prompt_cache.store import StateStore, StateUsage, limit_of, open_state_store

IDENTITY = StateIdentity("a" * 64, "llama.cpp", "b1", 1, 4096, "f16", "q8_0", "t", ("--lora \udcff", ""))
DIGESTS = prefix_digests("system", (), [Message("user", str(number)) for number in range(8)])
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")


class Rig:
    """A store with its log."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.lines: list[str] = []
        self.store = StateStore(folder / "states", limit, self.lines.append)
        self.folder, self.journal = self.store.folder, folder / "journal.db"

    def keep(
        self,
        boundary: int = 1,
        conversation: int = 0,
        content: bytes = b"state",
        identity: StateIdentity = IDENTITY,
        digest: str = "",
    ) -> SavedState:
        """Save a state, of conversation ``conversation`` and the message of the same number as ``boundary``; 0: of
        none."""
        pending = self.store.begin(identity, digest or DIGESTS[boundary])
        assert pending is not None
        pending.path.write_bytes(content)
        owner = self.store.owner(self.journal, conversation, boundary) if conversation else None
        state = self.store.commit(pending, tokens=100, seconds=1.5, owner=owner)
        assert state is not None
        return state

    def find(self, *boundaries: int, identity: StateIdentity = IDENTITY) -> int | None:
        """The number of messages that the found state covers."""
        digests = [DIGESTS[each] for each in boundaries] or DIGESTS
        found = self.store.find(identity, digests)
        return None if found is None else DIGESTS.index(found.digest)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, 1000)


# Write and find


def test_a_state_is_found_with_all_that_is_known_of_it(rig: Rig) -> None:
    before = time.time()
    state = rig.keep(3, conversation=7)
    assert (state.tokens, state.seconds, state.bytes) == (100, 1.5, 5) and before <= state.created <= time.time()
    assert state.owner == StateOwner(state.owner.journal if state.owner else "", 7, 3)
    assert StateStore(rig.folder).find(IDENTITY, DIGESTS) == state
    assert state.path.read_bytes() == b"state" and rig.store.verify(state) and rig.lines == []


def test_the_longest_prefix_is_found(rig: Rig) -> None:
    for boundary in (1, 4, 2):
        rig.keep(boundary)
    assert (rig.find(), rig.find(0, 1, 2, 3), rig.find(0, 1), rig.find(0)) == (4, 2, 1, None)
    other = prefix_digests("system", (), [Message("user", "0"), Message("user", "other")])
    found = rig.store.find(IDENTITY, other)
    assert found is not None and found.digest == DIGESTS[1]


def test_nothing_is_found_before_the_commit_or_for_another_identity(rig: Rig) -> None:
    assert rig.find() is None and not rig.folder.exists()
    pending = rig.store.begin(IDENTITY, DIGESTS[:2])
    assert pending is not None and rig.find() is None
    pending.path.write_bytes(b"x")
    assert rig.find() is None and rig.store.usage() == StateUsage(0, 0)
    rig.store.commit(pending, tokens=1, seconds=0)
    assert rig.find() == 1
    others = {"model": "b", "context": 8192, "sequences": 2, "flags": (), "cache_type_v": "f16", "format": FORMAT + 1}
    for name, value in others.items():
        assert rig.find(identity=replace(IDENTITY, **{name: value})) is None  # type: ignore[arg-type]


def test_an_identity_with_the_digest_of_another_one_is_none(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.keep(1)
    monkeypatch.setattr(StateIdentity, "digest", property(lambda self, digest=IDENTITY.digest: digest))
    assert rig.find(identity=replace(IDENTITY, model="b")) is None and rig.find() == 1


def test_a_name_is_one_for_every_engine(rig: Rig) -> None:
    pending = rig.store.begin(IDENTITY, DIGESTS[:2])
    assert pending is not None
    name = pending.path.name
    assert decode_request(encode(Save(1, name))) == Save(1, name)
    longest = rig.keep(1, conversation=2**62).path
    assert max(map(len, (name, longest.name, *rig.files()))) < 143, "the limit of eCryptfs"


@POSIX
def test_only_the_owner_may_read(rig: Rig) -> None:
    rig.folder.mkdir(mode=0o755)
    before = os.umask(0)
    try:
        pending = rig.store.begin(IDENTITY, DIGESTS[:2])
        assert pending is not None
        assert pending.path.stat().st_mode & 0o777 == 0o600
        pending.path.unlink()
        pending.path.write_bytes(b"an engine that makes the file itself")
        rig.store.commit(pending, tokens=1, seconds=0, owner=rig.store.owner(rig.journal, 1, 1))
    finally:
        os.umask(before)
    assert rig.folder.stat().st_mode & 0o777 == 0o700
    assert [(rig.folder / name).stat().st_mode & 0o777 for name in rig.files()] == [0o600, 0o600]


def test_a_state_that_is_saved_again_replaces_the_earlier_one(rig: Rig) -> None:
    first = rig.keep(1, conversation=1, content=b"first")
    second = rig.keep(1, conversation=2, content=b"second")
    assert rig.store.usage() == StateUsage(1, 6) and not first.path.exists()
    found = rig.store.find(IDENTITY, DIGESTS)
    assert found == second and rig.store.heads(rig.journal) == {(1, 1), (2, 1)}


# Not kept


def test_without_a_limit_nothing_is_written(tmp_path: Path) -> None:
    rig = Rig(tmp_path, 0)
    assert rig.store.begin(IDENTITY, DIGESTS[:2]) is None and rig.files() == []


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "the engine wrote nothing"), (b"x" * 2000, "2 kB of at most 1 kB"), (None, "o such file")],
)
def test_a_state_that_is_not_kept(rig: Rig, content: bytes | None, words: str) -> None:
    kept = rig.keep(2)
    pending = rig.store.begin(IDENTITY, DIGESTS[:2])
    assert pending is not None
    if content is None:
        pending.path.unlink()
    else:
        pending.path.write_bytes(content)
    assert rig.store.commit(pending, tokens=1, seconds=0) is None
    assert len(rig.files()) == 2 and rig.store.find(IDENTITY, DIGESTS) == kept
    assert len(rig.lines) == 1 and words in rig.lines[0]


def test_a_state_that_is_given_up(rig: Rig) -> None:
    for reason in ("", "the disk is full"):
        pending = rig.store.begin(IDENTITY, DIGESTS[:2])
        assert pending is not None
        rig.store.discard(pending, reason)
    assert rig.files() == [] and rig.lines == ["an engine state is not kept: the disk is full"]


def full(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    pending = rig.store.begin(IDENTITY, DIGESTS[:2])
    assert pending is not None
    pending.path.write_bytes(b"x")
    with monkeypatch.context() as patch:
        patch.setattr(StateStore, "_write_record", full)
        assert rig.store.commit(pending, tokens=1, seconds=0) is None
        patch.setattr(os, "open", full)
        assert rig.store.begin(IDENTITY, DIGESTS[:2]) is None
    assert rig.files() == [] and len(rig.lines) == 2 and all("No space left" in line for line in rig.lines)


@pytest.mark.skipif(sys.platform == "win32", reason="a limit of POSIX")
def test_a_record_that_cannot_be_written_whole(rig: Rig) -> None:
    """A child whose files may have 64 bytes: the record has more."""
    script = f"""
import resource, signal
from pathlib import Path
from bitnet_chat.prompt_cache.store import StateStore
from bitnet_chat.prompt_cache.key import StateIdentity
store = StateStore(Path({str(rig.folder)!r}), 1000, print)
pending = store.begin(StateIdentity("m", "e", "v", 1, 1, "a", "b", "t"), ("0" * 40,))
pending.path.write_bytes(b"x")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
assert store.commit(pending, tokens=1, seconds=0) is None
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment())
    assert rig.files() == [] and done.stdout.count("\n") == 1 and "File too large" in done.stdout


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])}


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "states").write_text("a file")
    rig = Rig(tmp_path, 1000)
    assert rig.store.begin(IDENTITY, DIGESTS[:2]) is None
    assert rig.find() is None and rig.store.usage() == StateUsage(0, 0) and rig.store.heads(rig.journal) == set()
    assert rig.store.clear() == rig.store.remove_owner(rig.journal, 1) == 0
    rig.store.tidy()
    assert rig.lines and all(str(rig.folder) in line for line in rig.lines)


# Damage


def record_of(state: SavedState) -> Path:
    [path] = state.path.parent.glob(f"{state.stem}*.json")
    return path


def rewritten(**values: object) -> Callable[[SavedState], None]:
    def change(state: SavedState) -> None:
        path = record_of(state)
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


DAMAGES: dict[str, Callable[[SavedState], object]] = {
    "the state is missing": lambda state: state.path.unlink(),
    "the state is shorter": lambda state: os.truncate(state.path, 3),
    "the state is empty": lambda state: os.truncate(state.path, 0),
    "the state is longer": lambda state: state.path.write_bytes(b"state and more"),
    "the record is empty": lambda state: record_of(state).write_bytes(b""),
    "the record is cut off": lambda state: os.truncate(record_of(state), 40),
    "the record is another value": lambda state: record_of(state).write_text("[1]"),
    "the record is nested": lambda state: record_of(state).write_text("[" * 60_000),
    "the record is not ASCII": lambda state: record_of(state).write_bytes(b"\xff\x00"),
    "the record is long": lambda state: record_of(state).write_text("{}" + " " * 1_000_000),
    "another format": rewritten(format=FORMAT + 1),
    "an identity of texts": rewritten(identity={"model": "x"}),
    "an identity of nothing": rewritten(identity=None),
    "a text as a number": rewritten(tokens="100"),
    "true as a number": rewritten(bytes=True),
    "a negative number": rewritten(bytes=-5),
    "not a number": rewritten(seconds=float("nan")),
    "a number as a text": rewritten(digest=5),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_removed_with_one_line(rig: Rig, damage: str) -> None:
    rig.keep(1)
    shorter = rig.files()
    DAMAGES[damage](rig.keep(2, conversation=1))
    assert rig.find() == 1
    assert rig.files() == shorter and len(rig.lines) == 1
    assert rig.find() == 1 and len(rig.lines) == 1


def test_a_changed_byte_is_noticed_by_its_checksum(rig: Rig) -> None:
    state = rig.keep(1, content=bytes(3_000_000)[:900])
    state.path.write_bytes(bytes(899) + b"\x01")
    assert rig.find() == 1 and not rig.store.verify(state)
    assert rig.files() == [] and len(rig.lines) == 1 and "damaged" in rig.lines[0]
    assert not rig.store.verify(state), "it is missing now"


def test_a_state_that_an_engine_cannot_restore(rig: Rig) -> None:
    rig.store.remove(rig.keep(1, conversation=1), "the engine cannot read it")
    assert rig.files() == [] and rig.lines == ["an engine state of 100 tokens is removed: the engine cannot read it"]


def test_other_files_in_the_folder_are_left_alone(rig: Rig) -> None:
    rig.keep(1)
    others = ["README", ".hidden", f"{DIGESTS[0]}.state", "x.json", "0-0.0-0-0.state"]
    for name in others:
        (rig.folder / name).write_text("x")
    (rig.folder / "folder").mkdir()
    rig.store.tidy()
    assert rig.store.clear() == 1
    assert rig.files() == sorted([*others, "folder"])


# The last use


def test_what_is_used_stays(rig: Rig) -> None:
    rig.store.limit = 15
    first, second, third = (rig.keep(boundary) for boundary in (1, 2, 3))
    assert rig.store.touch(first)
    rig.keep(4)
    assert [state.path.exists() for state in (first, second, third)] == [True, False, True]
    assert not rig.store.touch(second)


@pytest.mark.parametrize("jump", [-(10**9), 10**9])
def test_a_clock_that_jumps(rig: Rig, monkeypatch: pytest.MonkeyPatch, jump: int) -> None:
    rig.store.limit = 15
    first, second = rig.keep(1), rig.keep(2)
    now = time.time_ns()
    with monkeypatch.context() as patch:
        patch.setattr(module.time, "time_ns", lambda: now + jump * 10**9)
        third = rig.keep(3)
    rig.store.touch(first)
    rig.keep(4)
    assert [state.path.exists() for state in (first, second, third)] == [True, False, True]


def test_the_last_boundaries_of_a_conversation_stay(rig: Rig) -> None:
    for boundary in range(1, 7):
        rig.keep(boundary, conversation=1)
    rig.keep(1, conversation=2)
    assert rig.store.heads(rig.journal) == {(1, 4), (1, 5), (1, 6), (2, 1)} and KEPT_BRANCHES == 3
    other = replace(IDENTITY, model="b")
    for boundary in range(1, 7):
        rig.keep(boundary, conversation=1, identity=other)
    assert rig.find() == 6 and rig.find(4, identity=other) == 4


# Owners


def test_the_states_of_a_conversation_are_removed(rig: Rig) -> None:
    rig.keep(0)
    rig.keep(1, conversation=1)
    rig.keep(2, conversation=1)
    rig.keep(3, conversation=11)
    elsewhere = rig.store.owner(rig.journal.with_name("other.db"), 1, 1)
    rig.store.touch(rig.keep(4, conversation=2), elsewhere)
    assert rig.store.remove_owner(rig.journal, 1) == 2
    assert rig.store.heads(rig.journal) == {(11, 3), (2, 4)} and rig.find(0) == 0
    assert rig.store.remove_owner(rig.journal, 1) == 0


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 1, 3)])
def test_a_shared_state_stays_until_its_last_owner_leaves(rig: Rig, order: tuple[int, ...]) -> None:
    state = rig.keep(1, conversation=1)
    for conversation in (2, 3):
        assert rig.store.touch(state, rig.store.owner(rig.journal, conversation, 9))
    heads = {1: (1, 1), 2: (2, 9), 3: (3, 9)}
    for place, conversation in enumerate(order):
        assert rig.store.heads(rig.journal) == {heads[each] for each in order[place:]}
        assert rig.store.remove_owner(rig.journal, conversation) == (place == 2)
        assert rig.store.usage().count == (place < 2)
    assert rig.files() == []


def test_a_shared_prefix_has_no_owner(rig: Rig) -> None:
    state = rig.keep(0)
    assert rig.store.touch(state, rig.store.owner(rig.journal, 1, 1))
    assert rig.store.heads(rig.journal) == set() and rig.store.remove_owner(rig.journal, 1) == 0
    assert rig.find() == 0


def test_owners_stay_when_the_data_directory_is_moved(rig: Rig, tmp_path: Path) -> None:
    rig.keep(1, conversation=1)
    moved = tmp_path / "moved"
    moved.mkdir()
    rig.folder.rename(moved / "states")
    store = StateStore(moved / "states")
    assert store.heads(moved / "journal.db") == {(1, 1)} and store.heads(rig.journal) == set()


def test_clear(rig: Rig) -> None:
    for boundary in (1, 2):
        rig.keep(boundary, conversation=1)
    assert rig.store.usage() == StateUsage(2, 10)
    assert rig.store.clear() == 2 and rig.files() == []


def test_a_file_that_cannot_be_removed_now(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows while an engine reads it: the rest of the state stays with it."""
    state = rig.keep(1, conversation=1)
    before = rig.files()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", full)
        rig.store.remove(state, "no longer needed")
        assert rig.store.clear() == rig.store.remove_owner(rig.journal, 1) == 0
        rig.store.limit = 0
        rig.store.tidy()
    assert rig.files() == before and rig.find() == 1
    rig.store.tidy()
    assert rig.files() == []


# Opening


def test_what_ended_processes_leave_behind_is_removed(rig: Rig) -> None:
    state = rig.keep(1, conversation=1)
    mine = rig.store.begin(IDENTITY, DIGESTS[:3])
    assert mine is not None
    dead = f"{IDENTITY.digest}-{DIGESTS[3]}.{2**22 + 1}-100-0"
    left = [f"{dead}.state", f"{dead}.part", f"{dead[:-1]}1.part", f"{dead[:-1]}2.json"]
    left.append(f"{dead[:-1]}3.{state.owner}.owner")
    for name in left:
        (rig.folder / name).write_text("x")
    rig.store.tidy()
    assert rig.files() == sorted([mine.path.name, state.path.name, record_of(state).name])
    assert rig.find() == 1 and rig.lines == []


def test_open(home: Path) -> None:
    assert open_state_store(Settings(journal=False)) is None and open_state_store(Settings(state_limit="0")) is None
    assert not paths.states_dir().exists()
    store = open_state_store(Settings(state_limit="2K"))
    assert store is not None and store.limit == 2048 and store.folder == paths.states_dir() == home / "data" / "states"
    rig = Rig(home / "data", 2048)
    for boundary in range(3):
        rig.keep(boundary, content=bytes(600))
    assert open_state_store(Settings(journal=False)) is None and rig.store.usage().count == 3
    assert open_state_store(Settings(state_limit="1500")) is not None and rig.store.usage().count == 2
    assert open_state_store(Settings(state_limit="0")) is None and rig.files() == []


def test_the_default_limit_does_not_shrink_with_what_is_kept(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil_usage(10_000)
    monkeypatch.setattr(module.shutil, "disk_usage", usage)
    assert limit_of("", rig.folder / "missing") == 1000
    rig.keep(1, content=bytes(500))
    monkeypatch.setattr(module.shutil, "disk_usage", shutil_usage(9500))
    assert limit_of("", rig.folder) == 1000
    monkeypatch.setattr(module.shutil, "disk_usage", full)
    assert limit_of("", rig.folder) == 500, "what is kept stays where the disk cannot be asked"


def shutil_usage(free: int) -> Callable[[Path], Any]:
    from types import SimpleNamespace

    return lambda place: SimpleNamespace(free=free)
