"""The header of a GGUF file: the few facts a chat needs. Values are read on demand; big arrays are only walked over.

Format: ``docs/gguf.md`` of ggml. Magic ``GGUF``, u32 version (2 and 3 are alike but for tensor alignment), u64 number
of tensors, u64 number of key-value pairs, then the pairs: string key, u32 type, value. Strings are a u64 length and
UTF-8 bytes; arrays a u32 element type, a u64 length and the elements. Little endian.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from bitnet_chat.errors import ModelError

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_SIZES = {kind: struct.calcsize(form) for kind, form in _SCALARS.items()}
_STRING, _ARRAY = 8, 9
_MAX_PAIRS = 1 << 16
_MAX_STRING = 1 << 20
_MAX_TOKENS = 1 << 21
_CONTROL = 3  # LLAMA_TOKEN_TYPE_CONTROL
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

_Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class _Array:
    kind: int
    length: int
    start: int


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

    @property
    def label(self) -> str:
        """A short name for a status line."""
        return self.name or self.path.stem


def read_header(path: Path) -> ModelHeader:
    """Raises ModelError for a file that is missing, no GGUF, cut off or too strange to be true."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if not path.is_file():
                raise ModelError(f"{path} is not a file", remedy="give a .gguf file with -m")
            start = file.read(4)
            if start != b"GGUF":
                raise ModelError(
                    f"{path} is not a GGUF model (it begins with {start!r})", remedy="give a .gguf file with -m"
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data, path, size).header()
    except FileNotFoundError:
        raise ModelError(f"there is no model at {path}", remedy="give a .gguf file with -m") from None
    except IsADirectoryError:
        raise ModelError(f"{path} is a directory", remedy="give a .gguf file with -m") from None
    except OSError as error:
        raise ModelError(f"the model {path} cannot be read: {error.strerror or error}") from None
    except (struct.error, ValueError, OverflowError) as error:
        raise ModelError(
            f"the header of {path} is damaged or cut off ({error})", remedy="download the file again"
        ) from None


class _Reader:
    def __init__(self, data: mmap.mmap, path: Path, size: int) -> None:
        self._data, self._path, self._size = data, path, size
        self._at = 4

    def header(self) -> ModelHeader:
        version = self._u32()
        if version not in (2, 3):
            raise ModelError(
                f"{self._path} is GGUF version {version}; versions 2 and 3 can be read", remedy="convert the model anew"
            )
        tensors, count = self._u64(), self._u64()
        if count > _MAX_PAIRS:
            raise ValueError(f"{count} metadata pairs")
        values: dict[str, _Value] = {}
        arrays: dict[str, _Array] = {}
        for _ in range(count):
            key = self._string()
            value = self._value(self._u32())
            if isinstance(value, _Array):
                arrays[key] = value
            else:
                values[key] = value
        architecture = _text(values.get("general.architecture"))
        vocabulary = _text(values.get("tokenizer.ggml.model"))
        tokens = self._tokens(arrays)
        context = values.get(f"{architecture}.context_length")
        return ModelHeader(
            path=self._path,
            architecture=architecture,
            name=_text(values.get("general.name")),
            context_length=context if isinstance(context, int) and context > 0 else None,
            chat_template=_text(values.get("tokenizer.chat_template")),
            bos=tokens.get(values.get("tokenizer.ggml.bos_token_id"), ""),
            eos=tokens.get(values.get("tokenizer.ggml.eos_token_id"), ""),
            # llama.cpp's own default, where the key is missing: SentencePiece vocabularies get a BOS.
            adds_bos=bool(values.get("tokenizer.ggml.add_bos_token", vocabulary in ("llama", "bert"))),
            control_tokens=frozenset(text for key, text in tokens.items() if key in self._controls),
            tensor_count=tensors,
            size=self._size,
        )

    def _tokens(self, arrays: dict[str, _Array]) -> dict[object, str]:
        """The control tokens and no others, by number: the two or three hundred of a vocabulary that matter here."""
        self._controls: frozenset[int] = frozenset()
        texts, kinds = arrays.get("tokenizer.ggml.tokens"), arrays.get("tokenizer.ggml.token_type")
        if texts is None or kinds is None or texts.kind != _STRING or kinds.kind != 5:
            return {}
        types = struct.unpack_from(f"<{kinds.length}i", self._data, kinds.start)
        self._controls = frozenset(number for number, kind in enumerate(types) if kind == _CONTROL)
        found: dict[object, str] = {}
        at, unpack, data = texts.start, _U64.unpack_from, self._data
        for number in range(texts.length):
            (length,) = unpack(data, at)
            if number in self._controls:
                found[number] = data[at + 8 : at + 8 + length].decode("utf-8", "replace")
            at += 8 + length
        return found

    def _value(self, kind: int) -> _Value | _Array:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array()
        form = _SCALARS.get(kind)
        if form is None:
            raise ValueError(f"unknown value type {kind}")
        value: _Value = struct.unpack_from(form, self._data, self._at)[0]
        self._at += _SIZES[kind]
        return value

    def _array(self) -> _Array:
        kind, length = self._u32(), self._u64()
        if length > _MAX_TOKENS:
            raise ValueError(f"an array of {length}")
        array = _Array(kind, length, self._at)
        if kind in _SIZES:
            self._at += length * _SIZES[kind]
        elif kind == _STRING:
            at, unpack, data = self._at, _U64.unpack_from, self._data
            for _ in range(length):
                at += 8 + unpack(data, at)[0]
            self._at = at
        else:
            raise ValueError(f"an array of type {kind}")
        if self._at > self._size:
            raise ValueError("it ends too early")
        return array

    def _string(self) -> str:
        length = self._u64()
        if length > _MAX_STRING or self._at + length > self._size:
            raise ValueError(f"a text of {length} bytes")
        text = self._data[self._at : self._at + length].decode("utf-8", "replace")
        self._at += length
        return text

    def _u32(self) -> int:
        (value,) = _U32.unpack_from(self._data, self._at)
        self._at += 4
        return int(value)

    def _u64(self) -> int:
        (value,) = _U64.unpack_from(self._data, self._at)
        self._at += 8
        return int(value)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
