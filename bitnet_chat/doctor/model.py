"""A model file: completeness, known faults, chat template, and support by the engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bitnet_chat.doctor.finding import Finding, broken, ok, warn
from bitnet_chat.models.engine_support import PULL, obstacle
from bitnet_chat.models.incompatibility import misfit
from bitnet_chat.models.info import ModelInfo
from bitnet_chat.models.known_faults import faults_in, repair
from bitnet_chat.models.template_selection import flaws_of
from bitnet_chat.models.verify import lack
from bitnet_chat.templates.checks import OTHER
from bitnet_chat.util.progress import size

_GROUP = "model"


def judge(info: ModelInfo, *, context: int, names: frozenset[str] | None, engine: str) -> Iterator[Finding]:
    """Judge a model. ``context``: tokens of ``--ctx``; 0: not given. ``engine``: the name of the engine; empty without
    one. ``names``: the architectures and types that it supports, see :func:`bitnet_chat.models.engine_support.known`;
    None if unknown. Reads only which other parts of a split model exist.
    """
    header = info.header
    yield ok(
        _GROUP,
        "file",
        f"{header.label}: {header.architecture or 'unknown architecture'}, {info.quantization or 'unknown type'},"
        f" {_number(info.parameters)} parameters, {size(header.size)} ({header.path})",
        path=str(header.path),
        architecture=header.architecture,
        quantization=info.quantization,
        tensor_types=dict(info.tensor_types),
        bytes=header.size,
    )
    yield _whole(info)
    if info.split is not None and info.split[0] != 1:
        return  # the other metadata is in the first part
    if engine:
        yield _support(info, names, engine)
    yield from _faults(info, names)
    yield _template(info)
    yield _context(info, context)


def _number(count: int) -> str:
    return f"{count / 1e9:.1f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"


def _whole(info: ModelInfo) -> Finding:
    present, whole = info.header.size, info.whole_size
    if info.is_cut_off and whole is not None:
        return broken(
            _GROUP,
            "whole",
            info.shortness,
            f"download it again: {PULL}",
            bytes=present,
            needed=whole,
        )
    if (lacking := lack(info.header.path, info.split)) is not None:
        return broken(_GROUP, "whole", f"the file {lacking.what}", lacking.remedy)
    seen = (
        "all tensors are complete" if whole is not None else "its tensor types are unknown, so this cannot be checked"
    )
    return ok(_GROUP, "whole", seen)


def _support(info: ModelInfo, names: frozenset[str] | None, engine: str) -> Finding:
    if (found := misfit(info, names, engine)) is not None:
        return (broken if found.certain else warn)(_GROUP, "engine", found.what, found.remedy)
    if reason := obstacle(replace(info, split=None), names):
        # A newer engine may support a type that this program does not know.
        status = warn if any(name.startswith("type ") for name, _ in info.tensor_types) else broken
        return status(_GROUP, "engine", reason, "use a newer engine, or the model in another quantization")
    types = ", ".join(sorted({name for name, _ in info.tensor_types}))
    if names is None:
        return ok(
            _GROUP,
            "engine",
            f"its weights are {types}, which llama.cpp supports; {engine} does not show whether it does",
        )
    return ok(_GROUP, "engine", f"{engine} supports its weights: {types}")


def _faults(info: ModelInfo, names: frozenset[str] | None) -> Iterator[Finding]:
    """Report known faults of the file. ``names``: see :func:`judge`; None: only faults that affect every engine."""
    for fault in faults_in(info.header, lambda word: names is None or word in names):
        other = "bitnet-chat corrects it; other programs may not"
        yield warn(_GROUP, "metadata", f"{fault.description} ({fault.correction})", other, source=fault.source)


def _template(info: ModelInfo) -> Finding:
    """Judge the chat template, after the correction of a known fault."""
    header = repair(info.header).header
    if header.chat_template:
        found = flaws_of(header)
        if found:
            status = broken if any(flaw.is_fatal for flaw in found) else warn
            return status(_GROUP, "template", f"its chat template {'; it '.join(flaw.what for flaw in found)}", OTHER)
        replaced = header.chat_template != info.header.chat_template
        seen = "another template replaces its own" if replaced else "it has its own chat template"
        return ok(_GROUP, "template", seen)
    return warn(
        _GROUP,
        "template",
        "it has no chat template: a common one is used, which may differ from that of its training",
        "select one with --chat-template NAME; see the card of the model",
    )


def _context(info: ModelInfo, context: int) -> Finding:
    trained = info.header.context_length
    if trained is None:
        return ok(_GROUP, "context", "the file does not state its training context")
    if context > trained:
        return warn(
            _GROUP,
            "context",
            f"--ctx {context:,} is more than the {trained:,} tokens of its training context: replies beyond are wrong",
            f"--ctx {trained}",
        )
    asked = f"{context:,} of {trained:,}" if context else f"{trained:,}"
    return ok(
        _GROUP, "context", f"trained for {asked} tokens" if not context else f"{asked} tokens of its training context"
    )
