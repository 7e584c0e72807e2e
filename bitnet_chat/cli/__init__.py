"""The command line. One module per verb; each imports its dependencies when it runs."""

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
    "history": "conversations of the journal: list, show, search, export, rm",
    "models": "installed and available models: list, pull, info, rm, verify",
    "config": "settings with their sources: show, path, edit, personas",
    "completion": "completion script for bash, zsh or fish",
    "doctor": "check of engine, model, memory and terminal, with remedies",
    "report": "redacted file for a bug report",
    "replay": "playback of a report or a recording",
    "engine": "engines: list, probe, install, bench",
}
"""Each is the name of a module here: ``run`` takes the arguments behind the verb and gives an exit code, ``parser``
gives the argparse parser that it reads them with. The values are what ``--help`` says."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Errors become messages on stderr, never a traceback."""
    if argv is None:
        _read_utf8()
    _open_streams()
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()  # at exit Python would do so, and tell of what goes wrong in its own words
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as FinishReason.INTERRUPTED
    except BrokenPipeError:
        _close_stdout()  # the reader of stdout has closed it
        return 141  # 128 + SIGPIPE, as a shell reports it
    except OSError as error:  # a full disk behind stdout, a terminal that is gone
        _close_stdout()
        place = f"{error.filename}: " if error.filename else "reading or writing failed: "
        _complain(f"{place}{error.strerror or error}")
        return 2


def _read_utf8() -> None:
    """Read arguments, file names and variables as UTF-8 in any locale. If Python has read them otherwise, the program
    is started again, since only the start can change that.
    """
    once = ["-X", "utf8"]
    is_other = os.name == "posix" and sys.getfilesystemencoding() != "utf-8"
    if is_other and sys.executable and sys.orig_argv[1:3] != once:
        with contextlib.suppress(OSError):  # then it is as it is
            os.execv(sys.executable, [sys.executable, *once, *sys.orig_argv[1:]])


def _run(arguments: list[str]) -> int:
    if arguments in (["--version"], ["-V"]):  # asked for often, by scripts too; needs nothing
        print(f"bitnet-chat {__version__}")
        return 0
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # replies are UTF-8 whatever the locale; file names may hold anything
            reconfigure(encoding="utf-8", errors="backslashreplace")
    from bitnet_chat.errors import BitnetChatError

    try:
        verb = arguments[0] if arguments and arguments[0] in VERBS else "chat"
        run = import_module(f"bitnet_chat.cli.{verb}").run
        return int(run(arguments[1:] if verb in VERBS else arguments))
    except BitnetChatError as error:
        _complain(str(error))
        return error.reason.exit_code


def _complain(text: str) -> None:
    from bitnet_chat.cli.lines import tell
    from bitnet_chat.text.sanitize import visible

    with contextlib.suppress(OSError):
        tell(f"bitnet-chat: {visible(text)}")


def _open_streams() -> None:
    """Replace closed standard streams (``>&-``) by the null device. Otherwise the next file that is opened, such as the
    journal, would get the number of stdout, and an engine would write into it.
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
    """Replace stdout by the null device after a failed write, since Python would repeat that write at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
