"""Replies that the scripted backend gives in small pieces: ``page NAME``. A form feed is a gate."""

from __future__ import annotations

MARKDOWN = """\
# A heading with `code`
Some *emphasis*, **strong words**, ~~no~~, [a link](https://example.org/a_b_c).
2 * 3 * 4, snake_case_name, an unclosed **end
1. one
   - [x] nested
> a quotation

```python
def answer(x):
    # the comment
    return "a string", 42
```
---

| Name | Value |
|:-----|------:|
| `one` | 1 |
| 数据 👍 | **22,000** |

The end.
"""
_ITEMS = "".join(f"- item {number:03} with **strong** words\n" for number in range(1, 61))
_LINES = "".join(f"x{number:03} = None  # {'y' * 40}\n" for number in range(1, 31))
PAGES = {
    "markdown": MARKDOWN,
    "long": f"# Long\n{_ITEMS}\fThe end.\n",
    "code": f"```python\n{_LINES}\f```\nThe end.\n",
    "held": "Look:\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\f| 3 | 4 |\n\nThe end.\n",
    "edge": "数据模型" * 12 + "**" + "数据模型" * 12 + "** " + "👍🏽" * 30 + "*" + "e\u0301" * 50 + "*\n\fThe end.\n",
    "words": "Words that are surrounded by others until the edge\f, and others that go on and on.\nThe end.\n",
    "pause": "look at the *\fstars* tonight",
    "open": "**bold and \fstill bold** plain",
}

THINKING_MODES = [
    ("show", "Let me see.", "Let me see.\nOh.\nSo it is."),
    ("fold", "s thinking", " · /thinking shows it\nSo it is."),
    ("hide", "s thinking", "> ponder\nSo it is."),
]
"""Values of ``--thinking``, with what is shown during the thoughts and after the reply to ``ponder``."""
