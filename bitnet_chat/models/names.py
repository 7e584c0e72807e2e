"""Names of models: the canonical one, all accepted spellings, and the file names of models in parts.

The name of a model is the one that ``models list`` shows: the file name without ``.gguf`` and without the number of a
part; ``PROGRAM:NAME`` for a model of another program. The name in the header of the file is its title.

Clients write a name in various ways: with ``:latest`` or ``.gguf`` at the end, in upper case, with a colon instead of a
hyphen, or as the URL on the hub. All of them mean the same model, see :func:`key_of`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bitnet_chat.text.sanitize import one_line

_HUB = re.compile(r"(?:https?://)?(?:hf\.co|huggingface\.co)/|hf:")
_QUANTIZATION = re.compile(r"[._-]((?:IQ|Q|TQ)\d\w*|I2_S|BF16|F16|F32)$", re.IGNORECASE)


def name_of(path: Path) -> str:
    """Return the name of the model in a file. Characters that are not UTF-8, or that a terminal would act on, are made
    visible."""
    from bitnet_chat.models import other_programs

    if path.suffix != ".gguf" or other_programs.may_have(path):
        for each in other_programs.found():
            if each.path == path:
                return one_line(each.name)
    return one_line(stem_of(path.name)) or "model"


def key_of(name: str) -> str:
    """Return a key that is equal for all spellings of a name."""
    key = name.strip().casefold()
    hub = _HUB.match(key)
    key = key[hub.end() :] if hub is not None else key
    for end in (":latest", ".gguf"):
        key = key.removesuffix(end)
    key = stem_of(key).replace(":", "-")
    return f"hf:{key}" if hub is not None else key


def keys_of(name: str, path: Path | None = None, origin: str = "") -> Iterator[str]:
    """Yield all keys of a model, the most specific first.

    ``origin``: the source of its file, ``hf:user/repo/file``; for these, the names on the hub count too.
    """
    yield key_of(name)
    if path is not None:
        yield key_of(one_line(path.name))
    if ":" in name:  # a model of another program, whose name can be used without the program
        yield key_of(name.partition(":")[2])
    hub = origin or (_origin_in(path) if path is not None else "")
    if hub.startswith("hf:"):
        yield key_of(hub)
        user, _, rest = hub.removeprefix("hf:").partition("/")
        repo, _, file = rest.partition("@")[0].partition("/")
        if quantization := _QUANTIZATION.search(stem_of(file)):
            yield key_of(f"hf:{user}/{repo}:{quantization[1]}")
        yield key_of(f"hf:{user}/{repo}")


def _origin_in(path: Path) -> str:
    """The origin of a file in the cache of the hub: ``models--user--repo/snapshots/COMMIT/file.gguf``."""
    parts = path.parts
    for at, part in enumerate(parts[:-3]):
        if part.startswith("models--") and parts[at + 1] == "snapshots":
            repo = part.removeprefix("models--").replace("--", "/", 1)
            return f"hf:{repo}/{'/'.join(parts[at + 3 :])}"
    return ""


class ModelNames:
    """Finds models by all their names. An exact name takes precedence over other spellings, and an earlier model over a
    later one."""

    def __init__(self, models: Iterable[tuple[str, Path | None, str]] = ()) -> None:
        """Index the models, given with name, file and origin, see :func:`keys_of`."""
        self._exact: set[str] = set()
        self._by_key: dict[str, str] = {}
        listed = list(models)
        for name, _, _ in listed:
            self._exact.add(name)
            self._by_key.setdefault(key_of(name), name)
        for name, path, origin in listed:
            for key in keys_of(name, path, origin):
                self._by_key.setdefault(key, name)

    def find(self, text: str) -> str | None:
        """Return the name of the model that ``text`` means; None without one."""
        return text if text in self._exact else self._by_key.get(key_of(text))


_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<end>\.gguf.*)?", re.DOTALL)
_MAX_PARTS = 1000


@dataclass(frozen=True, slots=True)
class ModelPart:
    """A file of a model in several files: ``NAME-00001-of-00003.gguf``, as named by ``llama-gguf-split``.

    An engine is given the first part and finds the others in the same directory by these names.
    """

    stem: str
    number: int
    """Counted from 1."""
    count: int
    end: str
    """The rest of the file name: ``.gguf`` with a suffix, or empty."""

    def all(self) -> tuple[str, ...]:
        """Return the file names of all parts, in order."""
        return tuple(f"{self.stem}{suffix(number, self.count)}{self.end}" for number in range(1, self.count + 1))


def part(name: str) -> ModelPart | None:
    """Parse the name of a part, with or without ``.gguf`` and a suffix. Returns None for the name of a whole model."""
    match = _PART.fullmatch(name)
    if match is None:
        return None
    number, count = int(match["number"]), int(match["count"])
    return ModelPart(match["stem"], number, count, match["end"] or "") if 1 <= number <= count <= _MAX_PARTS else None


def suffix(number: int, count: int) -> str:
    """Return the suffix of the stem of a part."""
    return f"-{number:05}-of-{count:05}"


def stem_of(name: str) -> str:
    """Return the name of the model in a file: without ``.gguf`` and without the number of a part."""
    stem = name.removesuffix(".gguf")
    found = part(stem)
    return found.stem if found is not None else stem
