"""``bitnet-chat completion bash|zsh|fish``: scripts that shtab generates from the parsers."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from bitnet_chat.cli import VERBS
from bitnet_chat.cli.parser import Parser, build
from bitnet_chat.errors import UsageError

SHELLS = ("bash", "zsh", "fish")
_FILES = ("FILE", "PATH")

_DESCRIPTION = """\
Completion script for the command lines of bitnet-chat: verbs, flags, files, personas. Installation for every shell:

  bash  bitnet-chat completion bash > ~/.local/share/bash-completion/completions/bitnet-chat
  zsh   bitnet-chat completion zsh > "${fpath[1]}/_bitnet-chat"
  fish  bitnet-chat completion fish > ~/.config/fish/completions/bitnet-chat.fish

for this shell only: eval "$(bitnet-chat completion bash)"
"""


def run(arguments: Sequence[str]) -> int:
    print(script(parser().parse_args(arguments).shell))
    return 0


def parser() -> Parser:
    """See :data:`bitnet_chat.cli.VERBS`."""
    parser = Parser(
        prog="bitnet-chat completion",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS, help="shell of the script")
    return parser


def script(shell: str) -> str:
    """The completion script, with the current personas."""
    import shtab

    return shtab.complete(tree(), shell)


def tree() -> Parser:
    """All verbs and flags in one parser, without the question: argparse and the shells would take a verb for its first
    word.
    """
    root = build(question=False)
    verbs = root.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
    for verb, help in VERBS.items():
        one = import_module(f"bitnet_chat.cli.{verb}").parser()
        verbs.add_parser(verb, help=help, description=help, parents=[one], add_help=False)
    _say_what_completes(root, _names())
    return root


def _say_what_completes(parser: argparse.ArgumentParser, names: Mapping[tuple[str, object], list[str]]) -> None:
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                _say_what_completes(each, names)
            continue
        if (action.dest, action.metavar) in names:
            action.choices = names[action.dest, action.metavar]
        if action.metavar in _FILES or action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def _names() -> dict[tuple[str, object], list[str]]:
    """Candidates by the name of an action, as far as they can be read."""
    from bitnet_chat import config
    from bitnet_chat.models import registry, store

    known: list[str] = []
    with contextlib.suppress(UsageError):  # a models.toml with a mistake, which `models list` tells of
        known = list(registry.entries())
    return {
        ("persona", "NAME"): config.names(),
        ("model", "MODEL"): known,
        ("names", "NAME"): [each.name for each in store.installed()],
    }
