"""What an engine binary is and can do, as its own ``--help`` and its bytes tell it. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bitnet_chat.engine.options import Options, read_options
from bitnet_chat.models.faults import OVERRIDE

_VERSION = re.compile(r"^version: *(.+)$", re.MULTILINE)


class Dialect(StrEnum):
    """How a binary talks. ``CLASSIC`` gives full control of the history, so it is wanted first."""

    CLASSIC = "classic"
    MODERN = "modern"
    SERVER = "server"
    NATIVE = "native"
    """Our own program around a prebuilt library; see :mod:`bitnet_chat.engine.native`. Its path is the folder of it."""


_MODEL = ("--model", "--ctx-size")
_DIALECTS = {
    Dialect.CLASSIC: ("--in-prefix", "--in-suffix", "--simple-io", "--interactive-first"),
    Dialect.MODERN: ("--system-prompt", "--simple-io", "--single-turn"),
    Dialect.SERVER: ("--host", "--port"),
}
NEEDED = frozenset(
    {"--color", "--file", "--system-prompt-file", *_MODEL, *(name for names in _DIALECTS.values() for name in names)}
)
"""Options without which an engine cannot be understood."""


class Make(StrEnum):
    """The source that a binary was built from."""

    BITNET = "BitNet"
    IK = "ik_llama.cpp"
    LLAMA = "llama.cpp"
    SCRIPT = "unknown make (a script starts it)"
    UNKNOWN = "unknown make (its libraries are not beside it)"


MARKS = ("i2_s", "iq2_bn", "q6_K")
"""Names of tensor types in the bytes of a build that tell its make. BitNet's has ``i2_s``, that of ik_llama.cpp
``iq2_bn`` as well; ``q6_K`` is in every ggml since June 2023, and in no part of a build that lacks ggml (``q4_0`` is
among the options of each program, so that it proves nothing)."""
_MAKES = ((Make.IK, {"iq2_bn"}), (Make.BITNET, {"i2_s"}), (Make.LLAMA, {"q6_K"}))
_IK_OPTION = "--run-time-repack"  # of ik_llama.cpp alone, so it tells through a wrapper script, too


@dataclass(frozen=True, slots=True)
class Traits:
    """How an engine behaves where its options do not say so. Each was measured or read in the source.

    ``ordered``: whether what it printed is flushed before the colour changes, so that the colour marks the end of it.
    ``obeys_no_context_shift``: whether ``--no-context-shift`` keeps it from dropping the older half of a full context.
    """

    ordered: bool
    obeys_no_context_shift: bool


# By the first option that is listed, with a value or without; the last row is for the rest.
_TRAITS = (
    (_IK_OPTION, False, Traits(ordered=True, obeys_no_context_shift=False)),
    ("--color", True, Traits(ordered=True, obeys_no_context_shift=True)),  # since late 2025
    # Since September 2024 a thread prints, and nothing waits for it.
    ("--log-prefix", False, Traits(ordered=False, obeys_no_context_shift=True)),
    ("", False, Traits(ordered=True, obeys_no_context_shift=False)),
)
_TOKENS = "1"
"""The verbosity that tells each token, in builds that do not name the levels of their log (until late 2025)."""


@dataclass(frozen=True, slots=True)
class EngineBinary:
    """A binary that was asked and answered."""

    path: Path
    dialect: Dialect
    version: str
    options: Options
    make: Make = Make.UNKNOWN

    @property
    def can_chat(self) -> bool:
        return self.dialect is not Dialect.SERVER

    @property
    def label(self) -> str:
        """Its make and version, as far as either is known."""
        return f"{self.make.value}, version {self.version}"

    @property
    def flags(self) -> frozenset[str]:
        """All names of options."""
        return self.options.names

    def has(self, flag: str) -> bool:
        """Whether an option is listed, in any of its spellings."""
        return bool(self.options.spelling(flag))

    @property
    def takes_overrides(self) -> bool:
        """Whether metadata of a model that is wrong can be given on the command line."""
        if self.dialect is Dialect.NATIVE:
            return self.make is Make.IK
        return self.has(OVERRIDE)

    def option(self, name: str, value: object = "on") -> list[str]:
        """What a command line gets for an option. All of them are made through this; see :meth:`Options.words`."""
        return self.options.words(name, str(value))

    @property
    def traits(self) -> Traits:
        return next(
            traits
            for name, takes_value, traits in _TRAITS
            if not name or (self.has(name) and self.options.takes_value(name) == takes_value)
        )

    @property
    def endless(self) -> str:
        """The value of ``--n-predict`` that sets no limit. ``-2`` also ends the process when its context is full, which
        ``--no-context-shift`` does where it is listed and obeyed."""
        return "-1" if self.has("--no-context-shift") and self.traits.obeys_no_context_shift else "-2"

    def verbosity(self, level: str = "debug") -> str | None:
        """The value of ``--log-verbosity`` for the level of that name: ``debug`` tells each token, ``trace`` the tokens
        of each turn. None where no level tells anything, as in ik_llama.cpp and before September 2024."""
        if not self.has("--log-verbosity"):
            return None
        levels = dict(self.options.levels)
        return levels.get(level, levels.get("debug", _TOKENS))


def recognise(
    path: Path, help_text: str, version_text: str, marks: Collection[str] | None = None
) -> EngineBinary | None:
    """What the output of ``--help`` and ``--version`` says, and ``marks``, those of :data:`MARKS` that stand in its
    bytes (None for a script); None for something other than an engine."""
    options = read_options(help_text)

    def lists(names: Collection[str]) -> bool:
        return all(map(options.spelling, names))

    dialects = [dialect for dialect, names in _DIALECTS.items() if lists((*_MODEL, *names))]
    if not dialects:
        return None
    # ik_llama.cpp, and llama.cpp in the summer of 2024: each program lists the options of all, so its name tells.
    is_server = Dialect.SERVER in dialects and "server" in path.name
    version = _VERSION.search(version_text)
    known = {*(marks or ()), *(["iq2_bn"] if lists([_IK_OPTION]) else [])}
    return EngineBinary(
        path=path,
        dialect=Dialect.SERVER if is_server else dialects[0],
        version=version.group(1).strip() if version else "unknown",
        options=options,
        make=next((make for make, names in _MAKES if names <= known), Make.SCRIPT if marks is None else Make.UNKNOWN),
    )
