"""``bitnet-chat verify [ID]``: see :func:`bitnet_chat.verify`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict

from bitnet_chat.cli.messages import write_lines
from bitnet_chat.cli.parser import Parser
from bitnet_chat.conversation.export import json_text
from bitnet_chat.errors import UsageError
from bitnet_chat.journal import Journal, StoredConversation
from bitnet_chat.text.sanitize import one_line
from bitnet_chat.verification import ReplyCheck, Verdict, verify

DIFFERENT = 1
"""The exit code if a repeatable reply is not identical."""


def parser() -> Parser:
    """See :data:`bitnet_chat.cli.VERBS`."""
    parser = Parser(
        prog="bitnet-chat verify",
        description="Repetition of the replies of a conversation with the model, engine, settings and seeds that the "
        "journal keeps with each. Exit code 1: a repeatable reply is not identical.",
    )
    parser.add_argument(
        "id", type=_number, nargs="?", metavar="ID", help="number of a conversation (default: the last)"
    )
    parser.add_argument("-m", "--model", metavar="FILE", help="model (default: the name in the journal)")
    parser.add_argument("--engine", metavar="PATH", help="engine (default: the name in the journal)")
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="threads (default: those in the journal)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


def _number(text: str) -> int:
    # Row numbers of SQLite are below 1 << 63.
    if not (text.isascii() and text.isdigit() and 0 < int(text[:20]) < 1 << 63 and len(text) < 20):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of a conversation")
    return int(text)


def run(arguments: Sequence[str]) -> int:
    """See :data:`bitnet_chat.cli.VERBS`."""
    flags = parser().parse_args(arguments)
    journal = Journal()
    stored = journal.load(flags.id) if flags.id is not None else journal.latest()
    if stored is None:
        raise UsageError("the journal is empty")
    given = {name: getattr(flags, name) for name in ("model", "engine", "threads") if getattr(flags, name) is not None}
    checks = asyncio.run(_verify(stored, given, show=not flags.json))
    counts = Counter(check.verdict for check in checks)
    if flags.json:
        summary = {verdict.value: counts[verdict] for verdict in Verdict}
        print(json_text({"id": stored.id, **summary, "replies": [asdict(check) for check in checks]}, indent=2))
    else:
        print(
            f"conversation {stored.id}: {counts[Verdict.IDENTICAL]} identical, {counts[Verdict.DIFFERENT]} different, "
            f"{counts[Verdict.NOT_REPEATABLE]} not repeatable"
        )
    return DIFFERENT if counts[Verdict.DIFFERENT] else 0


async def _verify(stored: StoredConversation, given: Mapping[str, object], *, show: bool) -> list[ReplyCheck]:
    checks = []
    async with aclosing(verify(stored, **given)) as found:
        async for check in found:
            checks.append(check)
            if show:
                write_lines(_line(check), sys.stdout)
    return checks


def _line(check: ReplyCheck) -> str:
    match check.verdict:
        case Verdict.IDENTICAL:
            return f"reply {check.reply}: identical"
        case Verdict.NOT_REPEATABLE:
            return f"reply {check.reply}: not repeatable: {one_line(check.reason)}"
    kept, made = one_line(repr(check.kept)), one_line(repr(check.made))
    place = f"character {check.at}"
    place = place if check.token is None else f"token {check.token} ({place})"
    return (
        f"reply {check.reply}: differs at {place}: {made} instead of {kept} (probable reason: {one_line(check.reason)})"
    )
