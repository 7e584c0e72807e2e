"""An option that an engine refuses although its ``--help`` lists it: which one, and how to go on without it.

A remembered answer may be of another build, a wrapper may pass only some options on, and a help text may be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from bitnet_chat.engine.binary import NEEDED, EngineBinary
from bitnet_chat.errors import EngineNotFound, RefusedFlag

_MARK = "[\"'`\u2018\u2019]?"
# llama.cpp since September 2024, before (and ik_llama.cpp), and what getopt and other parsers print.
_FORMS = tuple(
    re.compile(form.replace("MARK", _MARK), re.IGNORECASE)
    for form in (
        'error while handling argument "([^"]+)"',
        "invalid parameter for argument: (.+)",
        "(?:invalid|unknown|unrecognized|unsupported|unexpected) (?:argument|option|parameter)s?:? MARK(.+?)MARK$",
        "(?:argument|option) MARK(\\S+?)MARK (?:is |was )?not (?:recognized|recognised|known|supported)",
    )
)

_SURE = re.compile(r"^(?:E )?error: (?:invalid|unknown) argument: \S+$")
"""No loading of a model says that."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """``word``: what the engine named. ``option``: the added option that it belongs to; empty where there is
    none."""

    word: str
    option: str = ""
    is_users: bool = False


def refused(binary: EngineBinary, ours: Sequence[str], extra: Sequence[str], log: Iterable[str]) -> Refusal | None:
    """What the log of a process that ended says of its command line: ``ours``: the words added by this program,
    ``extra``: those given behind ``--``. Pure."""
    rest = list(ours)
    for line in log:
        match = next(filter(None, (form.search(line) for form in _FORMS)), None)
        if match is None:
            continue
        word = match[1].strip()
        # Added options were compared with --help; of two that are alike, the other one is the likely cause.
        if word in (part for each in extra for part in (each, each.partition("=")[0])):
            return Refusal(word, is_users=True)
        while rest:
            option = rest.pop(0)
            values = [rest.pop(0)] if rest and binary.options.takes_value(option) else []
            if word in (option, *values):
                return Refusal(word, option)
        return Refusal(word) if _SURE.search(line) else None
    return None


class Refit:
    """Lets a start be tried once more without an option that was refused; each option once.

    ``probe``: examines the engine anew, and not from memory. ``notify``: for a line to the user.
    """

    def __init__(self, probe: Callable[[EngineBinary], EngineBinary], notify: Callable[[str], None]) -> None:
        self._probe, self._notify = probe, notify
        self._refused: set[str] = set()

    def without_refused(
        self, binary: EngineBinary, ours: Sequence[str], extra: Sequence[str], log: Iterable[str]
    ) -> EngineBinary | None:
        """The engine to try now; None where its end has another reason. May take time: it asks the engine.

        Raises RefusedFlag for an option given behind ``--``, EngineNotFound for one that is needed, and where the
        engine cannot be examined any more.
        """
        refusal = refused(binary, ours, extra, log)
        if refusal is None or (refusal.option and refusal.option in self._refused):
            return None
        if refusal.is_users:
            raise RefusedFlag(
                f"the engine {binary.path} does not take {refusal.word}, which was given behind --",
                remedy=f"leave it out; {binary.path} --help lists its options",
            )
        if not refusal.option:
            raise EngineNotFound(
                f"the engine {binary.path} does not take {refusal.word}, which was not passed by bitnet-chat",
                remedy="a script that starts the engine may add it",
            )
        if binary.options.is_spelling(refusal.option, NEEDED):
            raise EngineNotFound(
                f"the engine {binary.path} does not take {refusal.option}, which a chat needs",
                remedy="bitnet-chat engine list shows other engines",
            )
        self._refused.add(refusal.option)
        found = self._probe(binary)
        left = found.options.without(self._refused)
        self._notify(f"the engine does not take {refusal.option}: it was examined again and started without it")
        return replace(found, options=left)
