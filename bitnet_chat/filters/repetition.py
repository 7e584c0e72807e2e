"""Text that has begun to repeat itself without end. Pure, at the same cost for each character of any long text.

The end of the text is checked every 127 characters, or every 31 where they are not English words and may be one token
each or more. Once it is some unit twice over, each further step only has to compare the new characters with those
one unit before. What a repetition may be is limited in characters and in tokens, whichever is reached first: a token of
prose has four characters, an emoji may be three tokens. With a limit of N (12 unless told otherwise) the text has run
away when its end is

- N repetitions of one unit that make 40·N characters (480) or 10·N tokens (120), or
- N/4 repetitions, at least 3, of a longer unit that make 160·N characters (1,920) or 24·N tokens (288), or
- 3·N repetitions that differ in a number which counts upwards (``1. the same 2. the same``), that make 80·N
  characters (960), or N/2 of them that make 24·N tokens (288), in a unit of at least four words, or
- 25·N words in one line that are only three to N different ones: the stammer of a model that has lost its thread.

Drawings, rules, tables without words, rows of zeros and laughter repeat themselves as well: where the unit has no
letters, all has to be 4 times as long, in tokens 3 times; with one or two different letters, twice as long. In a fenced
code block all has to be 8 times as long, but for N/3 repetitions of a unit that code has no use for: of at least 8
different words, or of 12 tokens without a line break. Tokens of fewer than three letters count for nothing there, nor
where there are line breaks between them: arrays of zeros and drawings; 80·N repetitions of at most 8 characters are too
many even so. Nothing is a stammer in a code block.

A unit has at most 4,096 characters; repetitions with a number are followed over the last 8,000 characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from bitnet_chat.context.token_count import by_length
from bitnet_chat.filters.role_markers import FenceTracker

_STEP, _STEP_OF_OTHERS = 127, 31  # prime numbers: a unit of nearly any length is met in each of its phases
_KEY = 32
_LONGEST_UNIT = 4096
_WINDOW = 2 * _LONGEST_UNIT + _STEP
_TRIES = 4
_LENGTH, _LENGTH_OF_LONG = 40, 160
_TOKENS, _TOKENS_OF_LONG = 10, 24
_DRAWING, _LAUGHTER, _CODE = (4, 3), (2, 2), 8
_WORDS_OF_CODE, _TOKENS_IN_LINE = 8, 12
_SIGNS, _FEW_SIGNS = 80, 8
_COUNTED = 256  # characters of repetitions whose tokens are counted: where one ends the next may begin within a token
_STAMMER_WORDS, _STAMMER_SIGNS = 25, 20
_RARE_STEP = 2  # counters and stammer are looked for at each 2nd step; for a counter in so much of the end:
_COUNTER_REACH = 256
_COUNTER_REPETITIONS, _COUNTER_LENGTH, _COUNTER_WORDS = 3, 80, 4
_NUMBERS_IN_UNIT = 6
_NUMBER = re.compile(r"([0-9]{1,9})")
_WORD = re.compile(r"[^\W\d_]{2,}")


class RepetitionDetector:
    """Feed it a text piece by piece; the finding does not depend on the pieces."""

    def __init__(self, limit: int, before: str = "", count: Callable[[str], int] | None = None) -> None:
        """``limit``: see the module; 0 finds nothing. ``before``: text that comes first and is not judged. ``count``:
        tokens of a text, for what has repeated itself."""
        self._limit = limit
        self._count = count or (lambda text: by_length(text).count)
        self._lines = FenceTracker()
        self._lines.feed(before)
        self._read = 0
        """Up to where in the data of this moment ``_lines`` has come: they are read only where it matters."""
        self._seen = ""
        """The last characters up to the last step; ``_pending`` came after it."""
        self._pending: list[str] = []
        self._step_size = self._left = _STEP_OF_OTHERS
        """Characters between the last step and the next one, and from here to it."""
        self._steps = 0
        self._period = 0
        """Length of the unit that the text ends with twice or more; 0: no unit."""
        self._run = 0
        """Length of all these repetitions."""
        self._density = 0.0
        """Tokens of each character of them."""
        self.repetitions = 0
        """Of the unit, once it was found."""

    def feed(self, text: str) -> int | None:
        """None, or the length of ``text`` at which it had run away; no text may be fed after that."""
        if not self._limit:
            return None
        if len(text) < self._left:
            self._pending.append(text)
            self._left -= len(text)
            return None
        self._read = known = len(self._seen)
        at = self._left  # in ``text``
        data = "".join((self._seen, *self._pending, text))
        end = known + self._step_size  # the same place in ``data``
        while at <= len(text):
            if self._step(data, end):
                return at
            # The same wherever the text is cut into pieces.
            before, key = end, data[max(0, end - _KEY) : end]
            self._step_size = _STEP if key.isascii() and key.lower() != key.upper() else _STEP_OF_OTHERS
            at += self._step_size
            end += self._step_size
        end = before
        self._in_code(data, end)
        self._seen = data[max(0, end - _WINDOW) : end]
        self._pending = [data[end:]]
        self._left = self._step_size - (len(data) - end)
        return None

    def _step(self, data: str, end: int) -> bool:
        """Whether ``data[:end]`` has run away."""
        self._steps += 1
        period, size = self._period, self._step_size
        if period and data.endswith(data[max(0, end - size - period) : end - period], 0, end):
            self._run += size
        else:
            self._period = period = _period(data, end)
            self._run = _run(data, end, period) if period else 0
            self._density = self._density_of(data[end - min(self._run, _COUNTED) : end]) if period else 0.0
        if period and self._is_too_long(data, end):
            self.repetitions = self._run // period
            return True
        return self._steps % _RARE_STEP == 0 and (self._counts_on(data, end) or self._stammers(data, end))

    def _is_too_long(self, data: str, end: int) -> bool:
        limit, run = self._limit, self._run
        count = run // self._period
        if count >= max(2, limit):
            characters, tokens = _LENGTH * limit, _TOKENS * limit
        elif count >= max(3, -(-limit // 4)):
            characters, tokens = _LENGTH_OF_LONG * limit, _TOKENS_OF_LONG * limit
        else:
            return False
        if count >= _SIGNS * limit and self._period <= _FEW_SIGNS:
            return True
        made = run * self._density
        if run < characters and made < tokens:
            return False
        unit = data[end - self._period : end]
        in_code, letters = self._in_code(data, end), sum(map(str.isalpha, set(unit)))
        is_drawing = letters < 3
        if in_code and (3 * count < limit or not self._is_no_code(unit)):
            characters, tokens = characters * _CODE, tokens * _CODE
        if is_drawing:
            more, more_tokens = _LAUGHTER if letters else _DRAWING
            characters, tokens = characters * more, tokens * more_tokens
        return run >= characters or (made >= tokens and not (is_drawing and (in_code or "\n" in unit)))

    def _is_no_code(self, unit: str) -> bool:
        is_long = "\n" not in unit and len(unit) * self._density >= _TOKENS_IN_LINE
        return is_long or len(set(_WORD.findall(unit))) >= _WORDS_OF_CODE

    def _density_of(self, text: str) -> float:
        return self._count(text) / len(text)

    def _in_code(self, data: str, end: int) -> bool:
        self._lines.feed(data[self._read : end])
        self._read = end
        return self._lines.in_code

    def _counts_on(self, data: str, end: int) -> bool:
        wanted = max(3, self._limit // 2)
        texts = _NUMBER.split(data[max(0, end - _COUNTER_REACH) : end])[::2]
        # Nearly always this is all: of something that counts on, the longest part without a number recurs.
        if len(texts) == 1 or _words(texts) < _COUNTER_WORDS:
            return False
        if data.count(max(texts, key=len), max(0, end - _WINDOW), end) < wanted - 1:
            return False
        # text, number, text, ..., number, text: the first and the last text may be cut.
        parts = _NUMBER.split(data[max(0, end - _WINDOW) : end])[1:-1]
        numbers = [int(number) for number in parts[::2]]
        texts = parts[1::2]
        for size in range(1, _NUMBERS_IN_UNIT + 1):
            if len(texts) < size * wanted:
                break
            unit = texts[-size:]
            if _words(unit) < _COUNTER_WORDS:
                continue
            count = 1 + _same(texts, numbers[:-1], size) // size
            if count < wanted:
                continue
            length = sum(map(len, parts[-2 * size * count :]))
            factor = self._limit * (_CODE if self._in_code(data, end) else 1)
            is_often = count >= _COUNTER_REPETITIONS * self._limit
            if (is_often and length >= _COUNTER_LENGTH * factor) or (
                length * self._density_of(data[max(0, end - _COUNTED) : end]) >= _TOKENS_OF_LONG * factor
            ):
                self.repetitions = count
                return True
        return False

    def _stammers(self, data: str, end: int) -> bool:
        # Nearly always the first look is all: prose has more different signs than that.
        if len(set(data[max(0, end - _COUNTER_REACH) : end])) > _STAMMER_SIGNS:
            return False
        wanted = _STAMMER_WORDS * max(2, self._limit)
        start = data.rfind("\n", max(0, end - _WINDOW), end) + 1
        words = data[max(start, end - _WINDOW) : end].split()[-wanted - 1 : -1]  # the last one may be cut
        if len(words) < wanted or self._in_code(data, end):
            return False
        different = {word for word in words if any(map(str.isalpha, word))}
        if not 3 <= len(different) <= len(set(words)) <= self._limit:
            return False
        self.repetitions = len(words) // len(different)
        return True


def _period(data: str, end: int) -> int:
    """The length of the shortest unit with which ``data[:end]`` ends twice, and at least with ``_KEY`` characters of
    its repetition; 0 without one, or only behind ``_TRIES`` that seemed to be one."""
    key = data[max(0, end - _KEY) : end]
    before = end - 1
    for _ in range(_TRIES):
        at = data.rfind(key, max(0, end - _KEY - _LONGEST_UNIT), before)
        if at < 0:
            return 0
        period = end - len(key) - at
        size = max(_KEY, period)
        if end >= size + period and data.startswith(data[end - size : end], end - size - period):
            return period
        before = at + len(key) - 1
    return 0


def _run(data: str, end: int, period: int) -> int:
    """How much of the end of ``data[:end]``, which is a unit of ``period`` characters twice, consists of it."""
    least, most = period + max(_KEY, period), end
    while least < most:
        middle = 2 * least if 2 * least < most else (least + most + 1) // 2
        if data.startswith(data[end - middle : end - period], end - middle + period):
            least = middle
        else:
            most = middle - 1
    return least


def _words(texts: list[str]) -> int:
    """Words in texts that have numbers between them."""
    return sum(any(map(str.isalpha, word)) for word in "0".join(texts).split())


def _same(texts: list[str], numbers: list[int], size: int) -> int:
    """How many places at the end agree with those ``size`` before: texts alike, and of the ``size`` numbers of each
    unit always the same ones alike and the others one more. 0 where all numbers are alike."""
    growths = [numbers[-1 - at] - numbers[-1 - at - size] for at in range(size)]
    count, most = 0, len(texts) - size
    if set(growths) <= {0, 1} and any(growths):
        while (
            count < most
            and texts[-1 - count] == texts[-1 - count - size]
            and numbers[-1 - count] - numbers[-1 - count - size] == growths[count % size]
        ):
            count += 1
    return count
