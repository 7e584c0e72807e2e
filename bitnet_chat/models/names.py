"""Names of a model: the canonical one, and all accepted spellings.

A model has the name under which ``models list`` shows it: that of its file without ``.gguf`` and without the number of
a part, ``PROGRAM:NAME`` for one of another program. The name in the header of the file is its title.

Clients spell a name in various ways: with ``:latest`` or ``.gguf`` at its end, in capital letters, with a colon for a
hyphen, as the URL on the hub. All of these mean the same model, see :func:`key_of`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from bitnet_chat.models.parts import stem_of
from bitnet_chat.text.sanitize import one_line

_HUB = re.compile(r"(?:https?://)?(?:hf\.co|huggingface\.co)/|hf:")
_QUANTIZATION = re.compile(r"[._-]((?:IQ|Q|TQ)\d\w*|I2_S|BF16|F16|F32)$", re.IGNORECASE)


def name_of(path: Path) -> str:
    """The name of the model in a file. Bytes of the file name that are not UTF-8, or act on a terminal, are made
    visible.
    """
    from bitnet_chat.models import other_programs

    if path.suffix != ".gguf" or other_programs.may_have(path):
        for each in other_programs.found():
            if each.path == path:
                return one_line(each.name)
    return one_line(stem_of(path.name)) or "model"


def key_of(name: str) -> str:
    """The same for all spellings of a name."""
    key = name.strip().casefold()
    hub = _HUB.match(key)
    key = key[hub.end() :] if hub is not None else key
    for end in (":latest", ".gguf"):
        key = key.removesuffix(end)
    key = stem_of(key).replace(":", "-")
    return f"hf:{key}" if hub is not None else key


def keys_of(name: str, path: Path | None = None, origin: str = "") -> Iterator[str]:
    """All keys of a model, the most exact first. ``origin``: the source of its file, ``hf:user/repo/file``; then the
    names on the hub count, too.
    """
    yield key_of(name)
    if path is not None:
        yield key_of(one_line(path.name))
    if ":" in name:  # of another program, whose own name does as well
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
    """Models by all their names. An exact spelling takes precedence over all others, and an earlier model over a later
    one.
    """

    def __init__(self, models: Iterable[tuple[str, Path | None, str]] = ()) -> None:
        """``models``: name, file and origin of each, see :func:`keys_of`."""
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
        """The name of the model that ``text`` means."""
        return text if text in self._exact else self._by_key.get(key_of(text))
