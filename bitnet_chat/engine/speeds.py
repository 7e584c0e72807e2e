"""Stored speeds of engines on this computer, measured by ``bitnet-chat engine bench``. Engines are selected by them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from bitnet_chat import paths
from bitnet_chat.models.store import write_json

_PROMPT, _REPLY = 200, 100
"""Tokens of the exchange for which engines are compared."""


@dataclass(frozen=True, slots=True)
class EngineSpeed:
    """Tokens per second."""

    prefill: float
    decode: float

    @property
    def seconds(self) -> float:
        """Seconds for an exchange of _PROMPT and _REPLY tokens."""
        return _PROMPT / self.prefill + _REPLY / self.decode


Speeds = Mapping[tuple[str, str], EngineSpeed]
"""Speeds by the key of an engine (:func:`bitnet_chat.engine.known_answer_results.key`) and the quantization of the
model."""

_FILE, _FORMAT = "speeds.json", 1


def known() -> Speeds:
    """Read the stored speeds. Empty if the file is missing or invalid. Raises nothing."""
    try:
        content = json.loads((paths.data_dir() / _FILE).read_text("utf-8"))
        if content["format"] != _FORMAT:
            return {}
        return {
            (str(key), str(name)): EngineSpeed(float(each["prefill"]), float(each["decode"]))
            for key, speeds in content["engines"].items()
            for name, each in speeds.items()
            if each["prefill"] > 0 and each["decode"] > 0
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def keep(found: Speeds) -> None:
    """Store ``found`` in addition to the known speeds, which it overrides. Raises nothing."""
    engines: dict[str, dict[str, dict[str, float]]] = {}
    for (key, name), speed in {**known(), **found}.items():
        engines.setdefault(key, {})[name] = asdict(speed)
    with contextlib.suppress(OSError):
        paths.data_dir().mkdir(parents=True, exist_ok=True)
        write_json(paths.data_dir() / _FILE, {"format": _FORMAT, "engines": engines})
