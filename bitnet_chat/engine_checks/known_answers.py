"""A check that an engine computes each type of weights correctly: known answers of small models.

The models and answers, and the stored results, are in :mod:`bitnet_chat.engine.known_answer_results`.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bitnet_chat.engine.binary import Dialect, EngineBinary, EngineVariant
from bitnet_chat.engine.known_answer_model import CONTEXT, SmallModel, question, tokens
from bitnet_chat.engine.known_answer_results import ANSWERS, LENGTH, AnswerVerdict, keep, kept, offered
from bitnet_chat.errors import BitnetChatError, BuildError, EngineDiedError

_AT_ONCE = 2
"""Number of models that are checked at the same time."""
_SECONDS = 60.0
"""Time limit for one model in seconds, including loading."""


def check(
    engine: EngineBinary,
    models: Iterable[SmallModel] | None = None,
    *,
    anew: bool = False,
    on_model: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[AnswerVerdict, ...]:
    """Ask each model its questions, unless a result is stored, and store the results.

    ``models``: keys of :data:`ANSWERS`; default: those that the engine supports (:func:`offered`). ``anew``: ignore
    stored results. ``on_model``: called with the number of models done and in total. Blocks. Raises OSError if a model
    file cannot be written.
    """
    wanted = tuple(offered(engine) if models is None else models)
    found = {} if anew else dict(kept(engine))
    asked = [model for model in wanted if model.name not in found]
    with tempfile.TemporaryDirectory(prefix="bitnet-chat-") as folder:

        def ask(model: SmallModel) -> str:
            return _ask(engine, model, Path(folder) / f"{model.name}.gguf")

        with ThreadPoolExecutor(min(_AT_ONCE, os.cpu_count() or 1)) as pool:
            for done, (model, wrong) in enumerate(zip(asked, pool.map(ask, asked), strict=True), 1):
                found[model.name] = wrong
                on_model(done, len(asked))
    keep(engine, found)
    return tuple(AnswerVerdict(model, found[model.name]) for model in wanted)


def require(engine: EngineBinary, on_model: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Check an engine. Raises BuildError if it is correct for none of its types of weights."""
    verdicts, name = check(engine, on_model=on_model), " bitnet" if engine.make is EngineVariant.IK else ""
    if verdicts and all(each.wrong for each in verdicts):
        raise BuildError(
            f"The engine in {engine.path} computes wrong results on this computer: {verdicts[0].wrong}",
            remedy=f"Compile one for this processor: bitnet-chat engine install{name} --build"
            if engine.dialect is Dialect.NATIVE
            else f"Use the prebuilt one: bitnet-chat engine install{name}",
        )


def _ask(engine: EngineBinary, model: SmallModel, path: Path) -> str:
    """Write ``model`` to ``path`` and ask it its questions. Returns the fault; empty if all answers are correct."""
    known = [text for _, text in ANSWERS[model]]
    questions = [question(number) for number, _ in ANSWERS[model]]
    try:
        model.write(path)
        if engine.dialect is Dialect.NATIVE:
            said = _ask_library(engine, path, questions)
        else:
            said = {"": asyncio.run(_ask_program(engine, path, questions))}
    except BitnetChatError as error:
        return (error.detail or error.what).strip().splitlines()[0]
    finally:
        path.unlink(missing_ok=True)
    for how, texts in said.items():
        if texts != known[: len(texts)]:
            return f"it says {', '.join(texts)} instead of {', '.join(known[: len(texts)])}{how}"
    return ""


def _ask_library(engine: EngineBinary, model: Path, questions: list[str]) -> dict[str, list[str]]:
    """Ask a native engine. Returns the answers by the kind of evaluation: each prompt in one batch, and the first also
    token by token, with prompts that each have one token more than the one before; only this token is evaluated.
    """
    from bitnet_chat.engine.native.client import NativeClient, command
    from bitnet_chat.errors import NativeClientError

    argv = command(engine, model, context_size=CONTEXT, threads=1, batch_size=128)
    try:
        with NativeClient(argv, timeout=_SECONDS) as client:

            def reply(prompt: list[int], length: int = LENGTH) -> str:
                return client.complete(prompt, max_tokens=length, sampling={"temperature": 0.0}).text[:LENGTH]

            at_once = [reply(tokens(each)) for each in questions]
            prompt = tokens(questions[0])
            for end in range(1, len(prompt)):
                reply(prompt[:end], 1)
            return {"": at_once, " one by one": [reply(prompt)]}
    except NativeClientError as error:
        raise EngineDiedError(str(error)) from error


async def _ask_program(engine: EngineBinary, model: Path, questions: list[str]) -> list[str]:
    """Ask an engine program, with the backend that conversations use."""
    from bitnet_chat.backend import ReplyOptions, Sampling
    from bitnet_chat.backends.local_engine import LocalEngineBackend
    from bitnet_chat.config import Settings
    from bitnet_chat.conversation import Conversation
    from bitnet_chat.events import Completed, Failed

    settings = Settings(
        engine=str(engine.path), model=str(model), ctx=CONTEXT, threads=1, temperature=0.0, journal=False
    )
    options = ReplyOptions(max_tokens=LENGTH, timeout=_SECONDS, sampling=Sampling(temperature=0.0, repeat_penalty=1.0))
    backend = LocalEngineBackend(settings)
    said = []
    try:
        for each in questions:
            async for event in backend.reply(Conversation().with_user(each), options):
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Completed):
                    said.append(event.text[:LENGTH])
    finally:
        await backend.close()
    return said
