"""How an engine died, in words, and the errors that follow from it."""

from __future__ import annotations

import signal
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from bitnet_chat.engine.log import EngineLog
from bitnet_chat.engine.probe import why_it_ended
from bitnet_chat.engine.process import EngineProcess
from bitnet_chat.errors import BitnetChatError, ContextOverflow, EngineDied, ModelError


class Dead(Protocol):
    """A process of an engine or of a server that has ended."""

    argv: list[str]
    exit_code: int | None
    """Minus the number of a signal."""
    out_of_step: bool
    log: EngineLog


_REMEDY = "its log says more; a smaller model or --ctx needs less memory"


def describe(process: Dead) -> str:
    """What happened to a process, to be put behind "the engine"."""
    code = process.exit_code
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
    # The kernel's way when memory runs out; the user knows whether it was somebody else.
    return f"was killed ({name}{', as when memory runs out' if name == 'SIGKILL' else ''})"


def _trouble_with_rpc(process: Dead) -> BitnetChatError | None:
    if "--rpc" not in process.argv:
        return None
    from bitnet_chat.engine import rpc  # late: most have no rpc-servers

    return rpc.meaning(process.log.lines(), process.argv[0], process.exit_code)


def too_often(process: Dead, limit: int, window: float) -> EngineDied:
    """It died once more than it may be restarted."""
    return EngineDied(
        f"the engine {describe(process)}, for the {limit + 1}th time in {window:g} seconds",
        remedy=_REMEDY,
        detail=process.log.tail(),
    )


def while_loading(process: Dead) -> BitnetChatError:
    """It died before it could say anything: its model's fault if it ended by itself."""
    if (gone := without_model(process)) is not None:
        return gone
    tail = process.log.tail()
    if (broken := why_it_ended(Path(process.argv[0]), process.exit_code, tail)) is not None:
        return broken
    if (trouble := _trouble_with_rpc(process)) is not None:
        trouble.detail = tail
        return trouble
    if process.exit_code is not None and process.exit_code < 0:
        return EngineDied(f"the engine {describe(process)} while it loaded", remedy=_REMEDY, detail=tail)
    why = "its log says why" if tail else f"it ended with exit code {process.exit_code} and its log does not say why"
    return ModelError(
        "the engine could not load the model",
        remedy=f"{why}; bitnet-chat engine list shows other engines, -m FILE takes another model",
        detail=tail,
    )


def without_model(process: Dead) -> ModelError | None:
    """It died with nothing to load: the file was there when the program looked, and is not any more."""
    named = [value for flag, value in pairwise(process.argv) if flag in ("-m", "--model")]
    try:
        if not named or Path(named[-1]).exists():
            return None
    except OSError:  # a folder that may not be looked into: the log says it
        return None
    return ModelError(
        f"the model {named[-1]} is not there any more",
        remedy="put the file back, or take another model with -m FILE",
    )


def no_room_to_go_on() -> ContextOverflow:
    """A reply that is to be continued fills the window even when everything before its turn is left out."""
    return ContextOverflow(
        "the reply fills the context window by itself and cannot be continued",
        remedy="ask for the rest in a new message, or give a larger --ctx where the model allows it",
    )


def too_long(process: EngineProcess) -> ContextOverflow:
    """A message that does not fit even when everything before it is left out."""
    window = f" of {process.meter.context_size} tokens" if process.meter.context_size else ""
    return ContextOverflow(
        f"the message does not fit into the context window{window}",
        remedy="shorten it, or give a larger --ctx where the model allows it",
        detail=process.log.tail(3),
    )
