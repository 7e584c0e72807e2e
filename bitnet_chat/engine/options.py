"""The options that a ``--help`` lists, in the forms in which it lists them. Pure.

Four layouts are read: ``-c N, --ctx-size N   prose`` (2023), ``-c,    --ctx-size N`` with the prose in column 34 or 40
(since 2024), ``--escape, --no-escape`` on one line (since late 2025), and the same without prose.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

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
class Option:
    """One line of the list. ``value``: what stands where its value goes, such as ``N``; empty where it takes none."""

    names: tuple[str, ...]
    value: str = ""

    def word(self, meaning: str) -> str | None:
        """How ``on`` or ``off`` is said to an option that takes a value; None where the value is something else."""
        choices = re.split(r"[^\w-]+", self.value)
        return next((word for word in _WORDS[meaning] if word in choices), None)


@dataclass(frozen=True, slots=True)
class Options:
    """All that one program lists. ``levels``: the names of its log's levels and the numbers that stand for them."""

    listed: tuple[Option, ...] = ()
    levels: tuple[tuple[str, str], ...] = ()

    @property
    def names(self) -> frozenset[str]:
        return frozenset(name for option in self.listed for name in option.names)

    def without(self, names: Collection[str]) -> Options:
        """All but the options that have one of the names."""
        return Options(tuple(each for each in self.listed if not set(names) & set(each.names)), self.levels)

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
        """What a command line gets for an option. ``on`` and ``off`` are meanings, said as the option wants it: a bare
        flag, its opposite (``--no-…``) or a word. Empty where the option is not listed, or cannot say that."""
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

    def _find(self, name: str) -> tuple[str, Option] | None:
        for spelling in (name, *_SPELLINGS.get(name, ())):
            for option in self.listed:
                if spelling in option.names:
                    return spelling, option
        return None


def read_options(help_text: str) -> Options:
    """What the output of ``--help`` lists."""
    listed = []
    for line in help_text.splitlines():
        if start := _LINE.match(line):
            pieces = list(_pieces(line.rstrip()[start.end() :]))
            value = next((value for _, value in reversed(pieces) if value), "")
            listed.append(Option(tuple(name for name, _ in pieces), value))
    return Options(tuple(listed), tuple((name, number) for number, name in _LEVEL.findall(help_text)))


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
