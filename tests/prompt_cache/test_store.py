"""The folder of saved states in one process."""

from __future__ import annotations

import errno
import itertools
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
from state_rig import IDENTITY, Rig, digests, rig

from bitnet_chat import paths
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Message
from bitnet_chat.engine.native.protocol import Save, decode_request, encode
from bitnet_chat.prompt_cache import record
from bitnet_chat.prompt_cache import store as module
from bitnet_chat.prompt_cache.budget import KEPT_BRANCHES
from bitnet_chat.prompt_cache.key import FORMAT, StateIdentity, prefix_digests
from bitnet_chat.prompt_cache.names import StateOwner
from bitnet_chat.prompt_cache.record import SavedState
from bitnet_chat.prompt_cache.store import StateStore, StateUsage, limit_of, open_state_store

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")


__all__ = ["rig"]


# Write and find


def test_a_state_is_found_with_all_that_is_known_of_it(rig: Rig) -> None:
    before = time.time()
    state = rig.keep("abc", conversation=7)
    assert (state.tokens, state.seconds, state.bytes) == (100, 1.5, 5) and before <= state.created <= time.time()
    assert state.owner == StateOwner(state.owner.journal if state.owner else "", 7, 3)
    assert state.digests == digests("abc") and state.path.name.startswith(f"{IDENTITY.digest}-{state.digests[-1]}.")
    assert StateStore(rig.folder).find(IDENTITY, digests("abc")) == (state, 3)
    assert state.path.read_bytes() == b"state" and rig.store.verify(state) and rig.lines == []


@pytest.mark.parametrize("texts", list(itertools.permutations(["abcd", "abx", "y"])))
def test_the_state_that_shares_most_is_found(rig: Rig, texts: tuple[str, ...]) -> None:
    for text in texts:
        rig.keep(text)
    assert rig.kept() == set(texts)
    for text, found in {
        "abcd": ("abcd", 4),  # the whole conversation
        "abcdef": ("abcd", 4),  # its next messages
        "abc": ("abcd", 3),  # an earlier point of the branch
        "abcz": ("abcd", 3),  # another branch from its middle
        "abxz": ("abx", 3),
        "yz": ("y", 1),
    }.items():
        assert rig.find(text) == found
    first = texts.index("abcd") < texts.index("abx")
    assert rig.find("ab") == rig.find("abz") and rig.find("ab") == (("abx" if first else "abcd"), 2)
    assert rig.store.find(IDENTITY, prefix_digests("other", (), [Message("user", "a")])) is None
    assert rig.store.find(IDENTITY, ()) is None


@pytest.mark.parametrize("texts", list(itertools.permutations(["ax", "ay", "az"])))
def test_of_equal_shares_the_newest_is_found(rig: Rig, texts: tuple[str, ...]) -> None:
    oldest, *_ = [rig.keep(text) for text in texts]
    for text, shared in {"a": 1, "a!": 1, "": 0, "!": 0}.items():
        assert rig.find(text) == (texts[-1], shared)
    rig.store.touch(oldest)
    assert rig.find("a") == (texts[-1], 1), "a use makes none newer"


def test_messages_are_shared_from_the_first_one_on(rig: Rig) -> None:
    """Not where the same digest appears again, or after a difference."""
    rig.keep("aba")
    state = rig.keep("xyz")
    assert rig.find("xba") == ("xyz", 1)
    assert rig.store.find(IDENTITY, ("0" * 40, *digests("xyz")[1:])) is None
    assert rig.store.find(IDENTITY, (state.digests[0], "0" * 40, *digests("xyz")[2:])) == (state, 0)


def test_a_conversation_of_2000_messages(rig: Rig) -> None:
    text = "".join(chr(0x4E00 + number) for number in range(2000))
    rig.keep(text[:1999], conversation=1)
    began = time.process_time()
    state = rig.keep(text, conversation=1)
    assert rig.find(text) == (text, 2000)
    assert rig.find(text[:1000] + "x") == (text, 1000)
    assert time.process_time() - began < 2, "0.05 s on an idle machine"
    assert rig.kept() == {text} and rig.lines == []
    assert record_of(state).stat().st_size < 44 * 2001 + 500 < record.MAX_BYTES / 40


def test_nothing_is_found_before_the_commit_or_for_another_identity(rig: Rig) -> None:
    assert rig.find("a") is None and not rig.folder.exists()
    pending = rig.begin("a")
    assert rig.find("a") is None
    pending.path.write_bytes(b"x")
    assert rig.find("a") is None and rig.store.usage() == StateUsage(0, 0)
    rig.store.commit(pending, tokens=1, seconds=0)
    assert rig.find("a") == ("a", 1)
    others = {"model": "b", "context": 8192, "sequences": 2, "flags": (), "cache_type_v": "f16", "format": FORMAT + 1}
    for name, value in others.items():
        assert rig.find("a", identity=replace(IDENTITY, **{name: value})) is None  # type: ignore[arg-type]


def test_an_identity_with_the_digest_of_another_one_is_none(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.keep("a")
    monkeypatch.setattr(StateIdentity, "digest", property(lambda self, digest=IDENTITY.digest: digest))
    assert rig.find("a", identity=replace(IDENTITY, model="b")) is None and rig.find("a") == ("a", 1)


def test_a_name_is_one_for_every_engine(rig: Rig) -> None:
    name = rig.begin("a").path.name
    assert decode_request(encode(Save(1, name))) == Save(1, name)
    longest = rig.keep("a", conversation=2**62).path
    assert max(map(len, (name, longest.name, *rig.files()))) < 143, "the limit of eCryptfs"


@POSIX
def test_only_the_owner_may_read(rig: Rig) -> None:
    rig.folder.mkdir(mode=0o755)
    before = os.umask(0)
    try:
        pending = rig.begin("a")
        assert pending.path.stat().st_mode & 0o777 == 0o600
        pending.path.unlink()
        pending.path.write_bytes(b"an engine that makes the file itself")
        rig.store.commit(pending, tokens=1, seconds=0, owner=rig.store.owner(rig.journal, 1, 1))
    finally:
        os.umask(before)
    assert rig.folder.stat().st_mode & 0o777 == 0o700
    assert [(rig.folder / name).stat().st_mode & 0o777 for name in rig.files()] == [0o600, 0o600]


# A state replaces others


def test_a_state_that_is_saved_again_replaces_the_earlier_one(rig: Rig) -> None:
    first = rig.keep("a", conversation=1, content=b"first")
    second = rig.keep("a", conversation=2, content=b"second")
    assert rig.store.usage() == StateUsage(1, 6) and not first.path.exists()
    assert rig.store.find(IDENTITY, digests("a")) == (second, 1) and rig.owners() == {(1, 1), (2, 1)}


def test_a_state_replaces_those_of_its_beginnings(rig: Rig) -> None:
    rig.keep("ab", conversation=2)
    rig.keep("a", conversation=1)
    rig.keep("x", conversation=3)
    assert rig.kept() == {"ab", "a", "x"}, "a shorter state does not replace a longer one"
    rig.keep("abc", conversation=4)
    assert rig.kept() == {"abc", "x"} and rig.owners() == {(1, 1), (2, 2), (3, 1), (4, 3)}
    rig.keep("abcd", conversation=4)
    assert rig.kept() == {"abcd", "x"} and rig.owners() == {(1, 1), (2, 2), (3, 1), (4, 4)}
    assert len(rig.files()) == 6, "two states with their records, and two further owners"
    assert rig.store.usage() == StateUsage(2, 10) and rig.lines == []


def test_the_state_of_a_system_prompt_stays(rig: Rig) -> None:
    """It belongs to no conversation, and every new one with it begins with it."""
    rig.keep("ab", conversation=1)
    rig.keep("")
    rig.keep("abc", conversation=1)
    assert rig.kept() == {"abc", ""} and rig.owners() == {(1, 3)}
    assert rig.find("") == rig.find("x") == ("", 0), "it is the smallest of those that share as much"
    assert rig.find("ax") == ("abc", 1)
    assert rig.store.remove_owner(rig.journal, 1) == 1
    assert rig.store.usage() == rig.store.prompt_usage() == StateUsage(1, 5) and rig.lines == []
    assert rig.store.has(IDENTITY, digests("")[0]) and not rig.store.has(IDENTITY, digests("a")[-1])
    assert not rig.store.has(replace(IDENTITY, model="b"), digests("")[0])


def test_a_system_prompt_with_a_message_of_its_owner_is_replaced(rig: Rig) -> None:
    """As a classic engine saves it, with its first message."""
    rig.keep("", conversation=1)
    rig.keep("a", conversation=1)
    assert rig.kept() == {"a"} and rig.find("") == ("a", 0) and not rig.store.prompt_usage().count


def test_the_state_of_a_system_prompt_leaves_before_the_conversation_that_it_was_read_for(rig: Rig) -> None:
    rig.store.limit = 15
    rig.keep("x", conversation=1)
    rig.keep("y", conversation=2)
    prompt, _ = rig.keep(""), rig.keep("ab", conversation=3)
    assert rig.kept() == {"", "y", "ab"}
    rig.keep("z", conversation=4)
    assert rig.kept() == {"y", "ab", "z"}, "it was saved as if just before the last use"
    rig.keep("")
    rig.store.touch(rig.store.find(IDENTITY, digests("c"))[0])  # type: ignore[index]
    rig.keep("w", conversation=5)
    assert rig.kept() == {"", "z", "w"} and not prompt.path.exists(), "its use counts as any other"


def test_one_state_is_left_of_a_conversation_that_grows(rig: Rig) -> None:
    for length in range(1, 8):
        rig.keep("abcdefg"[:length], conversation=1)
        assert rig.kept() == {"abcdefg"[:length]} and rig.owners() == {(1, length)}
    assert len(rig.files()) == 2, "its earlier messages are not further owners"


@pytest.mark.parametrize("other", ["abX", "X", "Xbc", "abcd", "abcX"])
def test_another_branch_or_a_longer_one_is_not_replaced(rig: Rig, other: str) -> None:
    rig.keep(other)
    rig.keep("abc")
    assert rig.kept() == {other, "abc"}


def test_a_beginning_of_another_model_is_not_replaced(rig: Rig) -> None:
    identity = replace(IDENTITY, model="b")
    rig.keep("a", identity=identity)
    rig.keep("ab")
    assert rig.find("ab") == ("ab", 2) and rig.find("ab", identity) == ("a", 1)


def test_a_state_without_an_owner_gets_those_of_its_beginnings(rig: Rig) -> None:
    """A client of a server, which has no journal, continues a conversation of one."""
    for text in ("ab", "ab", "abc"):
        rig.keep(text, conversation=1 if text == "ab" and not rig.files() else 0)
        assert rig.owners() == {(1, 2)}
    assert rig.kept() == {"abc"} and rig.find("abcd") == ("abc", 3)
    assert rig.store.remove_owner(rig.journal, 1) == 1 and rig.files() == []


def test_a_beginning_that_cannot_be_removed_now_is_removed_with_the_next_state(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.keep("a", conversation=1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", full)
        rig.keep("ab", conversation=2)
    assert rig.kept() == {"a", "ab"} and rig.find("ac") == ("ab", 1)
    rig.keep("abc", conversation=3)
    assert rig.kept() == {"abc"} and rig.owners() == {(1, 1), (2, 2), (3, 3)}


def test_a_state_that_another_process_has_replaced_replaces_none(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hand the owners over to a state that does not exist."""
    rig.keep("a", conversation=1)
    write = StateStore._write_record

    def replaced(store: StateStore, state: SavedState) -> None:
        write(store, state)
        state.path.unlink()
        record_of(state).unlink()

    monkeypatch.setattr(StateStore, "_write_record", replaced)
    rig.keep("ab", conversation=2)
    assert rig.kept() == {"a"} and rig.owners() == {(1, 1)} and len(rig.files()) == 2


# Not kept


def test_without_a_limit_nothing_is_written(tmp_path: Path) -> None:
    rig = Rig(tmp_path, 0)
    assert rig.store.begin(IDENTITY, digests("a")) is None and rig.files() == []


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "the engine wrote nothing"), (b"x" * 2000, "2 kB of at most 1 kB"), (None, "o such file")],
)
def test_a_state_that_is_not_kept(rig: Rig, content: bytes | None, words: str) -> None:
    rig.keep("b")
    pending = rig.begin("ab")
    if content is None:
        pending.path.unlink()
    else:
        pending.path.write_bytes(content)
    assert rig.store.commit(pending, tokens=1, seconds=0) is None
    assert len(rig.files()) == 2 and rig.kept() == {"b"} and rig.find("b") == ("b", 1)
    assert len(rig.lines) == 1 and words in rig.lines[0]


def test_a_state_that_is_given_up(rig: Rig) -> None:
    for reason in ("", "the disk is full"):
        rig.store.discard(rig.begin("a"), reason)
    assert rig.files() == [] and rig.lines == ["an engine state is not kept: the disk is full"]


def full(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    pending = rig.begin("a")
    pending.path.write_bytes(b"x")
    with monkeypatch.context() as patch:
        patch.setattr(StateStore, "_write_record", full)
        assert rig.store.commit(pending, tokens=1, seconds=0) is None
        patch.setattr(os, "open", full)
        assert rig.store.begin(IDENTITY, digests("a")) is None
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
    assert rig.store.begin(IDENTITY, digests("a")) is None
    assert rig.find("a") is None and rig.store.usage() == StateUsage(0, 0) and rig.owners() == set()
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
    "the record is long": rewritten(more="x" * record.MAX_BYTES),
    "another format": rewritten(format=FORMAT + 1),
    "an identity of texts": rewritten(identity={"model": "x"}),
    "an identity of nothing": rewritten(identity=None),
    "a text as a number": rewritten(tokens="100"),
    "true as a number": rewritten(bytes=True),
    "a negative number": rewritten(bytes=-5),
    "not a number": rewritten(seconds=float("nan")),
    "digests of another conversation": rewritten(digests=digests("bx")),
    "digests without the last one": rewritten(digests=digests("b")),
    "one more digest": rewritten(digests=digests("bcd")),
    "without digests": rewritten(digests=[]),
    "digests that are one text": rewritten(digests=digests("bc")[-1]),
    "digests by name": rewritten(digests={digests("bc")[-1]: 1}),
    "digests of nothing": rewritten(digests=None),
    "a digest that is a number": rewritten(digests=[5, digests("bc")[-1]]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_removed_with_one_line(rig: Rig, damage: str) -> None:
    rig.keep("a")
    before = rig.files()
    DAMAGES[damage](rig.keep("bc", conversation=1))
    assert rig.find("bc") == ("a", 0)
    assert rig.files() == before and len(rig.lines) == 1
    assert rig.lines[0].startswith("an engine state is removed: it")
    assert rig.find("bc") == ("a", 0) and len(rig.lines) == 1


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_wrong_digest_within_a_record_shares_less(rig: Rig, at: int) -> None:
    """Never more: an engine compares the tokens of a prompt with those of its context."""
    values = list(digests("abc"))
    values[at] = "0" * 40
    rewritten(digests=values)(rig.keep("abc"))
    assert rig.find("abc") == (("abc", at - 1) if at else None)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_replaced_as_well(rig: Rig, damage: str) -> None:
    DAMAGES[damage](rig.keep("bc", conversation=1))
    rig.keep("bcd", conversation=2)
    rig.store.tidy()
    assert rig.kept() == {"bcd"} and rig.find("bcd") == ("bcd", 3)
    assert rig.lines == ["an engine state is removed: its file is missing"] * (damage == "the state is missing")


def test_a_changed_byte_is_noticed_by_its_checksum(rig: Rig) -> None:
    state = rig.keep("a", content=bytes(3_000_000)[:900])
    state.path.write_bytes(bytes(899) + b"\x01")
    assert rig.find("a") == ("a", 1) and not rig.store.verify(state)
    assert rig.files() == [] and len(rig.lines) == 1 and "damaged" in rig.lines[0]
    assert not rig.store.verify(state), "it is missing now"


def test_a_state_that_an_engine_cannot_restore(rig: Rig) -> None:
    rig.store.remove(rig.keep("a", conversation=1), "the engine cannot read it")
    assert rig.files() == [] and rig.lines == ["an engine state of 100 tokens is removed: the engine cannot read it"]


def test_other_files_in_the_folder_are_left_alone(rig: Rig) -> None:
    rig.keep("a")
    others = ["README", ".hidden", f"{digests('a')[0]}.state", "x.json", "0-0.0-0-0.state"]
    for name in others:
        (rig.folder / name).write_text("x")
    (rig.folder / "folder").mkdir()
    rig.store.tidy()
    assert rig.store.clear() == 1
    assert rig.files() == sorted([*others, "folder"])


# The last use


def test_what_is_used_stays(rig: Rig) -> None:
    rig.store.limit = 15
    first, second, third = (rig.keep(text) for text in "abc")
    assert rig.store.touch(first)
    rig.keep("d")
    assert [state.path.exists() for state in (first, second, third)] == [True, False, True]
    assert not rig.store.touch(second)


@pytest.mark.parametrize("jump", [-(10**9), 10**9])
def test_a_clock_that_jumps(rig: Rig, monkeypatch: pytest.MonkeyPatch, jump: int) -> None:
    rig.store.limit = 15
    first, second = rig.keep("a"), rig.keep("b")
    now = time.time_ns()
    with monkeypatch.context() as patch:
        patch.setattr(module.time, "time_ns", lambda: now + jump * 10**9)
        third = rig.keep("c")
    rig.store.touch(first)
    rig.keep("d")
    assert [state.path.exists() for state in (first, second, third)] == [True, False, True]


def test_the_last_branches_of_a_conversation_stay(rig: Rig) -> None:
    texts = [sign * length for length, sign in enumerate("abcdef", 1)]
    for text in texts:
        rig.keep(text, conversation=1)
    rig.keep("x", conversation=2)
    assert rig.owners() == {(1, 4), (1, 5), (1, 6), (2, 1)} and KEPT_BRANCHES == 3
    other = replace(IDENTITY, model="b")
    for text in texts:
        rig.keep(text, conversation=1, identity=other)
    for identity in (IDENTITY, other):
        for number, text in enumerate(texts):
            assert (rig.find(text, identity) == (text, len(text))) is (number >= 3)
    rig.keep("eeeee!", conversation=1)
    assert [rig.find(text) == (text, len(text)) for text in texts[3:]] == [True, False, True], "it is the same branch"


# Owners


def test_the_states_of_a_conversation_are_removed(rig: Rig) -> None:
    rig.keep("z")
    rig.keep("a", conversation=1)
    rig.keep("bb", conversation=1)
    rig.keep("ccc", conversation=11)
    elsewhere = rig.store.owner(rig.journal.with_name("other.db"), 1, 1)
    rig.store.touch(rig.keep("dddd", conversation=2), elsewhere)
    assert rig.store.remove_owner(rig.journal, 1) == 2
    assert rig.owners() == {(11, 3), (2, 4)} and rig.find("z") == ("z", 1)
    assert rig.store.remove_owner(rig.journal, 1) == 0


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3])))
def test_a_state_is_removed_with_the_conversation_that_it_contains(rig: Rig, order: tuple[int, ...]) -> None:
    """Others that use it share a beginning with it: they lose nothing that is theirs alone."""
    state = rig.keep("a", conversation=1)
    for conversation in (2, 3):
        assert rig.store.touch(state, rig.store.owner(rig.journal, conversation, 9))
    owners = {1: (1, 1), 2: (2, 9), 3: (3, 9)}
    for place, conversation in enumerate(order):
        left = order[place:] if 1 in order[place:] else ()
        assert rig.owners() == {owners[each] for each in left}
        assert rig.store.remove_owner(rig.journal, conversation) == (conversation == 1)
        assert rig.store.usage().count == (1 in order[place + 1 :])
    assert rig.files() == []


def test_the_text_of_a_fork_leaves_with_the_fork(rig: Rig) -> None:
    """The state of a fork replaces that of the conversation that it was forked from, and has its owner."""
    for removed in (1, 2):
        rig.keep("ab", conversation=1)
        rig.keep("abc", conversation=2)
        assert rig.kept() == {"abc"} and rig.owners() == {(1, 2), (2, 3)}
        assert rig.store.remove_owner(rig.journal, removed) == (removed == 2)
        assert rig.owners() == ({(2, 3)} if removed == 1 else set())
        rig.store.clear()
        assert rig.files() == []


def test_a_state_without_an_owner_gets_none_by_its_use(rig: Rig) -> None:
    state = rig.keep("a")
    assert rig.store.touch(state, rig.store.owner(rig.journal, 1, 1))
    assert rig.owners() == set() and rig.store.remove_owner(rig.journal, 1) == 0
    assert rig.find("a") == ("a", 1)


def test_owners_stay_when_the_data_directory_is_moved(rig: Rig, tmp_path: Path) -> None:
    rig.keep("a", conversation=1)
    moved = tmp_path / "moved"
    moved.mkdir()
    rig.folder.rename(moved / "states")
    store = StateStore(moved / "states")
    assert store.heads(moved / "journal.db") == {(1, 1)} and store.heads(rig.journal) == set()


def test_clear(rig: Rig) -> None:
    for text in "ab":
        rig.keep(text, conversation=1)
    assert rig.store.usage() == StateUsage(2, 10)
    assert rig.store.clear() == 2 and rig.files() == []


def test_a_file_that_cannot_be_removed_now(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows while an engine reads it: the rest of the state stays with it."""
    state = rig.keep("a", conversation=1)
    before = rig.files()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", full)
        rig.store.remove(state, "no longer needed")
        assert rig.store.clear() == rig.store.remove_owner(rig.journal, 1) == 0
        rig.store.limit = 0
        rig.store.tidy()
    assert rig.files() == before and rig.find("a") == ("a", 1)
    rig.store.tidy()
    assert rig.files() == []


# Opening


def test_what_ended_processes_leave_behind_is_removed(rig: Rig) -> None:
    state = rig.keep("a", conversation=1)
    mine = rig.begin("ab")
    dead = f"{IDENTITY.digest}-{digests('abc')[-1]}.{2**22 + 1}-100-0"
    left = [f"{dead}.state", f"{dead}.part", f"{dead[:-1]}1.part", f"{dead[:-1]}2.json"]
    left.append(f"{dead[:-1]}3.{state.owner}.owner")
    for name in left:
        (rig.folder / name).write_text("x")
    rig.store.tidy()
    assert rig.files() == sorted([mine.path.name, state.path.name, record_of(state).name])
    assert rig.find("a") == ("a", 1) and rig.lines == ["an engine state is removed: its file is missing"]


def test_open(home: Path) -> None:
    assert open_state_store(Settings(journal=False)) is None and open_state_store(Settings(state_limit="0")) is None
    assert not paths.states_dir().exists()
    store = open_state_store(Settings(state_limit="2K"))
    assert store is not None and store.limit == 2048 and store.folder == paths.states_dir() == home / "data" / "states"
    rig = Rig(home / "data", 2048)
    for text in "abc":
        rig.keep(text, content=bytes(600))
    assert open_state_store(Settings(journal=False)) is None and rig.store.usage().count == 3
    assert open_state_store(Settings(state_limit="1500")) is not None and rig.store.usage().count == 2
    assert open_state_store(Settings(state_limit="0")) is None and rig.files() == []


def test_the_default_limit_does_not_shrink_with_what_is_kept(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil_usage(10_000)
    monkeypatch.setattr(module.shutil, "disk_usage", usage)
    assert limit_of("", rig.folder / "missing") == 1000
    rig.keep("a", content=bytes(500))
    monkeypatch.setattr(module.shutil, "disk_usage", shutil_usage(9500))
    assert limit_of("", rig.folder) == 1000
    monkeypatch.setattr(module.shutil, "disk_usage", full)
    assert limit_of("", rig.folder) == 500, "what is kept stays where the disk cannot be asked"


def shutil_usage(free: int) -> Callable[[Path], Any]:
    from types import SimpleNamespace

    return lambda place: SimpleNamespace(free=free)


def test_the_log_has_a_line_for_each_fault_and_an_end(tmp_path: Path) -> None:
    store, log = StateStore(tmp_path / "states", 1000), tmp_path / "states.log"
    (tmp_path / "states").write_text("in the way")
    assert store.begin(IDENTITY, ("a",)) is None
    assert "no engine state is kept" in log.read_text() and log.stat().st_mode & 0o777 == 0o600
    log.write_bytes(b"x" * 200_000)
    assert store.begin(IDENTITY, ("a",)) is None
    assert log.stat().st_size < 1000
