"""Faults for which a running engine is ended, and their messages. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from bitnet_chat.engine.protocols.log_format import is_json
from bitnet_chat.errors import EngineDiedError, EngineStalledError

_WRAPPER = "a wrapper script must leave standard error alone (no 2>&1), and flags must not send the log to stdout"
_JSON_LOG = "remove --log-jsonl, and LLAMA_ARG_LOG_JSONL from a wrapper script: the log then goes to standard error"


@dataclass(frozen=True, slots=True)
class EngineFault:
    """A fault. ``what``: the predicate after "the engine". ``is_lasting``: the next process would have it too."""

    what: str
    remedy: str
    is_lasting: bool = False
    is_stall: bool = False

    def error(self, detail: str) -> EngineDiedError:
        kind = EngineStalledError if self.is_stall else EngineDiedError
        return kind(f"the engine {self.what}", remedy=self.remedy, detail=detail)


def log_in_output(line: str) -> EngineFault:
    """Fault of a log in the output. ``line``: of that log."""
    return EngineFault(
        "writes its log to its output, where its replies are read",
        _JSON_LOG if is_json(line) else _WRAPPER,
        is_lasting=True,
    )


def closed_output(*, terminal: bool) -> EngineFault:
    where = "its terminal" if terminal else "its output"
    return EngineFault(
        f"closed {where} and went on running: nothing more can be read from it",
        "a wrapper script must stay in the foreground and leave the engine its standard output",
    )


def not_ready(missed: str, seconds: float, *, worked: bool) -> EngineFault:
    """Fault of a late start. ``missed``: the missing event. ``worked``: it used the processor or wrote its log
    meanwhile."""
    did = "only computed or logged" if worked else "did nothing: no output, no log, no work of disk or processor"
    return EngineFault(
        f"{missed}: for {seconds:g} s it {did}",
        "bitnet-chat doctor checks engine and model; --stall-timeout SECONDS waits longer, 0 without limit",
        is_stall=True,
    )
