"""Kills of the engine, of the program, and of both, at random moments of a reply.

As a program (``python kills.py SPEC``, JSON) this file is the child that is killed: it goes on with the conversation of
a journal until its last question has a whole reply. It prints a line of JSON for each piece of that reply, and for the
end.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Literal

STORY = " ".join(f"I have {number} questions about the terminal, the model and the engine." for number in range(12))
MORE = "What is a river?"
QUESTION = "Please write a short story about a river."
VICTIMS = ("engine", "program", "both")
History = Literal["none", "resumed", "live"]
"""What precedes the question: nothing, a turn of another process, or two turns of the process that is killed."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a child does. ``tokens``: of a reply. ``seed``: its replies are sampled with this one instead of a random
    one; None: temperature 0."""

    engine: str
    model: str
    backend: str
    folder: str
    tokens: int
    history: History = "resumed"
    seed: int | None = None
    limit: int | None = None
    """Tokens of the last reply, if they are not ``tokens``."""
    is_first: bool = False
    """Whether the child makes the turn before the question, and no more."""


@dataclass(frozen=True, slots=True)
class Kill:
    """Kills in one reply. ``at``: characters of it that had been seen each time, -1: it had not begun. ``text``: the
    reply as it was continued."""

    victim: str
    at: tuple[int, ...]
    text: str
    origins: tuple[str, ...]
    """Origins of the contexts of the replies that made it."""


class Kills:
    """A conversation of one turn with its saved state, and kills in the next reply."""

    def __init__(self, spec: Spec, seed: int) -> None:
        self._spec, self._random = spec, Random(seed)
        self._base = Path(spec.folder) / "base"
        self._base.mkdir(parents=True)
        if spec.history == "resumed":
            with _child(replace(spec, folder=str(self._base), is_first=True)) as child:
                _last(child)
                child.wait()  # it saves its state
        # A continued reply has the limit of tokens anew.
        with _child(replace(spec, folder=self._copy("undisturbed"), limit=3 * spec.tokens)) as child:
            self.undisturbed = str(_last(child)["text"])

    def is_exact(self, kill: Kill) -> bool:
        """Whether the reply has the very text of the undisturbed one."""
        return bool(kill.text) and self.undisturbed.startswith(kill.text)

    def difference(self, kill: Kill) -> str:
        """The first token that differs, for people, and where it is."""
        from bitnet_chat.models.vocabulary import read_tokenizer

        tokenizer = read_tokenizer(Path(self._spec.model))
        if tokenizer is None:
            return f"{kill.text!r} instead of {self.undisturbed!r}"
        ours, theirs = tokenizer.numbers(kill.text), tokenizer.numbers(self.undisturbed)
        pairs = zip(ours, theirs, strict=False)
        at = next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(ours), len(theirs)))
        found, wanted = (tokenizer.written(each[at : at + 1]) for each in (ours, theirs))
        return f"token {at + 1} is {found!r} instead of {wanted!r}, after {tokenizer.written(ours[:at])[-30:]!r}"

    def _copy(self, name: str) -> str:
        """A copy of the journal and the states before the question."""
        folder = Path(self._spec.folder) / name
        shutil.copytree(self._base, folder)
        return str(folder)

    def kill(self, number: int) -> Kill:
        """Kill once, every fourth time twice, and have the reply finished."""
        victim, random = VICTIMS[number % len(VICTIMS)], self._random
        size = max(1, len(self.undisturbed) // 3)
        moments = sorted(random.randrange(-size // 10, size) for _ in range(2 if number % 4 == 3 else 1))
        folder, at, killed = self._copy(f"kill-{number}"), list[int](), 0
        while True:
            with _child(replace(self._spec, folder=folder)) as child:
                for line in _lines(child):
                    if "text" in line:
                        break
                    length = line["length"]
                    if len(at) == len(moments) or length < moments[len(at)] or line["engine"] == killed:
                        continue
                    time.sleep(random.random() * 0.02)
                    at.append(length)
                    if victim in ("engine", "both"):
                        killed = line["engine"]
                        _kill(killed)
                    if victim in ("program", "both"):
                        child.kill()
                        break
                else:
                    raise AssertionError("the child has failed")
            if "text" in line:
                shutil.rmtree(folder)
                return Kill(victim, tuple(at), line["text"], tuple(line["origins"]))


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def _child(spec: Spec) -> Iterator[subprocess.Popen[str]]:
    root = Path(__file__).resolve().parent.parent.parent
    command = [sys.executable, __file__, json.dumps(asdict(spec))]
    environment = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()


def _lines(child: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert child.stdout is not None
    for line in child.stdout:
        yield json.loads(line)


def _last(child: subprocess.Popen[str]) -> dict[str, Any]:
    for line in _lines(child):
        if "text" in line:
            return line
    raise AssertionError("the child has failed")


# The child


class _Child:
    """``backend``: open. Goes on with the conversation in ``journal``."""

    def __init__(self, spec: Spec, backend: Any, journal: Any) -> None:
        from bitnet_chat.backend import Sampling
        from bitnet_chat.journal import JournalRecorder

        self._spec, self._backend, self._journal = spec, backend, journal
        self._recorder = JournalRecorder(journal, lambda line: print(line, file=sys.stderr))
        self._sampling = Sampling(temperature=0.0) if spec.seed is None else Sampling(temperature=0.8)
        self.origins: list[str] = []

    @property
    def _engine(self) -> int | None:
        inner = getattr(self._backend, "inner", self._backend)
        if self._spec.backend != "engine":
            return inner.service.pid  # type: ignore[no-any-return]
        return inner._session.process.pid if inner._session.process is not None else None

    async def run(self) -> str:
        """The reply to the last question."""
        from bitnet_chat.conversation import Conversation

        spec, stored = self._spec, self._journal.latest()
        questions = {"none": (QUESTION,), "resumed": (STORY, QUESTION), "live": (STORY, MORE, QUESTION)}[spec.history]
        conversation = stored.conversation if stored is not None else Conversation()
        if stored is not None:
            self._recorder.resume(stored)
            self._backend.prepare(conversation)
        for number, question in enumerate(questions[:1] if spec.is_first else questions):
            is_new = len(conversation.turns) == 2 * number
            conversation = conversation.with_user(question) if is_new else conversation
            is_last = number == len(questions) - 1
            conversation = await self._answered(conversation, is_last=is_last)
            if is_new and not is_last and self._backend.status().facts.takes_seeds:
                while not self._backend.status().state_saved:  # noqa: ASYNC110 -- which nothing reports
                    await asyncio.sleep(0.05)
        await self._recorder.close()
        return conversation.messages[-1].content

    async def _answered(self, conversation: Any, *, is_last: bool) -> Any:
        from bitnet_chat.errors import FinishReason

        while (last := conversation.messages[-1]).role == "user" or last.was_cut:
            if last.finish is FinishReason.LENGTH:
                break
            conversation = await self._reply(conversation, is_last=is_last)
        return conversation

    async def _reply(self, conversation: Any, *, is_last: bool) -> Any:
        from bitnet_chat.backend import ReplyOptions
        from bitnet_chat.backends.wrappers import recording
        from bitnet_chat.events import Completed, Started, TextDelta
        from bitnet_chat.text.utf8 import rejoined

        spec, last = self._spec, conversation.messages[-1]
        before = last.content if last.role == "assistant" else ""
        if (seed := spec.seed) is not None:  # of a new reply; the rest of one must get it from the journal
            drawn = seed + 1 if before else seed
            recording.randrange = lambda count: drawn  # type: ignore[assignment, misc]
        length, end = len(before) or -1, None
        tokens = (spec.limit or spec.tokens) if is_last else spec.tokens
        options = ReplyOptions(max_tokens=tokens, sampling=self._sampling)
        async for event in recording.record_reply(self._backend, self._recorder, conversation, options):
            if isinstance(event, TextDelta):
                length = max(length, 0) + len(event.text)
            if is_last and isinstance(event, TextDelta | Started):
                print(json.dumps({"length": length, "engine": self._engine}), flush=True)
            end = event
        assert isinstance(end, Completed), end
        self.origins.append(end.origin.source.value if end.origin is not None else "")
        conversation = conversation.without_last_reply() if before else conversation
        return conversation.with_assistant(rejoined(before + end.text), end.reason)


async def _run(spec: Spec) -> None:
    from bitnet_chat import paths
    from bitnet_chat.chat import open_backend
    from bitnet_chat.config import Settings
    from bitnet_chat.journal import Journal

    folder = Path(spec.folder)
    paths.states_dir = lambda: folder / "states"
    settings = Settings(engine=spec.engine, model=spec.model, backend=spec.backend, threads=1)
    async with open_backend(settings, journal=True) as backend:
        child = _Child(spec, backend, Journal(folder / "journal.db"))
        text = await child.run()
        print(json.dumps({"text": text, "origins": child.origins}), flush=True)


if __name__ == "__main__":
    asyncio.run(_run(Spec(**json.loads(sys.argv[1]))))
