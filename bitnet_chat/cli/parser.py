"""The flags of ``bitnet-chat``: the parser of a command line, and the flags of all settings for the verbs."""

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
verbs (details: bitnet-chat VERB --help; a question that begins with a verb goes in quotes):
{_VERBS}

flags after -- are passed to the engine. A pipe or a file on stdin is attached to the question.
Settings also come from config.toml, personas and BITNET_CHAT_* variables: bitnet-chat config show.

exit codes: 0 answered, 1 doctor found a failure, 2 usage, 3 no engine, 4 no or bad model,
            5 engine died, 6 context overflow, 7 endless repetition, 8 empty reply, 9 journal, 124 timeout
            or stall, 130 interrupted
"""

_DEFAULT_SERVER = "http://127.0.0.1:8033"
"""The default address of ``bitnet-chat serve``."""
_ADDRESS = re.compile(r"\S*://\S*|(?:[\w.-]+|\[[\da-fA-F:.]+\]):\d+/?")

_SETTINGS = tuple(each.name for each in fields(Settings))


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with ``message``."""
        remedy = f"{self.prog} --help lists the flags"
        _, _, verb = self.prog.partition(" ")
        if verb in VERBS:
            remedy += f"; a question that begins with {verb!r} goes in quotes"
        raise UsageError(message, remedy=remedy)


def build(*, question: bool = True) -> Parser:
    """Return the parser of a command line without a verb. ``question``: whether it has the positional question."""
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
        parser.add_argument("question", nargs="*", default=[], help="one question (default: a conversation)")
    parser.add_argument("-V", "--version", action="version", version=f"bitnet-chat {__version__}")
    add_settings(parser)
    past = parser.add_argument_group("conversations")
    past.add_argument(
        "-C", "--continue", dest="resume_last", action="store_true", help="continuation of the most recent conversation"
    )
    past.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="ID",
        help="continuation of conversation ID (without ID: choice from a list)",
    )
    past.add_argument(
        "-a",
        "--attachment",
        action="append",
        metavar="FILE",
        help="file attached to the first message (repeatable; -: stdin)",
    )
    run = parser.add_argument_group("questions and batches")
    run.add_argument("-i", "--interactive", action="store_true", help="conversation even if stdin is not a terminal")
    run.add_argument("--no-stream", action="store_true", help="the whole answer at once, without streaming")
    run.add_argument("-f", "--file", metavar="FILE", help="file with the question (-: stdin)")
    run.add_argument("--input", metavar="FILE", help="prompts, one JSON object per line (-: stdin)")
    run.add_argument("--output", metavar="FILE", help="replies to --input; an interrupted run resumes")
    run.add_argument(
        "--allow-tools", metavar="NAME,…", help="tools that are called without confirmation (all: every tool)"
    )
    run.add_argument("--json", action="store_true", help="one JSON object instead of text")
    return parser


def add_settings(parser: Parser, unlisted: Collection[str] = ()) -> None:
    """Add a flag for every setting to ``parser``; its ``dest`` is the name of the setting. Boolean flags also have a
    ``--no-`` form, which reverts a value of the settings file. ``unlisted``: settings that the verb refuses. They are
    parsed, for a more specific error than "unrecognized", but neither ``--help`` nor completion lists them.
    """
    model = parser.add_argument_group("model and engine")
    _add_engine(model)
    _add_conversation(model)
    _add_backend(parser.add_argument_group("backend"))
    _add_limits(parser.add_argument_group("limits of a reply"))
    _add_display(parser.add_argument_group("display and connection"))
    for action in parser._actions:
        if action.dest in unlisted:
            action.help = argparse.SUPPRESS


def _add_engine(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-m", "--model", metavar="FILE", help="GGUF file or model name (default: the largest installed one that fits)"
    )
    group.add_argument("--engine", metavar="PATH", help="program, its folder, or llama.cpp or bitnet (prebuilt)")
    group.add_argument(
        "-y",
        "--yes",
        dest="install",
        action="store_const",
        const="yes",
        help="installation of missing parts without confirmation",
    )
    group.add_argument(
        "--install",
        choices=_choices("install"),
        help=f"installation of a missing engine or model {_default('install')}",
    )
    group.add_argument(
        "--probe-timeout",
        type=float,
        metavar="SECONDS",
        help=f"time limit for an engine to answer --help; 0: no limit {_default('probe_timeout')}",
    )


def _add_conversation(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--persona", metavar="NAME", help="system prompt, model and sampling under one name")
    group.add_argument(
        "--chat-template", metavar="T", help="chat template: a name (chatml, llama3, bitnet, …), a file or Jinja text"
    )
    group.add_argument("--system", metavar="TEXT", help="system prompt")
    group.add_argument("-c", "--ctx", type=int, metavar="N", help="tokens of the context window")
    group.add_argument(
        "-t", "--threads", type=int, metavar="N", help="threads of the engine (default: the usable physical cores)"
    )
    group.add_argument(
        "--temp",
        "--temperature",
        dest="temperature",
        type=float,
        metavar="X",
        help="sampling temperature (0: deterministic)",
    )
    group.add_argument("--seed", type=int, metavar="N", help="seed of the sampling; the same seed gives the same reply")
    group.add_argument(
        "--overflow",
        choices=_choices("overflow"),
        help=f"policy for a full context {_default('overflow')}",
    )
    _add_switch(group, "spare", "additional loaded engines, for /clear and /regen without a wait")
    _add_switch(group, "journal", "storage of the conversation in the journal (default: yes)")
    group.add_argument(
        "--state-limit",
        metavar="SIZE",
        help="disk space of saved engine states, such as 2G; 0: none (default: a tenth of what is free, at most 8 GB)",
    )


def _add_backend(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--backend", choices=_choices("backend"), help=f"backend that generates replies {_default('backend')}"
    )
    group.add_argument("--base-url", metavar="URL", help="server of --backend openai or ollama")
    group.add_argument("--backend-key", metavar="KEY", help="API key of that server (better: $BITNET_CHAT_BACKEND_KEY)")
    group.add_argument("--rpc", metavar="HOST:PORT,…", help="rpc-servers that hold parts of the model")
    group.add_argument("--tools", metavar="FILE.py", help="Python functions that the model may ask to have called")
    group.add_argument(
        "--attach",
        nargs="?",
        const=_DEFAULT_SERVER,
        metavar="URL",
        help="running server (bitnet-chat serve) to use (default: the one on this computer)",
    )


def _add_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-n", "--max-tokens", type=int, metavar="N", help="maximum tokens of a reply (default: no limit)"
    )
    group.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="time limit of a reply, loading included (default: no limit)"
    )
    group.add_argument(
        "--stall-timeout",
        type=float,
        metavar="SECONDS",
        help="time limit without a token, once the engine has the question, or without any work while it loads;"
        " before the first"
        " token 10 times that;"
        f" 0: no limit {_default('stall_timeout')}",
    )
    _add_switch(group, "guard", "end of a reply at a user turn marker or an endless repetition (default: yes)")
    group.add_argument(
        "--repeat-limit",
        type=int,
        metavar="N",
        help=f"repetitions that stop a reply; 0: off {_default('repeat_limit')}",
    )


def _add_display(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--markdown", choices=_choices("markdown"), help="styled replies (default: auto, on a terminal with colours)"
    )
    group.add_argument(
        "--thinking",
        choices=_choices("thinking"),
        help=f"display of the thoughts of a model {_default('thinking')}",
    )
    group.add_argument("--io", choices=_choices("io"), help=f"connection of the engine {_default('io')}")
    group.add_argument(
        "--typing-speed",
        type=float,
        metavar="CPS",
        help=f"characters per second with --io pipe; 0: no pacing {_default('typing_speed')}",
    )


def _default(name: str) -> str:
    value = getattr(Settings(), name)
    return f"(default: {value:g})" if isinstance(value, float) else f"(default: {value})"


def _choices(name: str) -> tuple[str, ...]:
    return get_args(get_type_hints(Settings)[name])


def _add_switch(group: argparse._ArgumentGroup, name: str, help: str) -> None:
    group.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, help=help)


def parse(arguments: Sequence[str], parser: Parser | None = None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Parse a command line. Returns all flags, and those of them that are settings, by name. Raises UsageError; exits
    after ``--help``.

    ``parser``: a parser with the flags of :func:`add_settings`; None: the one of :func:`build`. Arguments after ``--``
    become the setting ``engine_args``.
    """
    arguments = list(arguments)
    extra: list[str] = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, extra = arguments[:at], arguments[at + 1 :]
    arguments = _with_attach_value(arguments)
    flags = build().parse_intermixed_args(arguments) if parser is None else parser.parse_args(arguments)
    settings = {name: getattr(flags, name) for name in _SETTINGS if hasattr(flags, name)}
    if extra:
        settings["engine_args"] = extra
    return flags, settings


def _with_attach_value(arguments: Sequence[str]) -> list[str]:
    """Give each ``--attach`` a value: the next argument if it looks like an address, else the default server. argparse
    would take the question for the value.
    """
    joined: list[str] = []
    for word in arguments:
        if joined and joined[-1] == "--attach":
            joined[-1:] = [f"--attach={word}"] if _ADDRESS.fullmatch(word) else [f"--attach={_DEFAULT_SERVER}", word]
        else:
            joined.append(word)
    return joined
