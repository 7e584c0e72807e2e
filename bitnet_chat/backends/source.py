"""Where backends come from, for one who needs several of the same model side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bitnet_chat.backends import Backend


@dataclass(frozen=True, slots=True)
class Source:
    """Backends of one model. Each answers one reply at a time, and each has to be closed by who asked for it.

    What they share, a server process for example, starts with the first of them and ends with the last.
    """

    name: str
    """Of the model, as far as it is known before anything is loaded: ``BackendStatus.model`` says more later."""
    parallel: int
    """So many backends answer at the same time without one waiting for another. More of them may be made."""
    make: Callable[[], Backend]
    path: Path | None = None
    """The file of the model; None where it lies on another computer."""
    context: int = 0
    """Tokens of the window that was asked for; 0: what the model was trained for, at most 8192."""
    shared: bool = False
    """Whether one process answers for all of them: each tells of the memory and the restarts of that one."""
    chat_template: str = ""
    """What was asked for in place of the model's own: a name, a file, or a text."""
    origin: str = ""
    """Where the file came from, ``hf:user/repo/file``; empty where that is not known."""

    def backend(self) -> Backend:
        """One more. Starts nothing. Raises EngineNotFound, ModelError or UsageError for what is seen to be missing."""
        return self.make()
