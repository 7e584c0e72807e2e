"""``bitnet-chat history list|show|search|export|votes|rm``: the conversations of the journal."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from bitnet_chat import paths
from bitnet_chat.cli.messages import may_remove, write_lines
from bitnet_chat.cli.parser import Parser
from bitnet_chat.conversation.export import FORMATS, LEFT_OUT, NOT_ANSWERED, export, export_branches, json_text
from bitnet_chat.errors import JournalSetAsideError
from bitnet_chat.journal import Journal, JournalEntry, MessageTree, ReplyState, SearchHit, StoredConversation
from bitnet_chat.journal.votes import ModelVotes, PairVotes, by_model, by_pair
from bitnet_chat.prompt_cache.store import StateStore
from bitnet_chat.text.cell_width import width
from bitnet_chat.text.sanitize import one_line, visible
from bitnet_chat.trace.recorder import folder, forget
from bitnet_chat.util.files import write_exclusive

_STATES = {ReplyState.CUT_OFF: "cut off", ReplyState.ANSWERING: "reply running", ReplyState.UNANSWERED: "not answered"}

_DEPTH = 12
"""Maximum indentation of a message in steps."""


def run(arguments: Sequence[str]) -> int:
    """See :data:`bitnet_chat.cli.VERBS`."""
    flags = parser().parse_args(arguments)
    try:
        return _run(Journal(), flags)
    except JournalSetAsideError as error:
        _say(str(error))
    return _run(Journal(), flags)


def _run(journal: Journal, flags: argparse.Namespace) -> int:
    match flags.verb:
        case "list":
            return _list(journal, flags)
        case "show":
            stored = _loaded(journal, flags.id)
            return _show_tree(journal, stored, flags) if flags.tree else _show(stored, flags)
        case "search":
            return _search(journal, flags)
        case "export":
            return _export(journal, _loaded(journal, flags.id), flags)
        case "votes":
            return _votes(journal, flags)
        case _:
            return _remove(journal, flags)


def parser() -> Parser:
    """See :data:`bitnet_chat.cli.VERBS`."""
    parser = Parser(prog="bitnet-chat history", description="The conversations in the journal.")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser)
    listing = verbs.add_parser("list", help="the conversations, most recent first")
    listing.add_argument(
        "-n", "--limit", type=partial(_number, what="limit"), metavar="N", help="maximum number of conversations"
    )
    showing = verbs.add_parser("show", help="one conversation")
    showing.add_argument("--tree", action="store_true", help="all branches; without it the current one")
    searching = verbs.add_parser("search", help="the conversations that contain all the words")
    searching.add_argument("words", nargs="+", metavar="WORD")
    exporting = verbs.add_parser("export", help="one conversation as a file")
    exporting.add_argument("--format", choices=FORMATS, help="default: by the name of FILE, else md")
    exporting.add_argument("--branches", action="store_true", help="all branches; without it the current one")
    exporting.add_argument("-o", "--output", metavar="FILE", default="-", help="default: stdout")
    exporting.add_argument("--force", action="store_true", help="replacement of an existing FILE")
    voting = verbs.add_parser("votes", help="the choices of /compare: how often each model was chosen")
    removing = verbs.add_parser("rm", help="permanent deletion of conversations")
    removing.add_argument("ids", nargs="+", type=_number, metavar="ID")
    removing.add_argument("-y", "--yes", action="store_true", help="no confirmation")
    for each in (showing, exporting):
        each.add_argument("id", type=_number, metavar="ID")
    for each in (listing, showing, searching, exporting, voting, removing):
        each.add_argument("--json", action="store_true", help="JSON output")
    return parser


def _number(text: str, what: str = "number of a conversation") -> int:
    # Row numbers of SQLite are below 1 << 63.
    if not (text.isascii() and text.isdigit() and 0 < int(text[:20]) < 1 << 63 and len(text) < 20):
        raise argparse.ArgumentTypeError(f"{text!r} is not a {what}")
    return int(text)


def _list(journal: Journal, flags: argparse.Namespace) -> int:
    entries = journal.list(flags.limit)
    heads = StateStore(paths.states_dir()).heads(journal.path)
    saved = {conversation for conversation, _ in heads}
    if flags.json:
        _print_json([asdict(entry) | {"saved_state": entry.id in saved} for entry in entries])
    elif not entries:
        print("The journal is empty.", file=sys.stderr)
    else:
        widest = max(len(str(entry.id)) for entry in entries)
        for entry in entries:
            print(_line(entry, widest, has_state=entry.id in saved))
    _say_damage(entries)
    return 0


def _say_damage(entries: Sequence[JournalEntry]) -> None:
    for entry in entries:
        if entry.damage:
            _say(f"conversation {entry.id} is damaged: {entry.damage}")


def _line(entry: JournalEntry, widest: int = 0, *, has_state: bool = False) -> str:
    """``has_state``: whether it continues from a saved engine state, without being read again."""
    turns = f"{entry.turns} turn{'' if entry.turns == 1 else 's'}"
    facts = [turns, entry.model, _STATES.get(entry.state, ""), "state saved" if has_state else ""]
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.updated)) if entry.updated else f"{'(no time)':16}"
    title = one_line(entry.title) or "(no title)"
    return f"{entry.id:>{widest}}  {when}  {title}  [{', '.join(one_line(fact) for fact in facts if fact)}]"


def _loaded(journal: Journal, id: int) -> StoredConversation:
    stored = journal.load(id)
    for line in stored.damage:
        _say(f"damaged: {line}")
    return stored


def _show(stored: StoredConversation, flags: argparse.Namespace) -> int:
    if flags.json:
        _print(_exported(stored, "json"))
        return 0
    _show_heading(stored)
    rows = {record.row for record in stored.records}
    for record in stored.shown:
        message = record.message
        tool = f"{one_line(message.tool_name)}: "
        name = {"system": "system: ", "user": "> ", "assistant": "", "tool": tool}[message.role]
        if message.thinking:
            write_lines(f"\n(thinks) {visible(message.thinking)}", sys.stdout)
        if message.content or not message.tool_calls:
            write_lines(f"\n{name}{visible(message.content)}", sys.stdout, is_message=True)
        for call in message.tool_calls:
            write_lines(one_line(f"calls {call.name} {call.arguments}"), sys.stdout)
        if message.was_cut and message.finish is not None:
            print(f"[{message.finish.value.replace('_', ' ')}]")
        if record.row not in rows:
            print(f"[{LEFT_OUT if record in stored.misplaced else NOT_ANSWERED}]")
    return 0


def _show_tree(journal: Journal, stored: StoredConversation, flags: argparse.Namespace) -> int:
    """Print all messages, each indented by its branch. ``*`` marks the current branch."""
    tree = _tree(journal, stored)
    if flags.json:
        _print(export_branches(tree.exported(stored), "json", about=tree.about(stored)))
        return 0
    _show_heading(stored)
    for row, depth in tree.walk():
        message, position = tree.nodes[row].record.message, str(tree.position(row))
        indent = "  " * min(depth, _DEPTH)
        name = {"system": "system", "user": "you", "assistant": "model", "tool": one_line(message.tool_name)}
        print(f"\n{'*' if row in tree.current else ' '} {indent}{row} {name[message.role]} {position}".rstrip())
        lines = [f"(thinks) {message.thinking}"] if message.thinking else []
        lines += [message.content] if message.content else []
        lines += [one_line(f"calls {call.name} {call.arguments}") for call in message.tool_calls]
        if message.was_cut and message.finish is not None:
            lines.append(f"[{message.finish.value.replace('_', ' ')}]")
        text = "\n".join(lines)
        write_lines("\n".join(f"  {indent}{line}".rstrip() for line in visible(text).split("\n")), sys.stdout)
    return 0


def _tree(journal: Journal, stored: StoredConversation) -> MessageTree:
    tree = journal.tree(stored.id)
    for line in tree.damage:
        if line not in stored.damage:
            _say(f"damaged: {line}")
    return tree


def _show_heading(stored: StoredConversation) -> None:
    about = [f"conversation {stored.id}", stored.model, stored.engine, _STATES.get(stored.state, "")]
    write_lines(one_line(stored.title) or "(no title)", sys.stdout)
    write_lines(" · ".join(one_line(each) for each in about if each), sys.stdout)


def _exported(stored: StoredConversation, format: str) -> str:
    about, details, asides = stored.about(), stored.details(), stored.asides
    return export(stored.conversation, format, about=about, details=details, asides=asides)


def _search(journal: Journal, flags: argparse.Namespace) -> int:
    """Search the journal. Returns exit code 1 without a match, as grep(1) does."""
    hits = journal.search(" ".join(flags.words))
    if flags.json:
        _print_json([_hit_as_json(hit) for hit in hits])
    elif not hits:
        print("No match.", file=sys.stderr)
    else:
        widest = max(len(str(hit.entry.id)) for hit in hits)
        for hit in hits:
            print(_line(hit.entry, widest))
            if hit.snippet:
                print(f"{'':{widest}}  {one_line(hit.snippet)}")
    _say_damage([hit.entry for hit in hits])
    return 0 if hits else 1


def _export(journal: Journal, stored: StoredConversation, flags: argparse.Namespace) -> int:
    if stored.state is ReplyState.ANSWERING:
        _say("a reply is running: the export contains only its text so far")
    target = None if flags.output == "-" else paths.expand(flags.output)
    ending = target.suffix.lstrip(".").lower() if target is not None else ""
    format = flags.format or (ending if ending in FORMATS else "json" if flags.json else "md")
    if flags.branches:
        tree = _tree(journal, stored)
        text = export_branches(tree.exported(stored), format, about=tree.about(stored))
    else:
        text = _exported(stored, format)
    if target is None:
        _print(text)
        return 0
    write_exclusive(target, text, force=flags.force)
    if flags.json:
        _print_json({"id": stored.id, "format": format, "file": str(target)})
    else:
        print(f"{one_line(str(target))}: conversation {stored.id} as {format}")
    return 0


def _votes(journal: Journal, flags: argparse.Namespace) -> int:
    """Print the sums of the votes."""
    votes = journal.votes()
    models, pairs = by_model(votes), by_pair(votes)
    if flags.json:
        sums = {"models": [each.as_json() for each in models], "pairs": [each.as_json() for each in pairs]}
        _print_json({"votes": [vote.as_json() for vote in votes]} | sums)
    elif not votes:
        print("The journal has no votes: /compare MODEL in a conversation makes them.", file=sys.stderr)
    else:
        blind = sum(vote.blind for vote in votes)
        print(f"{len(votes)} vote{'s' * (len(votes) > 1)}, {blind} of them blind")
        widest = max((width(_model(each.model)) for each in models), default=0)
        for of_model in models:
            print(_model_line(of_model, widest))
        for pair in pairs:
            print(_pair_line(pair))
    for vote in votes:
        if vote.damage:
            _say(f"vote {vote.id} is damaged: {vote.damage}")
    return 0


def _model_line(sums: ModelVotes, widest: int) -> str:
    name = _model(sums.model)
    facts = [f"chosen {sums.chosen.all} of {sums.votes.all}"]
    facts += [f"{sums.ties.all} without a preference"] if sums.ties.all else []
    facts += [f"blind: {sums.chosen.blind} of {sums.votes.blind}"] if sums.votes.blind else []
    return f"{name}{' ' * (widest - width(name))}  {', '.join(facts)}"


def _pair_line(sums: PairVotes) -> str:
    all = [(sums.first_chosen.all, sums.second_chosen.all, sums.ties.all)]
    blind = (sums.first_chosen.blind, sums.second_chosen.blind, sums.ties.blind)
    all += [blind] if any(blind) else []
    texts = [f"{first} to {second}{f', {ties} without a preference' * (ties > 0)}" for first, second, ties in all]
    return f"{_model(sums.first)} against {_model(sums.second)}: {'; blind: '.join(texts)}"


def _model(name: str) -> str:
    return one_line(name) or "(unknown model)"


def _remove(journal: Journal, flags: argparse.Namespace) -> int:
    ids = list(dict.fromkeys(flags.ids))
    if not flags.yes and not may_remove([f"{id}  {one_line(journal.load(id).title)}" for id in ids]):
        return 1
    states = StateStore(paths.states_dir())
    for id in ids:  # first: without its conversation a state would belong to nothing
        states.remove_owner(journal.path, id)
    if not journal.remove(ids):
        _say("another program has the journal open: traces remain in its log until it ends")
    forgotten = forget()  # recordings of the last sessions may contain the same text
    if not forgotten:
        _say(f"the recordings in {folder()} cannot be removed, and may contain the same text")
    typed = paths.data_dir() / "history"
    if typed.exists():
        _say(f"the input history is still in {typed}")
    if flags.json:
        _print_json({"removed": ids})
    else:
        recordings = ", and the recordings for report" if forgotten else ""
        print(f"removed: {', '.join(map(str, ids))}{recordings}")
    return 0


def _say(text: str) -> None:
    write_lines(f"bitnet-chat: {one_line(text)}")


def _hit_as_json(hit: SearchHit) -> dict[str, object]:
    return asdict(hit.entry) | {"snippet": hit.snippet, "messages": hit.count}


def _print_json(value: object) -> None:
    print(json_text(value, indent=2))


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
