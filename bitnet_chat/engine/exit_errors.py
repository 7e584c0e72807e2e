"""Errors and descriptions for an engine or server process that has ended unexpectedly."""

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
from bitnet_chat.engine_output import EngineError
from bitnet_chat.errors import BitnetChatError, ContextOverflowError, EngineDiedError, ModelError

if TYPE_CHECKING:
    from bitnet_chat.models.incompatibility import Misfit


class EndedProcess(Protocol):
    """A process of an engine or server that has ended."""

    argv: list[str]
    exit_code: int | None
    """Exit status, or minus the number of the signal that ended it; None: unknown."""
    out_of_step: bool
    """Whether this program has ended it, because its output was not as expected."""
    fault: EngineFault | None
    """The fault for which this program has ended it."""
    log: EngineLog


_MEMORY = re.compile(
    r"failed to (?:m?alloc|allocate|reserve)|[Uu]nable to allocate|[Cc]annot allocate|[Oo]ut of (?:\w+ )?memory"
    r"|bad_alloc|[Nn]ot enough (?:\w+ )?memory|insufficient memory|OutOf(?:Host|Device)?Memory|mmap failed|ENOMEM"
)
_NO_MEMORY = tuple(-getattr(signal, name) for name in ("SIGFPE", "SIGILL") if hasattr(signal, name))
_LESS = "a smaller model or --ctx needs less memory"
_LOOK = "bitnet-chat doctor checks engine and model; bitnet-chat engine list shows other engines"
_OTHERS = "bitnet-chat engine list shows other engines, -m FILE selects another model"
_SHOWN = 3
"""Number of lines of the log that are shown with an explanation."""


def describe(process: EndedProcess) -> str:
    """Return how a process has ended, as a predicate after "the engine"."""
    code = process.exit_code
    if process.fault is not None:
        return process.fault.what
    if process.out_of_step or code is None:
        return "did not behave as expected"
    if code < 0 and _rpc_error(process) is not None:
        return "lost an rpc-server"
    if code >= 0:
        return f"ended by itself (exit code {code})"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    # The kernel sends SIGKILL when memory runs out. Other causes are usually known to the user.
    return f"was killed ({name}{', possibly because memory ran out' if name == 'SIGKILL' else ''})"


def _rpc_error(process: EndedProcess) -> BitnetChatError | None:
    if "--rpc" not in process.argv:
        return None
    from bitnet_chat.engine import rpc  # imported here because rpc-servers are rare

    return rpc.meaning(process.log.lines(), process.argv[0], process.exit_code)


def restart_limit_error(process: EndedProcess, limit: int, window: float) -> EngineDiedError:
    """Return the error for a process that has ended after the last permitted restart. ``limit``: restarts within
    ``window`` seconds.
    """
    what = f"the engine {describe(process)}, for the {limit + 1}th time in {window:g} seconds"
    if process.fault is not None:
        return EngineDiedError(what, remedy=process.fault.remedy, detail=process.log.tail())
    reason = _explanation(process) if _by_signal(process) else None
    if reason is not None:
        return EngineDiedError(f"{what}: {reason.what}", remedy=reason.remedy, detail=process.log.tail(_SHOWN))
    return EngineDiedError(what, remedy=_advice(process), detail=process.log.tail())


_NOT_LOADED = "the engine could not load the model"


def fault_error(process: EndedProcess) -> EngineDiedError | None:
    """Return the error for a fault that another process would also have; None if there is none."""
    fault = process.fault
    return fault.error(process.log.tail()) if fault is not None and fault.is_lasting else None


def while_loading(process: EndedProcess, refusal: EngineError | None = None) -> BitnetChatError:
    """Return the error for a process that has ended before it was ready: usually a ModelError if it ended by itself.
    ``refusal``: the error that it reported.
    """
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
    if (rpc_error := _rpc_error(process)) is not None:
        rpc_error.detail = tail
        return rpc_error
    if (reason := _explanation(process)) is not None:
        ended = f"the engine {describe(process)} while it loaded the model" if _by_signal(process) else _NOT_LOADED
        return ModelError(f"{ended}: {reason.what}", remedy=reason.remedy, detail=process.log.tail(_SHOWN))
    if refusal is not None:
        remedy = f"{_LESS}; {_OTHERS}" if _lacks_memory(process) else _OTHERS
        why = most_telling(refusal.text)
        return ModelError(f"{_NOT_LOADED}: {why}", remedy=remedy, detail=process.log.tail(_SHOWN))
    if _by_signal(process):
        return EngineDiedError(f"the engine {describe(process)} while it loaded", remedy=_advice(process), detail=tail)
    why = "its log has the reason" if tail else f"it ended with exit code {process.exit_code} and its log has no reason"
    if _lacks_memory(process):
        why = _LESS
    return ModelError(
        _NOT_LOADED,
        remedy=f"{why}; {_OTHERS}",
        detail=tail,
    )


def _explanation(process: EndedProcess) -> Misfit | None:
    """Return the incompatibility of the model and the engine; None if none is found. Reads both files (some 0.1 s)."""
    from bitnet_chat.models.engine_support import explanation
    from bitnet_chat.models.incompatibility import EndedEngine  # imported here because it is rarely needed

    model = _model_of(process)
    if model is None or _lacks_memory(process):
        return None
    return explanation(_engine_of(process), model, EndedEngine(process.exit_code, process.log.lines()))


def _engine_of(process: EndedProcess) -> Path:
    """Return the program of the engine, or the folder of its prebuilt library."""
    library = _option_value(process, "--folder")
    return Path(library).parent if library else Path(process.argv[0])


def _by_signal(process: EndedProcess) -> bool:
    return process.exit_code is not None and process.exit_code < 0


def _lacks_memory(process: EndedProcess) -> bool:
    """Return whether the process probably ended for lack of memory: by SIGKILL, which this program did not send, or
    according to its log; not by SIGFPE or SIGILL.
    """
    if process.exit_code in _NO_MEMORY:
        return False
    killed = process.exit_code == -9 and not process.out_of_step  # signal.SIGKILL, which Windows does not have
    return killed or any(_MEMORY.search(line) for line in process.log.lines())


def _advice(process: EndedProcess) -> str:
    return f"its log has more; {_LESS if _lacks_memory(process) else _LOOK}"


def _model_of(process: EndedProcess) -> Path | None:
    named = _option_value(process, "-m", "--model")
    return Path(named) if named else None


def _option_value(process: EndedProcess, *flags: str) -> str:
    """Return the last value of an option on the command line; empty without one."""
    return next((value for flag, value in reversed([*pairwise(process.argv)]) if flag in flags), "")


def is_silent(process: EndedProcess) -> bool:
    """Return whether the process ended by itself without a reason in its log. llama-completion can exit before its log
    thread has written the reason (observed in two of five cases); another start may log it.
    """
    return not _by_signal(process) and not process.log.tail() and without_model(process) is None


def without_model(process: EndedProcess) -> ModelError | None:
    """Return the error for a model file that was removed after the process was started; None if it exists."""
    model = _model_of(process)
    try:
        if model is None or model.exists():
            return None
    except OSError:  # a folder without permission, which the log reports
        return None
    return ModelError(
        f"the model {model} was removed",
        remedy="put the file back, or use another model with -m FILE",
    )


def no_room_to_go_on() -> ContextOverflowError:
    """Return the error for a reply that cannot be continued, because it alone fills the context window."""
    return ContextOverflowError(
        "the reply fills the whole context window and cannot be continued",
        remedy="ask for the rest in a new message, or give a larger --ctx if the model allows it",
    )


def too_long(process: EngineProcess) -> ContextOverflowError:
    """Return the error for a message that does not fit into the context window, even without earlier turns."""
    window = f" of {process.meter.context_size} tokens" if process.meter.context_size else ""
    return ContextOverflowError(
        f"the message does not fit into the context window{window}",
        remedy="shorten it, or give a larger --ctx if the model allows it",
        detail=process.log.tail(3),
    )
