"""``bitnet-chat`` without a verb: a conversation, one question (:mod:`bitnet_chat.cli.questions`), or a file of
them.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bitnet_chat import config, paths
from bitnet_chat.cli.conversion import convert
from bitnet_chat.cli.first_run import provide
from bitnet_chat.cli.greeting import about
from bitnet_chat.cli.parser import parse
from bitnet_chat.errors import BitnetChatError, UsageError

if TYPE_CHECKING:
    from bitnet_chat.backend import Backend
    from bitnet_chat.journal import JournalStore

_Main = Coroutine[object, object, int]


def run(arguments: Sequence[str]) -> int:
    """Run a command line without a verb. Returns the exit code. Raises BitnetChatError, after printing it as an object
    for ``--json``.
    """
    settings = config.Settings()
    try:
        flags, given = parse(arguments)
        settings, configured = config.load(given)
        if settings.attach:
            from bitnet_chat.backends.factory import refuse_for_an_engine

            refuse_for_an_engine(given, settings)
        main_function = _main_function(flags)
        if code := provide(settings, configured, may_ask=not hasattr(flags, "input")):
            return code
        return _run(main_function(flags, settings, configured))
    except BitnetChatError as error:
        _print_failure(arguments, error, settings.model)
        raise


def _print_failure(arguments: Sequence[str], error: BitnetChatError, model: str) -> None:
    """Print the object of ``--json`` for a failure before the reply. ``--json`` is looked up in ``arguments`` because
    they may not have been parsed.
    """
    if "--json" in itertools.takewhile(lambda word: word != "--", arguments):
        from bitnet_chat.batch import failure
        from bitnet_chat.conversation.export import json_text

        print(json_text(failure(error, model) | {"conversation": None, "kept": False}))


def _main_function(flags: argparse.Namespace) -> Callable[[argparse.Namespace, config.Settings, str], _Main]:
    """Return the function of the mode that the flags select. Raises UsageError for flags that cannot be combined."""
    if hasattr(flags, "input"):
        from bitnet_chat.cli.questions import answer_file

        others = ("file", "json", "interactive", "attachment", "resume_last", "resume")
        _refuse(flags, "--input", others, bool(flags.question))
        return answer_file
    if hasattr(flags, "output"):
        raise UsageError("--output requires --input", remedy="add --input FILE")
    wanted = flags.question or any(hasattr(flags, name) for name in ("file", "no_stream", "json"))
    if hasattr(flags, "interactive"):
        _refuse(flags, "--interactive", ("file", "json", "no_stream"), bool(flags.question))
    elif wanted or not sys.stdin.isatty():
        from bitnet_chat.cli.questions import answer_one

        return answer_one
    return _converse


def _refuse(flags: argparse.Namespace, flag: str, others: Sequence[str], question: bool) -> None:
    names = {"resume_last": "continue"}
    clash = [f"--{names.get(name, name).replace('_', '-')}" for name in others if hasattr(flags, name)]
    if question:
        clash.append("a question")
    if clash:
        raise UsageError(f"{flag} cannot be combined with {' or '.join(clash)}")


async def _converse(flags: argparse.Namespace, settings: config.Settings, configured: str) -> int:
    from bitnet_chat import repl
    from bitnet_chat.backends.factory import open_interactive, open_journal, reply_options
    from bitnet_chat.cli.arguments import find_conversation, read_attachments
    from bitnet_chat.cli.tools import offered, toolbox

    journal = open_journal(settings)
    if not await _choose_conversation(flags, journal):
        return 0
    lines: list[str] = []
    resumed = find_conversation(flags, journal, lines.append)
    files = read_attachments(flags, lines.append, stdin_is_taken=True)
    box, allowed = toolbox(flags, settings)
    backend = offered(
        open_interactive(
            settings,
            configured,
            journal,
            advice="commands",
            model=getattr(flags, "model", ""),
            convert=convert,
        ),
        box,
    )
    lines += [*about(settings, backend.status().model), *(each.described() for each in files)]

    def switch_model(name: str) -> Backend:
        return offered(
            open_interactive(settings, configured, journal, advice="commands", model=name, convert=convert), box
        )

    return await repl.run(
        backend,
        repl.ReplSettings(
            model=backend.status().model,
            system=settings.system,
            options=replace(reply_options(settings), tools=box.tools if box is not None else ()),
            typing_speed=settings.typing_speed,
            history_file=paths.data_dir() / "history" if settings.journal else None,
            markdown=settings.markdown,
            thinking=settings.thinking,
            overflow=settings.overflow,
            spare=settings.spare,
            toolbox=box,
            allowed_tools=allowed,
        ),
        notices=lines,
        switch_model=switch_model,
        journal=journal if settings.journal else None,
        resumed=resumed,
        attached=files,
    )


async def _choose_conversation(flags: argparse.Namespace, journal: JournalStore) -> bool:
    """Let the user choose a conversation for ``--resume`` without ID, on a terminal, and store it in ``flags``. Returns
    False if the choice was cancelled. Raises UsageError if the journal is empty.
    """
    if getattr(flags, "resume", None) == "" and sys.stdin.isatty() and sys.stdout.isatty():
        from bitnet_chat.repl.dialogs import pick

        entries = journal.list()
        if not entries:
            raise UsageError("no conversation to continue was found", remedy="start without --resume")
        id = await pick(entries)
        if id is None:
            return False
        flags.resume = str(id)
    return True


def _run(main: _Main) -> int:
    """Run ``main`` and return its exit code. SIGTERM and SIGHUP cancel it, so that engine processes end too."""
    import asyncio
    import contextlib
    import signal

    ended_by: list[int] = []

    async def guarded() -> int:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def end(number: int) -> None:
            ended_by.append(number)
            task.cancel()

        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None:
                with contextlib.suppress(NotImplementedError, RuntimeError):  # Windows has neither
                    loop.add_signal_handler(number, end, int(number))
        return await main

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        return 128 + ended_by[0] if ended_by else 130
