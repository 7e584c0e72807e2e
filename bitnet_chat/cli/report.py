"""``bitnet-chat report``: one redacted file for a bug report."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import platform
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from bitnet_chat import config, paths
from bitnet_chat.cli.doctor import effective
from bitnet_chat.cli.parser import Parser
from bitnet_chat.errors import BitnetChatError
from bitnet_chat.text.sanitize import one_line
from bitnet_chat.trace import format, recorder
from bitnet_chat.trace.conversation_masking import engine_arguments, mask, mask_session
from bitnet_chat.trace.format import TraceEntry, TraceEntryKind
from bitnet_chat.trace.playback import option
from bitnet_chat.trace.secret_redaction import Redactor
from bitnet_chat.util.files import write_exclusive

FORMAT = 1
"""The version of the file format."""
_SECRET_VARIABLES = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")


def parser() -> Parser:
    """See :data:`bitnet_chat.cli.VERBS`."""
    parser = Parser(
        prog="bitnet-chat report",
        description="One file for a bug report: versions, settings, the findings of doctor, and all bytes of the last"
        " session with their timings. Names, home directories and keys are removed, and without --with-text"
        " all text of the conversation is masked.",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="output file (-: stdout; default: a new file in the current directory)"
    )
    parser.add_argument("--with-text", action="store_true", help="no masking of the text of the conversation")
    parser.add_argument("--session", type=int, default=1, metavar="N", help="1: the last session, 2: the one before it")
    parser.add_argument("--force", action="store_true", help="replacement of an existing file")
    return parser


def run(arguments: Sequence[str]) -> int:
    """See :data:`bitnet_chat.cli.VERBS`. Raises UsageError."""
    flags = parser().parse_args(arguments)
    entries = _recorded(flags.session)
    redactor = of_this_user()
    lines = [
        json.dumps(line)
        for line in _about(redactor, entries, with_text=flags.with_text, session=flags.session if entries else None)
    ]
    lines += format.to_lines(mask_session(entries, redactor, with_text=flags.with_text))
    text = "\n".join([*lines, ""])
    if flags.output == "-":
        sys.stdout.write(text)
        return 0
    path = paths.expand(flags.output or f"bitnet-chat-report-{datetime.now(UTC):%Y%m%d-%H%M%S}.jsonl")
    write_exclusive(path, text, force=flags.force)
    for line in _summary(path, text, entries, with_text=flags.with_text):
        print(line)
    return 0


def _recorded(number: int) -> list[TraceEntry]:
    """Read a recorded session. Returns an empty list if none was recorded: the rest of the report is useful without
    it.
    """
    if number == 1 and not recorder.sessions():
        return []
    return recorder.read(recorder.session(number))


def of_this_user() -> Redactor:
    """Return a redactor for the names of the user and the computer, the home directories, and the known secrets."""
    home = paths.home()
    homes, users = ([str(home), str(home.resolve())], [home.name]) if home is not None else ([], [])
    for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER"):
        users += [os.environ[name]] if os.environ.get(name) else []
    with contextlib.suppress(KeyError, OSError, ImportError):  # the user id has no name
        users.append(getpass.getuser())
    hosts = [name for host in (socket.gethostname(), platform.node()) for name in (host, host.partition(".")[0])]
    return Redactor(homes=[home for home in homes if len(home) > 1], users=users, hosts=hosts, secrets=_secrets())


def _secrets() -> list[str]:
    """Return the known keys: those of the settings file, even if other values in it are invalid, and of the
    environment.
    """
    found: list[object] = [value for name, value in os.environ.items() if name.endswith(_SECRET_VARIABLES)]
    with contextlib.suppress(BitnetChatError, OSError):
        values = config.toml(paths.config_file())
        found += [values.get(name) for name in config.SECRET]
    return [str(each) for each in found if each]


def _about(
    redactor: Redactor, entries: Sequence[TraceEntry], *, with_text: bool, session: int | None
) -> Iterator[dict[str, object]]:
    """Return the lines before those of the session, as objects with ``t`` and ``kind``: versions, settings,
    findings.
    """
    from bitnet_chat.doctor.checks import CheckOptions, run_checks
    from bitnet_chat.doctor.environment import versions

    settings, configured, problem = effective({})
    yield {
        "t": 0,
        "kind": "report",
        "format": FORMAT,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "words": "readable" if with_text else "masked",
        "session": session,
    }
    yield {"t": 0, "kind": "versions", "versions": redactor.value(versions())}
    values = asdict(settings) | {name: "<secret>" for name in config.SECRET if getattr(settings, name)}
    if not with_text:
        values["system"] = mask(settings.system)
        values["engine_args"] = engine_arguments(settings.engine_args)
        values["chat_template"] = (
            mask(settings.chat_template) if "{" in settings.chat_template else settings.chat_template
        )
    values["engine_args"] = redactor.arguments(values["engine_args"])
    yield {"t": 0, "kind": "settings", "settings": redactor.value(values), "problem": redactor.text(problem)}
    for finding in run_checks(CheckOptions(of_session(settings, entries), configured, problem, sweep=False)):
        yield {"t": 0, "kind": "finding"} | {key: redactor.value(value) for key, value in finding.as_json().items()}


def of_session(settings: config.Settings, entries: Sequence[TraceEntry]) -> config.Settings:
    """Return ``settings`` with the engine, model, context window and threads of the last engine process of a session,
    the likely subject of a report; unchanged if no engine was recorded.
    """
    argv = next((entry.argv for entry in reversed(entries) if entry.kind is TraceEntryKind.SPAWN and entry.argv), ())
    if not argv:
        return settings
    folder = next((str(entry.facts.get("folder", "")) for entry in entries if entry.kind is TraceEntryKind.ABOUT), "")
    engine, model = (str(Path(folder, name)) if name else "" for name in (argv[0], option(argv, "--model")))
    ctx, threads = option(argv, "--ctx-size"), option(argv, "--threads")
    return replace(
        settings,
        backend="engine",
        attach="",
        rpc="",
        engine=engine,
        model=model,
        ctx=int(ctx) if ctx.isdecimal() else settings.ctx,
        threads=int(threads) if threads.isdecimal() else settings.threads,
    )


def _summary(path: Path, text: str, entries: list[TraceEntry], *, with_text: bool) -> Iterator[str]:
    """Return the lines that describe the written file."""
    yield one_line(f"{path}: {len(text.encode()) / 1000:,.0f} kB")
    yield "  versions, settings, and the findings of bitnet-chat doctor"
    if entries:
        messages = sum(entry.kind is TraceEntryKind.IN for entry in entries)
        engines = sum(entry.kind is TraceEntryKind.SPAWN and not entry.facts.get("again") for entry in entries)
        began = str(entries[0].facts.get("began", ""))[:16].replace("T", " ")
        words = "readable, because of --with-text" if with_text else "masked; --with-text leaves it readable"
        yield "  " + one_line(
            f"the session of {began} UTC: {messages} messages, {engines} engine starts, all bytes with timings"
        )
        yield f"  the text of the conversation is {words}"
    else:
        yield "  no session: nothing was recorded, or the journal is off"
    yield "  names, home directories, e-mail addresses and keys were removed as far as they can be recognized"
    yield "Check this text file before you send it. To show the bytes in it:"
    yield "  " + one_line(f"bitnet-chat replay --raw --speed 0 {path}")
