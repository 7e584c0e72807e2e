"""A tokenizer that counts with a model's own vocabulary, without the model. Pure.

Both large families of vocabularies merge the two neighbours that make the oldest piece, until no two make a piece:
byte-level BPE ("gpt2" in a GGUF) within the words that a regular expression splits from the text, SentencePiece BPE
("llama") everywhere. In every such vocabulary of llama.cpp's tests a lower number means an older piece, so that neither
the table of merges nor the scores are needed. The remaining error comes from the words: Python's classes of characters
differ slightly from those of llama.cpp, and some models have an expression of their own.

The user-defined tokens of a vocabulary (``<tool_call>``, ``<think>``) are found first, in any text, and are one token
each, as in llama.cpp. Control tokens in a message are ordinary text, and an engine does not print one in a reply.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise

from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.conversation.stdin_encoding import normalise

KINDS = ("gpt2", "llama", "gemma4")
"""The supported values of ``tokenizer.ggml.model``."""

_NEVER = 1 << 31
_LONGEST = 128  # characters at which a word is cut: the time for one grows with its square
_SAMPLED, _SAMPLES = 1 << 14, 32
_KNOWN_WORDS = 1 << 13

# Relative; the worst of 16 kinds of text with 18 vocabularies against llama.cpp: 2.99 % (emoji, starcoder) where words
# are cut as the model does it, else 14.3 % (JSON, falcon). Prose, code, JSON, Chinese, Russian: mostly 0, below 0.5 %.
_ERROR, _ERROR_OF_STRANGERS = 0.03, 0.15

# The expressions of llama-vocab.cpp: \p{L} is [^\W\d_] here, \p{N} is \d, and what is neither nor a space [^\s\w]|_.
_CONTRACTION = r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
_GPT2_WORDS = r"'(?:[stmd]|re|ve|ll)| ?[^\W\d_]+|{digits}| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+"
_LLAMA3_WORDS = _CONTRACTION + r"|(?:[^\r\n\w]|_)?[^\W\d_]+|{digits}| ?(?:[^\s\w]|_)+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = {
    "gpt2": _GPT2_WORDS.format(digits=r" ?\d+"),
    "starcoder": _GPT2_WORDS.format(digits=r"\d"),
    "llama3": _LLAMA3_WORDS.replace("{digits}", r"\d{1,3}"),
    "qwen2": _LLAMA3_WORDS.replace("{digits}", r"\d"),
    "falcon": r"(?:[^\s\w]|_)+| ?[^\W\d_]+| ?\d{1,2}(?!\d)|\d{3}|\d+|\s+(?!\S)|\s+",
}
_FAMILIES = {
    "gpt2": ("gpt-2", "phi-2", "olmo", "jais", "exaone4", "mellum", "trillion"),
    "starcoder": ("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"),
    "llama3": (
        *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon_e", "falcon-h1", "pixtral", "lfm2", "dbrx", "glm4"),
    ),
    "falcon": ("falcon", "default", ""),
    "qwen2": ("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "qwen35", "bailingmoe", "grok-2"),
}
_FAMILY = {pre: family for family, names in _FAMILIES.items() for pre in names}


class Vocabulary:
    """Pieces of text by number. Takes three bytes a piece and its letters: a dictionary would take 120."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        """``pieces``: in the order of their numbers, spelled as in the GGUF."""
        letters = bytearray()
        ends = array("I", (0,))
        hashes = array("q")
        for piece in pieces:
            letters += piece
            ends.append(len(letters))
            hashes.append(hash(piece))
        self._letters, self._ends = bytes(letters), ends
        # Open addressing, at most half full. A slot holds the number of a piece, and 1 more: 0 is empty.
        self._mask = (1 << (2 * len(hashes)).bit_length()) - 1
        slots = self._slots = array("I", bytes(4 * (self._mask + 1)))
        mask = self._mask
        for number, value in enumerate(hashes, 1):
            slot = value & mask
            while slots[slot]:
                slot = (slot + 1) & mask
            slots[slot] = number

    def __len__(self) -> int:
        return len(self._ends) - 1

    def piece(self, number: int) -> bytes:
        return self._letters[self._ends[number] : self._ends[number + 1]]

    def number(self, piece: bytes) -> int | None:
        """The number of a piece; None for other texts."""
        slot = hash(piece) & self._mask
        while found := self._slots[slot]:
            if self._letters[self._ends[found - 1] : self._ends[found]] == piece:
                return found - 1
            slot = (slot + 1) & self._mask
        return None


class Tokenizer:
    """``kind``, one of ``KINDS``, and ``pre``: ``tokenizer.ggml.model`` and ``tokenizer.ggml.pre`` of a GGUF.
    ``defined``: the texts of its user-defined tokens."""

    def __init__(self, vocabulary: Vocabulary, kind: str, pre: str = "", defined: Iterable[str] = ()) -> None:
        self._vocabulary = vocabulary
        longest_first = sorted(filter(None, defined), key=len, reverse=True)
        self._defined = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None
        self._spells_bytes = kind == "gpt2"
        self._error = _ERROR
        if self._spells_bytes:
            family = _FAMILY.get(pre, "llama3")
            self._words = re.compile(_WORDS[family])
            if pre not in _FAMILY or family == "falcon":
                self._error = _ERROR_OF_STRANGERS
        else:
            # In these vocabularies a space mark occurs only at the beginning of a piece.
            self._words = re.compile("\u2581+[^\u2581]*|[^\u2581]+")
        self._known: dict[str, int] = {}

    def count(self, text: str) -> TokenCount:
        """Count the tokens of ``text`` as a message, without the template's tokens. At most 0.2 s for any length: a
        text of more than 16,384 characters is sampled, and the error grows by that of the samples."""
        text = normalise(text).text
        if not text:
            return TokenCount(0)
        if len(text) <= _SAMPLED:
            return TokenCount(self._tokens(text), self._error)
        length = _SAMPLED // _SAMPLES
        last = len(text) - length
        samples = (text[at : at + length] for at in (last * index // (_SAMPLES - 1) for index in range(_SAMPLES)))
        counts = [self._tokens(sample) for sample in samples]
        return TokenCount(round(sum(counts) * len(text) / _SAMPLED), self._error + _spread(counts))

    def front(self, text: str, limit: int) -> tuple[int, int]:
        """The number of characters of ``text`` that make at most ``limit`` tokens, and their tokens. ``text`` may
        hold bytes as surrogates; a character with only some bytes within the limit is left out."""
        total = at = 0
        for index, part in enumerate(self._split(text)):
            if index % 2:
                if total == limit:
                    return at, total
                total += 1
            else:
                end, count = self._front_of_plain(part, limit - total)
                total += count
                if end < len(part):
                    return at + end, total
            at += len(part)
        return at, total

    def numbers(self, text: str) -> list[int]:
        """The tokens themselves. A character without a piece is spelled in bytes, where those are pieces."""
        found: list[int | None] = []
        for index, part in enumerate(self._split(text)):
            if index % 2:
                found.append(self._number(part))
                continue
            for word in self._words.findall(self._spelled(part)):
                for start in range(0, len(word), _LONGEST):
                    for piece in self._parts(word[start : start + _LONGEST]):
                        number = self._number(piece)
                        spelled = piece.encode("utf-8", "surrogateescape") if number is None else b""
                        found += [number, *(self._number(f"<0x{byte:02X}>") for byte in spelled)]
        return [number for number in found if number is not None]

    def named(self, piece: str) -> int | None:
        """The number of a special token."""
        return self._number(piece)

    def written(self, numbers: Iterable[int]) -> str:
        """The text of tokens; bytes that are not UTF-8 are U+FFFD. Raises IndexError for an unknown token."""
        letters = bytearray()
        for number in numbers:
            if not 0 <= number < len(self._vocabulary):
                raise IndexError(number)
            piece = self._vocabulary.piece(number)
            if self._spells_bytes:
                letters += b"".join(_SPELLED.get(each, each.encode()) for each in piece.decode("utf-8", "replace"))
            elif (byte := _BYTE_PIECE.fullmatch(piece)) is not None:
                letters.append(int(byte[1], 16))
            else:
                letters += piece.replace("\u2581".encode(), b" ")
        return letters.decode("utf-8", "replace")

    def _front_of_plain(self, text: str, limit: int) -> tuple[int, int]:
        total = 0
        for match in self._words.finditer(self._spelled(text)):
            count = self._tokens_of_word(match.group())
            if total + count > limit:
                return match.start() + self._front_of_word(match.group(), limit - total), limit
            total += count
        return len(text), total

    def _front_of_word(self, word: str, limit: int) -> int:
        at = 0
        for start in range(0, len(word), _LONGEST):
            for part in self._parts(word[start : start + _LONGEST]):
                limit -= self._cost(part)
                if limit < 0:
                    return len(word.encode("utf-8", "surrogateescape")[:at].decode("utf-8", "ignore"))
                at += len(part) if self._spells_bytes else len(part.encode("utf-8", "surrogateescape"))
        return len(word)

    def _spelled(self, text: str) -> str:
        return text if self._spells_bytes else text.replace(" ", "\u2581")

    def _split(self, text: str) -> list[str]:
        """Plain text and user-defined tokens in turn; plain text is first and last, and may be empty."""
        return self._defined.split(text) if self._defined is not None else [text]

    def _tokens(self, text: str) -> int:
        parts = self._split(text)
        words = (word for part in parts[::2] for word in self._words.findall(self._spelled(part)))
        return len(parts) // 2 + sum(map(self._tokens_of_word, words))

    def _tokens_of_word(self, word: str) -> int:
        count = self._known.get(word)
        if count is None:
            chunks = (word[at : at + _LONGEST] for at in range(0, len(word), _LONGEST))
            count = sum(self._cost(part) for chunk in chunks for part in self._parts(chunk))
            if len(word) <= _LONGEST:
                if len(self._known) > _KNOWN_WORDS:
                    self._known.clear()
                self._known[word] = count
        return count

    def _cost(self, part: str) -> int:
        # A character without a piece is spelled in bytes, each a token.
        if len(part) > 1 or self._number(part) is not None:
            return 1
        return 1 if self._spells_bytes else len(part.encode("utf-8", "surrogateescape"))

    def _number(self, piece: str) -> int | None:
        return self._vocabulary.number(piece.encode("utf-8", "surrogateescape"))

    def _parts(self, word: str) -> list[str]:
        """The pieces of a word."""
        if self._spells_bytes:
            word = word.encode("utf-8", "surrogateescape").decode("latin-1").translate(_BYTE_SPELLING)
        if self._number(word) is not None:
            return [word]
        parts = list(word)
        ages = [self._age(pair) for pair in pairwise(parts)]
        while ages and (oldest := min(ages)) < _NEVER:
            at = ages.index(oldest)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
            del ages[at]
            if at:
                ages[at - 1] = self._age(parts[at - 1 : at + 1])
            if at < len(ages):
                ages[at] = self._age(parts[at : at + 2])
        return parts

    def _age(self, pair: Sequence[str]) -> int:
        number = self._number(pair[0] + pair[1])
        return _NEVER if number is None else number


def _spread(counts: Sequence[int]) -> float:
    """Twice the relative standard error of the mean: how far samples may be from the whole."""
    mean = sum(counts) / len(counts)
    variance = sum((each - mean) ** 2 for each in counts) / (len(counts) - 1)
    return 2 * math.sqrt(variance / len(counts)) / mean


def _byte_spelling() -> dict[int, str]:
    """How byte-level vocabularies spell the 256 bytes: what prints in Latin-1 as itself, the rest from U+0100 on."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in plain)
    return {byte: chr(256 + index) for index, byte in enumerate(others)}


_BYTE_SPELLING = _byte_spelling()
_SPELLED = {_BYTE_SPELLING.get(byte, chr(byte)): bytes((byte,)) for byte in range(256)}
_BYTE_PIECE = re.compile(rb"<0x([0-9A-F]{2})>")


class TokenLimit:
    """The first ``limit`` tokens of a text that comes in parts: ``take`` what of the next part is within them.

    Counted with a vocabulary, and so as an engine would read the text. It may have written it in fewer tokens: where it
    says that all was within the limit, :meth:`lift` it."""

    def __init__(self, tokenizer: Tokenizer, limit: int) -> None:
        self._tokenizer = tokenizer
        self.limit = limit
        self.is_exceeded = False
        self._parts: list[str] = []
        self._taken = 0
        self._bytes_until_look = limit

    def take(self, text: str) -> str:
        if self.is_exceeded:
            return ""
        self._parts.append(text)
        self._bytes_until_look -= len(text.encode("utf-8", "surrogateescape"))
        # A token is a byte or more: with fewer bytes the limit cannot be reached.
        if self._bytes_until_look < 0:
            whole = "".join(self._parts)
            self._parts = [whole]
            end, tokens = self._tokenizer.front(whole, self.limit)
            if end < len(whole):
                self.is_exceeded = True
                text = whole[self._taken : end]
            self._bytes_until_look = self.limit - tokens
        self._taken += len(text)
        return text

    def lift(self) -> None:
        """Remove the limit."""
        self.is_exceeded = False
