"""Descriptions of an engine's death, and the errors for it."""

from __future__ import annotations

import re
import signal
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bitnet_chat.engine.log import EngineLog, most_telling
from bitnet_chat.engine.probe import why_it_ended
from bitnet_chat.engine.process import EngineProcess
from bitnet_chat.engine.process_faults import EngineFault
from bitnet_chat.engine_frames import EngineError
from bitnet_chat.errors import BitnetChatError, ContextOverflowError, EngineDiedError, ModelError

if TYPE_CHECKING:
    from bitnet_chat.models.incompatibility import Misfit


class EndedProcess(Protocol):
    """A process of an engine or of a server that has ended."""

    argv: list[str]
    exit_code: int | None
    """Minus the number of a signal."""
    out_of_step: bool
    fault: EngineFault | None
    log: EngineLog


_MEMORY = re.compile(
    r"failed to (?:m?alloc|allocate|reserve)|[Uu]nable to allocate|[Cc]annot allocate|[Oo]ut of (?:\w+ )?memory"
    r"|bad_alloc|[Nn]ot enough (?:\w+ )?memory|insufficient memory|OutOf(?:Host|Device)?Memory|mmap failed|ENOMEM"
)
_NO_MEMORY = tuple(-getattr(signal, name) for name in ("SIGFPE", "SIGILL") if hasattr(signal, name))
_LESS = "a smaller model or --ctx needs less memory"
_LOOK = "bitnet-chat doctor checks engine and model; bitnet-chat engine list shows other engines"
_OTHERS = "bitnet-chat engine list shows other engines, -m FILE takes another model"
_SHOWN = 3
"""Lines of the log beside an explanation."""


def describe(process: EndedProcess) -> str:
    """Predicate for the death of a process, as in "the engine …"."""
    code = process.exit_code
    if process.fault is not None:
        return process.fault.what
    if process.out_of_step or code is None:
        return "went out of step"
    if code < 0 and _trouble_with_rpc(process) is not None:
        return "lost an rpc-server"
    if code >= 0:
        return f"ended by itself (exit code {code})"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    # The kernel sends SIGKILL when memory runs out; the user knows about other causes.
    return f"was killed ({name}{', possibly because memory ran out' if name == 'SIGKILL' else ''})"


def _trouble_with_rpc(process: EndedProcess) -> BitnetChatError | None:
    if "--rpc" not in process.argv:
        return None
    from bitnet_chat.engine import rpc  # late: most have no rpc-servers

    return rpc.meaning(process.log.lines(), process.argv[0], process.exit_code)


def restart_limit_error(process: EndedProcess, limit: int, window: float) -> EngineDiedError:
    """Error for a death after the last permitted restart."""
    what = f"the engine {describe(process)}, for the {limit + 1}th time in {window:g} seconds"
    if process.fault is not None:
        return EngineDiedError(what, remedy=process.fault.remedy, detail=process.log.tail())
    reason = _explanation(process) if _by_signal(process) else None
    if reason is not None:
        return EngineDiedError(f"{what}: {reason.what}", remedy=reason.remedy, detail=process.log.tail(_SHOWN))
    return EngineDiedError(what, remedy=_advice(process), detail=process.log.tail())


_NOT_LOADED = "the engine could not load the model"


def fault_error(process: EndedProcess) -> EngineDiedError | None:
    """Error for a fault that the next process would have as well."""
    fault = process.fault
    return fault.error(process.log.tail()) if fault is not None and fault.is_lasting else None


def while_loading(process: EndedProcess, refusal: EngineError | None = None) -> BitnetChatError:
    """Error for a death before the first prompt: a model error if the process ended by itself. ``refusal``: its
    message."""
    if process.fault is not None:
        return process.fault.error(process.log.tail())
    if (gone := without_model(process)) is not None:
        return gone
    tail = process.log.tail()
    if refusal is not None and refusal.why != "model":
        remedy = _LESS if _lacks_memory(process) else _LOOK
        return EngineDiedError(f"the engine could not start: {most_telling(refusal.text)}", remedy=remedy, detail=tail)
    engine = _engine_of(process)
    if engine.is_file() and (broken := why_it_ended(engine, process.exit_code, tail)) is not None:
        return broken
    if (trouble := _trouble_with_rpc(process)) is not None:
        trouble.detail = tail
        return trouble
    if (reason := _explanation(process)) is not None:
        ended = f"the engine {describe(process)} while it loaded the model" if _by_signal(process) else _NOT_LOADED
        return ModelError(f"{ended}: {reason.what}", remedy=reason.remedy, detail=process.log.tail(_SHOWN))
    if refusal is not None:
        remedy = f"{_LESS}; {_OTHERS}" if _lacks_memory(process) else _OTHERS
        why = most_telling(refusal.text)
        return ModelError(f"{_NOT_LOADED}: {why}", remedy=remedy, detail=process.log.tail(_SHOWN))
    if _by_signal(process):
        return EngineDiedError(f"the engine {describe(process)} while it loaded", remedy=_advice(process), detail=tail)
    why = "its log says why" if tail else f"it ended with exit code {process.exit_code} and its log does not say why"
    if _lacks_memory(process):
        why = _LESS
    return ModelError(
        _NOT_LOADED,
        remedy=f"{why}; {_OTHERS}",
        detail=tail,
    )


def _explanation(process: EndedProcess) -> Misfit | None:
    """Problems of the model and the engine. Reads both files, which takes some tenths of a second."""
    from bitnet_chat.models.engine_support import explanation
    from bitnet_chat.models.incompatibility import EndedEngine  # late: most engines live

    model = _model_of(process)
    if model is None or _lacks_memory(process):
        return None
    return explanation(_engine_of(process), model, EndedEngine(process.exit_code, process.log.lines()))


def _engine_of(process: EndedProcess) -> Path:
    """The program of the engine, or the prebuilt package whose library it runs."""
    library = _named(process, "--folder")
    return Path(library).parent if library else Path(process.argv[0])


def _by_signal(process: EndedProcess) -> bool:
    return process.exit_code is not None and process.exit_code < 0


def _lacks_memory(process: EndedProcess) -> bool:
    """SIGKILL is the kernel's way when memory runs out; one that is out of step was ended from here. Wrong arithmetic
    and instructions that the processor does not have are other causes."""
    if process.exit_code in _NO_MEMORY:
        return False
    killed = process.exit_code == -9 and not process.out_of_step  # signal.SIGKILL, which Windows does not have
    return killed or any(_MEMORY.search(line) for line in process.log.lines())


def _advice(process: EndedProcess) -> str:
    return f"its log says more; {_LESS if _lacks_memory(process) else _LOOK}"


def _model_of(process: EndedProcess) -> Path | None:
    named = _named(process, "-m", "--model")
    return Path(named) if named else None


def _named(process: EndedProcess, *flags: str) -> str:
    """The last value of an option."""
    return next((value for flag, value in reversed([*pairwise(process.argv)]) if flag in flags), "")


def is_silent(process: EndedProcess) -> bool:
    """Whether it ended by itself and its log has no reason. llama-completion can exit before its log thread has written
    the reason, and does in two of five cases: another start may log it."""
    return not _by_signal(process) and not process.log.tail() and without_model(process) is None


def without_model(process: EndedProcess) -> ModelError | None:
    """Error for a model file that was removed after the program found it."""
    model = _model_of(process)
    try:
        if model is None or model.exists():
            return None
    except OSError:  # a folder that may not be looked into: the log says it
        return None
    return ModelError(
        f"the model {model} was removed",
        remedy="put the file back, or take another model with -m FILE",
    )


def no_room_to_go_on() -> ContextOverflowError:
    """Error for a reply to be continued that fills the window even without all earlier turns."""
    return ContextOverflowError(
        "the reply fills the whole context window and cannot be continued",
        remedy="ask for the rest in a new message, or give a larger --ctx where the model allows it",
    )


def too_long(process: EngineProcess) -> ContextOverflowError:
    """Error for a message that does not fit into the window even without all earlier turns."""
    window = f" of {process.meter.context_size} tokens" if process.meter.context_size else ""
    return ContextOverflowError(
        f"the message does not fit into the context window{window}",
        remedy="shorten it, or give a larger --ctx where the model allows it",
        detail=process.log.tail(3),
    )
