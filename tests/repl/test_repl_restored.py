"""Commands of a chat after which a conversation of an earlier run goes on from its saved state."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from program import Start, run, start
from restored_replies import LEAVE, NAME, STORY, TOKEN, EarlierRuns, chat, earlier, flags, replies

from bitnet_chat.engine.binary import EngineBinary

__all__ = ["earlier", "start"]
pytestmark = pytest.mark.engine
TOOL_DEMO = Path(__file__).parents[1] / "data" / "models" / "tool-demo.gguf"


def test_resume_from_a_new_conversation_and_from_another_one(native: EngineBinary, earlier: EarlierRuns) -> None:
    """The other one replaces the first one in the engine at once."""
    undisturbed = earlier.replies(STORY, LEAVE, TOKEN, NAME)
    earlier.leave(STORY, LEAVE)
    chat(native, "/resume 1", TOKEN, "/clear", f"Again: {STORY}", "/resume 1", NAME)
    found, (other,) = replies(), replies(2)
    assert found[2].restores(found[1].used, undisturbed[2])
    assert found[3].restores(found[2].used, undisturbed[3])
    assert other.evaluated > undisturbed[0].size / 2, "it was read in between"


def test_undo(native: EngineBinary, earlier: EarlierRuns) -> None:
    undisturbed = earlier.replies(STORY, LEAVE, "/undo", TOKEN)
    used = earlier.replies(STORY, LEAVE)[1].used
    earlier.leave(STORY, LEAVE)
    chat(native, "/undo", TOKEN, start=("-C",))
    assert replies()[1].restores(used, undisturbed[1])


def test_regen(native: EngineBinary, earlier: EarlierRuns) -> None:
    undisturbed = earlier.replies(STORY, LEAVE, "/regen")
    first = earlier.replies(STORY, LEAVE)[1]
    earlier.leave(STORY, LEAVE)
    chat(native, "/regen", start=("-C",))
    assert replies()[1].restores(first.used, undisturbed[1])


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal, and a script as an editor")
def test_edit(native: EngineBinary, earlier: EarlierRuns, start: Start, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text(f"#!/bin/sh\nprintf %s '{TOKEN}' > \"$1\"\n")
    editor.chmod(0o755)
    undisturbed = earlier.replies(STORY, LEAVE, "/undo", TOKEN)
    used = earlier.replies(STORY, LEAVE)[1].used
    earlier.leave(STORY, LEAVE)
    terminal = start(*flags(native), "-C", VISUAL=str(editor))
    terminal.ready()
    assert TOKEN in terminal.say("/edit")
    terminal.leave()
    assert replies()[1].restores(used, undisturbed[1])


def test_fork(native: EngineBinary, earlier: EarlierRuns) -> None:
    """The copy, and then the original, in the same engine."""
    undisturbed = earlier.replies(STORY, LEAVE, TOKEN, NAME)
    earlier.leave(STORY, LEAVE)
    chat(native, "/fork", TOKEN, start=("-C",))
    chat(native, NAME, "/resume 1", TOKEN, start=("-C",))
    copy, original = replies(2), replies(1)
    assert copy[2].restores(copy[1].used, undisturbed[2])
    assert copy[3].restores(copy[2].used, undisturbed[3])
    assert (original[2].text, original[2].evaluated) == (undisturbed[2].text, 1), "the copy contains the whole of it"
    entries = json.loads(run("history", "list", "--json").stdout)
    assert [entry["saved_state"] for entry in entries] == [True, True]


def test_another_model_and_back(native: EngineBinary, earlier: EarlierRuns, model: Path) -> None:
    """The other one cannot use the state."""
    undisturbed = earlier.replies(STORY, LEAVE, TOKEN, NAME)
    chat(native, STORY, LEAVE, f"/model {TOOL_DEMO}", f"/model {model}", TOKEN)
    found = replies()
    assert found[2].restores(found[1].used, undisturbed[2])
    chat(native, f"/model {TOOL_DEMO}", "Hello.", f"/model {model}", "/undo", NAME, start=("-C",))
    found = replies()
    assert found[3].restores(found[2].used, undisturbed[3])
