"""Speeds of engines on this computer, as measured by ``bitnet-chat engine bench``, by build and type."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from bitnet_chat import paths
from bitnet_chat.models.store import write_json


@dataclass(frozen=True, slots=True)
class EngineSpeed:
    """Tokens a second."""

    prefill: float
    decode: float

    @property
    def seconds(self) -> float:
        """Seconds for a usual exchange."""
        return _PROMPT / self.prefill + _REPLY / self.decode


Speeds = Mapping[tuple[str, str], EngineSpeed]
"""Speeds by the key of an engine (:func:`bitnet_chat.engine.answer_verdicts.key`) and the quantization of the model."""

_FILE, _FORMAT = "speeds.json", 1


def known() -> Speeds:
    """Raises nothing."""
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
    """Beside what is known already."""
    engines: dict[str, dict[str, dict[str, float]]] = {}
    for (key, name), speed in {**known(), **found}.items():
        engines.setdefault(key, {})[name] = asdict(speed)
    with contextlib.suppress(OSError):
        paths.data_dir().mkdir(parents=True, exist_ok=True)
        write_json(paths.data_dir() / _FILE, {"format": _FORMAT, "engines": engines})


_PROMPT = 200


_REPLY = 100
"""Tokens of the exchange for which engines are compared."""
