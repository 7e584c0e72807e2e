"""The list of ``models list``: installed and available models, with their requirements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bitnet_chat.models import memory, store
from bitnet_chat.models.info import ModelInfo, template_family
from bitnet_chat.models.known_faults import faults_in, mended
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
"""The prebuilt engine; or a BitNet build."""


@dataclass(frozen=True, slots=True)
class CatalogItem:
    """One model. Unknown values are empty, 0 or None."""

    name: str
    installed: bool
    title: str
    size: int
    """Bytes."""
    size_is_exact: bool
    quantization: str
    parameters: str
    context: int
    memory: int | None
    """Bytes for a conversation with the default window, see :mod:`bitnet_chat.models.memory`."""
    fits: bool | None
    """Whether it fits into the memory that is free now."""
    engine: str
    """Its requirement: ``any``, or ``bitnet``, which a BitNet build also meets."""
    obstacle: str
    """The reason why no installed engine can run it. Empty: one can, or it is unknown."""
    license: str
    origin: str
    path: str
    auto: bool
    """It is used without ``-m``, and ``-m auto`` selects it."""
    bundled: bool = False
    """The bundled demo model, used if no model is installed."""
    program: str = ""
    """The other program that owns it: it is used in place and never changed."""
    kind: str = "chat"
    """``chat`` or ``embedding``."""
    template: str = ""
    """The family of its chat template."""
    checked: bool = True
    """False: size and hash of a file that can be pulled are not known for certain."""


@dataclass(frozen=True, slots=True)
class Catalog:
    items: tuple[CatalogItem, ...]
    choice: ModelChoice
    free: int | None
    unfinished: tuple[tuple[str, int], ...]
    """Names and bytes so far of interrupted downloads."""


def take(judge: Judge = stock, context: int = 0, *, missing: str = "") -> Catalog:
    """``missing``: a missing requirement of BitNet models. Raises UsageError for an invalid registry."""
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
    """None if it is missing."""
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


# What a model file says about itself, as the plain facts that ``models info`` prints. Pure.


def _faults(info: ModelInfo) -> list[str]:
    """Known and detected faults, with the corrections."""
    known = [f"{fault.wrong} ({fault.mended})" for fault in faults_in(info.header)]
    header = mended(info.header).header
    found = flaws_of(header) if header.chat_template else ()
    return [*known, *(f"its chat template {flaw.what}" for flaw in found)]


def described(info: ModelInfo) -> dict[str, object]:
    """JSON-ready; None or empty for values that the file lacks."""
    header = info.header
    window = memory.context_for(header.context_length)
    has_memory = info.shape.heads_kv and info.split is None  # the size of parts that are missing is not known
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
