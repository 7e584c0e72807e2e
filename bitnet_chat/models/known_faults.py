"""Model files with wrong metadata, and the corrections. Pure: the table is data.

The facts are from public sources, which each entry names. The files were not downloaded to write this list; a file with
the metadata of the first two entries, which occur together, was made for the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bitnet_chat.templates.builtin import TEMPLATES

if TYPE_CHECKING:
    from bitnet_chat.models.gguf import ModelHeader

_PRE, OVERRIDE = "tokenizer.ggml.pre", "--override-kv"


def overridden(engine_args: Iterable[str]) -> bool:
    """Whether flags of the user set the pre-tokenizer."""
    return any(_PRE in argument for argument in engine_args)


@dataclass(frozen=True, slots=True)
class VocabularySign:
    """Recognizes a vocabulary by its kind, its number of tokens, and its BOS token."""

    kind: str
    sizes: range
    bos: str

    def fits(self, header: ModelHeader) -> bool:
        """Whether the model has this vocabulary."""
        return (header.tokenizer, header.bos) == (self.kind, self.bos) and header.vocabulary_size in self.sizes


_LLAMA3 = VocabularySign("gpt2", range(128_256, 128_513), "<|begin_of_text|>")  # fine-tunes add some tokens


@dataclass(frozen=True, slots=True)
class ModelFault:
    """A known fault. A file has it if all given criteria match; empty ones are ignored."""

    description: str
    """The fault, as a sentence about the model."""
    correction: str
    """The correction."""
    source: str
    """Where the fault is documented."""
    vocabulary: VocabularySign | None = None
    template_holds: str = ""
    """Text that the chat template contains."""
    pre_tokenizers: tuple[str, ...] = ()
    """Values of ``tokenizer.ggml.pre`` with the fault; an empty value means a missing key."""
    template: str = ""
    """Name of the built-in template to use instead."""
    pre_tokenizer: str = ""
    """Value of ``tokenizer.ggml.pre`` to use instead."""
    only_unknown: bool = False
    """True if the value is valid, and a fault only for an engine that does not support this pre-tokenizer."""

    def is_in(self, header: ModelHeader) -> bool:
        """Whether a file with this header has the fault."""
        return (
            (self.vocabulary is None or self.vocabulary.fits(header))
            and self.template_holds in header.chat_template
            and (not self.pre_tokenizers or header.pre_tokenizer in self.pre_tokenizers)
        )


FAULTS = (
    ModelFault(
        description="its chat template is a placeholder of the converter",
        correction="bitnet is used",
        source="microsoft/bitnet-b1.58-2B-4T-gguf: written by convert-ms-to-gguf-bitnet.py of microsoft/BitNet;"
        " ikawrakow/ik_llama.cpp issue 339; the correct template is in tokenizer_config.json of the model repository",
        vocabulary=_LLAMA3,
        template_holds="BITNETAssistant",
        template="bitnet",
    ),
    ModelFault(
        description="it names no pre-tokenizer (tokenizer.ggml.pre), without which text is tokenized wrongly",
        correction="llama-bpe is used",
        source="the same file, and all that convert-ms-to-gguf-bitnet.py writes: microsoft/BitNet pull request 508,"
        " ikawrakow/ik_llama.cpp pull request 337; llama.cpp files of Llama 3 from April 2024 have the same",
        vocabulary=_LLAMA3,
        pre_tokenizers=("", "default"),
        pre_tokenizer="llama-bpe",
    ),
    ModelFault(
        description="the engine does not know its pre-tokenizer falcon_e",
        correction="llama-bpe is used, which is equal",
        source="tiiuae/Falcon-E-1B-Instruct-GGUF and -3B-: microsoft/BitNet issue 622; the same expression in"
        " ikawrakow/ik_llama.cpp issue 551",
        pre_tokenizers=("falcon_e",),
        pre_tokenizer="llama-bpe",
        only_unknown=True,
    ),
    ModelFault(
        description="the engine does not know its pre-tokenizer falcon3",
        correction="llama-bpe is used, which is equal",
        source="tiiuae/Falcon3-*-1.58bit-GGUF: llama.cpp and ik_llama.cpp treat both names alike (llama-vocab.cpp);"
        " BitNet of October 2024 does not have the first. Not checked: whether those files have this value",
        pre_tokenizers=("falcon3",),
        pre_tokenizer="llama-bpe",
        only_unknown=True,
    ),
)


def faults_in(header: ModelHeader, knows: Callable[[str], bool] = lambda word: True) -> tuple[ModelFault, ...]:
    """Return the faults of a model. ``knows``: whether the engine contains a name; called only if it matters."""
    return tuple(
        fault for fault in FAULTS if fault.is_in(header) and not (fault.only_unknown and knows(header.pre_tokenizer))
    )


@dataclass(frozen=True, slots=True)
class RepairedMetadata:
    """The result of :func:`repair`."""

    header: ModelHeader
    """The corrected header."""
    overrides: tuple[str, ...] = ()
    """Values for ``--override-kv`` of the engine."""
    note: str = ""
    """A message about the corrections; empty without a fault."""


def repair(
    header: ModelHeader,
    knows: Callable[[str], bool] = lambda word: True,
    *,
    takes_overrides: bool = True,
    keeps_template: bool = False,
) -> RepairedMetadata:
    """Correct the known faults of a model.

    ``knows``: see :func:`faults_in`. ``takes_overrides``: whether the engine accepts ``--override-kv``.
    ``keeps_template``: whether the template of the file is not used anyway.
    """
    result, notes = RepairedMetadata(header), []
    for fault in faults_in(header, knows):
        if fault.template and not keeps_template:
            result = replace(result, header=replace(result.header, chat_template=TEMPLATES[fault.template]))
            notes.append(f"{fault.description} ({fault.correction})")
        override = f"{_PRE}=str:{fault.pre_tokenizer}"
        if fault.pre_tokenizer and takes_overrides:
            changed = replace(result.header, pre_tokenizer=fault.pre_tokenizer)
            result = replace(result, header=changed, overrides=(*result.overrides, override))
            notes.append(f"{fault.description} ({fault.correction})")
        elif fault.pre_tokenizer:
            notes.append(f"{fault.description} (not corrected: the engine was not given {OVERRIDE} {override})")
    return replace(result, note=f"{header.label} was corrected: {'; '.join(notes)}" if notes else "")
