"""Conversations of the program with a real engine, made once, and the figures of their replies in the journal."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from program import assert_gone, run

from bitnet_chat import paths
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.journal import Journal

STORY = " ".join(f"I have {number} questions about the terminal and the model." for number in range(9))
"""A message that is worth a state."""
LEAVE, TOKEN, NAME = "How do I leave?", "What is a token?", "What is your name?"
CLIENT = " ".join([STORY] * 5)
"""A message that is worth a state of a client, whose conversation may not go on."""
_DATA: dict[tuple[str, ...], Path] = {}


@dataclass(frozen=True)
class ReplyFigures:
    """A reply in the journal. ``source``: of the context before it: ``live``, ``state`` or ``cold``. Numbers of tokens:
    ``restored`` of the state, ``evaluated`` by the engine of the ``size`` of the prompt, ``used`` of the context after
    the reply."""

    text: str
    source: str
    restored: int
    evaluated: int
    size: int
    used: int

    def restores(self, tokens: int, undisturbed: ReplyFigures) -> bool:
        """Whether this is the reply ``undisturbed`` of an engine that has lived through the conversation, after a state
        of so many tokens was restored, and no token more evaluated."""
        assert undisturbed.source == "live" and undisturbed.evaluated < undisturbed.size / 4
        return self == replace(undisturbed, source="state", restored=tokens)


def replies(conversation: int = 1, journal: Path | None = None) -> list[ReplyFigures]:
    """The replies of a conversation in the journal, of the test where none is given."""
    found = []
    for record in Journal(journal).load(conversation).records:
        if record.message.role == "assistant":
            read, stats = record.options["read"], record.stats
            assert isinstance(read, dict)
            numbers = read.get("restored", 0), read["evaluated"], stats["prompt_size"], stats["context_used"]
            found.append(ReplyFigures(record.message.content, read["from"], *numbers))  # type: ignore[arg-type]
    return found


def flags(engine: EngineBinary) -> tuple[str, ...]:
    return ("--engine", str(engine.path), "--threads", "1", "--max-tokens", "12", "--temp", "0")


def chat(engine: EngineBinary, *lines: str, start: tuple[str, ...] = (), **more: str) -> str:
    """Send lines to the program, which ends after them; gives what it writes to stderr. ``start``: further flags."""
    done = run("-i", *flags(engine), *start, stdin="\n".join(lines) + "\n", **more)
    assert done.returncode == 0, done.stderr
    return done.stderr.decode()


class EarlierRuns:
    """Runs of the program that have ended, each with a conversation of the given messages in a data folder of its
    own. The replies of one run are those of one engine process."""

    def __init__(self, engine: EngineBinary, folders: pytest.TempPathFactory) -> None:
        self._engine, self._folders = engine, folders

    def _data(self, messages: tuple[str, ...]) -> Path:
        if messages not in _DATA:
            folder = self._folders.mktemp("earlier") / "data"
            chat(self._engine, *messages, BITNET_CHAT_DATA=str(folder))
            _DATA[messages] = folder
        return _DATA[messages]

    def replies(self, *messages: str) -> list[ReplyFigures]:
        """The replies of an undisturbed conversation."""
        return replies(journal=self._data(messages) / "journal.db")

    def leave(self, *messages: str) -> None:
        """Give the test what a run has left: the conversation 1, and its state."""
        shutil.rmtree(paths.data_dir(), ignore_errors=True)
        shutil.copytree(self._data(messages), paths.data_dir())


@pytest.fixture
def earlier(native: EngineBinary, tmp_path_factory: pytest.TempPathFactory) -> EarlierRuns:
    return EarlierRuns(native, tmp_path_factory)


def states(end: str = "state") -> list[Path]:
    """The files of saved states, or their records (``json``)."""
    return sorted(paths.states_dir().glob(f"*.{end}"))


def kill(program: Callable[[], object], engines: Sequence[psutil.Process]) -> None:
    """Kill a program by a function, and then its engines, which may have ended with it."""
    program()
    for engine in engines:
        with contextlib.suppress(psutil.NoSuchProcess):
            engine.kill()
    assert_gone(engines)
