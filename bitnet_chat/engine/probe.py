"""Identification of an engine file: it is run with ``--help`` and ``--version``, and the result is cached."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from bitnet_chat import paths
from bitnet_chat.engine import start_errors
from bitnet_chat.engine.binary import MARKS, Dialect, EngineBinary, EngineVariant, HelpOption, HelpOptions, recognise
from bitnet_chat.engine.install import packages
from bitnet_chat.engine.prompt_batch import gpus_in
from bitnet_chat.engine.transport import environment
from bitnet_chat.errors import EngineNotFoundError
from bitnet_chat.paths import bundled_model

LIMIT = 5.0
"""Default of the setting ``probe_timeout``: seconds for ``--help`` or ``--version``. Engines take 10 ms."""
_OUTPUT_LIMIT = 1 << 20
"""Maximum number of bytes of output that are parsed."""
_HEAD = 256
"""Number of first bytes of a program that are read."""
_CACHE_FORMAT = 3
_LIST_DEVICES = "--list-devices"
_WANTS_MODEL = re.compile(r"\bmodel\b", re.IGNORECASE)


def probe(path: Path, *, use_cache: bool = True, limit: float | None = None) -> EngineBinary:
    """Identify the program or prebuilt engine at ``path``. A program is run in the current directory, as for a reply.

    ``limit``: seconds for each run; 0: no limit; None: :data:`LIMIT`. Raises EngineNotFoundError if the program cannot
    be run, does not end in time, or is not an engine.
    """
    seconds = LIMIT if limit is None else limit
    if (package := packages.at(path)) is not None:
        return package
    program = _look(path)
    key = _key(program) if use_cache else ""
    known = _from_json(path, _read_cache().get(key)) if key else None
    if known is not None:
        return known
    from bitnet_chat.models.engine_support import libraries, mentioned  # imported here: cached results do not need it

    # --help first, so that a program that is not an engine is run only once.
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
    if found.dialect in (Dialect.MODERN, Dialect.SERVER) and found.has(_LIST_DEVICES):
        with contextlib.suppress(EngineNotFoundError):
            found = replace(found, gpus=gpus_in(_ask(program, [_LIST_DEVICES], seconds)[1]))
    if key:
        _write_cache(key, found)
    return found


def why_it_ended(path: Path, code: int | None, text: str) -> EngineNotFoundError | None:
    """Return the error for an engine that was identified before and has now ended with ``code`` after it printed
    ``text``, if the model is not the reason: such as a library that was removed. Else None.
    """
    from bitnet_chat.models.engine_support import libraries

    with contextlib.suppress(EngineNotFoundError):
        return start_errors.of_end(_look(path), code or 0, text, libraries(path), crashes=False)
    return None


def _look(path: Path) -> start_errors.ProgramFile:
    """Read the first bytes of a program. Raises EngineNotFoundError if it is not an executable file."""
    try:
        if path.is_dir():
            raise EngineNotFoundError(f"{path} is a folder, not a program", remedy="give the program in it")
        path.stat()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        why = error.strerror if isinstance(error, OSError) else "its symbolic links form a loop"
        raise EngineNotFoundError(f"{path} does not exist or cannot be read: {why}") from None
    if not path.is_file() or not os.access(path, os.X_OK):
        raise EngineNotFoundError(
            f"{path} is not a program that can be run", remedy="give a llama-cli or llama-completion"
        )
    try:
        with path.open("rb") as file:
            return start_errors.ProgramFile(path, file.read(_HEAD))
    except OSError:  # executable, but not readable
        return start_errors.ProgramFile(path)


def _key(program: start_errors.ProgramFile) -> str:
    """Return the key of a program in the cache; empty if the result must not be cached, because it can change without
    the file: a script may start another program, and the target of a link with another name may be a launcher that
    depends on its name.
    """
    real = program.path.resolve()
    if not program.is_native or real.name != program.path.name:
        return ""
    status = real.stat()
    return f"{program.path}|{real}|{status.st_size}|{status.st_mtime_ns}"


def _ask(program: start_errors.ProgramFile, words: list[str], seconds: float) -> tuple[int, str]:
    """Run a program. Returns its exit code, and its output on both streams. It has a new session, so that it cannot use
    the terminal. Raises EngineNotFoundError if it cannot be run or does not end in time.
    """
    try:
        process = subprocess.Popen(
            [str(program.path), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(),  # an invalid variable of llama.cpp would end it before --help
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
    """Return the ``preexec_fn`` that makes the program end with this one, because it may run forever."""
    if sys.platform == "win32":
        return None
    else:  # noqa: RET505  # without the else, mypy reports the rest as unreachable for this platform
        from bitnet_chat.engine.transport.preexec import make_preexec

        return make_preexec()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and its process group."""
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
        return {}  # a missing or invalid cache is created again


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
        return  # without a cache the next identification takes 20 ms longer


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
            gpus=None if entry["gpus"] is None else tuple(map(str, cast(list[object], entry["gpus"]))),
        )
    except (KeyError, ValueError, TypeError):
        return None
