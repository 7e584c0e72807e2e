"""The command line. Each verb has a module, which imports its dependencies when it runs: the start stays fast."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from bitnet_chat.version import __version__

VERBS = {
    "serve": "server with the APIs of OpenAI and Ollama, a chat API and a web page",
    "app": "web page in a window of its own, or in the browser",
    "history": "conversations of the journal: list, show, search, export, votes, rm",
    "verify": "repetition of the replies of a conversation, and their differences",
    "models": "installed and available models: list, pull, info, rm, verify",
    "config": "settings with their sources: show, path, edit, personas",
    "completion": "completion script for bash, zsh or fish",
    "doctor": "check of engine, model, memory and terminal, with remedies",
    "report": "redacted file for a bug report",
    "replay": "playback of a report or a recording",
    "engine": "engines: list, probe, install, bench",
}
"""The verbs with their help. Each is the name of a module in this package. Its ``run(arguments)`` takes the arguments
after the verb and returns the exit code; its ``parser()`` returns the parser of these arguments.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Errors become messages on stderr, never a traceback."""
    if argv is None:
        _read_utf8()
    _open_streams()
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()  # an error here is reported below; at exit Python would print its own message
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as FinishReason.INTERRUPTED
    except BrokenPipeError:
        _close_stdout()  # the reader of stdout has closed it
        return 141  # 128 + SIGPIPE, as a shell reports it
    except OSError as error:  # such as a full disk, or a closed terminal
        _close_stdout()
        place = f"{error.filename}: " if error.filename else "reading or writing failed: "
        _print_error(f"{place}{error.strerror or error}")
        return 2


def _read_utf8() -> None:
    """Make Python decode arguments, file names and environment variables as UTF-8 in any locale. The encoding is fixed
    when the interpreter starts, so the program is started again with another option if it is different.
    """
    once = ["-X", "utf8"]
    is_other = os.name == "posix" and sys.getfilesystemencoding() != "utf-8"
    if is_other and sys.executable and sys.orig_argv[1:3] != once:
        with contextlib.suppress(OSError):  # continue with the other encoding
            os.execv(sys.executable, [sys.executable, *once, *sys.orig_argv[1:]])


def _run(arguments: list[str]) -> int:
    if arguments in (["--version"], ["-V"]):  # without the imports below, which scripts would wait for
        print(f"bitnet-chat {__version__}")
        return 0
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # replies are UTF-8 in any locale; file names may contain other bytes
            reconfigure(encoding="utf-8", errors="backslashreplace")
    from bitnet_chat.errors import BitnetChatError

    try:
        verb = arguments[0] if arguments and arguments[0] in VERBS else "chat"
        run = import_module(f"bitnet_chat.cli.{verb}").run
        return int(run(arguments[1:] if verb in VERBS else arguments))
    except BitnetChatError as error:
        _print_error(str(error))
        return error.reason.exit_code


def _print_error(text: str) -> None:
    from bitnet_chat.cli.messages import write_lines
    from bitnet_chat.text.sanitize import visible

    with contextlib.suppress(OSError):
        write_lines(f"bitnet-chat: {visible(text)}")


def _open_streams() -> None:
    """Replace closed standard streams (``>&-``) by the null device. Otherwise the next file that is opened, such as the
    journal, would get the descriptor of stdout, and an engine would write its output to that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                handle = os.open(os.devnull, os.O_RDWR)
                if handle != number:
                    os.dup2(handle, number)
                    os.close(handle)
                setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8"))  # noqa: PTH123, SIM115


def _close_stdout() -> None:
    """Replace stdout by the null device after a failed write, which Python would repeat at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
