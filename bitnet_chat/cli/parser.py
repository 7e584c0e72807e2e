"""The flags of ``bitnet-chat``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any, NoReturn, get_args, get_type_hints

from bitnet_chat.cli import VERBS
from bitnet_chat.config import Settings
from bitnet_chat.errors import UsageError
from bitnet_chat.version import __version__

_WIDEST = max(map(len, VERBS))
_VERBS = "\n".join(f"  {verb:<{_WIDEST}}  {help}" for verb, help in VERBS.items())
_EPILOG = f"""\
verbs (bitnet-chat VERB --help tells more; a question that begins with one goes in quotes):
{_VERBS}

flags behind -- go to the engine. With a question, what a pipe or a file gives on stdin is attached to it.
Settings also come from config.toml, personas and BITNET_CHAT_* variables: bitnet-chat config show.

exit codes: 0 answered, 1 doctor found something broken, 2 usage, 3 no engine, 4 no or bad model,
            5 engine died, 6 context overflow, 7 endless repetition, 8 empty reply, 9 journal, 124 timeout
            or stall, 130 interrupted
"""

_HERE = "http://127.0.0.1:8033"
"""Where ``bitnet-chat serve`` listens unless it is told otherwise."""
_ADDRESS = re.compile(r"\S*://\S*|(?:[\w.-]+|\[[\da-fA-F:.]+\]):\d+/?")

_SETTINGS = tuple(each.name for each in fields(Settings))


class Parser(argparse.ArgumentParser):
    """Raises UsageError instead of leaving."""

    def error(self, message: str) -> NoReturn:
        remedy = f"{self.prog} --help lists what there is"
        _, _, verb = self.prog.partition(" ")
        if verb in VERBS:
            remedy += f"; a question that begins with {verb!r} goes in quotes"
        raise UsageError(message, remedy=remedy)


def build(*, question: bool = True) -> Parser:
    """The parser of everything that is no verb. ``question``: with the words of one."""
    parser = Parser(
        prog="bitnet-chat",
        usage="bitnet-chat [FLAG …] [QUESTION …] [-- ENGINE-FLAG …]\n       bitnet-chat VERB …",
        description="Talk to a local BitNet or llama.cpp model. Without a question: a conversation.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    if question:
        parser.add_argument("question", nargs="*", default=[], help="answer this and exit")
    parser.add_argument("-V", "--version", action="version", version=f"bitnet-chat {__version__}")
    add_settings(parser)
    past = parser.add_argument_group("conversations")
    past.add_argument("-C", "--continue", dest="resume_last", action="store_true", help="go on with the last one")
    past.add_argument("--resume", nargs="?", const="", metavar="ID", help="go on with another one; without ID: pick")
    past.add_argument(
        "-a",
        "--attachment",
        action="append",
        metavar="FILE",
        help="put a file into the first message (again: more; -: what stdin holds)",
    )
    run = parser.add_argument_group("one answer, or many")
    run.add_argument("-i", "--interactive", action="store_true", help="converse even when stdin is no terminal")
    run.add_argument("--no-stream", action="store_true", help="print the whole answer at its end")
    run.add_argument("-f", "--file", metavar="FILE", help="the question is in FILE (-: stdin)")
    run.add_argument("--input", metavar="FILE", help="prompts, one JSON object a line (-: stdin)")
    run.add_argument("--output", metavar="FILE", help="replies to --input; a run that was cut short goes on")
    run.add_argument(
        "--allow-tools", metavar="NAME,…", help="tools of --tools that are called without asking (all: each of them)"
    )
    run.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return parser


def add_settings(parser: Parser, unlisted: Collection[str] = ()) -> None:
    """A flag for every setting; ``dest`` is its name. Those that say yes or no have a ``--no-`` form, too, so that
    each can be taken back. ``unlisted``: what the verb refuses. It is read all the same, since its own words about it
    tell more than that there is no such flag; neither ``--help`` nor a shell offers it."""
    defaults = Settings()

    def default(name: str) -> str:
        value = getattr(defaults, name)
        return f"(default: {value:g})" if isinstance(value, float) else f"(default: {value})"

    model = parser.add_argument_group("model and engine")
    model.add_argument(
        "-m", "--model", metavar="FILE", help="a GGUF file or a name (default: the largest installed one that fits)"
    )
    model.add_argument(
        "--engine", metavar="PATH", help="a program, a folder with one, or llama.cpp or bitnet (prebuilt)"
    )
    model.add_argument(
        "-y", "--yes", dest="install", action="store_const", const="yes", help="install what is missing, do not ask"
    )
    model.add_argument("--install", choices=_choices("install"), help=f"a missing engine or model {default('install')}")
    model.add_argument(
        "--probe-timeout",
        type=float,
        metavar="SECONDS",
        help=f"for an engine to answer --help; 0: no limit {default('probe_timeout')}",
    )
    model.add_argument("--persona", metavar="NAME", help="system prompt, model and sampling under one name")
    model.add_argument("--chat-template", metavar="T", help="a name (chatml, llama3, bitnet, …), a file or Jinja text")
    model.add_argument("--system", metavar="TEXT", help="system prompt")
    model.add_argument("-c", "--ctx", type=int, metavar="N", help="tokens of the context window")
    model.add_argument(
        "-t", "--threads", type=int, metavar="N", help="threads of the engine (default: the cores that it may use)"
    )
    model.add_argument("--temp", "--temperature", dest="temperature", type=float, metavar="X", help="0: no chance")
    model.add_argument("--seed", type=int, metavar="N", help="the same seed, the same reply")
    model.add_argument(
        "--overflow",
        choices=_choices("overflow"),
        help=f"when the conversation outgrows the context window {default('overflow')}",
    )
    _add_switch(model, "spare", "keep more engines loaded: /clear, /regen need not wait")
    _add_switch(model, "journal", "keep the conversation in the journal (default: yes)")
    others = parser.add_argument_group("who answers")
    others.add_argument("--backend", choices=_choices("backend"), help=f"who answers {default('backend')}")
    others.add_argument("--base-url", metavar="URL", help="the server of --backend openai or ollama")
    others.add_argument("--backend-key", metavar="KEY", help="its key (better: $BITNET_CHAT_BACKEND_KEY)")
    others.add_argument("--rpc", metavar="HOST:PORT,…", help="rpc-servers that hold parts of the model")
    others.add_argument("--tools", metavar="FILE.py", help="functions that the model may ask to have called")
    others.add_argument(
        "--attach",
        nargs="?",
        const=_HERE,
        metavar="URL",
        help="use the engine of a running bitnet-chat serve (default: the one on this computer)",
    )
    limits = parser.add_argument_group("limits of a reply")
    limits.add_argument("-n", "--max-tokens", type=int, metavar="N", help="tokens of one reply (default: no limit)")
    limits.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="for one reply, loading included (default: no limit)"
    )
    limits.add_argument(
        "--stall-timeout",
        type=float,
        metavar="SECONDS",
        help="without a token, once the engine has the question, or without any work while it loads; before the first"
        " token 10 times that;"
        f" 0: no limit {default('stall_timeout')}",
    )
    _add_switch(limits, "guard", "stop a model that speaks as the user or repeats itself (default: yes)")
    limits.add_argument(
        "--repeat-limit", type=int, metavar="N", help=f"repetitions that stop a reply; 0: off {default('repeat_limit')}"
    )
    io = parser.add_argument_group("how it looks and runs")
    io.add_argument(
        "--markdown", choices=_choices("markdown"), help="styled replies (default: auto, on a terminal with colours)"
    )
    io.add_argument(
        "--thinking",
        choices=_choices("thinking"),
        help=f"what a model thinks before it answers {default('thinking')}",
    )
    io.add_argument("--io", choices=_choices("io"), help=f"how the engine is connected {default('io')}")
    io.add_argument(
        "--typing-speed",
        type=float,
        metavar="CPS",
        help=f"characters a second with --io pipe; 0: at once {default('typing_speed')}",
    )
    for action in parser._actions:
        if action.dest in unlisted:
            action.help = argparse.SUPPRESS


def _choices(name: str) -> tuple[str, ...]:
    return get_args(get_type_hints(Settings)[name])


def _add_switch(group: argparse._ArgumentGroup, name: str, help: str) -> None:
    group.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, help=help)


def parse(arguments: Sequence[str], parser: Parser | None = None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The flags, and those of them that are settings. Raises UsageError; leaves after ``--help``.

    ``parser``: one with :func:`add_settings` in it, in place of the one of :func:`build`.
    """
    arguments = list(arguments)
    extra: list[str] = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, extra = arguments[:at], arguments[at + 1 :]
    arguments = _joined(arguments)
    flags = build().parse_intermixed_args(arguments) if parser is None else parser.parse_args(arguments)
    settings = {name: getattr(flags, name) for name in _SETTINGS if hasattr(flags, name)}
    if extra:
        settings["engine_args"] = extra
    return flags, settings


def _joined(arguments: Sequence[str]) -> list[str]:
    """Behind ``--attach`` only what looks like an address is one: anything else is the question."""
    joined: list[str] = []
    for word in arguments:
        if joined and joined[-1] == "--attach":
            joined[-1:] = [f"--attach={word}"] if _ADDRESS.fullmatch(word) else [f"--attach={_HERE}", word]
        else:
            joined.append(word)
    return joined
