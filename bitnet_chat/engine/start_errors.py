"""Reasons why a program cannot be started or ends at once, from its exit code, output and first bytes.

The functions are pure. :class:`OptionRetry` handles an engine that rejects an option although its ``--help`` lists it:
the cached help may be that of another build, a wrapper script may pass only some options, and a help text may be wrong.
"""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bitnet_chat.engine.binary import NEEDED, EngineBinary
from bitnet_chat.errors import EngineNotFoundError, RefusedFlagError
from bitnet_chat.util.files import is_native_executable

_LIBRARY = re.compile(
    r"error while loading shared libraries: (?P<glibc>[^:\n]+): cannot open shared object"
    r"|Error loading shared library (?P<musl>[^:\n]+): No such file"
    r"|Library not loaded: (?P<dyld>\S+)"
)
_TOO_OLD = re.compile(r"version [`'](?P<version>[A-Z]+_[\d.]+)' not found")
_SYMBOL = re.compile(r"symbol lookup error|Error relocating|Symbol not found")
# STATUS_DLL_NOT_FOUND, STATUS_ENTRYPOINT_NOT_FOUND, STATUS_ILLEGAL_INSTRUCTION
_NO_DLL, _NO_ENTRY, _ILLEGAL = 0xC0000135, 0xC0000139, 0xC000001D
_SIGNALS = {-number: signal.Signals(number).name for number in map(int, signal.Signals)}
_ANOTHER = "give a llama-cli or llama-completion; bitnet-chat engine list shows what was found"
_HERE = "build it on this computer: bitnet-chat engine install --build, or the same build again"
_MOVED = "a build may look for its libraries only at the path where it was built: move it back, build it again, or"


@dataclass(frozen=True, slots=True)
class ProgramFile:
    """A program file. ``head``: its first bytes; empty if it cannot be read."""

    path: Path
    head: bytes = b""

    @property
    def is_native(self) -> bool:
        """Whether it is an executable of this or another platform, and not a script."""
        return is_native_executable(self.head)

    @property
    def interpreter(self) -> str:
        """The interpreter in the first line of a script, with its arguments; empty without one."""
        first = self.head.partition(b"\n")[0]
        return first[2:].decode("utf-8", "replace").lstrip() if first.startswith(b"#!") else ""


def of_start(program: ProgramFile, error: OSError) -> EngineNotFoundError:
    """Return the error for a program that the operating system cannot start."""
    path, why = program.path, error.strerror or str(error)
    if (damaged := _carriage_return(program)) is not None:
        return damaged
    if error.errno == errno.ENOENT and program.interpreter:
        return EngineNotFoundError(
            f"{path} cannot be run: its first line names {program.interpreter.split()[0]}, which does not exist",
            remedy="correct the first line of the script, or install that interpreter",
        )
    if error.errno == errno.ENOENT and program.is_native:
        return EngineNotFoundError(f"{path} cannot be run: the loader that it names does not exist", remedy=_HERE)
    if error.errno == errno.ENOEXEC and program.is_native:
        return EngineNotFoundError(
            f"{path} cannot be run: it was built for another processor or system, or is damaged", remedy=_HERE
        )
    if error.errno == errno.ENOEXEC:
        return EngineNotFoundError(
            f"{path} cannot be run: it is neither a program nor a script with a #! line",
            remedy="put #!/bin/sh in its first line if it is a shell script",
        )
    return EngineNotFoundError(f"{path} cannot be run: {why}", remedy=_ANOTHER)


def of_end(
    program: ProgramFile, code: int, text: str, libraries: Iterable[Path] = (), *, crashes: bool = True
) -> EngineNotFoundError | None:
    """Return the error for a program that has ended with ``code`` (negative: a signal) and printed ``text``; None if
    the reason is unknown.

    ``libraries``: shared libraries that were found near the program. ``crashes``: whether any signal is a reason, or
    only an illegal instruction.
    """
    path, last = program.path, _last_line(text)
    if (damaged := _carriage_return(program)) is not None:
        return damaged
    if match := _LIBRARY.search(text):
        name = next(filter(None, match.groups())).rpartition("/")[2]
        return _without_library(path, name, libraries)
    if code == _NO_DLL:
        return _without_library(path, "a DLL", libraries)
    if match := _TOO_OLD.search(text):
        return EngineNotFoundError(
            f"{path} was built for a newer system: {match['version']} is not available here", remedy=_HERE
        )
    if code == _NO_ENTRY or _SYMBOL.search(text):
        return EngineNotFoundError(
            f"{path} cannot start: one of its libraries is of another version",
            remedy="build it again, or remove other copies of libllama and libggml from the library path",
            detail=last,
        )
    if code in (-signal.SIGILL, 128 + signal.SIGILL, _ILLEGAL):
        return EngineNotFoundError(
            f"{path} uses instructions that this processor does not have (illegal instruction)", remedy=_HERE
        )
    return _of_shell(program, code, last) or (_of_crash(program, code, last) if crashes else None)


def _of_crash(program: ProgramFile, code: int, last: str) -> EngineNotFoundError | None:
    if code < 0 or (code > 128 and -(code - 128) in _SIGNALS):
        name = _SIGNALS.get(code if code < 0 else 128 - code, f"signal {-code}")
        return EngineNotFoundError(f"{program.path} crashed ({name})", remedy=_HERE, detail=last)
    return None


def _of_shell(program: ProgramFile, code: int, last: str) -> EngineNotFoundError | None:
    path = program.path
    if code == 127:
        what = "did not start" if program.is_native else "is a script, and a program that it starts was not found"
        return EngineNotFoundError(f"{path} {what} (exit code 127{_quoted(last)})", remedy=_ANOTHER)
    if code == 126:
        return EngineNotFoundError(
            f"{path} is a script, and a program that it starts cannot be run (exit code 126{_quoted(last)})",
            remedy=_ANOTHER,
        )
    return None


def no_answer(path: Path, flag: str, limit: float) -> EngineNotFoundError:
    """Return the error for a program that has not ended ``limit`` seconds after it was started with ``flag``."""
    return EngineNotFoundError(
        f"{path} did not answer {flag} within {limit:g} s",
        remedy=f"BITNET_CHAT_PROBE_TIMEOUT={limit * 6:g} (probe_timeout in the config file) gives an engine on a slow"
        " drive more time; a program that is not an engine may never answer",
    )


def no_engine(path: Path, code: int, text: str) -> EngineNotFoundError:
    """Return the error for a program whose ``--help`` is not that of an engine. ``code``: its exit code."""
    ended = f", and ends with exit code {code}{_quoted(_last_line(text))}" if code else ""
    return EngineNotFoundError(
        f"{path} runs but is not a llama-cli, llama-completion or BitNet engine{ended}",
        remedy="bitnet-chat engine install installs one; bitnet-chat engine list shows what was found",
    )


def _without_library(path: Path, name: str, libraries: Iterable[Path]) -> EngineNotFoundError:
    folders = dict.fromkeys(str(each.parent) for each in libraries)
    where = f"set LD_LIBRARY_PATH={':'.join(folders)}" if folders else f"set LD_LIBRARY_PATH to the folder of {name}"
    if name.endswith(".dylib"):
        where = where.replace("LD_", "DYLD_")
    if name == "a DLL":
        where = "put its DLL files into its own folder"
    return EngineNotFoundError(f"{path} cannot start: its library {name} was not found", remedy=f"{_MOVED} {where}")


def _carriage_return(program: ProgramFile) -> EngineNotFoundError | None:
    if not program.interpreter.endswith("\r"):
        return None
    return EngineNotFoundError(
        f"{program.path} cannot be run: its lines end as on Windows (a carriage return follows"
        f" {program.interpreter.strip()})",
        remedy=f"sed -i 's/\\r$//' '{program.path}' corrects it",
    )


def _last_line(text: str) -> str:
    return next((line.strip()[:300] for line in reversed(text.splitlines()) if line.strip()), "")


def _quoted(line: str) -> str:
    return f": {line}" if line else ""


_MARK = "[\"'`\u2018\u2019]?"
# Messages of llama.cpp since September 2024, of earlier versions and ik_llama.cpp, and of getopt and other parsers.
_FORMS = tuple(
    re.compile(form.replace("MARK", _MARK), re.IGNORECASE)
    for form in (
        'error while handling argument "([^"]+)"',
        "invalid parameter for argument: (.+)",
        "(?:invalid|unknown|unrecognized|unsupported|unexpected) (?:argument|option|parameter)s?:? MARK(.+?)MARK$",
        "(?:argument|option) MARK(\\S+?)MARK (?:is |was )?not (?:recognized|recognised|known|supported)",
    )
)

_SURE = re.compile(r"^(?:E )?error: (?:invalid|unknown) argument: \S+$")
"""A message about an option that does not occur while a model is loaded."""


@dataclass(frozen=True, slots=True)
class RefusedOption:
    """An option that an engine has rejected. ``word``: the word in its message. ``option``: the option of this program
    that contains it; empty if none does. ``is_users``: the user has given it after ``--``.
    """

    word: str
    option: str = ""
    is_users: bool = False


def refused(
    binary: EngineBinary, ours: Sequence[str], extra: Sequence[str], log: Iterable[str]
) -> RefusedOption | None:
    """Find the rejected option in the log of a process that has ended; None if there is none. ``ours``: the arguments
    of this program; ``extra``: those that the user has given after ``--``. Pure.
    """
    rest = list(ours)
    for line in log:
        match = next(filter(None, (form.search(line) for form in _FORMS)), None)
        if match is None:
            continue
        word = match[1].strip()
        # Options of this program were compared with --help, so an equal option of the user is the likely cause.
        if word in (part for each in extra for part in (each, each.partition("=")[0])):
            return RefusedOption(word, is_users=True)
        while rest:
            option = rest.pop(0)
            values = [rest.pop(0)] if rest and binary.options.takes_value(option) else []
            if word in (option, *values):
                return RefusedOption(word, option)
        return RefusedOption(word) if _SURE.search(line) else None
    return None


class OptionRetry:
    """Decides whether an engine is started again without an option that it has rejected, once for each option.

    ``probe``: identifies the engine again, without the cache. ``notify``: shows a line to the user.
    """

    def __init__(self, probe: Callable[[EngineBinary], EngineBinary], notify: Callable[[str], None]) -> None:
        self._probe, self._notify = probe, notify
        self._refused: set[str] = set()

    def without_refused(
        self, binary: EngineBinary, ours: Sequence[str], extra: Sequence[str], log: Iterable[str]
    ) -> EngineBinary | None:
        """Return the engine without the rejected option, for another start; None if the process has ended for another
        reason. Arguments as for :func:`refused`. Blocks, because the engine is run with ``--help``.

        Raises RefusedFlagError for an option of the user, and EngineNotFoundError for an option that is required or if
        the engine cannot be identified any more.
        """
        refusal = refused(binary, ours, extra, log)
        if refusal is None or (refusal.option and refusal.option in self._refused):
            return None
        if refusal.is_users:
            raise RefusedFlagError(
                f"the engine {binary.path} does not support {refusal.word}, which was given after --",
                remedy=f"leave it out; {binary.path} --help lists its options",
            )
        if not refusal.option:
            raise EngineNotFoundError(
                f"the engine {binary.path} does not support {refusal.word}, which was not passed by bitnet-chat",
                remedy="a script that starts the engine may add it",
            )
        if binary.options.is_spelling(refusal.option, NEEDED):
            raise EngineNotFoundError(
                f"the engine {binary.path} does not support {refusal.option}, which a chat needs",
                remedy="bitnet-chat engine list shows other engines",
            )
        self._refused.add(refusal.option)
        found = self._probe(binary)
        left = found.options.without(self._refused)
        self._notify(f"the engine does not support {refusal.option}: it was examined again and started without it")
        return replace(found, options=left)
