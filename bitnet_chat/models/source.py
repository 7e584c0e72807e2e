"""What to pull, from what a user writes: a name of the registry, ``hf:user/repo/file.gguf`` or an address. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit, urlunsplit

from bitnet_chat.errors import UsageError
from bitnet_chat.models.registry import Entry, is_name

_FORMS = "a name of `models list`, hf:user/repo/file.gguf, or an https address of a .gguf file"
_HUB_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"sha256=([0-9A-Fa-f]{64})")
_SPLIT = re.compile(r"-\d{5}-of-(\d{5})$")
_HUB_HOSTS = ("huggingface.co", "hf.co")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from and what it will be called. Either ``repo`` and ``file``, or ``url``."""

    name: str
    repo: str = ""
    file: str = ""
    revision: str = ""
    url: str = ""
    size: int = 0
    """Bytes, where they are known beforehand."""
    sha256: str = ""
    license: str = ""

    @property
    def origin(self) -> str:
        """Fit to be shown and written down: an address without its query, which may hold a key."""
        if self.url:
            return self.url.partition("?")[0]
        return f"hf:{self.repo}/{self.file}" + (f"@{self.revision}" if self.revision else "")


def parse(text: str, entries: Mapping[str, Entry], name: str = "") -> Source:
    """``name``: what the user wants to call it; else it is called after the registry or the file.

    Raises UsageError for what is none of the three.
    """
    if text in entries:
        entry = entries[text]
        source = _hub(entry.repo, entry.file, entry.revision) if entry.repo else _address(entry.url)
        source = replace(source, name=entry.name, size=entry.size, license=entry.license)
        source = replace(source, sha256=entry.sha256 or source.sha256)
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
    source = replace(source, name=name or source.name)
    if not is_name(source.name):
        raise UsageError(f"{source.name!r} is no name for a model", remedy="choose one with --name NAME")
    split = _SPLIT.search((source.file or urlsplit(source.url).path).removesuffix(".gguf"))
    if split:
        raise UsageError(
            f"{source.origin} is one of {int(split[1])} parts of a model; parts cannot be pulled",
            remedy="choose a quantization that is one file, or fetch all parts into one folder and give -m the first",
        )
    return source


def _from_hub(text: str) -> Source:
    """``hf:user/repo/folder/file.gguf@revision#sha256=…``"""
    place, sha256 = _fragment(text.removeprefix("hf:"))
    place, _, revision = place.partition("@")
    parts = place.split("/")
    if len(parts) < 3 or not all(_HUB_PART.fullmatch(part) for part in parts) or not place.endswith(".gguf"):
        raise UsageError(f"{text} names no file of the hub", remedy="the form is hf:user/repo/file.gguf[@revision]")
    return replace(_hub("/".join(parts[:2]), "/".join(parts[2:]), revision), sha256=sha256)


def _hub(repo: str, file: str, revision: str) -> Source:
    return Source(_called(repo, file), repo, file, revision)


def _called(repo: str, file: str) -> str:
    stem = file.rpartition("/")[2].removesuffix(".gguf")
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
    if host in _HUB_HOSTS:  # what stands in the address bar is a page about the file
        parts = parts._replace(path=parts.path.replace("/blob/", "/resolve/", 1))
        repo, found, _ = parts.path.partition("/resolve/")
    stem = _called(repo if host in _HUB_HOSTS and found else "model", unquote(parts.path))
    return Source(re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-."), url=urlunsplit(parts), sha256=sha256)


def _fragment(text: str) -> tuple[str, str]:
    place, _, fragment = text.partition("#")
    if not fragment:
        return place, ""
    match = _SHA256.fullmatch(fragment)
    if match is None:
        raise UsageError(f"#{fragment} is not understood", remedy="what may stand there is #sha256= and 64 digits")
    return place, match[1].lower()
