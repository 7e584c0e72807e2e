"""Notes about a small or bundled model, at the beginning of a conversation or an answer."""

from __future__ import annotations

from bitnet_chat import paths
from bitnet_chat.config import Settings
from bitnet_chat.util.progress import size

_SMALL = 300_000_000
"""Size of a model file in bytes below which the greeting names a better model."""


def about(settings: Settings, model: str) -> list[str]:
    """Return the note for a conversation, at most one line: for the bundled model always, for another small model the
    first time. ``model``: the name of the model, that of its file.
    """
    from bitnet_chat.models import default_model
    from bitnet_chat.models.registry import entries
    from bitnet_chat.util import resources

    if settings.attach or settings.backend not in ("engine", "llama-server"):
        return []
    if model == _bundled():
        return [_demo_model_note(model)]
    known = entries()
    if model not in known or not 0 < known[model].bytes < _SMALL or not _is_first_time(model):
        return []
    said = f"{known[model].title or model} is a small model ({size(known[model].bytes)})."
    instead = default_model.better(known, resources.available(), default_model.disk_free())
    return [
        said if instead is None else f"{said} {instead.name} ({size(instead.size)}) answers better: {instead.command}"
    ]


def alone(settings: Settings) -> list[str]:
    """Return the note for a single answer, at most one line: if the bundled model is used because no other one is
    installed.
    """
    from bitnet_chat.models.resolve import present

    named = settings.model or settings.backend != "engine" or settings.attach
    if named or settings.install == "no" or present():
        return []
    name = _bundled()
    return [_demo_model_note(name)] if name else []


def _bundled() -> str:
    """Return the name of the bundled model; empty if the installation has none."""
    path = paths.bundled_model()
    return path.stem if path is not None else ""


def _demo_model_note(name: str) -> str:
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
    """Return whether a greeting names this model for the first time, and store that. Also True if it cannot be
    stored.
    """
    marker = paths.data_dir() / "greeted" / model
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        pass
    return True
