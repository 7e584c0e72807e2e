"""The flags of ``bitnet-chat``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from bitnet_chat.errors import UsageError
from bitnet_chat.version import __version__

_EPILOG = """\
verbs:
  engine list            which engines were found, and why the first one wins
  engine probe PATH      what a binary is and can do
  engine install         build llama-completion, llama-cli and llama-server from source

flags behind -- go to the engine. Settings also come from config.toml and BITNET_CHAT_* variables.

exit codes: 0 answered, 2 usage, 3 no engine, 4 no or bad model, 5 engine died,
            6 context overflow, 124 timeout, 130 interrupted
"""

# Flags that are settings: by the name of the field.
_SETTINGS = (
    "engine",
    "model",
    "chat_template",
    "system",
    "ctx",
    "threads",
    "temperature",
    "seed",
    "max_tokens",
    "timeout",
    "persona",
    "overflow",
    "spare",
    "guard",
    "repeat_limit",
    "stall_timeout",
    "journal",
    "markdown",
    "thinking",
    "io",
    "typing_speed",
)


class Parser(argparse.ArgumentParser):
    """Raises UsageError instead of leaving."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, remedy=f"{self.prog} --help lists what there is")


def build() -> Parser:
    parser = Parser(
        prog="bitnet-chat",
        description="Talk to a local BitNet or llama.cpp model. Without a question: a conversation.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("question", nargs="*", default=[], help="answer this and exit")
    parser.add_argument("-V", "--version", action="version", version=f"bitnet-chat {__version__}")
    model = parser.add_argument_group("model and engine")
    model.add_argument("-m", "--model", metavar="FILE", help="a GGUF file (default: the bundled demo model)")
    model.add_argument("--engine", metavar="PATH", help="an engine binary, or a directory with one")
    model.add_argument("--chat-template", metavar="T", help="a name (chatml, llama3, bitnet, …), a file or Jinja text")
    model.add_argument("--system", metavar="TEXT", help="system prompt")
    model.add_argument("-c", "--ctx", type=int, metavar="N", help="tokens of the context window")
    model.add_argument("-t", "--threads", type=int, metavar="N", help="threads of the engine")
    model.add_argument("--temp", "--temperature", dest="temperature", type=float, metavar="X", help="0: no chance")
    model.add_argument("--seed", type=int, metavar="N", help="the same seed, the same reply")
    model.add_argument("-n", "--max-tokens", type=int, metavar="N", help="tokens of one reply")
    model.add_argument("--timeout", type=float, metavar="SECONDS", help="for one reply, loading included")
    model.add_argument("--persona", metavar="NAME", help="system prompt, model and sampling under one name")
    model.add_argument(
        "--overflow",
        choices=("drop-oldest", "summarize", "stop"),
        help="when the conversation outgrows the context window (default: drop-oldest)",
    )
    model.add_argument("--spare", action="store_true", help="keep more engines loaded: /clear, /regen need not wait")
    guard = parser.add_argument_group("replies that do not end")
    guard.add_argument("--no-guard", dest="guard", action="store_false", help="let a model speak as the user")
    guard.add_argument("--repeat-limit", type=int, metavar="N", help="repetitions that stop a reply; 0: off")
    guard.add_argument("--stall-timeout", type=float, metavar="SECONDS", help="without a token; 0: no limit")
    past = parser.add_argument_group("conversations")
    past.add_argument("-C", "--continue", dest="resume_last", action="store_true", help="go on with the last one")
    past.add_argument("--resume", nargs="?", const="", metavar="ID", help="go on with another one; without ID: pick")
    past.add_argument("--no-journal", dest="journal", action="store_false", help="keep nothing of this conversation")
    past.add_argument(
        "-a", "--attachment", action="append", metavar="FILE", help="put a file into the first message (again: more)"
    )
    io = parser.add_argument_group("how it runs")
    io.add_argument("-i", "--interactive", action="store_true", help="converse even when stdin is no terminal")
    io.add_argument("--no-stream", action="store_true", help="print the whole answer at its end")
    io.add_argument("-f", "--file", metavar="FILE", help="the question is in FILE (-: stdin)")
    io.add_argument("--input", metavar="FILE", help="prompts, one JSON object a line (-: stdin)")
    io.add_argument("--output", metavar="FILE", help="replies to --input; a run that was cut short goes on")
    io.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    io.add_argument("--markdown", choices=("auto", "on", "off"), help="styled replies (default: auto, on a terminal)")
    io.add_argument("--thinking", choices=("show", "fold", "hide"), help="what a model thinks before it answers")
    io.add_argument("--io", choices=("auto", "pty", "pipe"), help="how the engine is connected")
    io.add_argument("--typing-speed", type=float, metavar="CPS", help="characters a second with --io pipe; 0: at once")
    return parser


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The flags, and those of them that are settings. Raises UsageError; leaves after ``--help``."""
    arguments = list(arguments)
    extra: list[str] = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, extra = arguments[:at], arguments[at + 1 :]
    flags = build().parse_intermixed_args(arguments)
    settings = {name: getattr(flags, name) for name in _SETTINGS if hasattr(flags, name)}
    if extra:
        settings["engine_args"] = extra
    return flags, settings
