"""Identity and abilities of an engine binary, from its ``--help`` and its bytes. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bitnet_chat.models.known_faults import OVERRIDE

_VERSION = re.compile(r"^version: *(.+)$", re.MULTILINE)


class Dialect(StrEnum):
    """The dialect of a binary. ``CLASSIC`` gives full control of the history, so it is preferred."""

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
"""Options that an engine must have."""


class EngineVariant(StrEnum):
    """The source that a binary was built from."""

    BITNET = "BitNet"
    IK = "ik_llama.cpp"
    LLAMA = "llama.cpp"
    SCRIPT = "unknown make (a script starts it)"
    UNKNOWN = "unknown make (its libraries are not beside it)"


MARKS = ("i2_s", "iq2_bn", "q6_K")
"""Names of tensor types in the bytes of a build that identify its make. BitNet's has ``i2_s``, that of ik_llama.cpp
``iq2_bn`` as well; ``q6_K`` is in every ggml since June 2023, and in no part of a build that lacks ggml (``q4_0`` is
among the options of each program, so that it proves nothing)."""
_MAKES = ((EngineVariant.IK, {"iq2_bn"}), (EngineVariant.BITNET, {"i2_s"}), (EngineVariant.LLAMA, {"q6_K"}))
_IK_OPTION = "--run-time-repack"  # of ik_llama.cpp alone, so it identifies it behind a wrapper script, too


@dataclass(frozen=True, slots=True)
class EngineTraits:
    """Behaviour of an engine that its options do not show. Each was measured or read in the source.

    ``ordered``: whether what it printed is flushed before the colour changes, so that the colour marks the end of it.
    ``obeys_no_context_shift``: whether ``--no-context-shift`` keeps it from dropping the older half of a full context.
    """

    ordered: bool
    obeys_no_context_shift: bool


# By the first option that is listed, with a value or without; the last row is for the rest.
_TRAITS = (
    (_IK_OPTION, False, EngineTraits(ordered=True, obeys_no_context_shift=False)),
    ("--color", True, EngineTraits(ordered=True, obeys_no_context_shift=True)),  # since late 2025
    # Since September 2024 a thread prints, and nothing waits for it.
    ("--log-prefix", False, EngineTraits(ordered=False, obeys_no_context_shift=True)),
    ("", False, EngineTraits(ordered=True, obeys_no_context_shift=False)),
)
_TOKENS = "1"
"""The verbosity with a log line for each token, in builds without names for log levels (until late 2025)."""


@dataclass(frozen=True, slots=True)
class EngineBinary:
    """An identified binary."""

    path: Path
    dialect: Dialect
    version: str
    options: HelpOptions
    make: EngineVariant = EngineVariant.UNKNOWN

    @property
    def can_chat(self) -> bool:
        return self.dialect is not Dialect.SERVER

    @property
    def label(self) -> str:
        """Make and version, as far as known."""
        return f"{self.make.value}, version {self.version}"

    @property
    def flags(self) -> frozenset[str]:
        """The names of all options."""
        return self.options.names

    def has(self, flag: str) -> bool:
        """Whether an option is listed, in any of its spellings."""
        return bool(self.options.spelling(flag))

    @property
    def takes_overrides(self) -> bool:
        """Whether metadata of a model that is wrong can be given on the command line."""
        if self.dialect is Dialect.NATIVE:
            return self.make is EngineVariant.IK
        return self.has(OVERRIDE)

    def option(self, name: str, value: object = "on") -> list[str]:
        """Arguments for an option. All command lines are made with this method; see :meth:`HelpOptions.words`."""
        return self.options.words(name, str(value))

    @property
    def traits(self) -> EngineTraits:
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
        """The value of ``--log-verbosity`` for the level of that name: ``debug`` logs each token, ``trace`` the tokens
        of each turn. None if no level logs any, as in ik_llama.cpp and before September 2024."""
        if not self.has("--log-verbosity"):
            return None
        levels = dict(self.options.levels)
        return levels.get(level, levels.get("debug", _TOKENS))


def recognise(
    path: Path, help_text: str, version_text: str, marks: Collection[str] | None = None
) -> EngineBinary | None:
    """Identify a binary by the output of ``--help`` and ``--version``, and ``marks``, those of :data:`MARKS` in its
    bytes (None for a script); None for something other than an engine."""
    options = read_options(help_text)

    def lists(names: Collection[str]) -> bool:
        return all(map(options.spelling, names))

    dialects = [dialect for dialect, names in _DIALECTS.items() if lists((*_MODEL, *names))]
    if not dialects:
        return None
    # ik_llama.cpp, and llama.cpp in the summer of 2024: each program lists the options of all, so its name decides.
    is_server = Dialect.SERVER in dialects and "server" in path.name
    version = _VERSION.search(version_text)
    known = {*(marks or ()), *(["iq2_bn"] if lists([_IK_OPTION]) else [])}
    return EngineBinary(
        path=path,
        dialect=Dialect.SERVER if is_server else dialects[0],
        version=version.group(1).strip() if version else "unknown",
        options=options,
        make=next(
            (make for make, names in _MAKES if names <= known),
            EngineVariant.SCRIPT if marks is None else EngineVariant.UNKNOWN,
        ),
    )


# The options that a ``--help`` lists, in the forms in which it lists them. Pure.
#
# Four layouts are read: ``-c N, --ctx-size N   prose`` (2023), ``-c,    --ctx-size N`` with the prose in column 34 or
# 40 (since 2024), ``--escape, --no-escape`` on one line (since late 2025), and the same without prose.

_LINE = re.compile(r"^[ \t]{0,15}(?=--?[A-Za-z])")  # prose begins further to the right, even where it names an option
_NAME = re.compile(r"--?[A-Za-z][\w.-]*")
_NEXT = re.compile(r",?[ \t]+(?=--?[A-Za-z])|,")
_VALUE = re.compile(r" (?![ -])((?:(?!,?[ \t]+--?[A-Za-z]|[ \t]{2}|\t).)+)")
_PROSE = re.compile(r"[a-z][\w'/-]* ")
_LEVEL = re.compile(r"^\s*- (\d+): (\w+)", re.MULTILINE)
_WORDS = {"on": ("on", "true", "1"), "off": ("off", "false", "0")}

# Other spellings of one option, in order of preference. Builds list any of them, alone or together.
_SPELLINGS = {
    "--model": ("-m",),
    "--ctx-size": ("-c",),
    "--threads": ("-t",),
    "--n-predict": ("--predict", "-n"),
    "--color": ("-co",),
    "--seed": ("-s",),
    "--temp": ("--temperature",),
    "--file": ("-f",),
    "--escape": ("-e",),
    "--no-conversation": ("-no-cnv",),
    "--interactive": ("-i",),
    "--interactive-first": ("-if",),
    "--system-prompt": ("-sys",),
    "--system-prompt-file": ("-sysf",),
    "--single-turn": ("-st",),
    "--log-verbosity": ("-lv",),
    "--n-gpu-layers": ("--gpu-layers", "-ngl"),
    "--parallel": ("-np",),
    "--no-ui": ("--no-webui",),
}


@dataclass(frozen=True, slots=True)
class HelpOption:
    """One line of the list. ``value``: what stands where its value goes, such as ``N``; empty where it takes none."""

    names: tuple[str, ...]
    value: str = ""

    def word(self, meaning: str) -> str | None:
        """The value of an option for ``on`` or ``off``; None for an option with other values."""
        choices = re.split(r"[^\w-]+", self.value)
        return next((word for word in _WORDS[meaning] if word in choices), None)


@dataclass(frozen=True, slots=True)
class HelpOptions:
    """All options of one program. ``levels``: the names and numbers of its log levels."""

    listed: tuple[HelpOption, ...] = ()
    levels: tuple[tuple[str, str], ...] = ()

    @property
    def names(self) -> frozenset[str]:
        return frozenset(name for option in self.listed for name in option.names)

    def without(self, names: Collection[str]) -> HelpOptions:
        """A copy without the options of these names."""
        return HelpOptions(tuple(each for each in self.listed if not set(names) & set(each.names)), self.levels)

    @staticmethod
    def is_spelling(word: str, names: Collection[str]) -> bool:
        """Whether a word is one of the options of these names, in any of their spellings."""
        return any(word in (name, *_SPELLINGS.get(name, ())) for name in names)

    def spelling(self, name: str) -> str:
        """The listed spelling of an option; empty where none is listed."""
        found = self._find(name)
        return found[0] if found else ""

    def takes_value(self, name: str) -> bool:
        found = self._find(name)
        return found is not None and bool(found[1].value)

    def words(self, name: str, value: str = "on") -> list[str]:
        """Arguments for an option. ``on`` and ``off`` are written in the form of the option: a bare flag, its opposite
        (``--no-…``) or a word. Empty for an option that is not listed or has no such value."""
        if value == "off" and (found := self._find(f"--no-{name.removeprefix('--')}")) and not found[1].value:
            return [found[0]]
        found = self._find(name)
        if found is None:
            return []
        spelling, option = found
        if value not in _WORDS:
            return [spelling, value] if option.value else []
        if not option.value:
            return [spelling] if value == "on" else []
        word = option.word(value)
        return [spelling, word] if word else []

    def _find(self, name: str) -> tuple[str, HelpOption] | None:
        for spelling in (name, *_SPELLINGS.get(name, ())):
            for option in self.listed:
                if spelling in option.names:
                    return spelling, option
        return None


def read_options(help_text: str) -> HelpOptions:
    """Parse the options in the output of ``--help``."""
    listed = []
    for line in help_text.splitlines():
        if start := _LINE.match(line):
            pieces = list(_pieces(line.rstrip()[start.end() :]))
            value = next((value for _, value in reversed(pieces) if value), "")
            listed.append(HelpOption(tuple(name for name, _ in pieces), value))
    return HelpOptions(tuple(listed), tuple((name, number) for number, name in _LEVEL.findall(help_text)))


def _pieces(line: str) -> Iterator[tuple[str, str]]:
    """Each name and the value behind it."""
    at = 0
    while name := _NAME.match(line, at):
        at = name.end()
        value = _VALUE.match(line, at)
        text = value[1] if value else ""
        if value is not None and not _PROSE.match(text):
            at = value.end()
            yield name[0], text
        else:
            yield name[0], ""
        separator = _NEXT.match(line, at)
        if separator is None or (" " in text and "," not in separator[0]):  # prose that names another option
            return
        at = separator.end()
