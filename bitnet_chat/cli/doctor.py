"""``bitnet-chat doctor``: prints the findings of :mod:`bitnet_chat.doctor` with their remedies."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from bitnet_chat import config, terminal
from bitnet_chat.cli.parser import Parser
from bitnet_chat.conversation.export import json_text
from bitnet_chat.doctor.finding import Finding, FindingStatus, count
from bitnet_chat.errors import UsageError
from bitnet_chat.text.sanitize import one_line

BROKEN = 1
"""The exit code if a check failed."""
_COLOURS = {FindingStatus.OK: "\x1b[32m", FindingStatus.WARN: "\x1b[33m", FindingStatus.BROKEN: "\x1b[31m"}
_NAME_WIDTH = 13
_SETTINGS = ("model", "engine", "ctx", "threads", "backend", "base_url", "attach")
_MARGIN = 2 + 6 + 2 + _NAME_WIDTH + 1


def parser() -> Parser:
    """See :data:`bitnet_chat.cli.VERBS`."""
    parser = Parser(
        prog="bitnet-chat doctor",
        description="Check of engine, model, memory, terminal and files, without changes. Exit code 1: a check failed.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--quick", action="store_true", help="no measurement of threads (up to 10 s)")
    parser.add_argument("--backend", metavar="NAME", help="backend to check")
    parser.add_argument("--base-url", metavar="URL", help="server of --backend openai or ollama to check")
    parser.add_argument("--attach", metavar="URL", help="running bitnet-chat serve to check")
    parser.add_argument("-m", "--model", metavar="FILE", help="model to check (default: that of the settings)")
    parser.add_argument("--engine", metavar="PATH", help="engine to check (default: the one that would be used)")
    parser.add_argument("-c", "--ctx", type=int, metavar="N", help="tokens of the context window")
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="threads of the engine")
    return parser


def run(arguments: Sequence[str]) -> int:
    """See :data:`bitnet_chat.cli.VERBS`."""
    flags = parser().parse_args(arguments)
    given = {name: getattr(flags, name) for name in _SETTINGS if getattr(flags, name) is not None}
    from bitnet_chat.doctor.checks import CheckOptions, run_checks

    settings, configured, problem = effective(given)
    findings: list[Finding] = []
    printed = _FindingPrinter()
    for finding in run_checks(CheckOptions(settings, configured, problem, sweep=not flags.quick)):
        findings.append(finding)
        if not flags.json:
            printed.show(finding)
    counts = count(findings)
    if flags.json:
        content = {"summary": counts, "findings": [finding.as_json() for finding in findings]}
        print(json_text(content, indent=2))
    else:
        print("\n" + summary(counts))
    return BROKEN if counts[FindingStatus.BROKEN.value] else 0


def effective(given: dict[str, Any]) -> tuple[config.Settings, str, str]:
    """Load the settings. Returns them, the configured engine, and the error of an invalid settings file or variable,
    else an empty text. With an error the settings are the defaults and the ``given`` flags. Raises UsageError for
    invalid flags.
    """
    try:
        return *config.load(given), ""
    except UsageError as error:
        checked = {name: config.checked(name, value, f"{config.flag(name)}: ") for name, value in given.items()}
        return config.Settings(**checked), "", error.what


def summary(counts: dict[str, int]) -> str:
    """Return the counts of the findings as one line. ``counts``: by the value of the status."""
    ok, warn, broken = (counts[status.value] for status in FindingStatus)
    if broken:
        return f"{broken} failed, {warn} warnings, {ok} passed."
    return f"Nothing failed; {warn} warnings, {ok} passed." if warn else f"All {ok} checks passed."


class _FindingPrinter:
    """Prints findings, with a heading for each group, wrapped to the width of a terminal."""

    def __init__(self) -> None:
        self._group = ""
        self._colour = terminal.shows_colours(sys.stdout)
        self._width = max(60, terminal.size(sys.stdout)[0] - 1) if sys.stdout.isatty() else 0

    def show(self, finding: Finding) -> None:
        if finding.group != self._group:
            print(f"\n{finding.group}" if self._group else finding.group)
            self._group = finding.group
        word = f"{finding.status.value:6}"
        if self._colour:
            word = f"{_COLOURS[finding.status]}{word}\x1b[0m"
        name = one_line(finding.name)
        for number, line in enumerate(self._wrapped(one_line(finding.seen))):
            print(f"  {word}  {name:{_NAME_WIDTH}} {line}" if number == 0 else " " * _MARGIN + line)
        for number, line in enumerate(self._wrapped(one_line(finding.remedy)) if finding.remedy else ()):
            print(" " * _MARGIN + ("-> " if number == 0 else "   ") + line)
        sys.stdout.flush()

    def _wrapped(self, text: str) -> list[str]:
        if not self._width:
            return [text]
        import textwrap

        width = max(24, self._width - _MARGIN - 3)
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
