"""Identify a binary: run it with ``--help`` and ``--version``, and cache the result."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bitnet_chat import paths
from bitnet_chat.engine import start_errors
from bitnet_chat.engine.binary import MARKS, Dialect, EngineBinary, EngineVariant, HelpOption, HelpOptions, recognise
from bitnet_chat.engine.install import packages
from bitnet_chat.engine.transport import environment
from bitnet_chat.errors import EngineNotFoundError
from bitnet_chat.paths import bundled_model

LIMIT = 5.0
"""Seconds that a binary has for an answer, unless the setting ``probe_timeout`` says otherwise; engines take 10 ms."""
_OUTPUT_LIMIT = 1 << 20
_HEAD = 256
_CACHE_FORMAT = 2
_WANTS_MODEL = re.compile(r"\bmodel\b", re.IGNORECASE)


def probe(path: Path, *, use_cache: bool = True, limit: float | None = None) -> EngineBinary:
    """Identify the program or prebuilt package at ``path``. It is run by that name in the working directory, as for a
    reply.

    ``limit``: seconds for each question, 0 for no limit. Raises EngineNotFoundError for what cannot be run, does not
    answer in time or is something else.
    """
    seconds = LIMIT if limit is None else limit
    if (package := packages.at(path)) is not None:
        return package
    program = _look(path)
    key = _key(program) if use_cache else ""
    known = _from_json(path, _read_cache().get(key)) if key else None
    if known is not None:
        return known
    from bitnet_chat.models.engine_support import libraries, mentioned  # late: what is remembered needs none of it

    # Help first: a program that is not an engine is then not run a second time.
    code, help_text = _ask(program, ["--help"], seconds)
    model = bundled_model()
    if recognise(path, help_text, "") is None and model is not None and _WANTS_MODEL.search(help_text):
        asked = _ask(program, ["--model", str(model), "--help"], seconds)
        code, help_text = asked if recognise(path, asked[1], "") is not None else (code, help_text)
    if recognise(path, help_text, "") is None:
        raise start_errors.of_end(program, code, help_text, libraries(path)) or start_errors.no_engine(
            path, code, help_text
        )
    version = _ask(program, ["--version"], seconds)[1]
    marks = mentioned(path, MARKS) if program.is_native else None
    found = recognise(path, help_text, version, marks)
    assert found is not None
    if key:
        _write_cache(key, found)
    return found


def why_it_ended(path: Path, code: int | None, text: str) -> EngineNotFoundError | None:
    """Why a program that was examined before ended with ``code`` after it printed ``text``, where the model is
    not the cause: a library that is gone, say."""
    from bitnet_chat.models.engine_support import libraries

    with contextlib.suppress(EngineNotFoundError):
        return start_errors.of_end(_look(path), code or 0, text, libraries(path), crashes=False)
    return None


def _look(path: Path) -> start_errors.ProgramName:
    """Raises EngineNotFoundError for anything but a file that may be run."""
    try:
        if path.is_dir():
            raise EngineNotFoundError(f"{path} is a folder, not a program", remedy="give the program in it")
        path.stat()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        why = error.strerror if isinstance(error, OSError) else "its symbolic links form a loop"
        raise EngineNotFoundError(f"{path} does not exist or cannot be read: {why}") from None
    if not path.is_file() or not os.access(path, os.X_OK):
        raise EngineNotFoundError(
            f"{path} is not a program that can be run", remedy="give a llama-cli or llama-completion"
        )
    try:
        with path.open("rb") as file:
            return start_errors.ProgramName(path, file.read(_HEAD))
    except OSError:  # it may be run and not read
        return start_errors.ProgramName(path)


def _key(program: start_errors.ProgramName) -> str:
    """Under what an answer is remembered; empty where it may change while the file does not.

    A script may start another program tomorrow, and what a link of another name leads to may be a launcher that goes by
    the name it was called by.
    """
    real = program.path.resolve()
    if not program.is_native or real.name != program.path.name:
        return ""
    status = real.stat()
    return f"{program.path}|{real}|{status.st_size}|{status.st_mtime_ns}"


def _ask(program: start_errors.ProgramName, words: list[str], seconds: float) -> tuple[int, str]:
    """Exit code and output on both streams. Its own session, so that it cannot use the user's terminal."""

    try:
        process = subprocess.Popen(
            [str(program.path), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(),  # one with a wrong value ends it before it has read --help
            start_new_session=True,
            preexec_fn=_die_with_parent(),
        )
    except OSError as error:
        raise start_errors.of_start(program, error) from None
    try:
        output, _ = process.communicate(timeout=seconds or None)
    except subprocess.TimeoutExpired:
        raise start_errors.no_answer(program.path, words[-1], seconds) from None
    finally:
        _end(process)
    return process.returncode, output[:_OUTPUT_LIMIT].decode("utf-8", "replace")


def _die_with_parent() -> Callable[[], None] | None:
    """Make an unknown program, which may run forever, end with this program."""
    if sys.platform == "win32":
        return None
    else:  # noqa: RET505  # without it the checker takes the rest for dead code on that platform
        from bitnet_chat.engine.transport.preexec import make_preexec

        return make_preexec()


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.stdout is not None
    process.stdout.close()
    process.wait()


def _cache_path() -> Path:
    return paths.cache_dir() / "engines.json"


def _read_cache() -> dict[str, dict[str, object]]:
    try:
        content = json.loads(_cache_path().read_text("utf-8"))
        entries = content["engines"] if content["format"] == _CACHE_FORMAT else {}
        return entries if isinstance(entries, dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # what is not there or not ours is asked again


def _write_cache(key: str, binary: EngineBinary) -> None:
    entry = asdict(binary) | {"path": str(binary.path)}
    path = _cache_path()
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        entries = dict(list(_read_cache().items())[-63:]) | {key: entry}
        temporary.write_text(json.dumps({"format": _CACHE_FORMAT, "engines": entries}), "utf-8")
        temporary.replace(path)
    except OSError:
        return  # a cache that cannot be written costs 20 ms the next time, no more


def _from_json(path: Path, entry: dict[str, object] | None) -> EngineBinary | None:
    try:
        if entry is None:
            return None
        options: Any = entry["options"]
        return EngineBinary(
            path=path,
            dialect=Dialect(str(entry["dialect"])),
            version=str(entry["version"]),
            options=HelpOptions(
                tuple(HelpOption(tuple(map(str, each["names"])), str(each["value"])) for each in options["listed"]),
                tuple((str(name), str(number)) for name, number in options["levels"]),
            ),
            make=EngineVariant(str(entry["make"])),
        )
    except (KeyError, ValueError, TypeError):
        return None
