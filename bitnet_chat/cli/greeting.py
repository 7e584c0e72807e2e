"""What the greeting of a conversation says about the model, beside its name."""

from __future__ import annotations

from bitnet_chat import paths
from bitnet_chat.config import Settings
from bitnet_chat.progress import size


def about(model: str) -> list[str]:
    """Lines for the user, at most one. ``model``: its name, which is that of its file."""
    from bitnet_chat.models import first, memory
    from bitnet_chat.models.registry import entries

    if model == _bundled():
        return [_toy(model)]
    known = entries()
    if model not in known:
        return []
    instead = first.better(known, memory.available(), first.disk_free())
    line = first.remark(known[model], instead)
    return [line] if line and _is_first_time(model) else []


def alone(settings: Settings) -> list[str]:
    """For an answer without a greeting: a line where the bundled model gives it, although no model was named."""
    from bitnet_chat.models.resolve import present

    named = settings.model or settings.backend != "engine" or settings.attach
    if named or settings.install == "no" or present():
        return []
    name = _bundled()
    return [_toy(name)] if name else []


def _bundled() -> str:
    """The name of the bundled model; empty where there is none."""
    path = paths.bundled_model()
    return path.stem if path is not None else ""


def _toy(name: str) -> str:
    from bitnet_chat.models.registry import entries

    said = (
        f"{name} answers, a toy of 2 MB for tests and offline use: what it says about this program may be out of date."
    )
    real = next((each for each in entries().values() if each.first and each.wheel), None)
    if real is None:
        return said
    return f"{said} A real model ({size(real.download)}): bitnet-chat models pull {real.name}"


def _is_first_time(model: str) -> bool:
    """Whether nothing was said about this model in a greeting before; also where that cannot be kept."""
    told = paths.data_dir() / "greeted" / model
    try:
        told.parent.mkdir(parents=True, exist_ok=True)
        told.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        pass
    return True
