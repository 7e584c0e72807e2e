"""Known answers of the word wrap at many widths: digests of them are in ``tests/data/wrap.json``.

``python tests/text/test_wrap_answers.py`` writes the file anew. What the answers must hold is checked too: that nothing
is lost, and that rows of a column are not too long.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from wcwidth import iter_graphemes

from bitnet_chat.text.cell_width import width
from bitnet_chat.text.wrap import RowWrapper, WordWrapper, wrapped

_FILE = Path(__file__).parents[1] / "data" / "wrap.json"
_BOLD, _OFF = "\x1b[1m", "\x1b[0m"
TEXTS = (
    "the quick brown fox jumped over it",
    "a  b   c    d     e      f",
    "  indented words, and more of them",
    "> quoted words that go on and on",
    "> - a list in a quotation goes on",
    "/help   this list of all commands",
    "/export FORMAT [FILE]  the conversation",
    "a\tb\t\tc\tdefghijk\tl",
    "see https://example.org/a?x=1&y=2 and so on",
    "ünïcödé wörds, äs löng äs öthers, überlängé",
    f"plain {_BOLD}bold words{_OFF} and plain {_BOLD}again{_OFF}",
    f"{_BOLD}bold{_OFF}{_BOLD}er than{_OFF} the {_BOLD}boldest{_OFF}ones",
    "数据模型，是一种“抽象”。模型（组织）了数据",
    "mixed 文字abc文字, a（数）b“据”c—d—ef",
    "한국어 단어는 나누지 않습니다 정말로",
    "ᄀᄀ ㅏㅏ 가가 \u318f\u318f",
    "สวัสดีครับ ผมชื่อ ສະບາຍ བོད ខ្មែរ",
    "\u0e00\u0eff \u0f00\u109f \u1780\u17ff \u1e01\u1e01",
    "👩\u200d💻👩\u200d💻 and 👨\u200d👩\u200d👧! words",
    "a ❤\ufe0f❤\ufe0f b ☺\ufe0e☺\ufe0e c 🇫🇷🇩🇪 d",
    "e\u0301e\u0301e\u0301 word\u0301 \u0300\u0301 x\u0300y",
    "```python\nx = 'a long line of code'\ty\n数据数据\n```\nwords after the code",
    "one\n\n two three\nfour five six\n",
    "- ```\n  code in a list\n  ```\n- words, again and again",
    "~~~\n```\ncode goes on here\n~~~\nwords once more",
)
WIDTHS = (1, 2, 3, 5, 8, 9, 10, 13, 17, 20)


def _pieces(text: str) -> list[str]:
    return [match[0] for match in re.finditer(r"\x1b\[[0-9;]*m|[\s\S]", text)]


def _fed(text: str, columns: int, sizes: list[int], code: bool) -> list[str]:
    """What is written for the characters one by one, in a window that takes these sizes in turn, and what is known of
    the cursor after each."""
    shown = list[str]()
    wrapper = WordWrapper(lambda: sizes[len(shown) // 9 % len(sizes)], code=code, indent=0 if code else 1)
    for piece in _pieces(text):
        written = wrapper.feed(piece)
        stays = [count for count in range(columns // 2 + 2) if wrapper.stays("x" * count)]
        shown.append(f"{written}|{wrapper.fresh:d}{wrapper.settled:d}{len(stays)} {wrapper.look}")
    return shown


def answers(text: str, columns: int) -> list[object]:
    rows = RowWrapper(columns)
    whole = WordWrapper(lambda: columns)
    return [
        wrapped(text, columns),
        [whole.feed(text), f"{whole.fresh:d}{whole.settled:d} {whole.look}"],
        _fed(text, columns, [columns], code=True),
        _fed(text, columns, [columns, columns + 4, max(1, columns - 3)], code=False),
        [[row.text, row.source, row.look] for row in (*rows.feed(text), rows.row)],
        [each.text for piece in _pieces(text) for each in rows.feed(piece)],
    ]


def _digest(answer: list[object]) -> str:
    return hashlib.sha256(json.dumps(answer).encode()).hexdigest()[:12]


@pytest.mark.parametrize("text", TEXTS)
def test_the_word_wrap_gives_known_answers(text: str) -> None:
    known = json.loads(_FILE.read_text("utf-8"))[text]
    bare = "".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
    for columns, digest in zip(WIDTHS, known, strict=True):
        answer: Any = answers(text, columns)
        for shown in (answer[0], answer[1][0], "".join(row[1] for row in answer[4])):
            assert "".join(re.sub(r"\x1b\[[0-9;]*m", "", shown).split()) == bare, columns
        assert "".join(row[1] for row in answer[4]) == text
        for row in answer[4]:
            bare_row = re.sub(r"\x1b\[[0-9;]*m", "", row[0])
            assert width(bare_row) <= max(2, columns) or len(list(iter_graphemes(bare_row))) == 1
        assert _digest(answer) == digest, (columns, answer)


if __name__ == "__main__":
    made = {text: [_digest(answers(text, columns)) for columns in WIDTHS] for text in TEXTS}
    _FILE.write_text(json.dumps(made, indent=0) + "\n", "utf-8")
