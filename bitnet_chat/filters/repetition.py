"""Detection of text that repeats itself without end. Pure; the cost per character does not grow with the text.

The end of the text is checked every 127 characters; 31 after the first one that is not ASCII, and every 31 if it is not
English words, because there each character may be one token or more; every 11 in repetitions with more than one token
per character. Once the end is some unit twice, each further check compares only the new characters with
those one unit earlier. The limits are in characters and in tokens, and the first one reached counts: a token of prose
has four characters, an emoji may be three tokens. With a limit of N (default 12) a text is a runaway if its end is

- N repetitions of one unit with 40·N characters (480) or 10·N tokens (120), or
- N/4 repetitions, at least 3, of a longer unit with 160·N characters (1,920) or 24·N tokens (288), or
- 3·N repetitions that differ in a number that counts up (``1. the same 2. the same``) with 80·N characters (960),
  or N/2 of them with 24·N tokens (288), of a unit of at least four words, or
- 25·N words in one line of which only three to N are different ("stammer").

Drawings, rulers, tables without words, rows of zeros and laughter repeat legitimately. For a unit without letters, 4
times as many characters and 3 times as many tokens are required; for one or two different letters, twice as many of
both. In a fenced code block 8 times as many of both are required, except for N/3 repetitions of a unit that is not
plausible in code: at least 8 different words, 12 tokens without a line break, or comments with a letter or digit, such
as ``# 1``. In a code block, or with line breaks in the unit, tokens of any other unit with fewer than three different
letters do not count, because of arrays of zeros and drawings; 80·N repetitions of at most 8 characters exceed the limit
even there. A code block is never a stammer.

A unit has at most 4,096 characters. Repetitions with a number are searched in the last 8,000 characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from bitnet_chat.context.token_count import by_length
from bitnet_chat.filters.role_markers import FenceTracker

_STEP, _SHORT_STEP, _DENSE_STEP = 127, 31, 11  # prime numbers, so that the checks fall on all offsets within a unit
_KEY = 32
_LONGEST_UNIT = 4096
_WINDOW = 2 * _LONGEST_UNIT + _STEP
_TRIES = 4
_LENGTH, _LENGTH_OF_LONG = 40, 160
_TOKENS, _TOKENS_OF_LONG = 10, 24
_DRAWING, _LAUGHTER, _CODE = (4, 3), (2, 2), 8
_WORDS_OF_CODE, _TOKENS_IN_LINE = 8, 12
_TINY_REPETITIONS, _TINY_UNIT = 80, 8
_COUNTED = 256  # characters whose tokens are counted; several repetitions, since a token may span two of them
_STAMMER_WORDS, _STAMMER_CHARACTERS = 25, 20
_RARE_STEP = 2  # every 2nd check also searches for counters and stammer
_COUNTER_REACH = 256  # characters at the end that are examined first, because this rules out most texts
_COUNTER_REPETITIONS, _COUNTER_LENGTH, _COUNTER_WORDS = 3, 80, 4
_NUMBERS_IN_UNIT = 6
_NUMBER = re.compile(r"([0-9]{1,9})")
_WORD = re.compile(r"[^\W\d_]{2,}")
_COMMENT = re.compile(r"\s*(?:#|//|--|;|%).*[^\W_]")


class RepetitionDetector:
    """Detects a runaway in a text that is fed in pieces."""

    def __init__(self, limit: int, before: str = "", count: Callable[[str], int] | None = None) -> None:
        """Start detection in a new text.

        ``limit``: N of the module docstring; 0 disables detection. ``before``: preceding text, which is not judged.
        ``count``: counts the tokens of a text; the default estimates them from its length.
        """
        self._limit = limit
        self._count = count or (lambda text: by_length(text).count)
        self._lines = FenceTracker()
        self._lines.feed(before)
        self._read = 0
        """Position in the current data up to which ``_lines`` was fed. It is fed only when its answer is needed."""
        self._seen = ""
        """The last characters before the latest check; ``_pending`` has the text after it."""
        self._pending: list[str] = []
        self._step_size = self._left = _SHORT_STEP
        """Characters between the latest check and the next one; ``_left``: those that are still missing."""
        self._is_plain = False
        """Whether the latest check was after English words, and all characters since then are ASCII."""
        self._steps = 0
        self._period = 0
        """Length of the unit that ends the text at least twice; 0 without one."""
        self._run = 0
        """Length of all these repetitions together."""
        self._density = 0.0
        """Tokens per character in the repetitions."""
        self.repetitions = 0
        """Number of repetitions, once a runaway was detected."""

    def feed(self, text: str) -> int | None:
        """Return None, or the number of characters of ``text`` after which it is a runaway. Do not call it again after
        that."""
        if not self._limit:
            return None
        if self._is_plain and not text.isascii():
            passed = self._step_size - self._left
            self._step_size = min(_STEP, passed + _first_other(text) + _SHORT_STEP)
            self._left, self._is_plain = self._step_size - passed, False
        if len(text) < self._left:
            self._pending.append(text)
            self._left -= len(text)
            return None
        self._read = known = len(self._seen)
        at = self._left  # in ``text``
        data = "".join((self._seen, *self._pending, text))
        end = known + self._step_size  # the same position in ``data``
        while at <= len(text):
            if self._step(data, end):
                return at
            # Depends on the text before this check only, not on the pieces.
            before, key = end, data[max(0, end - _KEY) : end]
            self._is_plain = key.isascii() and key.lower() != key.upper()
            self._step_size = _STEP if self._is_plain else _DENSE_STEP if self._density > 1 else _SHORT_STEP
            if self._is_plain and not (following := text[at : at + _STEP]).isascii():
                self._step_size, self._is_plain = min(_STEP, _first_other(following) + _SHORT_STEP), False
            at += self._step_size
            end += self._step_size
        end = before
        self._in_code(data, end)
        self._seen = data[max(0, end - _WINDOW) : end]
        self._pending = [data[end:]]
        self._left = self._step_size - (len(data) - end)
        return None

    def _step(self, data: str, end: int) -> bool:
        """Whether ``data[:end]`` is a runaway."""
        self._steps += 1
        period, size = self._period, self._step_size
        if period and data.endswith(data[max(0, end - size - period) : end - period], 0, end):
            self._run += size
        else:
            self._period = period = _period(data, end)
            self._run = _run(data, end, period) if period else 0
            self._density = self._token_density(data[end - min(self._run, _COUNTED) : end]) if period else 0.0
        if period and self._is_too_long(data, end):
            self.repetitions = self._run // period
            return True
        return self._steps % _RARE_STEP == 0 and (self._has_counter(data, end) or self._is_stammer(data, end))

    def _is_too_long(self, data: str, end: int) -> bool:
        limit, run = self._limit, self._run
        count = run // self._period
        if count >= max(2, limit):
            characters, tokens = _LENGTH * limit, _TOKENS * limit
        elif count >= max(3, -(-limit // 4)):
            characters, tokens = _LENGTH_OF_LONG * limit, _TOKENS_OF_LONG * limit
        else:
            return False
        if count >= _TINY_REPETITIONS * limit and self._period <= _TINY_UNIT:
            return True
        tokens_made = run * self._density
        if run < characters and tokens_made < tokens:
            return False
        unit = data[end - self._period : end]
        in_code, letters = self._in_code(data, end), sum(map(str.isalpha, set(unit)))
        is_drawing = letters < 3
        is_comment = in_code and _is_comment(unit)
        if in_code and (3 * count < limit or not (is_comment or self._is_implausible_in_code(unit))):
            characters, tokens = characters * _CODE, tokens * _CODE
        if is_drawing:
            more, more_tokens = _LAUGHTER if letters else _DRAWING
            characters, tokens = characters * more, tokens * more_tokens
        is_exempt = is_drawing and (in_code or "\n" in unit) and not is_comment
        return run >= characters or (tokens_made >= tokens and not is_exempt)

    def _is_implausible_in_code(self, unit: str) -> bool:
        """Whether ``unit`` is not plausible in a code block."""
        is_long = "\n" not in unit and len(unit) * self._density >= _TOKENS_IN_LINE
        return is_long or len(set(_WORD.findall(unit))) >= _WORDS_OF_CODE

    def _token_density(self, text: str) -> float:
        return self._count(text) / len(text)

    def _in_code(self, data: str, end: int) -> bool:
        self._lines.feed(data[self._read : end])
        self._read = end
        return self._lines.in_code

    def _has_counter(self, data: str, end: int) -> bool:
        """Whether the end repeats a unit with a number that counts up."""
        wanted = max(3, self._limit // 2)
        texts = _NUMBER.split(data[max(0, end - _COUNTER_REACH) : end])[::2]
        # Rules out nearly all texts: in a repetition with a counter, the longest part without a number recurs.
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
            count = 1 + _matching_length(texts, numbers[:-1], size) // size
            if count < wanted:
                continue
            length = sum(map(len, parts[-2 * size * count :]))
            factor = self._limit * (_CODE if self._in_code(data, end) else 1)
            is_often = count >= _COUNTER_REPETITIONS * self._limit
            if (is_often and length >= _COUNTER_LENGTH * factor) or (
                length * self._token_density(data[max(0, end - _COUNTED) : end]) >= _TOKENS_OF_LONG * factor
            ):
                self.repetitions = count
                return True
        return False

    def _is_stammer(self, data: str, end: int) -> bool:
        """Whether the end of the current line is a stammer."""
        # Rules out nearly all texts: prose has more different characters.
        if len(set(data[max(0, end - _COUNTER_REACH) : end])) > _STAMMER_CHARACTERS:
            return False
        wanted = _STAMMER_WORDS * max(2, self._limit)
        start = data.rfind("\n", max(0, end - _WINDOW), end) + 1
        words = data[max(start, end - _WINDOW) : end].split()[-wanted - 1 : -1]  # the last one may be incomplete
        if len(words) < wanted or self._in_code(data, end):
            return False
        different = {word for word in words if any(map(str.isalpha, word))}
        if not 3 <= len(different) <= len(set(words)) <= self._limit:
            return False
        self.repetitions = len(words) // len(different)
        return True


def _is_comment(unit: str) -> bool:
    """Whether all lines of a repeated unit are comments with a letter or digit."""
    lines = (2 * unit).split("\n")[1:-1]  # the unit may begin within a line
    return bool(lines) and all(_COMMENT.match(line) for line in lines)


def _period(data: str, end: int) -> int:
    """Length of the shortest unit that ends ``data[:end]`` twice, in at least ``_KEY`` repeated characters.

    0 if there is none among the first ``_TRIES`` candidates.
    """
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
    """Length of the end of ``data[:end]`` that repeats its last ``period`` characters, which occur there at least
    twice."""
    least, most = period + max(_KEY, period), end
    while least < most:
        middle = 2 * least if 2 * least < most else (least + most + 1) // 2
        if data.startswith(data[end - middle : end - period], end - middle + period):
            least = middle
        else:
            most = middle - 1
    return least


def _words(texts: list[str]) -> int:
    """Count the words in texts that were separated by numbers."""
    return sum(any(map(str.isalpha, word)) for word in "0".join(texts).split())


def _matching_length(texts: list[str], numbers: list[int], size: int) -> int:
    """Count the positions at the end that agree with those ``size`` earlier.

    Texts agree if they are equal. Of the ``size`` numbers of a unit, some must increase by one from unit to unit,
    always the same ones, and the others stay equal. Returns 0 if no number increases.
    """
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


def _first_other(text: str) -> int:
    """The position of the first character that is not ASCII; there is one."""
    return next(at for at, character in enumerate(text) if not character.isascii())
