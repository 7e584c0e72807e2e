"""``bitnet-chat``: a conversation, one question, or a file of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_chat import config, paths
from bitnet_chat.cli.parser import parse
from bitnet_chat.errors import UsageError

if TYPE_CHECKING:
    from bitnet_chat.backends import Backend, ReplyOptions


def run(arguments: Sequence[str]) -> int:
    flags, given = parse(arguments)
    settings, configured = config.load(given)
    if hasattr(flags, "input"):
        from bitnet_chat.cli import questions

        _refuse(flags, "--input", ("file", "json", "interactive"), bool(flags.question))
        return _run(questions.answer_file(flags, settings, configured))
    if hasattr(flags, "output"):
        raise UsageError("--output holds the replies to --input; there is no --input", remedy="add --input FILE")
    wanted = flags.question or any(hasattr(flags, name) for name in ("file", "no_stream", "json"))
    if hasattr(flags, "interactive"):
        _refuse(flags, "--interactive", ("file", "json", "no_stream"), bool(flags.question))
    elif wanted or not sys.stdin.isatty():
        from bitnet_chat.cli import questions

        return _run(questions.answer_one(flags, settings, configured))
    return _run(_converse(settings, configured))


def _refuse(flags: argparse.Namespace, flag: str, others: Sequence[str], question: bool) -> None:
    clash = [f"--{name.replace('_', '-')}" for name in others if hasattr(flags, name)]
    if question:
        clash.append("a question")
    if clash:
        raise UsageError(f"{flag} does not go with {' or '.join(clash)}")


def reply_options(settings: config.Settings) -> ReplyOptions:
    from bitnet_chat.backends import ReplyOptions

    return ReplyOptions(max_tokens=settings.max_tokens or None, timeout=settings.timeout or None)


async def _converse(settings: config.Settings, configured: str) -> int:
    from bitnet_chat import repl
    from bitnet_chat.backends.resident import ResidentBackend
    from bitnet_chat.engine.child import pty_is_available

    backend = ResidentBackend(settings, configured)
    paced = settings.io == "pipe" or not pty_is_available()

    def switch_model(name: str) -> Backend:
        return ResidentBackend(replace(settings, model=str(Path(name).expanduser())), configured)

    return await repl.run(
        backend,
        repl.ReplSettings(
            model=backend.model.stem,
            system=settings.system,
            options=reply_options(settings),
            typing_speed=settings.typing_speed if paced else None,
            history_file=paths.data_dir() / "history",
        ),
        switch_model=switch_model,
    )


def _run(main: Coroutine[object, object, int]) -> int:
    """Runs ``main``; SIGTERM and SIGHUP end it in good order, so that no engine is left behind."""
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
