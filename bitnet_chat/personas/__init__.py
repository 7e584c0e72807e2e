"""Personas: system prompt, model and sampling under one name.

A persona is a TOML file ``NAME.toml`` with a ``description`` and any settings but ``persona``. Those in the folder
``personas`` beside ``config.toml`` win over those that come with the program.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_chat import config, paths
from bitnet_chat.errors import UsageError

_SHIPPED = Path(__file__).parent
_NAME = re.compile(r"\w[\w.-]*")  # no path: a persona comes from its folder and from nowhere else


@dataclass(frozen=True, slots=True)
class Persona:
    name: str
    description: str
    values: Mapping[str, Any]
    """Settings by their names, checked."""
    source: Path
    shipped: bool


def folder() -> Path:
    """Where the user's own are."""
    return paths.config_file().parent / "personas"


def find(name: str) -> Persona:
    """The persona of that name. Raises UsageError where there is none, or its file cannot be used."""
    source = _files().get(name) if _NAME.fullmatch(name) else None
    if source is None:
        raise UsageError(
            f"there is no persona {name!r}{config.guess(name, names())}",
            remedy=f"known are: {', '.join(names())}; yours go into {folder()}",
        )
    values = config.read(source, beside=("description",), but=("persona",))
    return Persona(name, values.pop("description", ""), values, source, source.parent == _SHIPPED)


def names() -> list[str]:
    """Of all personas, those with broken files included."""
    return sorted(_files())


def _files() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for place in (_SHIPPED, folder()):
        try:
            found |= {path.stem: path for path in place.glob("*.toml") if _NAME.fullmatch(path.stem)}
        except OSError:  # a folder that may not be read holds none that could be used
            continue
    return found
