"""Runs of the program that continue a conversation of an earlier run, without reading it again."""

from __future__ import annotations

import json
import signal
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from program import Start, run, start
from restored_replies import (
    LEAVE,
    NAME,
    STORY,
    TOKEN,
    EarlierRuns,
    chat,
    earlier,
    flags,
    kill,
    replies,
    states,
)

from bitnet_chat import paths
from bitnet_chat.engine.binary import EngineBinary

__all__ = ["earlier", "start"]
pytestmark = pytest.mark.engine
CUT = "bitnet-chat: the reply was cut at its limit of 12 tokens; --max-tokens N allows more"


def asked(native: EngineBinary, *arguments: str) -> dict[str, Any]:
    """What one question has printed as JSON."""
    done = run(*flags(native), "--json", *arguments)
    assert done.returncode == 0, done.stderr
    assert set(done.stderr.decode().splitlines()) <= {CUT}
    return dict(json.loads(done.stdout))


def test_questions_continue_the_last_conversation(native: EngineBinary, earlier: EarlierRuns) -> None:
    """Each by a run of its own, from the state that the run before has left."""
    undisturbed = earlier.replies(STORY, LEAVE, TOKEN, NAME)
    earlier.leave(STORY, LEAVE)
    for number, text in ((2, TOKEN), (3, NAME)):
        answer = asked(native, "-C", text)
        found = replies()
        assert len(found) == number + 1 and found[-1].restores(found[-2].used, undisturbed[number])
        assert answer["reply"] == found[-1].text
        assert answer["timings"]["prompt_tokens"] == undisturbed[number].evaluated


def test_a_conversation_is_resumed_by_its_number(native: EngineBinary, earlier: EarlierRuns) -> None:
    undisturbed = earlier.replies(STORY, LEAVE, TOKEN, NAME)
    earlier.leave(STORY, LEAVE)
    asked(native, "Hello.")
    assert asked(native, "--resume", "1", TOKEN)["conversation"] == 1
    found = replies()
    assert found[2].restores(found[1].used, undisturbed[2])
    chat(native, NAME, start=("--resume", "1"))
    found = replies()
    assert found[3].restores(found[2].used, undisturbed[3])


@pytest.mark.skipif(sys.platform == "win32", reason="signals and a pseudo-terminal")
def test_a_conversation_whose_program_and_engine_were_killed(
    native: EngineBinary, earlier: EarlierRuns, start: Start
) -> None:
    undisturbed = earlier.replies(STORY, LEAVE, TOKEN, NAME)
    earlier.leave(STORY, LEAVE)
    terminal = start(*flags(native), "-C", columns=160)
    terminal.ready()
    before = states("json")
    terminal.say(TOKEN)
    terminal.until(lambda: states("json") != before and "state saved" in terminal.text.split("\n")[-1])
    kill(lambda: terminal.child.kill(signal.SIGKILL), terminal.running_engines())
    assert terminal.end() == -signal.SIGKILL
    asked(native, "-C", NAME)
    found = replies()
    assert found[2].restores(found[1].used, undisturbed[2])
    assert found[3].restores(found[2].used, undisturbed[3])


# Where it is said


def test_the_bar_the_figures_and_the_list_say_that_a_conversation_has_a_state(
    native: EngineBinary, earlier: EarlierRuns, start: Start
) -> None:
    earlier.leave(STORY, LEAVE)

    def listed() -> bool:
        (entry,) = json.loads(run("history", "list", "--json").stdout)
        has_state = bool(entry["saved_state"])
        assert has_state == (b"state saved" in run("history", "list").stdout)
        return has_state

    assert listed()
    terminal = start(*flags(native), "-C", columns=160)
    terminal.ready()
    terminal.until(lambda: "state saved" in terminal.text.split("\n")[-1])
    assert "state saved" in terminal.say("/stats")
    for file in states():
        file.unlink()
    assert not listed()
    terminal.until(lambda: "state saved" not in terminal.text.split("\n")[-1])
    assert "state saved" not in terminal.say("/stats")
    terminal.leave()


# States that cannot be used


def replaced(state: Path, content: bytes) -> None:
    """Put other content into a state, with a record that says so."""
    state.write_bytes(content)
    (record,) = states("json")
    record.write_text(
        json.dumps(json.loads(record.read_text()) | {"bytes": len(content), "crc32": zlib.crc32(content)})
    )


def cut(state: Path) -> None:
    state.write_bytes(state.read_bytes()[:-1000])


def changed(state: Path) -> None:
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)


def not_a_state(state: Path) -> None:
    replaced(state, b"not a state" * 1000)


@pytest.mark.parametrize("damage", [Path.unlink, cut, changed, not_a_state])
def test_a_damaged_state_costs_a_reading(
    native: EngineBinary, earlier: EarlierRuns, damage: Callable[[Path], None]
) -> None:
    earlier.leave(STORY, LEAVE)
    (state,) = states()
    damage(state)
    asked(native, "-C", TOKEN)
    found = replies()[2]
    assert (found.source, found.evaluated) == ("cold", found.size)
    (new,) = states()
    assert new != state and len(states("json")) == 1
    (line,) = paths.states_dir().with_name("states.log").read_text().splitlines()
    assert " an engine state " in line and " is removed: " in line


def test_the_state_of_another_conversation_costs_a_reading(native: EngineBinary, earlier: EarlierRuns) -> None:
    """Under the name and with the record of the right one: the engine compares the tokens."""
    undisturbed = earlier.replies(STORY, LEAVE, TOKEN, NAME)
    earlier.leave(f"What is a model? {STORY}")
    (state,) = states()
    content = state.read_bytes()
    earlier.leave(STORY, LEAVE)
    (state,) = states()
    replaced(state, content)
    asked(native, "-C", TOKEN)
    found = replies()[2]
    assert undisturbed[1].used < found.evaluated <= found.size == undisturbed[2].size


def test_a_state_made_with_another_window_costs_a_reading(native: EngineBinary, earlier: EarlierRuns) -> None:
    earlier.leave(STORY, LEAVE)
    asked(native, "-C", TOKEN, "--ctx", "1024")
    found = replies()[2]
    assert (found.source, found.evaluated) == ("cold", found.size)
    assert len(states()) == 2
