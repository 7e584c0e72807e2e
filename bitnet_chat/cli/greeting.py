"""Notes about the model in the greeting of a conversation."""

from __future__ import annotations

from bitnet_chat import paths
from bitnet_chat.config import Settings
from bitnet_chat.util.progress import size

_SMALL = 300_000_000
"""Bytes of a file below which a model is worth a word about better ones."""


def about(settings: Settings, model: str) -> list[str]:
    """At most one line for the user. ``model``: its name, which is that of its file."""
    from bitnet_chat.models import default_model
    from bitnet_chat.models.registry import entries
    from bitnet_chat.util import resources

    if settings.attach or settings.backend not in ("engine", "llama-server"):
        return []
    if model == _bundled():
        return [_toy(model)]
    known = entries()
    if model not in known or not 0 < known[model].bytes < _SMALL or not _is_first_time(model):
        return []
    said = f"{known[model].title or model} is a small model ({size(known[model].bytes)})."
    instead = default_model.better(known, resources.available(), default_model.disk_free())
    return [
        said if instead is None else f"{said} {instead.name} ({size(instead.size)}) answers better: {instead.command}"
    ]


def alone(settings: Settings) -> list[str]:
    """A line for an answer without a greeting, if the bundled model is used without ``-m``."""
    from bitnet_chat.models.resolve import present

    named = settings.model or settings.backend != "engine" or settings.attach
    if named or settings.install == "no" or present():
        return []
    name = _bundled()
    return [_toy(name)] if name else []


def _bundled() -> str:
    """The name of the bundled model; empty without one."""
    path = paths.bundled_model()
    return path.stem if path is not None else ""


def _toy(name: str) -> str:
    from bitnet_chat.models.registry import entries

    said = (
        f"{name} is in use, a demo model of 2 MB for tests and offline use;"
        " its answers about this program may be out of date."
    )
    real = next((each for each in entries().values() if each.first and each.wheel), None)
    if real is None:
        return said
    return f"{said} A full model ({size(real.download)}): bitnet-chat models pull {real.name}"


def _is_first_time(model: str) -> bool:
    """Whether this model has not been in a greeting before; also True if that cannot be stored."""
    told = paths.data_dir() / "greeted" / model
    try:
        told.parent.mkdir(parents=True, exist_ok=True)
        told.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        pass
    return True
