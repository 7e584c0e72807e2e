"""Detection of an engine log in the output, where the replies should be. Pure.

Formats of the log of llama.cpp from 2023 to 2026, BitNet 2024 and ik_llama.cpp:

- plain: ``llama_model_loader: loaded meta data``, ``main: llama backend init``, ``system_info: n_threads = 2``;
- with ``--log-prefix``: ``I llama_completion: llama backend init``, ``I cmn  common_init_: fitting params``;
- with ``--log-timestamps``: ``0.00.002.313 I llama_completion: llama backend init``, coloured or not;
- with ``--log-jsonl``, and in servers of 2023 and 2024: ``{"type":"log","time":0,"level":"info","msg":"…"}``.

A single line of this form may come from a wrapper script, and is harmless; a log has many.
"""

from __future__ import annotations

import re

ENOUGH = 3
"""Number of lines from which they count as a log. Engines write more than ten before their first prompt."""
_LONGEST = 1 << 12
"""Maximum length of a line that is examined, in characters."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TIMESTAMP = r"\d+\.\d\d\.\d{3}\.\d{3} (?:[DIWE](?: |$))?"
# A function of llama.cpp or ggml, or another subject with which lines begin.
_SUBJECT = (
    r"(?:(?:llama|llm|ggml|gguf|common|clip|mtmd|sched|graph|print|load|set|create|init|kv|n|dry|repeat)_\w*"
    r"|~?[a-z]\w*_[a-z]\w*|cmn|srv|slot|que|res|spec|load|main|build|generate|system_info|print_info|sampler\w*|warmup"
    r"|Log|Device \d+|BLAS)"
)
_TEXT = re.compile(rf"(?:{_TIMESTAMP}.*|(?:[DIWE] )?{_SUBJECT}(?: +[\w~]+){{0,3}} ?[:=](?: |$).*|Log start$)")
_JSON = re.compile(r'\{"(?=.*"level": ?").*')


def is_json(line: str) -> bool:
    """Return whether a line contains a JSON object of a log."""
    return _JSON.search(line) is not None


def log_line(text: str) -> str:
    """Return the first line of ``text`` that has the form of a log line; empty if none has."""
    for raw in text.replace("\r", "\n").split("\n"):
        line = _COLOUR.sub("", raw)
        # JSON may follow text of the console in the same line, such as "Loading model... ".
        if _TEXT.fullmatch(line) or is_json(line):
            return line[line.find("{") :] if is_json(line) else line
    return ""


class LogDetector:
    """Detects a log in the output before the first prompt. The output may be fed in pieces of any length."""

    def __init__(self) -> None:
        self._open = ""
        self._count = 0
        self._first = ""

    def feed(self, text: str) -> str:
        """Add output. Returns the first line of the log if at least ENOUGH lines were found, else an empty text."""
        *lines, self._open = (self._open + text).replace("\r", "\n").split("\n")
        self._open = self._open[:_LONGEST]
        for line in lines:
            if found := log_line(line):
                self._first = self._first or found
                self._count += 1
        return self._first if self._count >= ENOUGH else ""
