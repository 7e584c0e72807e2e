"""What an answer needs and this computer lacks, an engine or a model: installed after one question, or without one."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from bitnet_chat import paths
from bitnet_chat.cli.consent import agrees, can_be_asked
from bitnet_chat.config import Settings
from bitnet_chat.errors import BitnetChatError, EngineNotFound
from bitnet_chat.progress import size
from bitnet_chat.stream.sanitize import visible


@dataclass(frozen=True, slots=True)
class Supply:
    """Something that a verb of this program installs."""

    label: str
    """As a question names it: ``the engine``, ``SmolLM2-135M``."""
    size: int
    """Bytes of the download; 0: not known."""
    command: tuple[str, ...]
    """Behind ``bitnet-chat``."""
    optional: bool = False
    """Without it the bundled model answers."""

    @property
    def described(self) -> str:
        return f"{self.label} ({size(self.size)})" if self.size else self.label


def question(wanted: Sequence[Supply]) -> str:
    verb = "Install" if any(each.command[0] == "engine" for each in wanted) else "Fetch"
    return f"{verb} {' and '.join(each.described for each in wanted)}?"


def provide(settings: Settings, configured: str, *, may_ask: bool) -> int:
    """Installs what is missing, as ``settings.install`` or the user at the terminal says. ``may_ask``: whether this
    command may wait for an answer.

    Gives the exit code of an installation that was interrupted, else 0. What is missing after a refusal is told by the
    error of what needs it. Raises BuildError or ModelError for an installation that failed, unless the bundled model
    can answer instead.
    """
    if settings.install == "no":
        return 0
    wanted = missing(settings, configured)
    if not wanted or not (settings.install == "yes" or (may_ask and _is_attended() and _is_agreed(wanted))):
        return 0
    return next((code for each in wanted if (code := _install(each))), 0)


def _is_attended() -> bool:
    """A terminal of a CI job has no user."""
    return can_be_asked() and not os.environ.get("CI")


def _is_agreed(wanted: Sequence[Supply]) -> bool:
    return agrees(question(wanted), usually=True)


def _install(supply: Supply) -> int:
    verb, *arguments = supply.command
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for what was asked for
            return int(import_module(f"bitnet_chat.cli.{verb}").run(arguments))
    except BitnetChatError as error:
        if not supply.optional:
            raise
        print(f"bitnet-chat: {visible(str(error))}", file=sys.stderr)
        return 0


def missing(settings: Settings, configured: str) -> tuple[Supply, ...]:
    """The engine first. Nothing where another program answers. Raises UsageError for a broken list of models."""
    if settings.backend != "engine" or settings.attach:
        return ()
    model = _model(settings)
    return tuple(each for each in (_engine(settings, configured), model) if each is not None)


def _engine(settings: Settings, configured: str) -> Supply | None:
    from bitnet_chat.engine.find import find, places

    if any(place.named for place in places(settings.engine or None, configured or None)):
        return None
    try:
        find(limit=settings.probe_timeout)
    except EngineNotFound:
        return Supply("the engine", 34_000_000, ("engine", "install"))
    return None


def _model(settings: Settings) -> Supply | None:
    """An entry of the registry that was asked for by name; where none was, the first model to have."""
    from bitnet_chat.models.registry import AUTO, entries, is_name
    from bitnet_chat.models.resolve import find

    name = settings.model
    if name not in ("", AUTO):
        if not is_name(name) or paths.meant(name).exists() or find(name) is not None:
            return None
        entry = entries().get(name)
        return Supply(name, entry.download, ("models", "pull", name)) if entry is not None else None
    from bitnet_chat.models.first import first_model

    first = first_model()
    if first is None or not first.size:  # it is here
        return None
    return Supply(first.name, first.size, ("models", "pull", first.name), optional=True)
