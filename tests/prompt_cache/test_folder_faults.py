"""A folder of states that is damaged, hostile, or on a file system that fails: each fault costs a reading, and is never
an error or a wrong match."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from state_rig import IDENTITY, Rig, digests, rig

from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.saved_states import EngineStates
from bitnet_chat.prompt_cache import names
from bitnet_chat.prompt_cache import store as module
from bitnet_chat.prompt_cache.budget import MAX_STATES
from bitnet_chat.prompt_cache.record import SavedState
from bitnet_chat.prompt_cache.store import StateStore, StateUsage

__all__ = ["rig"]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of POSIX")


def record_of(state: SavedState) -> Path:
    return state.path.with_name(names.record_name(state.stem, state.owner))


def in_place_of(path: Path, target: str | Path) -> None:
    path.unlink()
    path.symlink_to(target)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


# Foreign things in the place of a file


def swapped(state: SavedState, rig: Rig) -> None:
    """The state of another model, of the same size."""
    other = rig.keep("abc", identity=replace(IDENTITY, model="b"), content=b"other")
    shutil.copyfile(other.path, state.path)


HOSTILE: dict[str, Callable[[SavedState, Rig], object]] = {
    "a state of another model": swapped,
    "a state that is a pipe": lambda state, rig: pipe(state.path),
    "a state that is a link to another file": lambda state, rig: in_place_of(state.path, rig.folder / "x"),
    "a state that is a link to a copy": lambda state, rig: in_place_of(state.path, rig.folder / "copy"),
    "a state that is a link to nothing": lambda state, rig: in_place_of(state.path, rig.folder / "missing"),
    "a state that is a link to itself": lambda state, rig: in_place_of(state.path, state.path.name),
    "a state that is an endless file": lambda state, rig: in_place_of(state.path, "/dev/zero"),
    "a record that is a pipe": lambda state, rig: pipe(record_of(state)),
    "a record that is an endless file": lambda state, rig: in_place_of(record_of(state), "/dev/zero"),
    "a record that is a link to nothing": lambda state, rig: in_place_of(record_of(state), "missing"),
}


@POSIX
@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_in_the_place_of_a_file_is_not_used(rig: Rig, what: str) -> None:
    state = rig.keep("abc", conversation=1)
    (rig.folder / "x").write_bytes(b"xxxxx")
    shutil.copyfile(state.path, rig.folder / "copy")
    HOSTILE[what](state, rig)
    found = rig.store.find(IDENTITY, digests("abc"))
    assert found is None or not rig.store.verify(found[0])
    assert len(rig.lines) == 1
    rig.store.tidy()
    assert (rig.folder / "x").read_bytes() == b"xxxxx" and (rig.folder / "copy").read_bytes() == b"state"
    again = rig.keep("abcd", conversation=1)
    assert rig.find("abcd") == ("abcd", 4) and rig.store.verify(again)


@POSIX
def test_a_state_that_becomes_a_link_while_it_is_written(rig: Rig) -> None:
    """Its target is neither changed nor kept as a state."""
    target = rig.folder.parent / "target"
    target.write_bytes(b"of another program")
    target.chmod(0o644)
    pending = rig.begin("a")
    in_place_of(pending.path, target)
    assert rig.store.commit(pending, tokens=1) is None
    assert target.read_bytes() == b"of another program" and target.stat().st_mode & 0o777 == 0o644
    assert rig.files() == [] and len(rig.lines) == 1


@pytest.mark.parametrize("part", ["state", "record"])
def test_a_folder_in_the_place_of_a_file(rig: Rig, part: str) -> None:
    """It cannot be removed as a file, and is passed over."""
    state, lesser = rig.keep("abc"), rig.keep("ax")
    path = state.path if part == "state" else record_of(state)
    path.unlink()
    path.mkdir()
    assert rig.find("abc") == ("ax", 1)
    rig.store.tidy()
    assert path.is_dir() and rig.find("abc") == ("ax", 1) and rig.store.verify(lesser)


# A folder that cannot be written


def test_a_damaged_state_that_cannot_be_removed_is_passed_over(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a folder that became read-only, or on Windows while another program has the file open."""
    long = "A long question. " * 50
    conversation = Conversation().with_user(long).with_assistant("Yes.")
    states = EngineStates(rig.store, lambda: IDENTITY)
    for text, content in ((conversation.with_user("x"), b"state"), (conversation.with_user("y"), b"other")):
        job = states.begin(text)
        assert job is not None
        job.pending.path.write_bytes(content)
        kept = states.commit(job, tokens=9, place=None)
        assert kept is not None
    kept.path.write_bytes(b"xxxxx")
    monkeypatch.setattr(Path, "unlink", failing)
    found = states.better(None, conversation.with_user("y"))
    assert found is not None and found[0].path.read_bytes() == b"state" and len(found[1].turns) == 2
    assert kept.path.exists() and len(rig.lines) == 1
    found[0].path.write_bytes(b"xxxxx")
    assert states.better(None, conversation.with_user("y")) is None


def failing(*_: object, **__: object) -> Any:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.parametrize("what", ["removed", "read-only", "another folder"])
def test_the_folder_changes_while_a_state_is_written(rig: Rig, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    pending = rig.begin("a")
    pending.path.write_bytes(b"state")
    with monkeypatch.context() as patch:
        if what == "read-only":
            for owner, name in ((Path, "replace"), (Path, "unlink"), (Path, "chmod"), (os, "open"), (os, "utime")):
                patch.setattr(owner, name, failing)
        else:
            shutil.rmtree(rig.folder)
        if what == "another folder":
            rig.folder.mkdir()
        assert rig.store.commit(pending, tokens=1) is None
    assert len(rig.lines) == 1 and rig.lines[0].startswith("an engine state is not kept: ")
    assert rig.find("a") is None
    rig.store.discard(pending)
    rig.keep("a")
    assert rig.find("a") == ("a", 1)


CALLS: list[tuple[Any, str]] = [
    *((os, name) for name in ("listdir", "scandir", "open", "close", "utime")),
    *((Path, name) for name in ("stat", "unlink", "chmod", "replace", "mkdir", "touch", "exists")),
]


@pytest.mark.parametrize(("owner", "name"), CALLS, ids=[name for _, name in CALLS])
@pytest.mark.parametrize("code", [errno.ESTALE, errno.ENOSPC, errno.ENOLCK, errno.EIO])
def test_a_file_system_that_fails_at_a_call(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, code: int
) -> None:
    """As a network file system may at any one."""
    whole = rig.keep("abc", conversation=1)
    rig.keep("")

    def fail(*_: object, **__: object) -> Any:
        raise OSError(code, os.strerror(code))

    store = rig.store
    if name == "exists":
        fail = lambda *_, **__: False  # noqa: E731  # it raises nothing
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        pending = store.begin(IDENTITY, digests("abcd"))
        if pending is not None:
            store.commit(pending, tokens=1, owner=store.owner(rig.journal, 1, 1))
            store.discard(pending)
        found = store.find(IDENTITY, digests("abc"))
        assert found is None or found[0].digests[: found[1] + 1] == digests("abc")[: found[1] + 1]
        store.verify(whole)
        store.touch(whole)
        store.has(IDENTITY, digests("")[0])
        store.heads(rig.journal)
        store.usage()
        store.prompt_usage()
        store.remove_owner(rig.journal, 2)
        store.tidy()
        store.ready_folder()
    rig.store.tidy()
    rig.keep("abcd", conversation=1)
    assert rig.find("abcd") == ("abcd", 4)


@pytest.mark.parametrize(("owner", "name"), [(Path, "chmod"), (os, "utime"), (os, "open"), (Path, "replace")])
def test_a_step_of_a_commit_that_is_made_and_reported_as_failed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    """As by a network file system that repeats a request."""
    pending = rig.begin("a")
    pending.path.write_bytes(b"state")
    call, made = getattr(owner, name), list[bool]()

    def fail(*arguments: Any, **named: Any) -> Any:
        result = call(*arguments, **named)
        if any(str(each).startswith(str(pending.path)) or str(each).endswith(".part") for each in arguments):
            made.append(True)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        assert rig.store.commit(pending, tokens=1, owner=rig.store.owner(rig.journal, 1, 1)) is None
    assert made and rig.files() == [] and len(rig.lines) == 1


@pytest.mark.parametrize("left", ["record", "owner"])
def test_what_an_interrupted_removal_has_left_is_gone_with_the_next_state(rig: Rig, left: str) -> None:
    """Without a start of the program, and whatever model the state is of."""
    state = rig.keep("abc", conversation=1, identity=replace(IDENTITY, model="b"))
    rig.store.touch(state, rig.store.owner(rig.journal, 2, 1))
    state.path.unlink()
    if left == "owner":
        record_of(state).unlink()
    kept = rig.keep("x")
    assert rig.files() == sorted([kept.path.name, record_of(kept).name])


def test_no_lock_is_needed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system may have none."""
    assert not {"fcntl", "msvcrt"} & set(vars(module))


# Many files


def test_a_folder_of_10000_files(rig: Rig) -> None:
    rig.store.limit = 10**6
    rig.folder.mkdir()
    owner = rig.store.owner(rig.journal, 1, 1)
    for number in range(2500):
        stem = f"{IDENTITY.digest}-{number:040x}.{2**22 + 1}-100-{number}"
        for name in (f"{stem}.state", f"{stem}.{owner}.owner", f"{stem}.part", f"foreign {number}"):
            os.close(os.open(rig.folder / name, os.O_CREAT | os.O_WRONLY, 0o600))
    assert rig.find("a") is None
    rig.keep("a")
    assert rig.find("ab") == ("a", 1) and rig.store.usage() == StateUsage(1, 5)
    rig.store.tidy()
    assert len(rig.files()) == 2500 + 2, "what is not of this program stays"
    assert rig.find("ab") == ("a", 1) and rig.lines == []


def test_more_states_than_are_kept(rig: Rig) -> None:
    rig.store.limit = 10**6
    state = rig.keep("a")
    text = record_of(state).read_text()
    for number in range(MAX_STATES + 200):
        digest = f"{number:040x}"
        stem = f"{IDENTITY.digest}-{digest}.{2**22 + 1}-100-{number}"
        (rig.folder / f"{stem}.state").write_bytes(b"state")
        os.utime(rig.folder / f"{stem}.state", (number, number))
        (rig.folder / f"{stem}.json").write_text(text.replace(state.digests[-1], digest))
    assert rig.find("ab") == ("a", 1)
    rig.keep("b")
    assert rig.store.usage().count == MAX_STATES and rig.find("ab") == ("a", 1) and rig.lines == []


# Two programs


def test_two_programs_save_the_same_system_prompt(rig: Rig) -> None:
    """And the one that is later replaces the other, whatever the order of their steps."""
    other = StateStore(rig.folder, 1000, rig.lines.append)
    first, second = rig.begin(""), other.begin(IDENTITY, digests(""))
    assert second is not None
    first.path.write_bytes(b"first")
    second.path.write_bytes(b"other")
    assert other.commit(second, tokens=1) is not None
    assert rig.store.commit(first, tokens=1) is not None
    assert rig.store.usage() == other.prompt_usage() == StateUsage(1, 5)
    assert rig.find("a") == ("", 0) and rig.lines == []


def test_a_program_removes_the_state_that_another_one_is_about_to_use(rig: Rig) -> None:
    state = rig.keep("abc")
    found = rig.store.find(IDENTITY, digests("abc"))
    StateStore(rig.folder, 1000).clear()
    assert found is not None and not rig.store.touch(found[0]) and not rig.store.verify(found[0])
    assert not state.path.exists() and rig.find("abc") is None
