"""``bitnet-chat completion bash|zsh|fish``: scripts made by shtab out of the parsers themselves."""

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
A script that completes the command lines of bitnet-chat: verbs, flags, files, personas. To have it in every shell:

  bash  bitnet-chat completion bash > ~/.local/share/bash-completion/completions/bitnet-chat
  zsh   bitnet-chat completion zsh > "${fpath[1]}/_bitnet-chat"
  fish  bitnet-chat completion fish > ~/.config/fish/completions/bitnet-chat.fish

or in this shell alone: eval "$(bitnet-chat completion bash)"
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
    parser.add_argument("shell", choices=SHELLS, help="the shell to make it for")
    return parser


def script(shell: str) -> str:
    """The personas in it are those of this moment."""
    import shtab

    return shtab.complete(tree(), shell)


def tree() -> Parser:
    """All that ``bitnet-chat`` takes, in one parser. Its question, which is any text, is not in it: argparse and the
    shells would take a verb for its first word."""
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
    """By what an action is called: what there is to name, as far as it can be read."""
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
