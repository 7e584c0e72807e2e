"""Reading of GGUF files: the header with the facts that a chat requires, and the table of tensors.

The format is described in ``docs/gguf.md`` of ggml: magic ``GGUF``, u32 version (2 and 3 differ in tensor alignment
only), u64 number of tensors, u64 number of key-value pairs, then the pairs (string key, u32 type, value), then the
tensors (string name, u32 number of dimensions, u64 for each, u32 type, u64 offset). A string is a u64 length and UTF-8
bytes; an array is a u32 element type, a u64 length and the elements. All numbers are little endian.

A model file is untrusted. Memory is not allocated from counts in the file, texts are read only if needed, and every
loop is bounded, so that a damaged file costs at most a few megabytes and a second. The file is read, not mapped:
truncation by another program then raises an error instead of a SIGBUS.
"""

from __future__ import annotations

import contextlib
import re
import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from bitnet_chat.errors import ModelError
from bitnet_chat.models.names import name_of
from bitnet_chat.models.names import part as part_of

_CONTROL_TYPE = 3  # LLAMA_TOKEN_TYPE_CONTROL

# Gemma has 6,000 control tokens, most other models a few hundred.
_MAX_CONTROLS = 1 << 14
_MAX_SPECIAL_BYTES = 1 << 20

# Vocabularies that get a BOS token if the file does not specify it (llama-vocab.cpp).
_BOS_KINDS = ("llama", "bert")
_BOS_PRE = (
    *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    *("jina-v5-nano", "tekken", "chameleon"),
)
_PER_SEQUENCE = ("attention.sliding_window", "ssm.", "wkv.")
"""Beginnings of keys of models whose layers keep a state, or a part of the context, for each sequence."""
_STRIPPING_MODELS = re.compile("phi-?3")


@dataclass(frozen=True, slots=True)
class ModelHeader:
    """The header of a model. Missing values are empty or None."""

    path: Path
    architecture: str
    name: str
    context_length: int | None
    """Number of tokens of the context that the model was trained for."""
    chat_template: str
    bos: str
    eos: str
    adds_bos: bool
    """Whether the engine adds the BOS token to a prompt."""
    control_tokens: frozenset[str]
    """Texts of the control tokens."""
    tensor_count: int
    size: int
    """Bytes of the file; of all existing parts for a model in parts."""
    tokenizer: str = ""
    """Kind of vocabulary: ``gpt2`` (byte-level BPE), ``llama`` (SentencePiece), ``t5``, ``bert`` …"""
    pre_tokenizer: str = ""
    """Name of the regular expressions that split text before BPE: ``llama-bpe``, ``qwen2``, …"""
    vocabulary_size: int = 0
    file_type: int | None = None
    """``general.file_type``: the mixture of tensor types, in the numbering of the program that made the file."""

    split: tuple[int, int] | None = None
    """Number and count of the part; None for a whole model."""
    shares_context: bool = True
    """Whether several sequences can share the memory of one context: False with sliding windows or recurrent layers,
    for which each sequence takes memory of its own."""

    @property
    def strips_after_special(self) -> bool:
        """Whether llama.cpp drops white space after the special tokens of this model (llama-vocab.cpp)."""
        return bool(_STRIPPING_MODELS.search(self.name.lower()))

    @property
    def label(self) -> str:
        """The name of the model, see :mod:`bitnet_chat.models.names`. The attribute ``name`` is its title."""
        return name_of(self.path)


def read_header(path: Path) -> ModelHeader:
    """Read the header of a model; for a model in parts that of the first part, with the size of all existing parts.

    Raises ModelError for a file that is missing, not GGUF, truncated or invalid.
    """
    with opened(path) as cursor:
        found = header(cursor, cursor.contents())
    return replace(found, size=max(found.size, size_of(path)))


def size_of(path: Path) -> int:
    """Return the bytes of a model, including all parts in the directory; 0 for a missing file."""
    piece = part_of(path.name)
    return sum(_size(path.with_name(name)) for name in piece.all()) if piece is not None else _size(path)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def header(cursor: GGUFReader, contents: GGUFContents) -> ModelHeader:
    """Make the header from the pairs of a file. Raises ValueError for damaged data."""
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
        shares_context=not any(
            key.startswith(tuple(f"{architecture}.{each}" for each in _PER_SEQUENCE))
            for key in (*values, *contents.arrays)
        ),
    )


def _split(number: object, count: object, name: str) -> tuple[int, int] | None:
    """Number and count of a part, from the header (which counts from 0) or from the file name that ``llama-gguf-split``
    gives."""
    if type(count) is int and count > 1 and type(number) is int:
        return number + 1, count
    named = part_of(name.removesuffix(".part"))
    return (named.number, named.count) if named is not None and named.count > 1 else None


def text(value: object) -> str:
    """Return a string unchanged, and an empty text for any other value."""
    return value if isinstance(value, str) else ""


def _check(contents: GGUFContents) -> None:
    alignment = contents.values.get("general.alignment", 32)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        raise ValueError(f"an alignment of {alignment}")


def _special(cursor: GGUFReader, contents: GGUFContents) -> tuple[dict[int, str], frozenset[int]]:
    """Return the texts of BOS, EOS and control tokens by token id, and the ids of the control tokens."""
    texts = contents.arrays.get("tokenizer.ggml.tokens")
    kinds = contents.arrays.get("tokenizer.ggml.token_type")
    if texts is None or texts.kind != STRING:
        return {}, frozenset()
    controls: list[int] = []
    passed = 0
    for part in cursor.numbers(kinds) if kinds is not None and kinds.kind == I32 else ():
        if _CONTROL_TYPE in part:
            controls += [passed + index for index, kind in enumerate(part) if kind == _CONTROL_TYPE]
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


Scalar = str | int | float | bool

STRING, ARRAY, I32 = 8, 9, 5
_FORMS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_SIZES = {kind: struct.calcsize(form) for kind, form in _FORMS.items()}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_WINDOW = 1 << 18
_PART = 1 << 12  # numbers

# Limits far above the values of real files: 40 pairs, 2,000 tensors, 262,144 tokens, templates of 30 kB.
_MAX_PAIRS = 1 << 12
_MAX_TENSORS = 1 << 16
_MAX_KEY = (1 << 16) - 1  # the limit of the format
_MAX_ELEMENTS = 1 << 22
_MAX_TEXT = 1 << 18
_MAX_TEXTS = 1 << 20

# Keys whose texts are read; all other texts are skipped.
_TEXT_KEYS = frozenset(
    (
        *("general.architecture", "general.name", "general.type", "general.size_label"),
        *("general.license", "general.license.name", "general.alignment"),  # read to reject an alignment that is text
        *("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.chat_template"),
    )
)


@dataclass(frozen=True, slots=True)
class GGUFArray:
    """Position of an array in the file: ``length`` elements of type ``kind``, from byte ``start`` on."""

    kind: int
    length: int
    start: int


@dataclass(frozen=True, slots=True)
class GGUFContents:
    """The key-value pairs of a file. ``tensors_at``: byte position of the table of tensors."""

    version: int
    values: dict[str, Scalar]
    """Numbers and booleans of all keys, and texts of the keys that are read."""
    arrays: dict[str, GGUFArray]
    tensor_count: int
    tensors_at: int


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """An entry of the table of tensors."""

    name: bytes
    shape: tuple[int, ...]
    kind: int
    """The ggml_type."""
    offset: int
    """Position in bytes after the beginning of the data section."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[GGUFReader]:
    """Open a file and yield a reader after the magic. Errors in the block that are caused by the file become
    ModelError."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ModelError(f"{path} is a directory", remedy="use -m with a .gguf file")
        if not stat.S_ISREG(status.st_mode):  # checked before opening, since opening a pipe may block
            raise ModelError(f"{path} is not a file", remedy="use -m with a .gguf file")
        with path.open("rb", buffering=0) as file:
            start = file.read(4)
            if start != b"GGUF":
                raise ModelError(
                    f"{path} is not a GGUF model (it begins with {start!r})", remedy="use -m with a .gguf file"
                )
            yield GGUFReader(file, path, status.st_size)
    except FileNotFoundError:
        raise ModelError(f"the model {path} does not exist", remedy="use -m with a .gguf file") from None
    except OSError as error:
        raise ModelError(f"the model {path} cannot be read: {error.strerror or error}") from None
    except (struct.error, ValueError, OverflowError) as error:
        raise ModelError(
            f"the header of {path} is damaged or cut off ({error})", remedy="download the file again"
        ) from None


class GGUFReader:
    """Buffered sequential reader of a GGUF file.

    All methods raise ValueError at a damaged or truncated file.
    """

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self._file = file
        self._window = b""
        self._base = 4  # position of the window in the file
        self._at = 0  # current position, relative to the window; may be beyond it

    @property
    def position(self) -> int:
        """Current position in the file in bytes."""
        return self._base + self._at

    def contents(self) -> GGUFContents:
        """Read the key-value pairs. Also raises ModelError for an unsupported version or byte order."""
        version = self._u32()
        if version >= 1 << 24 and version & 0xFFFF == 0:
            raise ModelError(
                f"{self.path} is a big-endian GGUF file, for a computer of other byte order",
                remedy="use the little-endian file, or convert this one with gguf_convert_endian of the gguf package",
            )
        if version not in (2, 3):
            raise ModelError(
                f"{self.path} is GGUF version {version}; versions 2 and 3 can be read", remedy="convert the model again"
            )
        tensors, count = self._u64(), self._u64()
        if count > _MAX_PAIRS or tensors > _MAX_TENSORS:
            raise ValueError(f"{tensors} tensors and {count} metadata pairs")
        values: dict[str, Scalar] = {}
        arrays: dict[str, GGUFArray] = {}
        seen: set[int] = set()
        room, elements = _MAX_TEXTS, _MAX_ELEMENTS
        for _ in range(count):
            raw = self._text(_MAX_KEY)
            if hash(raw) in seen:  # invalid for llama.cpp too, since it is undefined which of the two counts
                raise ValueError(f"the key {raw[:80].decode('utf-8', 'replace')!r} is present twice")
            seen.add(hash(raw))
            key = raw[:256].decode("utf-8", "replace")
            kind = self._u32()
            if kind == ARRAY:
                array = self._array(elements)
                arrays[key] = array
                elements -= array.length
            elif kind == STRING and key not in _TEXT_KEYS:
                self.skip(self._u64())
            elif kind == STRING:
                raw = self._text(min(_MAX_TEXT, room))
                room -= len(raw)
                values[key] = raw.decode("utf-8", "replace")
            elif kind in _FORMS:
                values[key] = struct.unpack(_FORMS[kind], self._take(_SIZES[kind]))[0]
            else:
                raise ValueError(f"unknown value type {kind}")
        return GGUFContents(version, values, arrays, tensors, self.position)

    def tensors(self, contents: GGUFContents) -> Iterator[GGUFTensor]:
        """Yield the entries of the table of tensors, in the order of the file."""
        self._move(contents.tensors_at)
        for _ in range(contents.tensor_count):
            name = self._text(_MAX_KEY)
            dimensions = self._u32()
            if dimensions > 4:
                raise ValueError(f"a tensor of {dimensions} dimensions")
            shape = struct.unpack(f"<{dimensions}Q", self._take(8 * dimensions))
            yield GGUFTensor(name, shape, self._u32(), self._u64())

    def strings(self, array: GGUFArray) -> Iterator[bytes]:
        """Yield the elements of an array of strings. They may be any bytes, since tokens need not be UTF-8."""
        self._texts_at(array)
        for _ in range(array.length):
            yield self._text(_MAX_TEXT)

    def strings_at(self, array: GGUFArray, numbers: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """Yield the elements with these ascending indices, which are ignored beyond the end of the array."""
        self._texts_at(array)
        passed = 0
        for number in numbers:
            if number >= array.length:
                return
            self._skip_strings(number - passed)
            yield number, self._text(_MAX_TEXT)
            passed = number + 1

    def numbers(self, array: GGUFArray) -> Iterator[tuple[int | float, ...]]:
        """Yield the elements of an array of numbers or booleans, in chunks."""
        form = _FORMS.get(array.kind)
        if form is None:
            raise ValueError(f"an array of type {array.kind} where numbers were expected")
        self._move(array.start)
        size, left = _SIZES[array.kind], array.length
        while left:
            part = min(left, _PART)
            yield struct.unpack(f"<{part}{form[1]}", self._take(part * size))
            left -= part

    def skip(self, count: int) -> None:
        """Skip ``count`` bytes."""
        if self.position + count > self.size:
            raise ValueError("it ends too early")
        self._at += count

    def _array(self, limit: int) -> GGUFArray:
        """Skip an array of at most ``limit`` elements and return its position."""
        kind, length = self._u32(), self._u64()
        if length > limit:
            raise ValueError(f"an array of {length}")
        array = GGUFArray(kind, length, self.position)
        if kind in _SIZES:
            self.skip(length * _SIZES[kind])
        elif kind == STRING:
            self._skip_strings(length)
        else:
            raise ValueError("an array of arrays" if kind == ARRAY else f"an array of type {kind}")
        return array

    def _skip_strings(self, count: int) -> None:
        """Skip strings. A vocabulary with its merges has 400,000, most of the work of this module, hence a tight
        loop."""
        unpack = _U64.unpack_from
        while count:
            self._fill(8)
            window, at = self._window, self._at
            end = len(window) - 8
            for left in range(count, 0, -1):
                if at > end:
                    count = left
                    break
                at += 8 + unpack(window, at)[0]
            else:
                count = 0
            if self._base + at > self.size:
                raise ValueError("it ends too early")
            self._at = at

    def _texts_at(self, array: GGUFArray) -> None:
        if array.kind != STRING:
            raise ValueError(f"an array of type {array.kind} where texts were expected")
        self._move(array.start)

    def _text(self, limit: int) -> bytes:
        length = self._u64()
        if length > limit:
            raise ValueError(f"a text of {length} bytes")
        return self._take(length)

    def _u32(self) -> int:
        return int(_U32.unpack(self._take(4))[0])

    def _u64(self) -> int:
        return int(_U64.unpack(self._take(8))[0])

    def _take(self, count: int) -> bytes:
        if self._at + count > len(self._window):
            self._fill(count)
        part = self._window[self._at : self._at + count]
        self._at += count
        return part

    def _fill(self, count: int) -> None:
        """Make sure that the window has ``count`` bytes at the current position."""
        if self._at + count <= len(self._window):
            return
        self._base, self._at = self.position, 0
        self._file.seek(self._base)
        self._window = self._file.read(max(count, _WINDOW))
        if len(self._window) < count:
            raise ValueError("it ends too early")

    def _move(self, position: int) -> None:
        at = position - self._base
        if 0 <= at <= len(self._window):
            self._at = at
        else:
            self._base, self._at, self._window = position, 0, b""
