"""Installation of a missing engine or model, after one question or without it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from bitnet_chat import paths
from bitnet_chat.cli.lines import tell
from bitnet_chat.cli.prompts import can_prompt, choose, confirm
from bitnet_chat.config import Settings
from bitnet_chat.errors import BitnetChatError, EngineNotFoundError
from bitnet_chat.text.sanitize import visible
from bitnet_chat.util.progress import size

if TYPE_CHECKING:
    from bitnet_chat.models.default_model import DefaultModel


_SMALL = 300_000_000
"""Bytes of a download that takes seconds. Where nothing is asked, the first model is one of these."""
_LARGE = 3_000_000_000
"""Bytes of the largest first model that a question offers."""


@dataclass(frozen=True, slots=True)
class FirstRun:
    """An item to install."""

    label: str
    """As a question names it: ``the engine``, ``smollm2-135m``."""
    size: int
    """Bytes of the download; 0: not known."""
    command: tuple[str, ...]
    """Behind ``bitnet-chat``."""
    optional: bool = False
    """Without it the bundled model answers."""
    smaller: FirstRun | None = None
    """What may be had in its place."""

    @property
    def described(self) -> str:
        return f"{self.label} ({size(self.size)})" if self.size else self.label


def question(wanted: Sequence[FirstRun]) -> str:
    verb = "Install" if any(each.command[0] == "engine" for each in wanted) else "Fetch"
    return f"{verb} {' and '.join(each.described for each in wanted)}?"


def provide(settings: Settings, configured: str, *, may_ask: bool) -> int:
    """Install what is missing, by ``settings.install`` or after confirmation. ``may_ask``: whether this command may
    prompt.

    Returns the exit code of an interrupted installation, else 0. After a refusal the error of the later step reports
    what is missing. Raises BuildError or ModelError for a failed installation, unless the bundled model can be used.
    """
    asks = settings.install == "ask" and may_ask and _is_attended()
    if settings.install == "yes" or asks:
        found = missing(settings, configured, largest=_LARGE if asks else _SMALL)
        wanted = _agreed(found) if found and asks else found
        return next((code for each in wanted if (code := _install(each))), 0)
    return 0


def _is_attended() -> bool:
    """Whether a user is at the terminal: not in a CI job."""
    return can_prompt() and not os.environ.get("CI")


def _agreed(wanted: Sequence[FirstRun]) -> Sequence[FirstRun]:
    """The answer of the user."""
    smaller = next((each.smaller for each in wanted if each.smaller is not None), None)
    if smaller is None:
        return wanted if confirm(question(wanted), usually=True) else ()
    match choose(question(wanted), {"s": smaller.described}):
        case "y":
            return wanted
        case "s":
            return [each.smaller or each for each in wanted]
    return ()


def _install(supply: FirstRun) -> int:
    verb, *arguments = supply.command
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for what was asked for
            return int(import_module(f"bitnet_chat.cli.{verb}").run(arguments))
    except BitnetChatError as error:
        if not supply.optional:
            raise
        tell(f"bitnet-chat: {visible(str(error))}")
        return 0


def missing(settings: Settings, configured: str, *, largest: int) -> tuple[FirstRun, ...]:
    """The missing items, the engine first; empty if another program generates the replies. ``largest``: limit in bytes
    for a model that was not named; the hub is asked only if it could have such a model.

    Raises BuildError if only a compiled engine is possible on this computer, UsageError for an invalid list of models.
    """
    if settings.backend != "engine" or settings.attach:
        return ()
    model = _model(settings, largest)
    package = _package(settings, configured, model.label if model is not None else "")
    engine = _engine(package) if package else None
    return tuple(each for each in (engine, model) if each is not None)


def _engine(name: str) -> FirstRun:
    """The engine to install. Raises BuildError if this computer or this Python has no such prebuilt engine."""
    from bitnet_chat.engine.install import packages, wheels

    package = packages.by_name(name)
    assert package is not None
    label = "the engine" if package is packages.PACKAGES[0] else f"the engine {name}"
    return FirstRun(label, wheels.choose(package, wheels.here()).pin.size, ("engine", "install", name))


def _package(settings: Settings, configured: str, pulled: str) -> str:
    """The missing prebuilt engine; empty if it is installed. ``pulled``: the name of the model that will be fetched
    first.

    A named engine exists, or is a prebuilt one of that name, or cannot be installed.
    """
    from bitnet_chat.engine.discovery import named
    from bitnet_chat.engine.install import packages
    from bitnet_chat.engine.selection import EngineRequest, missing_package
    from bitnet_chat.models.registry import AUTO

    name = settings.engine or os.environ.get("BITNET_CHAT_ENGINE") or configured
    if not name:
        model = pulled or ("" if settings.model == AUTO else settings.model)
        return missing_package(EngineRequest(limit=settings.probe_timeout), model)
    if packages.by_name(name) is not None:
        try:
            named(name)
        except EngineNotFoundError:
            return name
    return ""


def _model(settings: Settings, largest: int) -> FirstRun | None:
    """The entry of the registry that was named, else the default model."""
    from bitnet_chat.models.default_model import first_model
    from bitnet_chat.models.registry import AUTO, entries, is_name
    from bitnet_chat.models.resolve import find, present

    name = settings.model
    if name not in ("", AUTO):
        if not is_name(name) or paths.meant(name).exists() or find(name) is not None:
            return None
        entry = entries().get(name)
        return FirstRun(name, entry.download, ("models", "pull", name)) if entry is not None else None
    if present():
        return None
    best = first_model(limit=largest)
    if best is None or not best.size:
        return None
    small = first_model(limit=_SMALL) if best.size > _SMALL else None
    return _first(best, smaller=_first(small) if small is not None and small.size else None)


def _first(model: DefaultModel, smaller: FirstRun | None = None) -> FirstRun:
    return FirstRun(model.name, model.size, ("models", "pull", model.name), optional=True, smaller=smaller)
