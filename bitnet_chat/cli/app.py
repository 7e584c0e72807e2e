"""``bitnet-chat app``: the page in a window of its own, or in the browser."""

from __future__ import annotations

from collections.abc import Sequence

from bitnet_chat.cli.parser import Parser


def parser() -> Parser:
    return Parser(prog="bitnet-chat app", description="The web page in a window, or in the browser.")


def run(arguments: Sequence[str]) -> int:
    parser().parse_args(arguments)
    raise NotImplementedError
