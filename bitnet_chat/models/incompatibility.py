"""Reasons why an engine cannot run a model: for ``doctor``, for lists, and for a failed load. Pure.

The rules are in ``_RULES``. They depend on the tensor types and the architecture of the model, and on the names in the
binaries of the engine (:func:`bitnet_chat.models.engine_support.known`); after a failure also on the log and the exit
code of the engine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bitnet_chat.models.info import ModelInfo
from bitnet_chat.models.tensor_types import BITNET_TYPES, IK_TYPES

BITNET_WORD, IK_WORD = "i2_s", "iq2_bn"
MARKERS = frozenset((BITNET_WORD, IK_WORD))
"""Names that distinguish forks: BitNet contains ``i2_s``, ik_llama.cpp contains both."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """A reason."""

    what: str
    """The reason as a sentence without a full stop; ``remedy`` has the same form."""
    remedy: str
    short: str
    """The reason for a list, without the name of the engine."""
    certain: bool = True
    """False if the binaries of the engine do not show it."""
    loads: bool = False
    """Whether the engine loads the model and then generates useless replies."""


@dataclass(frozen=True, slots=True)
class EndedEngine:
    """The end of an engine that was to load the model. ``code``: exit code, or the negative number of a signal."""

    code: int | None
    log: Sequence[str] = ()

    @property
    def by_signal(self) -> bool:
        """Whether a signal ended it."""
        return self.code is not None and self.code < 0

    def search_log(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Search the lines of the log."""
        return next((found for line in self.log if (found := pattern.search(line))), None)


@dataclass(frozen=True, slots=True)
class _Rule:
    """Applies to tensors of ``types`` (empty: any type) in an engine that lacks their names (``missing``) or has them.

    ``knows``: a name that the engine must have. ``{types}`` and ``{engine}`` in the texts are replaced.
    """

    short: str
    what: str
    remedy: str
    types: frozenset[str] = frozenset()
    missing: bool = True
    knows: str = ""
    certain: bool = True
    loads: bool = False


_INSTALL = "bitnet-chat engine install bitnet fetches an engine for which I2_S weights are converted once, to IQ2_BN"
_GET_BITNET = (
    f"{_INSTALL}; or build the BitNet repository of Microsoft (the only one that supports TL1 and TL2) and give"
    " --engine BitNet/build/bin; or use the model as TQ1_0 or TQ2_0, which llama.cpp supports"
)
_TO_IK = f"leave out --engine: {_INSTALL}; or use a BitNet build"
_TERNARY, _TABLES = frozenset(("TQ1_0", "TQ2_0")), frozenset(("TL1", "TL2"))
# Measured with BitNet of October 2024, llama.cpp 0.5.0-dev and ik_llama.cpp 0.1.5, unless stated otherwise.
_RULES = (
    _Rule(
        "{types} weights require a BitNet build as engine",
        "{types} is a type of BitNet's own, and {engine} is an ik_llama.cpp build, which cannot load it",
        f"use a BitNet build, or the model as I2_S: {_INSTALL}",
        BITNET_TYPES,
        knows=IK_WORD,
    ),
    _Rule(
        "{types} weights require a BitNet build as engine",
        "{types} is a type of BitNet's own, and {engine} is a llama.cpp build, which cannot load it",
        _GET_BITNET,
        BITNET_TYPES,
    ),
    _Rule(
        "{types} weights require an ik_llama.cpp build as engine",
        "{types} is a type of ik_llama.cpp's own, and {engine} is a BitNet build, which cannot load it",
        "bitnet-chat engine install bitnet fetches one; or use the model as I2_S",
        IK_TYPES,
        knows=BITNET_WORD,
    ),
    _Rule(
        "{types} weights require an ik_llama.cpp build as engine",
        "{types} is a type of ik_llama.cpp's own, and {engine} is a llama.cpp build, which cannot load it",
        "bitnet-chat engine install bitnet fetches one; or use the model as TQ2_0 or another type of llama.cpp",
        IK_TYPES,
    ),
    _Rule(  # ends with SIGFPE
        "ik_llama.cpp does not support {types} weights",
        "{engine} is an ik_llama.cpp build, which does not support {types} weights",
        "use a llama.cpp build as engine (bitnet-chat engine install), or the model as IQ2_BN",
        _TERNARY,
        knows=IK_WORD,
    ),
    _Rule(
        "the engine does not support {types} weights: it is too old, or of another project",
        "{engine} does not support {types} weights: it is too old, or a build of another project",
        "use a newer engine, or another model",
    ),
    _Rule(  # architecture bitnet-b1.58: useless logits; architecture llama: GGML_ASSERT at the first token
        "ik_llama.cpp computes I2_S weights wrongly",
        "{engine} is an ik_llama.cpp build, which loads {types} weights and computes them wrongly",
        _TO_IK,
        frozenset(("I2_S",)),
        missing=False,
        knows=IK_WORD,
        loads=True,
    ),
    # Otherwise SIGSEGV at the first evaluation. Few builds show whether they have tables, and none for which model.
    _Rule(
        "",
        "{types} weights require lookup tables that are compiled for one model, and {engine} does not show"
        " whether it has those of this one",
        "rebuild BitNet for this model (setup_env.py -q tl1 or tl2), or use the model as I2_S",
        _TABLES,
        missing=False,
        knows=BITNET_WORD,
        certain=False,
    ),
)
_SUPPORTED_BY = {
    "bitnet-b1.58": "a BitNet build since April 2025 or ik_llama.cpp (bitnet-chat engine install bitnet) supports it",
    "bitnet-25": "ik_llama.cpp (bitnet-chat engine install bitnet) supports it",
}
"""Engines that support an architecture that many engines lack."""

# In order: llama.cpp since November 2024; since 2025; BitNet 2024; a type with the number of another type.
_UNKNOWN_TYPE_LOG = re.compile(
    r"of type \d+ \(.*REMOVED|invalid ggml type|GGML_ASSERT\(.*type < GGML_TYPE_COUNT|has offset \d+, expected \d+"
)
_UNKNOWN_ARCHITECTURE_LOG = re.compile(r"unknown (?:model )?architecture:? '?([\w.-]+)")
_UNKNOWN_PRE_LOG = re.compile(r"unknown pre-tokenizer type: '([^']*)'")


def misfit(
    info: ModelInfo, names: frozenset[str] | None, engine: str, ending: EndedEngine | None = None
) -> Misfit | None:
    """Return the reason why the engine cannot run the model; None without one.

    ``names``: the names in the binaries of the engine, of all that the model requires and :data:`MARKERS`; None if they
    are unknown. ``engine``: its name for messages. ``ending``: how the engine failed.
    """
    kinds = [kind for kind, _ in info.tensor_types if not kind.startswith("type ")]
    if names is not None:
        missing = [kind for kind in kinds if spelled(kind) not in names]
    elif ending is not None and ending.search_log(_UNKNOWN_TYPE_LOG):
        missing = [kind for kind in kinds if kind in BITNET_TYPES | IK_TYPES]
    else:
        missing = []
    by_type = _by_type(kinds, missing, names or frozenset(), engine, ending)
    if by_type is not None and by_type.certain:
        return by_type
    if found := _by_architecture(info.header.architecture, names, engine, ending):
        return found
    if by_type is not None:
        return by_type
    if ending is not None and (match := ending.search_log(_UNKNOWN_PRE_LOG)):
        what = f"{engine} does not support the pre-tokenizer of the model ({match[1]})"
        remedy = "use a newer engine; or pass a supported one after --: --override-kv tokenizer.ggml.pre=str:NAME"
        return Misfit(what, remedy, what)
    if names is None and ending is None and (fork_types := [kind for kind in kinds if kind in BITNET_TYPES | IK_TYPES]):
        return _unknown(fork_types, engine)
    return None


def spelled(name: str) -> str:
    """Return a tensor type in the spelling of ggml: ``q4_K``, ``iq2_xxs``, ``iq2_k``."""
    return name[:-2].lower() + "_K" if re.fullmatch(r"Q\d_K", name) else name.lower()


def _by_type(
    kinds: Sequence[str], missing: Sequence[str], names: frozenset[str], engine: str, ending: EndedEngine | None
) -> Misfit | None:
    for rule in _RULES:
        affected = [kind for kind in (missing if rule.missing else kinds) if not rule.types or kind in rule.types]
        # An engine that refused the model has not computed with it.
        fits = rule.missing or ending is None or ending.by_signal
        if affected and fits and (not rule.knows or rule.knows in names):
            return _from_rule(rule, affected, engine)
    return None


def _from_rule(rule: _Rule, kinds: Sequence[str], engine: str) -> Misfit:
    types = ", ".join(sorted(kinds))
    what, short = (text.format(types=types, engine=engine) for text in (rule.what, rule.short))
    return Misfit(what, rule.remedy, short, rule.certain, rule.loads)


def _by_architecture(name: str, names: frozenset[str] | None, engine: str, ending: EndedEngine | None) -> Misfit | None:
    match = ending.search_log(_UNKNOWN_ARCHITECTURE_LOG) if ending is not None else None
    if match is None and (names is None or name in names):
        return None
    shown = name or "(none)"
    what = (
        f"{engine} does not support the architecture {shown}: it is older than the model, or a build of another project"
    )
    remedy = "use a newer engine, or another model"
    if name in _SUPPORTED_BY:
        remedy += f"; {_SUPPORTED_BY[name]}"
    return Misfit(what, remedy, f"the engine does not support the architecture {shown}")


def _unknown(kinds: Sequence[str], engine: str) -> Misfit:
    bitnet = [kind for kind in kinds if kind in BITNET_TYPES]
    project, remedy = ("BitNet", _GET_BITNET) if bitnet else ("ik_llama.cpp", "it requires an ik_llama.cpp build")
    article = "a" if bitnet else "an"
    types = ", ".join(sorted(bitnet or kinds))
    return Misfit(
        f"{types} is a type of {project}, and {engine} does not show whether it supports it",
        remedy,
        f"{types} weights require {article} {project} build as engine",
        certain=False,
    )
