"""The sequence of all checks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from bitnet_chat.backends.local_engine import model_path
from bitnet_chat.config import Settings
from bitnet_chat.doctor import benchmark, engine, environment, files, hardware, model, server
from bitnet_chat.doctor.finding import Finding, broken, ok, warn
from bitnet_chat.engine import processors
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.threads import TINY_MODEL, Processors, Threads
from bitnet_chat.engine.threads import threads as share_of
from bitnet_chat.errors import BitnetChatError
from bitnet_chat.models.engine_support import explanation, known
from bitnet_chat.models.info import ModelInfo, read_info
from bitnet_chat.models.resolve import by_engine
from bitnet_chat.paths import bundled_model

SWEEP_SECONDS = 10.0
"""Time limit of the measurement of threads, in seconds."""


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What to check. ``configured``: the engine of the settings file. ``problem``: the error of the settings; with one,
    ``settings`` are the defaults. ``sweep``: whether to measure numbers of threads.
    """

    settings: Settings
    configured: str = ""
    problem: str = ""
    sweep: bool = True


def run_checks(options: CheckOptions) -> Iterator[Finding]:
    """Run the checks, and yield each finding when it is known. Takes some seconds, most of them for the measurement of
    threads. Exceptions of a check become findings.
    """
    settings = options.settings
    yield from _guarded("program", environment.program)
    info: list[ModelInfo] = []
    binary: EngineBinary | None = None
    usable: Settings | None = None
    if server.is_elsewhere(settings):
        yield from _guarded("server", lambda: server.look(settings))
    else:
        if settings.backend == "llama-server":
            found, binary = server.own(settings, options.configured)
            yield from found
        else:
            found, binary = engine.look(settings.engine, options.configured, settings.probe_timeout)
            yield from found
            usable = replace(settings, engine=str(binary.path)) if binary is not None else None
        yield from _guarded("engine", lambda: [engine.judge_variables(os.environ)])
        if usable is not None:
            yield from _guarded("answer", lambda: _known_answers(usable, binary))
        yield from _guarded("answer", lambda: benchmark.check_answers(binary))
        yield from _guarded("model", lambda: _check_model(settings, binary, info))
    if binary is not None and info:
        yield from _guarded("threads", lambda: [benchmark.given(*_share(settings, info[0]))])
    if options.sweep and usable is not None and info:
        yield from _guarded("threads", lambda: _thread_sweep(usable, info[0]))
    need = hardware.needed(info[0], settings.ctx) if info else None
    yield from _guarded("memory", lambda: [hardware.judge_memory(hardware.memory(), need), *hardware.disk()])
    yield from _guarded("terminal", lambda: [*environment.judge_terminal(environment.here()), *environment.pty()])
    yield from _guarded("files", lambda: files.settings(options.problem))
    yield from _guarded(
        "files", lambda: [files.data_folder(), files.journal(wanted=settings.journal), *files.set_aside()]
    )
    yield from _guarded("files", lambda: [files.states(settings.state_limit, wanted=settings.journal)])


def _guarded(group: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield the findings of ``look``. An exception becomes a finding."""
    try:
        yield from look()
    except BitnetChatError as error:
        yield broken(group, "check", error.what, error.remedy)
    except Exception as error:
        yield warn(group, "check", f"the check failed: {error!r}", "please report this: bitnet-chat report")


def _known_answers(settings: Settings, binary: EngineBinary | None) -> Iterator[Finding]:
    bundled = bundled_model()
    if bundled is None:
        yield warn("answer", "known answers", "the bundled model is not installed", "reinstall bitnet-chat")
        return
    incompatibility = explanation(binary.path, bundled) if binary is not None else None
    if incompatibility is not None and incompatibility.certain:
        seen = f"not checked: the bundled model cannot be loaded ({incompatibility.what})"
        yield warn(
            "answer", "known answers", seen, "bitnet-chat engine probe PATH --talk -m MODEL tries it with another model"
        )
        return
    reply = benchmark.ask(settings)
    yield hardware.judge_instructions(hardware.build_of(reply.log), hardware.instructions())
    yield benchmark.judge_replies(reply)


def _check_model(settings: Settings, binary: EngineBinary | None, info: list[ModelInfo]) -> Iterator[Finding]:
    """Check the model in use. Its metadata is appended to ``info`` for later checks."""
    path = binary.path if binary is not None else None
    reasons: list[str] = []
    judge = by_engine(path) if path is not None else None
    info.append(read_info(model_path(settings, judge, reasons.append)))
    for reason in reasons:
        yield ok("model", "choice", reason)
    names = known(path, info) if path is not None else None
    engine_name = path.name if path is not None else ""
    yield from model.judge(info[0], context=settings.ctx, names=names, engine=engine_name)


def _share(settings: Settings, info: ModelInfo) -> tuple[Threads, Processors]:
    has = processors.allowed()
    return share_of(settings.threads, settings.engine_args, has, tiny=info.header.size < TINY_MODEL), has


def _thread_sweep(settings: Settings, info: ModelInfo) -> Iterator[Finding]:
    physical, logical = hardware.cores()
    tiny = info.header.size < TINY_MODEL
    share, has = _share(settings, info)
    current = share.number
    rates = []
    try:
        for rate in benchmark.measure(settings, benchmark.counts(has.default, has.count, current), SWEEP_SECONDS):
            rates.append(rate)
    except BitnetChatError as error:
        detail = error.detail.strip().split("\n")[0]
        yield broken("model", "loads", f"{error.what}{f' ({detail})' if detail else ''}", error.remedy)
        return
    yield ok(
        "threads",
        "cores",
        f"{hardware.name()}: {physical} cores, {logical} threads",
        physical=physical,
        logical=logical,
    )
    yield benchmark.judge_threads(rates, current=current, physical=has.default, tiny=tiny)
