"""Models by name: those of ``registry.toml`` beside this module, and the user's own in ``models.toml``."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from bitnet_chat import config, paths
from bitnet_chat.errors import UsageError
from bitnet_chat.models import memory
from bitnet_chat.models.memory import Shape

Needs = Literal["any", "bitnet"]

AUTO = "auto"
"""Not a name of a model: the choice is ours."""

_TAKEN_ENDS = (".gguf", ".part", ".json", ".lock")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MEASURES = ("layers", "heads", "heads_kv", "head_size", "width", "vocabulary")


@dataclass(frozen=True, slots=True)
class Entry:
    """One model that can be pulled. What is not known is empty, 0 or None. See ``registry.toml`` for the sources."""

    name: str
    title: str = ""
    repo: str = ""
    """``user/repository`` of the hub, together with ``file``; else there is a ``url``."""
    file: str = ""
    revision: str = ""
    url: str = ""
    size: int = 0
    """Bytes, where they are known for certain."""
    size_about: int = 0
    sha256: str = ""
    license: str = ""
    engine: Needs = "any"
    quantization: str = ""
    parameters: str = ""
    context: int = 0
    """Tokens that the model was trained for."""
    shape: Shape = field(default_factory=Shape)
    own: bool = False
    """From the user's file."""

    @property
    def bytes(self) -> int:
        """The size, or nearly so; 0 where nobody says."""
        return self.size or self.size_about

    def memory(self, context: int = 0) -> int | None:
        """Bytes that it will need with a window of ``context`` tokens; None where size or shape are not known."""
        if not self.bytes or not self.shape.heads_kv:
            return None
        return memory.need(self.bytes, self.shape, memory.context_for(self.context, context))


def own_file() -> Path:
    """The user's models: ``models.toml`` beside the settings."""
    return paths.config_file().parent / "models.toml"


def entries() -> dict[str, Entry]:
    """All models by name, in the order of the files; the user's own win. Raises UsageError naming file and key."""
    known = _read(Path(__file__).with_name("registry.toml"), own=False)
    with contextlib.suppress(FileNotFoundError):
        known |= _read(own_file(), own=True)
    return known


def is_name(text: str) -> bool:
    """Whether a model may be called this: no folder, nothing hidden, nothing that a shell or a terminal minds."""
    return _NAME.fullmatch(text) is not None and not text.endswith(_TAKEN_ENDS) and text != AUTO


def _read(path: Path, *, own: bool) -> dict[str, Entry]:
    return {name: _entry(path, name, table, own=own) for name, table in config.toml(path).items()}


def _entry(path: Path, name: str, table: Any, *, own: bool) -> Entry:
    where = f"{path}: [{name}]"
    if not is_name(name):
        raise UsageError(f"{where}: a name is letters, digits, '.', '_' and '-'")
    if not isinstance(table, dict):
        raise UsageError(f"{where}: wants a table with repo and file, or url")
    types = {each.name: each.type for each in fields(Entry) if each.name not in ("name", "own", "shape")}
    given: dict[str, Any] = {}
    for key, value in table.items():
        if key == "shape":
            given[key] = _shape(where, value)
        elif key not in types:
            raise UsageError(f"{where}: there is no key {key!r}", remedy=f"known are: shape, {', '.join(types)}")
        elif types[key] == "int":
            given[key] = _number(f"{where}: {key}", value)
        elif not isinstance(value, str):
            raise UsageError(f"{where}: {key} wants a text, not {value!r}")
        else:
            given[key] = value
    entry = Entry(name, own=own, **given)
    if bool(entry.url) == bool(entry.repo and entry.file):
        raise UsageError(f"{where}: wants either repo and file, or url")
    if entry.sha256 and not _SHA256.fullmatch(entry.sha256):
        raise UsageError(f"{where}: sha256 wants 64 hexadecimal digits, in small letters")
    if entry.engine not in get_args(Needs):
        raise UsageError(f"{where}: engine is one of {', '.join(get_args(Needs))}, not {entry.engine!r}")
    return entry


def _number(where: str, value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 50:
        raise UsageError(f"{where} wants a number above 0, not {value!r}")
    return value


def _shape(where: str, value: Any) -> Shape:
    if not isinstance(value, dict) or set(value) != set(_MEASURES):
        raise UsageError(f"{where}: shape wants {', '.join(_MEASURES)}")
    number = {key: _number(f"{where}: shape.{key}", each) for key, each in value.items()}
    return Shape(
        heads_kv=number["layers"] * number["heads_kv"],
        head_size=2 * number["head_size"],
        heads=number["heads"],
        width=number["width"],
        vocabulary=number["vocabulary"],
    )
