"""Tab completion on the prompt: commands, their arguments, and files after ``@`` and ``/file``.

Folders are read in a thread with a time limit, because one may be on an unresponsive file system.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
import re
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import get_args

from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition

from bitnet_chat.attachments.attachment import quoted, unfinished
from bitnet_chat.repl import commands
from bitnet_chat.repl.commands import FORMATS, ThinkingMode
from bitnet_chat.text.sanitize import one_line
from bitnet_chat.util.threads import run_in_daemon_thread

FOLDER_TIMEOUT = 2.0
"""Seconds within which a folder must be read."""
_THREADS = 4
"""Maximum number of threads that read folders; while all are busy, completion is empty."""
_MAX_ENTRIES = 20_000
"""Maximum number of entries that are read from one folder."""
_MAX_CANDIDATES = 200
"""Maximum number of entries that are offered."""
_COMMAND = re.compile(r"/([A-Za-z]+)\s+(.*)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ArgumentKind:
    """How the argument of a command is completed."""

    words: Callable[[], Mapping[str, str]] = dict
    """Returns the possible first words, each with its description."""
    paths: bool = False
    """Whether the argument is a path, or a path follows the first word."""
    several: bool = False
    """Whether the argument is a list of paths separated by spaces; a path that contains a space is quoted."""
    endings: tuple[str, ...] = ()
    """Suffixes of the offered files; empty: any."""


ARGUMENTS: Mapping[str, ArgumentKind] = {
    "file": ArgumentKind(paths=True, several=True),
    "save": ArgumentKind(paths=True),
    "export": ArgumentKind(words=lambda: dict.fromkeys(FORMATS, ""), paths=True),
    "model": ArgumentKind(paths=True, endings=(".gguf",)),
    "compare": ArgumentKind(paths=True, endings=(".gguf",)),
    "thinking": ArgumentKind(words=lambda: dict.fromkeys(get_args(ThinkingMode), "")),
}


class LineCompleter(Completer):
    """Completes the input line. ``arguments``: the argument of each command, by its name."""

    def __init__(self, arguments: Mapping[str, ArgumentKind] = ARGUMENTS) -> None:
        self._arguments = arguments
        self._threads = threading.Semaphore(_THREADS)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if is_command(text):
            match = _COMMAND.match(text)
            if match is None:
                if document.is_cursor_at_the_end:
                    for name, help in commands.complete(text):
                        yield Completion(name, start_position=-len(text), display_meta=help)
            elif match[1].lower() in self._arguments:
                yield from self._of_argument(self._arguments[match[1].lower()], match[2])
        elif (mention := unfinished(text)) is not None:
            yield from _quoted_paths(text, mention.start, "@", mention.path, mention.in_quotes)

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        if not self._threads.acquire(blocking=False):
            return

        def work() -> list[Completion]:
            try:
                return list(self.get_completions(document, complete_event))
            finally:
                self._threads.release()

        with contextlib.suppress(TimeoutError):
            for completion in await asyncio.wait_for(run_in_daemon_thread(work), FOLDER_TIMEOUT):
                yield completion

    def _of_argument(self, argument: ArgumentKind, text: str) -> Iterator[Completion]:
        words = argument.words()
        if argument.several:
            last = unfinished(text, "")
            if last is not None:
                yield from _quoted_paths(text, last.start, "", last.path, last.in_quotes)
            return
        for word, meaning in words.items():
            if word.startswith(text):
                yield Completion(word, start_position=-len(text), display_meta=meaning)
        word, blank, rest = text.partition(" ")
        if argument.paths and (not words or (blank and word in words)):
            path_typed = rest if words else text
            for path, name in listed(path_typed, argument.endings):
                yield Completion(path, start_position=-len(path_typed), display=name)


def is_command(text: str) -> bool:
    """Return whether the line typed so far is a command. Other lines may contain ``@path``."""
    return re.fullmatch(r"/([A-Za-z]*|\?)(\s.*)?", text, re.DOTALL) is not None


@Condition
def typing_a_mention() -> bool:
    """Return whether the cursor is in an ``@path``: only there completions appear without Tab."""
    text = get_app().current_buffer.document.text_before_cursor
    return not is_command(text) and unfinished(text) is not None


def _quoted_paths(text: str, start: int, sign: str, typed: str, in_quotes: bool) -> Iterator[Completion]:
    for path, name in listed(typed):
        if in_quotes or re.search(r"[\s\"'\\]", path):
            written = f'"{quoted(path)}' + ("" if path.endswith("/") else '"')
        else:
            written = path
        yield Completion(sign + written, start_position=start - len(text), display=name)


def listed(typed: str, endings: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Return the paths that complete ``typed``, each with its last component; folders end with ``/``.

    Hidden entries are included only if the typed name begins with a dot. Names that would be displayed changed
    (control characters) are left out. ``endings``: suffixes of the files to include; empty: all.
    """
    last = os.path.basename(typed)  # noqa: PTH119 -- Path would drop a slash at the end
    before = typed[: len(typed) - len(last)]
    wanted = last.casefold()

    def names() -> Iterator[str]:
        with os.scandir(Path(before or ".").expanduser()) as entries:
            for entry in islice(entries, _MAX_ENTRIES):
                name = entry.name
                if not name.casefold().startswith(wanted) or name.startswith(".") > last.startswith("."):
                    continue
                if one_line(name) != name:
                    continue
                with contextlib.suppress(OSError):  # a link whose target cannot be examined
                    if entry.is_dir():
                        yield f"{name}/"
                    elif not endings or name.lower().endswith(endings):
                        yield name

    try:
        found = heapq.nsmallest(_MAX_CANDIDATES, names(), key=lambda name: (name.casefold(), name))
    except (OSError, RuntimeError, ValueError):  # RuntimeError: ~ of an unknown user; ValueError: a NUL in the path
        return []
    return [(before + name, name) for name in found]
