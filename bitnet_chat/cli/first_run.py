"""Installation of a missing engine or model before a verb runs, after one question or without it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module

from bitnet_chat.cli.messages import can_prompt, choose, confirm, write_lines
from bitnet_chat.config import Settings
from bitnet_chat.errors import BitnetChatError, BuildError
from bitnet_chat.requirements import LARGE, SMALL, Requirement, engine_requirement, find_missing, missing_engine
from bitnet_chat.text.sanitize import visible
from bitnet_chat.util.progress import size

_VERBS = {"engine": ("engine", "install"), "model": ("models", "pull")}
"""The verb that installs each kind of requirement."""


def question(wanted: Sequence[Requirement]) -> str:
    """Return the question whether to install ``wanted``."""
    verb = "Install" if any(each.kind == "engine" for each in wanted) else "Fetch"
    return f"{verb} {' and '.join(each.described for each in wanted)}?"


def provide(settings: Settings, configured: str, *, may_ask: bool) -> int:
    """Install a missing engine and model, as ``settings.install`` allows: without a question, after confirmation, or
    not at all. ``may_ask``: whether the verb may ask questions.

    Returns the exit code of an interrupted installation, else 0, also after a refusal: then a later step fails and
    reports what is missing. Raises BuildError or ModelError for a failed installation, unless the bundled model can be
    used.
    """
    asks = settings.install == "ask" and may_ask and _is_attended()
    if settings.install == "yes" or asks:
        found = find_missing(settings, configured, largest=LARGE if asks else SMALL)
        wanted = _agreed(found) if found and asks else found
        return next((code for each in wanted if (code := _install(each))), 0)
    return 0


class EngineOffer:
    """The engine of a model that is pulled: offered once, before the download if it is known then, else after it."""

    def __init__(self, label: str, settings: Settings, configured: str) -> None:
        """``label``: name of the model. ``configured``: the engine of the config file."""
        self._label, self._settings, self._configured = label, settings, configured
        self._was_offered = self._is_unavailable = False

    def provide(self, model: str) -> int:
        """Install the missing engine, as the mode allows. ``model``: a file, or a name of the registry. Returns the
        exit code of an interrupted installation, else 0, also after a refusal or a failure, which is reported."""
        package = self._missing(model)
        if not package or self._was_offered:
            return 0
        self._was_offered, mode = True, self._settings.install
        if mode == "no":
            return 0
        try:
            needed = engine_requirement(package)
        except BuildError as error:
            self._is_unavailable = True
            write_lines(f"bitnet-chat: {visible(str(error))}")
            return 0
        if mode == "ask":
            question = f"{self._label} needs {needed.label}. Install it ({size(needed.size)})?"
            if not (_is_attended() and confirm(visible(question), usually=True)):
                return 0
        return _install(replace(needed, optional=True))

    def describe(self, model: str) -> str:
        """Return a line about the engine if it is still missing, else an empty text."""
        from bitnet_chat.engine.install import packages
        from bitnet_chat.engine.selection import missing

        package = packages.by_name(self._missing(model))
        if package is None or self._is_unavailable:
            return ""
        error = missing(package, self._label)
        return f"{error.what}: {error.remedy}"

    def _missing(self, model: str) -> str:
        """Return the name of the missing engine. The default engine is offered when a chat begins."""
        from bitnet_chat.engine.install import packages

        package = missing_engine(self._settings, self._configured, model)
        return package if package != packages.PACKAGES[0].name else ""


def _is_attended() -> bool:
    """Return whether questions can be asked: on a terminal, and not in a CI job."""
    return can_prompt() and not os.environ.get("CI")


def _agreed(wanted: Sequence[Requirement]) -> Sequence[Requirement]:
    """Ask the user. Returns the requirements to install: all, those with a smaller model, or none."""
    smaller = next((each.smaller for each in wanted if each.smaller is not None), None)
    if smaller is None:
        return wanted if confirm(question(wanted), usually=True) else ()
    match choose(question(wanted), {"s": smaller.described}):
        case "y":
            return wanted
        case "s":
            return [each.smaller or each for each in wanted]
    return ()


def _install(supply: Requirement) -> int:
    verb, action = _VERBS[supply.kind]
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the result of the verb
            more = ["--without-engine"] if supply.kind == "model" else []  # the engine was decided before
            return int(import_module(f"bitnet_chat.cli.{verb}").run([action, supply.name, *more]))
    except BitnetChatError as error:
        if not supply.optional:
            raise
        write_lines(f"bitnet-chat: {visible(str(error))}")
        return 0
