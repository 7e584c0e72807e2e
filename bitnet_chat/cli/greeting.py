"""What the greeting of a conversation says about the model, beside its name."""

from __future__ import annotations

from bitnet_chat import paths
from bitnet_chat.config import Settings
from bitnet_chat.progress import size


def about(model: str) -> list[str]:
    """Lines for the user, at most one. ``model``: its name, which is that of its file."""
    from bitnet_chat.models.first import SMALL, first_model

    bundled = paths.bundled_model()
    if bundled is not None and model == bundled.stem:
        return [_toy(model)]
    first = first_model(ask=False) if model == SMALL and _is_first_time(model) else None
    if first is None or first.better is None:
        return []
    name, bytes, command = first.better
    return [
        f"{model} is a real model, but a small one. A better one that fits here is {name} ({size(bytes)}): {command}"
    ]


def alone(settings: Settings) -> list[str]:
    """For an answer without a greeting: a line where the bundled model gives it, although no model was named."""
    from bitnet_chat.models.resolve import present

    if settings.model or settings.backend != "engine" or settings.attach or settings.install == "no":
        return []
    bundled = paths.bundled_model()
    return [_toy(bundled.stem)] if bundled is not None and not present() else []


def _toy(name: str) -> str:
    from bitnet_chat.models.first import first_model

    first = first_model(ask=False)
    real = f" A real model ({size(first.size)}): bitnet-chat models pull {first.name}" if first and first.size else ""
    return (
        f"{name} answers, a toy of 2 MB for tests and offline use: what it says about this program may be out of date."
        + real
    )


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
