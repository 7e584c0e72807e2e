"""Sampling with the library of ik_llama.cpp, in the order and with the defaults of llama.cpp."""

from __future__ import annotations

import ctypes
import random
from array import array
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from bitnet_chat.engine.native.ik_api import CANDIDATE_SIZE, Candidates
from bitnet_chat.errors import NativeRequestError

DEFAULTS = {
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""The defaults of llama.cpp."""
LAST = 64
"""Number of last tokens, including those of the prompt, to which the penalties apply."""


class IkSampler:
    """The sampler of one reply. It has its own random numbers, so parallel replies do not affect each other."""

    def __init__(self, library: Any, context: int, vocabulary: int, size: int, sampling: dict[str, float]) -> None:
        """Create a sampler. ``context``, ``vocabulary``: pointers of the library. ``size``: tokens of the vocabulary.
        ``sampling``: values by the names of :data:`DEFAULTS`, and ``seed``.
        """
        self._library, self._context, self._vocabulary = library, context, vocabulary
        self._values = DEFAULTS | sampling
        seed = sampling.get("seed")
        self._random = random.Random(None if seed is None else int(seed))
        self._size = size
        self._data = ctypes.create_string_buffer(size * CANDIDATE_SIZE)
        view = memoryview(self._data).cast("B")
        self._id_column, self._logit_column = view.cast("i")[::3], view.cast("f")[1::3]
        self._probability_column = view.cast("f")[2::3]
        self._id_column[:] = memoryview(array("i", range(size)))
        self._unsorted = self._data.raw
        self._candidates = Candidates(ctypes.addressof(self._data), size, -1, False)
        self._grammar = 0

    def obey(self, grammar: str) -> None:
        """Restrict the reply to a grammar (GBNF). :meth:`close` must be called afterwards. Raises NativeRequestError
        for an invalid grammar.
        """
        text = grammar.encode("utf-8", "replace")
        made = b"\0" not in text and self._library.llama_sampler_init_grammar(self._vocabulary, text, b"root")
        if not made:
            raise NativeRequestError("usage", "the grammar cannot be read; the log of the engine shows where")
        self._grammar = made

    def close(self) -> None:
        """Free the grammar."""
        if self._grammar:
            self._library.llama_grammar_free(self._grammar)
            self._grammar = 0

    def draw(self, logits: int, before: Sequence[int]) -> int | None:
        """Return the next token. ``logits``: their address (float32, one for each token of the vocabulary). ``before``:
        the tokens before it. None: the grammar allows no token.
        """
        self._fill(logits)
        token = self._sample(before)
        if self._grammar and not self._allows(token):
            # The whole vocabulary is checked only now: that is expensive, and most tokens match the grammar.
            self._fill(logits)
            self._library.llama_grammar_sample(self._grammar, self._context, self._candidates)
            if max(self._logit_column) == float("-inf"):
                return None
            token = self._sample(before)
        return token

    def accept(self, token: int) -> None:
        """Advance the grammar by ``token``. Not for a token that ends the reply."""
        if self._grammar:
            self._library.llama_grammar_accept_token(self._grammar, self._context, token)

    def _fill(self, logits: int) -> None:
        # Only the column of logits is copied number by number: 1 ms for 128,000 tokens.
        ctypes.memmove(self._data, self._unsorted, len(self._unsorted))
        self._logit_column[:] = memoryview((ctypes.c_float * self._size).from_address(logits)).cast("B").cast("f")
        self._candidates.data = ctypes.addressof(self._data)
        self._candidates.size, self._candidates.sorted = self._size, False

    def _allows(self, token: int) -> bool:
        one = (ctypes.c_float * 3)(0.0, 1.0, 0.0)
        ctypes.c_int32.from_buffer(one).value = token
        candidates = Candidates(ctypes.addressof(one), 1, -1, False)
        self._library.llama_grammar_sample(self._grammar, self._context, candidates)
        return one[1] == 1.0

    def _sample(self, before: Sequence[int]) -> int:
        library, context, candidates, values = self._library, self._context, self._candidates, self._values
        penalties = values["repeat_penalty"], values["frequency_penalty"], values["presence_penalty"]
        if penalties != (1.0, 0.0, 0.0):
            last = (ctypes.c_int32 * len(before[-LAST:]))(*before[-LAST:])
            library.llama_sample_repetition_penalties(context, candidates, last, len(last), *penalties)
        if values["temperature"] <= 0:
            return int(library.llama_sample_token_greedy(context, candidates))
        if values["top_k"] > 0:
            library.llama_sample_top_k(context, candidates, int(values["top_k"]), 1)
        library.llama_sample_top_p(context, candidates, values["top_p"], 1)
        library.llama_sample_min_p(context, candidates, values["min_p"], 1)
        library.llama_sample_temp(context, candidates, values["temperature"])
        library.llama_sample_softmax(context, candidates)
        sums = list(accumulate(self._probability_column[: candidates.size]))
        at = bisect(sums, self._random.random() * sums[-1])
        return int(self._id_column[min(at, len(sums) - 1)])
