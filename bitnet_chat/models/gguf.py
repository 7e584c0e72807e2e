"""The header of a GGUF file: the few facts a chat needs."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from bitnet_chat.models import parts
from bitnet_chat.models.reader import I32, STRING, Contents, Cursor, opened

_CONTROL = 3  # LLAMA_TOKEN_TYPE_CONTROL

# Gemma has 6,000 of them, most others a few hundred.
_MAX_CONTROLS = 1 << 14
_MAX_SPECIAL_BYTES = 1 << 20

# What llama-vocab.cpp does where a file says nothing: these vocabularies get a BOS token.
_BOS_KINDS = ("llama", "bert")
_BOS_PRE = (
    *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    *("jina-v5-nano", "tekken", "chameleon"),
)
_STRIPS = re.compile("phi-?3")


@dataclass(frozen=True, slots=True)
class ModelHeader:
    """What the header of a model says. Empty or None where it is silent."""

    path: Path
    architecture: str
    name: str
    context_length: int | None
    chat_template: str
    bos: str
    eos: str
    adds_bos: bool
    control_tokens: frozenset[str]
    tensor_count: int
    size: int
    """Bytes of the file."""
    tokenizer: str = ""
    """``gpt2`` (byte-level BPE), ``llama`` (SentencePiece), ``t5``, ``bert`` …"""
    pre_tokenizer: str = ""
    """How a BPE tokenizer cuts text into words first: ``llama-bpe``, ``qwen2``, …"""
    vocabulary_size: int = 0
    file_type: int | None = None
    """``general.file_type``: the mixture of its weights, numbered as the program that made the file does."""

    split: tuple[int, int] | None = None
    """The how-manieth of how many files this is; None for a whole model."""

    @property
    def strips_after_special(self) -> bool:
        """Whether llama.cpp drops white space behind the special tokens of this model (llama-vocab.cpp)."""
        return bool(_STRIPS.search(self.name.lower()))

    @property
    def label(self) -> str:
        """What the model is called, see :mod:`bitnet_chat.models.names`. ``name`` is its title."""
        from bitnet_chat.models.names import name_of

        return name_of(self.path)


def read_header(path: Path) -> ModelHeader:
    """Of a model in parts, the header of the first with the size of all that are beside it.

    Raises ModelError for a file that is missing, no GGUF, cut off or too strange to be true."""
    with opened(path) as cursor:
        found = header(cursor, cursor.contents())
    return replace(found, size=max(found.size, size_of(path)))


def size_of(path: Path) -> int:
    """Bytes of a model: of all parts that are beside a part. 0 where there is no file."""
    piece = parts.part(path.name)
    return sum(_size(path.with_name(name)) for name in piece.all()) if piece is not None else _size(path)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def header(cursor: Cursor, contents: Contents) -> ModelHeader:
    """The header of a file whose pairs were read. Raises ValueError for damage."""
    values = contents.values
    _check(contents)
    architecture = text(values.get("general.architecture"))
    vocabulary, pre = text(values.get("tokenizer.ggml.model")), text(values.get("tokenizer.ggml.pre"))
    bos, eos = values.get("tokenizer.ggml.bos_token_id"), values.get("tokenizer.ggml.eos_token_id")
    special, controls = _special(cursor, contents)
    tokens = contents.arrays.get("tokenizer.ggml.tokens")
    context = values.get(f"{architecture}.context_length")
    return ModelHeader(
        path=cursor.path,
        architecture=architecture,
        name=text(values.get("general.name")),
        context_length=context if isinstance(context, int) and context > 0 else None,
        chat_template=text(values.get("tokenizer.chat_template")),
        bos=special.get(bos, "") if type(bos) is int else "",
        eos=special.get(eos, "") if type(eos) is int else "",
        adds_bos=bool(values.get("tokenizer.ggml.add_bos_token", vocabulary in _BOS_KINDS or pre in _BOS_PRE)),
        control_tokens=frozenset(token for number, token in special.items() if number in controls),
        tensor_count=contents.tensor_count,
        size=cursor.size,
        tokenizer=vocabulary,
        pre_tokenizer=pre,
        file_type=kind if type(kind := values.get("general.file_type")) is int else None,
        vocabulary_size=tokens.length if tokens is not None and tokens.kind == STRING else 0,
        split=_split(values.get("split.no"), values.get("split.count"), cursor.path.name),
    )


def _split(number: object, count: object, name: str) -> tuple[int, int] | None:
    """By the header, whose count starts at 0; else by the name that ``llama-gguf-split`` gives."""
    if type(count) is int and count > 1 and type(number) is int:
        return number + 1, count
    named = parts.part(name.removesuffix(".part"))
    return (named.number, named.count) if named is not None and named.count > 1 else None


def text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _check(contents: Contents) -> None:
    alignment = contents.values.get("general.alignment", 32)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        raise ValueError(f"an alignment of {alignment}")


def _special(cursor: Cursor, contents: Contents) -> tuple[dict[int, str], frozenset[int]]:
    """The texts, by number, of the tokens that mark a conversation, a few hundred of a vocabulary; and which of them
    are control tokens."""
    texts = contents.arrays.get("tokenizer.ggml.tokens")
    kinds = contents.arrays.get("tokenizer.ggml.token_type")
    if texts is None or texts.kind != STRING:
        return {}, frozenset()
    controls: list[int] = []
    passed = 0
    for part in cursor.numbers(kinds) if kinds is not None and kinds.kind == I32 else ():
        if _CONTROL in part:
            controls += [passed + index for index, kind in enumerate(part) if kind == _CONTROL]
        passed += len(part)
        if len(controls) > _MAX_CONTROLS:
            raise ValueError(f"more than {_MAX_CONTROLS} control tokens")
    named = {contents.values.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    numbers = {*controls, *(number for number in named if type(number) is int and number >= 0)}
    found: dict[int, str] = {}
    room = _MAX_SPECIAL_BYTES
    for number, token in cursor.strings_at(texts, sorted(numbers)):
        found[number] = token.decode("utf-8", "replace")
        room -= len(token)
        if room < 0:
            raise ValueError(f"control tokens of more than {_MAX_SPECIAL_BYTES} bytes")
    return found, frozenset(controls)
