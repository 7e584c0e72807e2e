"""Faults for which a running engine is ended, with their messages. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from bitnet_chat.engine.protocols.log_format import is_json
from bitnet_chat.errors import EngineDiedError, EngineStalledError

_WRAPPER = "a wrapper script must leave standard error alone (no 2>&1), and flags must not send the log to stdout"
_JSON_LOG = "remove --log-jsonl, and LLAMA_ARG_LOG_JSONL from a wrapper script: the log then goes to standard error"


@dataclass(frozen=True, slots=True)
class EngineFault:
    """A fault of an engine. ``what``: the predicate of the message, after "the engine". ``is_lasting``: another process
    of this engine would have the same fault. ``is_stall``: the engine does nothing.
    """

    what: str
    remedy: str
    is_lasting: bool = False
    is_stall: bool = False

    def error(self, detail: str) -> EngineDiedError:
        """Return the error to raise. ``detail``: further lines, such as the end of the log."""
        kind = EngineStalledError if self.is_stall else EngineDiedError
        return kind(f"the engine {self.what}", remedy=self.remedy, detail=detail)


def log_in_output(line: str) -> EngineFault:
    """Return the fault of an engine whose log is in its output. ``line``: a line of the log."""
    return EngineFault(
        "writes its log to its output, where its replies are read",
        _JSON_LOG if is_json(line) else _WRAPPER,
        is_lasting=True,
    )


def closed_output(*, terminal: bool) -> EngineFault:
    """Return the fault of an engine that has closed its output and continues. ``terminal``: it was a terminal."""
    where = "its terminal" if terminal else "its output"
    return EngineFault(
        f"closed {where} and continued to run without output",
        "a wrapper script must stay in the foreground and leave the engine its standard output",
    )


def not_ready(missed: str, seconds: float, *, worked: bool) -> EngineFault:
    """Return the fault of an engine that exceeded a time limit. ``missed``: what it did not do, a predicate.
    ``seconds``: the limit. ``worked``: it used the processor or wrote its log.
    """
    did = "only computed or logged" if worked else "did nothing: no output, no log, no work of disk or processor"
    return EngineFault(
        f"{missed}: for {seconds:g} s it {did}",
        "bitnet-chat doctor checks engine and model; --stall-timeout SECONDS waits longer, 0 without limit",
        is_stall=True,
    )
