"""What a model file says about itself, as the plain facts that ``models info`` prints. Pure."""

from __future__ import annotations

from bitnet_chat.models import memory
from bitnet_chat.models.faults import faults_in, mended
from bitnet_chat.models.info import ModelInfo, template_family
from bitnet_chat.models.inventory import BITNET_ENGINE
from bitnet_chat.models.template_selection import flaws_of
from bitnet_chat.models.wholeness import lack


def _faults(info: ModelInfo) -> list[str]:
    """What is known to be wrong, or is seen to be; what is mended says so."""
    known = [f"{fault.wrong} ({fault.mended})" for fault in faults_in(info.header)]
    header = mended(info.header).header
    found = flaws_of(header) if header.chat_template else ()
    return [*known, *(f"its chat template {flaw.what}" for flaw in found)]


def described(info: ModelInfo) -> dict[str, object]:
    """JSON-ready; None or empty where the file is silent."""
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
        "engine": BITNET_ENGINE if info.needs_bitnet else "any that knows these tensor types",
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
