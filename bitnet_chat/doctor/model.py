"""A model file by itself, and against the engine that is to run it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bitnet_chat.doctor.finding import Finding, broken, bytes_text, ok, warn
from bitnet_chat.models.info import ModelInfo
from bitnet_chat.models.quantization import BITNET_TYPES

_GROUP = "model"
_GET_BITNET = (
    "it takes a BitNet build: build the BitNet repository of Microsoft and give --engine BitNet/build/bin;"
    " or take the model as TQ1_0, TQ2_0 or another type that llama.cpp knows"
)


def judge(info: ModelInfo, *, context: int, bitnet: bool | None, engine: str) -> Iterator[Finding]:
    """Pure. ``context``: tokens that were asked for, 0: none. ``bitnet``: whether the engine knows BitNet's types,
    None where that cannot be told. ``engine``: its name; empty where there is none."""
    header = info.header
    yield ok(
        _GROUP,
        "file",
        f"{header.label}: {header.architecture or 'of no named architecture'}, {info.quantization or 'of no type'},"
        f" {_number(info.parameters)} parameters, {bytes_text(header.size)} ({header.path})",
        path=str(header.path),
        architecture=header.architecture,
        quantization=info.quantization,
        tensor_types=dict(info.tensor_types),
        bytes=header.size,
    )
    yield _whole(info)
    if engine:
        yield _fit(info, bitnet, engine)
    yield _template(info)
    yield _context(info, context)


def _number(count: int) -> str:
    return f"{count / 1e9:.1f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"


def _whole(info: ModelInfo) -> Finding:
    size, whole = info.header.size, info.whole_size
    if info.is_cut_off and whole is not None:
        return broken(
            _GROUP,
            "whole",
            f"the file ends too early: it has {size:,} bytes, its tensors need {whole:,}",
            "download it again: bitnet-chat models pull goes on where it stopped",
            bytes=size,
            needed=whole,
        )
    if info.split is not None and info.split[1] > 1:
        number, parts = info.split
        return ok(_GROUP, "whole", f"part {number} of {parts}; the others have to lie beside it")
    told = "no tensor is cut off" if whole is not None else "its tensor types are not known here, so nothing tells"
    return ok(_GROUP, "whole", told)


def _fit(info: ModelInfo, bitnet: bool | None, engine: str) -> Finding:
    types = {name for name, _ in info.tensor_types}
    unknown = sorted(name for name in types if name.startswith("type "))
    ternary = sorted(types & BITNET_TYPES)
    if ternary:
        kinds = ", ".join(ternary)
        if bitnet:
            return ok(_GROUP, "engine", f"{engine} is a BitNet build, which {kinds} needs")
        if bitnet is None:
            return warn(
                _GROUP,
                "engine",
                f"{kinds} is a type of BitNet's own, and nothing in {engine} tells whether it knows it",
                _GET_BITNET,
            )
        return broken(
            _GROUP,
            "engine",
            f"{kinds} is a type of BitNet's own, and {engine} is a llama.cpp build, which cannot load it",
            _GET_BITNET,
        )
    if unknown:
        return warn(
            _GROUP,
            "engine",
            f"the file has tensors of {', '.join(unknown)}, which was not known when this program was made",
            "take a newer engine, or the model in another quantization",
        )
    return ok(_GROUP, "engine", f"{engine} knows its types: {', '.join(sorted(types)) or 'none'}")


def _template(info: ModelInfo) -> Finding:
    if info.header.chat_template:
        return ok(_GROUP, "template", "it brings its own chat template")
    return warn(
        _GROUP,
        "template",
        "it brings no chat template: a usual one is taken, which may not be the one it was trained with",
        "--chat-template NAME takes another; its card should say which",
    )


def _context(info: ModelInfo, context: int) -> Finding:
    trained = info.header.context_length
    if trained is None:
        return ok(_GROUP, "context", "it does not say for how many tokens it was trained")
    if context > trained:
        return warn(
            _GROUP,
            "context",
            f"--ctx {context:,} is more than the {trained:,} tokens that it was trained for: beyond them it is lost",
            f"--ctx {trained}",
        )
    asked = f"{context:,} of {trained:,}" if context else f"{trained:,}"
    return ok(
        _GROUP, "context", f"trained for {asked} tokens" if not context else f"{asked} tokens that it was trained for"
    )


def gather(path: Path) -> ModelInfo:
    """Raises ModelError for a file that is missing, no model or damaged."""
    from bitnet_chat.models.info import read_info

    return read_info(path)
