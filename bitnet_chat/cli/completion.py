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
    """See :data:`bitnet_chat.cli.VERBS`."""
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
    """Return the completion script for a shell, with the current personas, models and names."""
    import shtab

    return shtab.complete(tree(), shell)


def tree() -> Parser:
    """Return one parser with all verbs and flags. It has no positional question, for whose first word argparse and the
    shells would take a verb.
    """
    root = build(question=False)
    verbs = root.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
    for verb, help in VERBS.items():
        one = import_module(f"bitnet_chat.cli.{verb}").parser()
        verbs.add_parser(verb, help=help, description=help, parents=[one], add_help=False)
    _set_candidates(root, _names())
    return root


def _set_candidates(parser: argparse.ArgumentParser, names: Mapping[tuple[str, object], list[str]]) -> None:
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                _set_candidates(each, names)
            continue
        if (action.dest, action.metavar) in names:
            action.choices = names[action.dest, action.metavar]
        if action.metavar in _FILES or action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def _names() -> dict[tuple[str, object], list[str]]:
    """Return candidates by the ``dest`` and ``metavar`` of an argument, as far as they can be read."""
    from bitnet_chat import config
    from bitnet_chat.models import registry, store

    known: list[str] = []
    with contextlib.suppress(UsageError):  # an invalid models.toml, which `models list` reports
        known = list(registry.entries())
    return {
        ("persona", "NAME"): config.names(),
        ("model", "MODEL"): known,
        ("names", "NAME"): [each.name for each in store.installed()],
    }
