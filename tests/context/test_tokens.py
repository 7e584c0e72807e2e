"""Tokens counted with a model's vocabulary: against small ones made by hand, and against what a real engine counts."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.context.tokenizer import Tokenizer, TokenLimit, Vocabulary
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import Dialect, EngineBinary
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Stats
from bitnet_chat.models.vocabulary import TokenCounter, read_tokenizer


def byte_level(*pieces: str, pre: str = "gpt-2") -> Tokenizer:
    """The 256 bytes, of which ASCII is enough here, and then ``pieces``."""
    letters = [chr(code) for code in range(0x21, 0x7F)] + ["Ġ", "Ċ"]
    return Tokenizer(Vocabulary(piece.encode() for piece in [*letters, *pieces]), "gpt2", pre)


def sentencepiece(*pieces: str) -> Tokenizer:
    return Tokenizer(Vocabulary(piece.encode() for piece in ["▁", *"abcdefghijklmnopqrstuvwxyz", *pieces]), "llama")


def test_a_vocabulary_knows_the_numbers_of_its_pieces_and_no_others() -> None:
    pieces = [b"a", b"ab", "Ġthe".encode(), b"", b"\xff\xfe"] + [f"piece {number}".encode() for number in range(3000)]
    vocabulary = Vocabulary(pieces)
    assert [vocabulary.number(piece) for piece in pieces] == list(range(len(pieces)))
    assert vocabulary.number(b"piece") is None and vocabulary.number(b"b") is None
    assert len(vocabulary) == len(pieces)


def test_the_oldest_piece_is_joined_first() -> None:
    # "th" is older than "he": t h e falls in "th" and "e", although "he" would do as well.
    assert byte_level("th", "he").count("the").count == 2
    assert byte_level("th", "he", "the").count("the").count == 1
    assert byte_level("cd", "bc", "ab").count("abcd").count == 2
    assert byte_level("bc", "cd", "ab").count("abcd").count == 3
    assert sentencepiece("▁t", "he").count("a the").count == 3


def test_what_is_no_piece_is_spelled_in_bytes() -> None:
    assert sentencepiece().count("é").count == 2
    assert sentencepiece().count("你").count == 3
    assert byte_level().count("aaa").count == 3


def test_words_are_cut_as_the_model_cuts_them() -> None:
    digits = [str(number) for number in range(10, 1000)]
    assert byte_level(*digits, pre="llama-bpe").count("123456").count == 2
    assert byte_level(*digits, pre="qwen2").count("123456").count == 6
    assert byte_level("Ġa", pre="qwen2").count("a a a").count == 3
    assert byte_level("'s").count("a's").count == 2


@given(st.text(), st.sampled_from(["gpt-2", "llama-bpe", "qwen2", "starcoder", "falcon", "unheard-of"]))
def test_any_text_has_a_count(text: str, pre: str) -> None:
    for tokenizer in (byte_level("th", "he", pre=pre), sentencepiece("▁t", "he")):
        counted = tokenizer.count(text)
        assert bool(counted.count) == bool(text)
        assert counted.at_least <= counted.count <= counted.at_most
        assert counted.count <= 8 * len(text)  # bytes as UTF-8, which are spelled with two bytes each here


def test_an_unknown_way_of_cutting_words_has_a_larger_error() -> None:
    assert byte_level(pre="llama-bpe").count("a").error < byte_level(pre="unheard-of").count("a").error
    assert str(TokenCount(9400, 0.1)) == "~9400 tokens (±10 %)"


@given(st.text("aé漢 \n\udc80the", max_size=30), st.integers(0, 12))
def test_the_front_of_a_text_has_no_more_tokens_than_it_may(text: str, limit: int) -> None:
    for tokenizer in (byte_level("th", "he", "Ġa"), sentencepiece("▁t", "he")):
        end, tokens = tokenizer.front(text, limit)
        assert tokens <= limit
        assert (end == len(text)) == (tokenizer.front(text, 1000)[1] <= limit)
        assert tokenizer.front(text[:end], 1000)[1] <= limit


@given(st.text("the é\n", max_size=60), st.integers(1, 20), st.lists(st.integers(1, 9), max_size=12))
def test_an_allowance_is_used_up_exactly(text: str, limit: int, sizes: list[int]) -> None:
    tokenizer = sentencepiece("▁t", "he")
    allowance, taken, at = TokenLimit(tokenizer, limit), "", 0
    for size in [*sizes, 60]:
        taken += allowance.take(text[at : at + size])
        at += size
    assert text.startswith(taken)
    assert allowance.is_exceeded == (taken != text)
    if allowance.is_exceeded:
        assert tokenizer.front(taken, 1000)[1] <= limit
        assert len(taken.encode()) >= limit - 1, "no token is left out but one that does not fit"


@pytest.mark.parametrize("unit", ["a", "how do I leave? ", "你好", "x = [1, 2, 3]\n", "8b3f"])
def test_a_large_text_is_counted_by_samples(model: Path, unit: str) -> None:
    tokenizer = read_tokenizer(model)
    assert tokenizer is not None
    text = unit * (15000 // len(unit))
    whole, many = tokenizer.count(text), tokenizer.count(text * 100)
    assert many.at_least <= 100 * whole.count <= many.at_most
    assert many.error < 0.1


def test_counting_again_what_is_being_typed_costs_little(model: Path) -> None:
    tokenizer = read_tokenizer(model)
    assert tokenizer is not None
    text = (Path(__file__).parents[2] / "docs/using.md").read_text("utf-8")
    tokenizer.count(text)
    started = time.process_time()
    tokenizer.count(text + " and one more word")
    assert time.process_time() - started < 0.25  # measured: 0.001 for 9,000 characters


def test_a_file_that_is_no_model_has_no_counts(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 40)
    for path in (broken, tmp_path / "missing.gguf", tmp_path):
        assert TokenCounter(path).count("hello") is None


TEXTS = {
    "prose": "How do I leave the conversation? I'd like to know whether Ctrl-D does it, or if there's more.",
    "code": "def main(arguments):\n    for each in arguments:\n        print(f'{each:>10}')\n\n\treturn 0\n",
    "JSON": '{"id": 12345, "name": "Ada Lovelace", "tags": ["a", "b"], "score": 3.14159, "ok": true, "note": null}',
    "CJK": "你好，世界。这是一个测试。日本語のテキスト、カタカナ。한국어 문장도 있습니다.",
    "mixed": "Größe: 42 µm — “naïve” café 👍🏽 👩‍👩‍👧 → x² ≥ 0 … Привет, мир! שלום مرحبا e\u0301",
    "special tokens": "what is <|im_end|>, and <|im_start|>user?",
    "space": "a\n\n\n\tb   \n      c" + " " * 40 + "d" + "-" * 80,
    "numbers": "3.14159 2024-05-01T12:30:00Z 0xdeadbeef 1,000,000 192.168.0.1 7 88 999 1234 56789",
}


@pytest.mark.engine
def test_a_real_engine_counts_the_same(engine: EngineBinary, model: Path) -> None:
    if engine.verbosity() is None:
        pytest.skip("this engine tells no counts")
    config = Settings(engine=str(engine.path), model=str(model), temperature=0.0, max_tokens=1)
    counted: dict[str, TokenCount | None] = {}
    exact: dict[str, Stats] = {}

    async def converse() -> None:
        backend = LocalEngineBackend(config)
        try:
            for name, text in {"": "x", **TEXTS}.items():
                *_, last = [event async for event in backend.reply(Conversation().with_user(text))]
                assert isinstance(last, Completed)
                exact[name], counted[name] = last.stats, backend.count(text)
        finally:
            await backend.close()

    asyncio.run(converse())
    is_classic = engine.dialect is Dialect.CLASSIC

    def prompt(stats: Stats) -> int:  # a modern engine evaluates only what it does not still have from before
        assert stats.exact and stats.context_used is not None and stats.prompt_tokens is not None
        return stats.prompt_tokens if is_classic else stats.context_used - stats.tokens

    around = prompt(exact[""]) - 1
    for name in TEXTS:
        guess = counted[name]
        assert guess is not None
        if name == "special tokens" and not is_classic:
            assert prompt(exact[name]) - around > guess.count, "they are text here, too, with an invisible joiner"
        else:
            assert prompt(exact[name]) - around == guess.count, name


@pytest.mark.engine
def test_a_reply_ends_exactly_at_its_limit(engine: EngineBinary, model: Path) -> None:
    story = Conversation().with_user("tell me a long story")

    async def reply(limit: int | None) -> Completed:
        # A modern engine gets its limit on the command line.
        config = Settings(engine=str(engine.path), model=str(model), temperature=0.0, max_tokens=limit or 0)
        backend = LocalEngineBackend(config)
        try:
            *_, last = [event async for event in backend.reply(story, ReplyOptions(max_tokens=limit))]
            assert isinstance(last, Completed)
            if limit is not None:
                count = backend.count(last.text)
                assert last.reason is FinishReason.LENGTH and last.stats.tokens == limit
                assert count is not None and count.count == limit
            return last
        finally:
            await backend.close()

    whole = asyncio.run(reply(None)).text
    for limit in (1, 7, 40, 150):
        assert whole.startswith(asyncio.run(reply(limit)).text)
