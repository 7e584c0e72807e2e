"""Identity and options of an engine binary, from its ``--help`` and its bytes. Pure.

Four layouts of ``--help`` are parsed: ``-c N, --ctx-size N   text`` (2023), ``-c,    --ctx-size N`` with the text in
column 34 or 40 (since 2024), ``--escape, --no-escape`` on one line (since late 2025), and the same without text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bitnet_chat.models.known_faults import OVERRIDE

_VERSION = re.compile(r"^version: *(.+)$", re.MULTILINE)


class Dialect(StrEnum):
    """The kind of interface of an engine, see :mod:`bitnet_chat.engine.protocols`. Of two programs in a folder, one
    with the dialect ``CLASSIC`` is preferred, because it reproduces a history exactly.
    """

    CLASSIC = "classic"
    MODERN = "modern"
    SERVER = "server"
    NATIVE = "native"
    """A prebuilt library in a child process of bitnet-chat, see :mod:`bitnet_chat.engine.native`. The path of its
    binary is the folder of the library.
    """


_MODEL = ("--model", "--ctx-size")
_DIALECTS = {
    Dialect.CLASSIC: ("--in-prefix", "--in-suffix", "--simple-io", "--interactive-first"),
    Dialect.MODERN: ("--system-prompt", "--simple-io", "--single-turn"),
    Dialect.SERVER: ("--host", "--port"),
}
NEEDED = frozenset(
    {"--color", "--file", "--system-prompt-file", *_MODEL, *(name for names in _DIALECTS.values() for name in names)}
)
"""Options without which an engine cannot be used."""


class EngineVariant(StrEnum):
    """The project from which a binary was built."""

    BITNET = "BitNet"
    IK = "ik_llama.cpp"
    LLAMA = "llama.cpp"
    SCRIPT = "unknown make (a script starts it)"
    UNKNOWN = "unknown make (its libraries are not beside it)"


MARKS = ("i2_s", "iq2_bn", "q6_K")
"""Names of tensor types in the bytes of a build by which its variant is identified. BitNet has ``i2_s``, ik_llama.cpp
also ``iq2_bn``. ``q6_K`` is in every ggml since June 2023, and in no file without ggml (unlike ``q4_0``, which is also
in the options of each program).
"""
_MAKES = ((EngineVariant.IK, {"iq2_bn"}), (EngineVariant.BITNET, {"i2_s"}), (EngineVariant.LLAMA, {"q6_K"}))
_IK_OPTION = "--run-time-repack"
"""An option that only ik_llama.cpp has, by which it is identified even behind a wrapper script."""


@dataclass(frozen=True, slots=True)
class EngineTraits:
    """Behaviour of an engine that its options do not show. Each trait was measured, or read in the source.

    ``ordered``: output is flushed before the colour is changed, so the colour is after the last token of a reply.
    ``obeys_no_context_shift``: with ``--no-context-shift``, the engine does not drop the older half of a full context.
    """

    ordered: bool
    obeys_no_context_shift: bool


# Traits by an option that the engine lists, and whether that takes a value. The first match applies; "" matches always.
_TRAITS = (
    (_IK_OPTION, False, EngineTraits(ordered=True, obeys_no_context_shift=False)),
    ("--color", True, EngineTraits(ordered=True, obeys_no_context_shift=True)),  # since late 2025
    # Since September 2024 a thread prints the output, and the console does not wait for it.
    ("--log-prefix", False, EngineTraits(ordered=False, obeys_no_context_shift=True)),
    ("", False, EngineTraits(ordered=True, obeys_no_context_shift=False)),
)
_TOKENS = "1"
"""The value of ``--log-verbosity`` that logs each token in builds without named log levels (until late 2025)."""


@dataclass(frozen=True, slots=True)
class EngineBinary:
    """An engine that was identified."""

    path: Path
    dialect: Dialect
    version: str
    options: HelpOptions
    make: EngineVariant = EngineVariant.UNKNOWN
    gpus: tuple[str, ...] | None = None
    """Names of its GPUs; None: not known."""

    @property
    def can_chat(self) -> bool:
        """Whether it can be used for a conversation on a terminal: it is not a server."""
        return self.dialect is not Dialect.SERVER

    @property
    def label(self) -> str:
        """Variant and version, as far as known."""
        return f"{self.make.value}, version {self.version}"

    @property
    def flags(self) -> frozenset[str]:
        """The names of all listed options."""
        return self.options.names

    def has(self, flag: str) -> bool:
        """Return whether an option is listed, in any of its spellings."""
        return bool(self.options.spelling(flag))

    @property
    def takes_overrides(self) -> bool:
        """Whether metadata of a model can be corrected on the command line."""
        if self.dialect is Dialect.NATIVE:
            return self.make is EngineVariant.IK
        return self.has(OVERRIDE)

    def option(self, name: str, value: object = "on") -> list[str]:
        """Return the arguments for an option; empty if the engine does not list it. See :meth:`HelpOptions.words`."""
        return self.options.words(name, str(value))

    @property
    def traits(self) -> EngineTraits:
        """Behaviour of this build, determined by its options."""
        return next(
            traits
            for name, takes_value, traits in _TRAITS
            if not name or (self.has(name) and self.options.takes_value(name) == takes_value)
        )

    @property
    def endless(self) -> str:
        """The value of ``--n-predict`` without a limit: ``-1`` if ``--no-context-shift`` ends the process when the
        context is full, else ``-2``, which does that too.
        """
        return "-1" if self.has("--no-context-shift") and self.traits.obeys_no_context_shift else "-2"

    def verbosity(self, level: str = "debug") -> str | None:
        """Return the value of ``--log-verbosity`` for a level: ``debug`` logs each token, ``trace`` the tokens of each
        turn. None if tokens cannot be logged, as with ik_llama.cpp and before September 2024.
        """
        if not self.has("--log-verbosity"):
            return None
        levels = dict(self.options.levels)
        return levels.get(level, levels.get("debug", _TOKENS))


def recognise(
    path: Path, help_text: str, version_text: str, marks: Collection[str] | None = None
) -> EngineBinary | None:
    """Identify a binary by the output of ``--help`` and ``--version``. ``marks``: the :data:`MARKS` that its files
    contain; None for a script. Returns None if it is not an engine.
    """
    options = read_options(help_text)

    def lists(names: Collection[str]) -> bool:
        return all(map(options.spelling, names))

    dialects = [dialect for dialect, names in _DIALECTS.items() if lists((*_MODEL, *names))]
    if not dialects:
        return None
    # Each program of ik_llama.cpp, and of llama.cpp in the summer of 2024, lists the options of all programs. The name
    # then shows whether it is a server.
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


_LINE = re.compile(r"^[ \t]{0,15}(?=--?[A-Za-z])")  # text that names an option begins further to the right
_NAME = re.compile(r"--?[A-Za-z][\w.-]*")
_NEXT = re.compile(r",?[ \t]+(?=--?[A-Za-z])|,")
_VALUE = re.compile(r" (?![ -])((?:(?!,?[ \t]+--?[A-Za-z]|[ \t]{2}|\t).)+)")
_PROSE = re.compile(r"[a-z][\w'/-]* ")
_LEVEL = re.compile(r"^\s*- (\d+): (\w+)", re.MULTILINE)
_WORDS = {"on": ("on", "true", "1"), "off": ("off", "false", "0")}

# Other spellings of an option, in order of preference. A build lists one or more of them.
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
    """An option in ``--help``. ``names``: its spellings. ``value``: the placeholder of its value, such as ``N``; empty
    for an option without a value.
    """

    names: tuple[str, ...]
    value: str = ""

    def word(self, meaning: str) -> str | None:
        """Return the word for ``on`` or ``off`` among its values; None if it has other values."""
        choices = re.split(r"[^\w-]+", self.value)
        return next((word for word in _WORDS[meaning] if word in choices), None)


@dataclass(frozen=True, slots=True)
class HelpOptions:
    """All options of a program. ``levels``: the names and numbers of its log levels."""

    listed: tuple[HelpOption, ...] = ()
    levels: tuple[tuple[str, str], ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """All spellings of all options."""
        return frozenset(name for option in self.listed for name in option.names)

    def without(self, names: Collection[str]) -> HelpOptions:
        """Return a copy without the options ``names``."""
        return HelpOptions(tuple(each for each in self.listed if not set(names) & set(each.names)), self.levels)

    @staticmethod
    def is_spelling(word: str, names: Collection[str]) -> bool:
        """Return whether ``word`` is a spelling of one of the options ``names``."""
        return any(word in (name, *_SPELLINGS.get(name, ())) for name in names)

    def spelling(self, name: str) -> str:
        """Return the preferred spelling that is listed; empty if none is."""
        found = self._find(name)
        return found[0] if found else ""

    def takes_value(self, name: str) -> bool:
        """Return whether an option is listed with a value."""
        found = self._find(name)
        return found is not None and bool(found[1].value)

    def words(self, name: str, value: str = "on") -> list[str]:
        """Return the arguments for an option. The values ``on`` and ``off`` become a flag without a value, its opposite
        (``--no-…``), or a word, as the option requires. Empty if it is not listed or has no such value.
        """
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
    """Yield each name in a line of ``--help``, with its value."""
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
        if separator is None or (" " in text and "," not in separator[0]):  # text that names another option
            return
        at = separator.end()
