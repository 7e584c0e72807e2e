"""Kills of the engine, of the program, and of both, at random moments of a reply at temperature 0.

As a program (``python kills.py SPEC``, JSON) this file is the child that is killed: it goes on with the conversation of
a journal until its last question has a whole reply. It prints a line of JSON for each piece of text, and for the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

STORY = " ".join(f"I have {number} questions about the terminal, the model and the engine." for number in range(12))
QUESTION = "Please write a short story about a river."
VICTIMS = ("engine", "program", "both")


@dataclass(frozen=True, slots=True)
class Spec:
    """What a child does. ``tokens``: limit of a reply."""

    engine: str
    model: str
    backend: str
    folder: str
    tokens: int
    first: bool = False
    """Whether the child makes the conversation up to the question."""
    asks: bool = True


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill. ``at``: characters of the reply that had been seen. ``text``: the reply as it was continued."""

    victim: str
    at: int
    text: str
    origins: tuple[str, ...]
    """Origins of the contexts of the replies that made it."""


class Kills:
    """A conversation of one turn with its saved state, and kills in the next reply."""

    def __init__(self, spec: Spec, seed: int) -> None:
        self._spec, self._random = spec, Random(seed)
        self._base = Path(spec.folder) / "base"
        with _child(replace(spec, folder=str(self._base), first=True, asks=False)) as child:
            _last(child)
        # A continued reply has the limit of tokens anew.
        self.undisturbed = self._whole("undisturbed", 2 * spec.tokens).text

    def is_exact(self, kill: Kill) -> bool:
        """Whether the reply has the very text of the undisturbed one."""
        return bool(kill.text) and self.undisturbed.startswith(kill.text)

    def difference(self, kill: Kill) -> str:
        """The first difference to the undisturbed reply, for people."""
        pairs = zip(kill.text, self.undisturbed, strict=False)
        at = next((at for at, (ours, theirs) in enumerate(pairs) if ours != theirs), len(kill.text))
        return f"{kill.text[max(0, at - 20) : at + 20]!r} instead of {self.undisturbed[max(0, at - 20) : at + 20]!r}"

    def _whole(self, name: str, tokens: int) -> Kill:
        folder = self._copy(name)
        with _child(replace(self._spec, folder=folder, tokens=tokens)) as child:
            end = _last(child)
        return Kill("", 0, end["text"], tuple(end["origins"]))

    def _copy(self, name: str) -> str:
        """A copy of the journal and the states before the question."""
        folder = Path(self._spec.folder) / name
        shutil.copytree(self._base, folder)
        return str(folder)

    def kill(self, number: int) -> Kill:
        """Kill once, and have the reply finished."""
        victim = VICTIMS[number % len(VICTIMS)]
        folder = self._copy(f"kill-{number}")
        at, seen = self._random.randrange(len(self.undisturbed) // 2), 0
        with _child(replace(self._spec, folder=folder)) as child:
            for line in _lines(child):
                if "end" in line:
                    return Kill(victim, seen, line["text"], tuple(line["origins"]))  # it was faster
                seen = line["length"]
                if seen >= at:
                    if victim in ("engine", "both"):
                        _kill(line["engine"])
                    if victim in ("program", "both"):
                        child.kill()
                        child.wait()
                    break
            if victim == "engine":
                end = _last(child)
                return Kill(victim, seen, end["text"], tuple(end["origins"]))
        with _child(replace(self._spec, folder=folder)) as child:
            end = _last(child)
        shutil.rmtree(folder)
        return Kill(victim, seen, end["text"], tuple(end["origins"]))


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
    lines = list(_lines(child))
    assert lines and "end" in lines[-1], "the child has failed"
    return lines[-1]


# The child


async def _run(spec: Spec) -> None:
    from bitnet_chat import paths
    from bitnet_chat.backend import ReplyOptions, Sampling
    from bitnet_chat.backends.wrappers.recording import record_reply
    from bitnet_chat.chat import open_backend
    from bitnet_chat.config import Settings
    from bitnet_chat.conversation import Conversation
    from bitnet_chat.errors import FinishReason
    from bitnet_chat.events import Completed, TextDelta
    from bitnet_chat.journal import Journal, JournalRecorder

    folder = Path(spec.folder)
    paths.states_dir = lambda: folder / "states"
    journal = Journal(folder / "journal.db")
    recorder = JournalRecorder(journal, lambda line: print(line, file=sys.stderr))
    options = ReplyOptions(max_tokens=spec.tokens, sampling=Sampling(temperature=0.0))
    settings = Settings(engine=spec.engine, model=spec.model, backend=spec.backend, threads=1)
    origins: list[str] = []
    async with open_backend(settings, journal=True) as backend:

        def engine() -> int:
            inner: Any = getattr(backend, "inner", backend)
            return int(inner.service.pid if spec.backend != "engine" else inner._session.process.pid)

        async def reply(conversation: Conversation) -> Completed:
            length, end = 0, None
            async for event in record_reply(backend, recorder, conversation, options):
                if isinstance(event, TextDelta):
                    length += len(event.text)
                    said = len(conversation.messages[-1].content) if conversation.cut_reply is not None else 0
                    print(json.dumps({"length": said + length, "engine": engine()}), flush=True)
                end = event
            assert isinstance(end, Completed), end
            origins.append(end.origin.source.value if end.origin is not None else "")
            return end

        if spec.first:
            conversation = Conversation().with_user(STORY)
            await reply(conversation)
            await recorder.close()
        text = ""
        if spec.asks:
            stored = journal.load(1)
            recorder.resume(stored)
            conversation = stored.conversation
            last = conversation.last
            backend.prepare(conversation)
            while len(conversation.messages) == 2 or (last is not None and last.was_cut):
                if len(conversation.messages) == 2:
                    conversation = conversation.with_user(QUESTION)
                end = await reply(conversation)
                text = conversation.messages[-1].content if conversation.cut_reply is not None else ""
                text += end.text
                if conversation.cut_reply is not None:
                    conversation = conversation.without_last_reply()
                conversation = conversation.with_assistant(text, end.reason)
                last = conversation.last
                if end.reason is FinishReason.LENGTH:
                    break
            await recorder.close()
    print(json.dumps({"end": True, "text": text, "origins": origins}), flush=True)


if __name__ == "__main__":
    Path(json.loads(sys.argv[1])["folder"]).mkdir(exist_ok=True, parents=True)
    asyncio.run(_run(Spec(**json.loads(sys.argv[1]))))
