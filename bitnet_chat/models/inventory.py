"""What ``models list`` tells: the models that are here, those that can be had, and what each needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bitnet_chat.models import store
from bitnet_chat.models.choice import Choice, choose
from bitnet_chat.models.info import template_family
from bitnet_chat.models.registry import Entry, entries
from bitnet_chat.models.resolve import Examined, Judge, bundled, examine, judged, present, stock
from bitnet_chat.util import resources

BITNET_ENGINE = "bitnet"
"""The prebuilt engine; or a BitNet build by hand."""


@dataclass(frozen=True, slots=True)
class Item:
    """One model. What is not known is empty, 0 or None."""

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
    """Bytes for a conversation with the usual window, see :mod:`bitnet_chat.models.memory`."""
    fits: bool | None
    """Into the memory that is free now."""
    engine: str
    """What it needs: ``any``, or ``bitnet``, which a BitNet build does for."""
    obstacle: str
    """Why no engine at hand can run it. Empty: one can, or nothing is known against it."""
    license: str
    origin: str
    path: str
    auto: bool
    """It answers where no model is named, and ``-m auto`` takes it."""
    bundled: bool = False
    """It came with this program: a toy, which answers where no model is installed."""
    program: str = ""
    """Whose it is, where another program has it: it is used in place and never changed."""
    kind: str = "chat"
    """``chat`` or ``embedding``."""
    template: str = ""
    """The family of its chat template."""
    checked: bool = True
    """False: size and hash of a file that can be pulled are not known for certain."""


@dataclass(frozen=True, slots=True)
class Inventory:
    items: tuple[Item, ...]
    choice: Choice
    free: int | None
    unfinished: tuple[tuple[str, int], ...]
    """Names and bytes so far of pulls that were interrupted."""


def take(judge: Judge = stock, context: int = 0, *, missing: str = "") -> Inventory:
    """``missing``: what a model of BitNet's needs and is not here. Raises UsageError for a broken registry."""
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
    return Inventory(here + there, choice, free, tuple(store.unfinished()))


def _installed(examined: Examined, entry: Entry | None, obstacle: str, free: int | None, auto: bool) -> Item:
    model, info, need = examined.model, examined.info, examined.need
    return Item(
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


def _bundled(judge: Judge, context: int, free: int | None, *, auto: bool) -> Iterator[Item]:
    """None where it is not there."""
    model = bundled()
    if model is not None:
        seen = examine(model, context)
        item = _installed(seen, None, judged([seen], judge)[0].obstacle, free, auto)
        yield replace(item, bundled=True)


def _available(entry: Entry, free: int | None, context: int, missing: str) -> Item:
    need = entry.memory(context)
    needs_bitnet = entry.engine == "bitnet"
    return Item(
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
