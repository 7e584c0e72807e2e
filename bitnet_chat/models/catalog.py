"""The data of ``models list`` and ``models info``: installed and available models with their requirements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bitnet_chat.models import memory, store
from bitnet_chat.models.info import ModelInfo, template_family
from bitnet_chat.models.known_faults import faults_in, repair
from bitnet_chat.models.registry import RegistryEntry, entries
from bitnet_chat.models.resolve import (
    ExaminedModel,
    Judge,
    ModelChoice,
    bundled,
    choose,
    examine,
    judged,
    present,
    stock,
)
from bitnet_chat.models.template_selection import flaws_of
from bitnet_chat.models.verify import lack
from bitnet_chat.util import resources

BITNET_ENGINE = "bitnet"
"""Name of the prebuilt engine that BitNet models require, unless a BitNet build is used."""


@dataclass(frozen=True, slots=True)
class CatalogItem:
    """One model. Unknown values are empty, 0 or None."""

    name: str
    installed: bool
    title: str
    size: int
    """Bytes of the files; ``size_is_exact`` is False for an approximate number."""
    size_is_exact: bool
    quantization: str
    parameters: str
    context: int
    """Number of tokens of the context window that the model was trained for."""
    memory: int | None
    """Bytes of memory for a conversation with the default window, see :mod:`bitnet_chat.models.memory`."""
    fits: bool | None
    """Whether it fits into the memory that is free now."""
    engine: str
    """Required engine: ``any``, or ``bitnet``, for which a BitNet build can be used too."""
    obstacle: str
    """The reason why no installed engine can run it; empty if one can or if it is unknown."""
    license: str
    origin: str
    path: str
    auto: bool
    """Whether it is used without ``-m`` and with ``-m auto``."""
    bundled: bool = False
    """Whether it is the bundled demo model, which is used if no model is installed."""
    program: str = ""
    """The other program that owns the file, which is used in place and never changed; empty for an own model."""
    kind: str = "chat"
    """``chat`` or ``embedding``."""
    template: str = ""
    """Family of its chat template, see :func:`bitnet_chat.models.info.template_family`."""
    checked: bool = True
    """False if size and hash of an available file are not known for certain."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """All models of the list."""

    items: tuple[CatalogItem, ...]
    choice: ModelChoice
    """The choice of ``-m auto``."""
    free: int | None
    """Bytes of free memory; None if unknown."""
    unfinished: tuple[tuple[str, int], ...]
    """Name and received bytes of each interrupted download."""


def take(judge: Judge = stock, context: int = 0, *, missing: str = "") -> Catalog:
    """Make the list. ``context``: size of the context window in tokens, 0 for the default. ``missing``: the requirement
    of BitNet models that is not met. Raises UsageError for an invalid registry."""
    known, free = entries(), resources.available()
    models = [examine(model, context) for model in present()]
    options = judged(models, judge)
    choice = choose(options, free)
    here = tuple(
        _installed(model, known.get(option.name), option.obstacle, free, option.name == choice.name)
        for model, option in zip(models, options, strict=True)
    )
    here += tuple(_bundled(judge, context, free, auto=not choice.name))
    taken = {item.name for item in here}
    there = tuple(_available(entry, free, context, missing) for entry in known.values() if entry.name not in taken)
    return Catalog(here + there, choice, free, tuple(store.unfinished()))


def _installed(
    examined: ExaminedModel, entry: RegistryEntry | None, obstacle: str, free: int | None, auto: bool
) -> CatalogItem:
    model, info, need = examined.model, examined.info, examined.need
    return CatalogItem(
        name=model.name,
        installed=True,
        title=entry.title if entry else info.header.name if info else "",
        size=model.size,
        size_is_exact=True,
        quantization=info.quantization if info else "",
        parameters=f"{info.parameters / 1e9:.2g} B" if info and info.parameters > 5e7 else "",
        context=(info.header.context_length or 0) if info else 0,
        memory=need or None,
        fits=_fits(need or None, free),
        engine=BITNET_ENGINE if info and info.needs_bitnet else "any",
        obstacle=obstacle,
        license=(model.record.license if model.record else "") or (info.license if info else ""),
        origin=model.record.origin if model.record else "",
        path=str(model.path),
        auto=auto,
        program=model.program,
        kind="embedding" if info and info.embeds else "chat",
        template=template_family(info.header.chat_template) if info else "",
    )


def _bundled(judge: Judge, context: int, free: int | None, *, auto: bool) -> Iterator[CatalogItem]:
    """Yield the bundled model, if it exists."""
    model = bundled()
    if model is not None:
        seen = examine(model, context)
        item = _installed(seen, None, judged([seen], judge)[0].obstacle, free, auto)
        yield replace(item, bundled=True)


def _available(entry: RegistryEntry, free: int | None, context: int, missing: str) -> CatalogItem:
    need = entry.memory(context)
    needs_bitnet = entry.engine == "bitnet"
    return CatalogItem(
        name=entry.name,
        installed=False,
        title=entry.title,
        size=entry.bytes,
        size_is_exact=bool(entry.size),
        quantization=entry.quantization,
        parameters=entry.parameters,
        context=entry.context,
        memory=need,
        fits=_fits(need, free),
        engine=BITNET_ENGINE if needs_bitnet else "any",
        obstacle=missing if needs_bitnet else "",
        license=entry.license,
        origin=entry.origin,
        path="",
        auto=False,
        kind=entry.kind,
        template=entry.template,
        checked=entry.checked,
    )


def _fits(need: int | None, free: int | None) -> bool | None:
    return None if need is None or free is None else need <= free


def _faults(info: ModelInfo) -> list[str]:
    """Describe known and detected faults of a file, with the corrections."""
    known = [f"{fault.description} ({fault.correction})" for fault in faults_in(info.header)]
    header = repair(info.header).header
    found = flaws_of(header) if header.chat_template else ()
    return [*known, *(f"its chat template {flaw.what}" for flaw in found)]


def described(info: ModelInfo) -> dict[str, object]:
    """Return the facts for ``models info``, ready for JSON; None or empty for values that the file lacks."""
    header = info.header
    window = memory.context_for(header.context_length)
    has_memory = info.shape.heads_kv and info.split is None  # the size of missing parts is unknown
    lacking = lack(header.path, info.split)
    return {
        "file": str(header.path),
        "name": header.name,
        "kind": info.kind,
        "gguf_version": info.version,
        "architecture": header.architecture,
        "parameters": (info.parameters or None) if info.split is None else None,
        "size_label": info.size_label,
        "quantization": info.quantization,
        "tensor_types": dict(info.tensor_types),
        "engine": BITNET_ENGINE if info.needs_bitnet else "any that supports these tensor types",
        "context_length": header.context_length,
        "chat_template": template_family(header.chat_template),
        "faults": _faults(info),
        "tokenizer": header.tokenizer,
        "pre_tokenizer": header.pre_tokenizer,
        "vocabulary": header.vocabulary_size or None,
        "bos": header.bos,
        "eos": header.eos,
        "license": info.license,
        "size": header.size,
        "whole": None if info.whole_size is None else not info.is_cut_off and info.split is None,
        "part": "{} of {}".format(*info.split) if info.split else None,
        "lacks": f"it {lacking.what}; {lacking.remedy}" if lacking is not None else None,
        "memory": memory.need(header.size, info.shape, window) if has_memory else None,
        "memory_is_for_context": window if has_memory else None,
    }
