"""Asks a binary what it is: runs it with ``--help`` and ``--version``, and remembers the answer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.engine.binary import Dialect, EngineBinary, recognise
from bitnet_chat.engine.child import environment
from bitnet_chat.errors import EngineNotFound

LIMIT = 5.0
"""Seconds that a binary has for an answer; engines take under 10 ms."""
_OUTPUT_LIMIT = 1 << 20
_CACHE_FORMAT = 1


def probe(path: Path, *, use_cache: bool = True) -> EngineBinary:
    """Raises EngineNotFound for what cannot be run, does not answer in :data:`LIMIT` seconds or is no engine."""
    try:
        real = path.resolve(strict=True)
        status = real.stat()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        why = error.strerror if isinstance(error, OSError) else "its links lead in a circle"
        raise EngineNotFound(f"there is no engine at {path}: {why}") from None
    if not real.is_file() or not os.access(real, os.X_OK):
        raise EngineNotFound(f"{path} is not a program that can be run", remedy="give a llama-cli or llama-completion")
    key = f"{real}|{status.st_size}|{status.st_mtime_ns}"
    cache = _read_cache() if use_cache else {}
    known = _from_json(path, cache.get(key))
    if known is not None:
        return known
    # Help first: a program that is no engine is then not run a second time.
    help_text = _ask(real, "--help")
    found = recognise(path, help_text, "")
    if found is not None:
        found = recognise(path, help_text, _ask(real, "--version"))
    if found is None:
        raise EngineNotFound(
            f"{path} runs but is no llama-cli, llama-completion or BitNet engine",
            remedy="bitnet-chat engine install builds one; bitnet-chat engine list shows what was found",
        )
    if use_cache:
        _write_cache(key, found)
    return found


def _ask(path: Path, flag: str) -> str:
    """What ``path flag`` prints, on either stream. Its own session: it cannot reach the user's terminal."""
    try:
        process = subprocess.Popen(
            [str(path), flag],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_lifeline(),
            env=environment(),  # one with a wrong value ends it before it has read --help
            cwd=path.parent,  # BitNet builds on Windows look for their libraries here
        )
    except OSError as error:
        raise EngineNotFound(f"{path} cannot be run: {error.strerror}") from None
    try:
        output, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        raise EngineNotFound(
            f"{path} did not answer {flag} within {LIMIT:g} s: no engine, or a broken one",
            remedy="give a llama-cli or llama-completion",
        ) from None
    finally:
        _end(process)
    return output[:_OUTPUT_LIMIT].decode("utf-8", "replace")


def _lifeline() -> Callable[[], None] | None:
    """What is asked may be anything, and run for ever: it ends with us all the same."""
    if sys.platform == "win32":
        return None
    else:  # noqa: RET505  # without it the checker takes the rest for dead code on that platform
        from bitnet_chat.engine.child.lifeline import preparer

        return preparer()


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
    entry = asdict(binary) | {"path": str(binary.path), "flags": sorted(binary.flags), "dialect": binary.dialect.value}
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
        flags = entry["flags"]
        assert isinstance(flags, list)
        return EngineBinary(
            path=path,
            dialect=Dialect(str(entry["dialect"])),
            version=str(entry["version"]),
            flags=frozenset(map(str, flags)),
            colour_takes_value=bool(entry["colour_takes_value"]),
        )
    except (KeyError, ValueError, AssertionError):
        return None
