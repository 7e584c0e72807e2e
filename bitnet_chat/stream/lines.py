"""Where in a text one is: in which line, after which one, and whether inside a fenced code block. Pure."""

from __future__ import annotations

import re

# As CommonMark has it, but at any depth: lists and quotes put their own marks in front.
_FENCE = re.compile(r"[ \t>]*(`{3,}|~{3,})(.*)", re.DOTALL)
HEAD, TAIL = 200, 1000
"""Characters of a long line that are kept, of its beginning and of its end."""


class Lines:
    """Follows a text. What it says does not depend on how the text was cut into pieces, as long as nobody looks at
    more of a line than its first ``HEAD`` and its last ``TAIL`` characters. A line ends in a newline."""

    __slots__ = ("_fence", "after_blank", "before", "line")

    def __init__(self) -> None:
        self.line = ""
        """The line so far, without its middle if it is long: a piece then costs the same however long it gets."""
        self.before = ""
        """The last line above that is not blank; empty when there is none."""
        self.after_blank = False
        """Whether a blank line stands between the two."""
        self._fence = ""

    @property
    def in_code(self) -> bool:
        """Whether the next character would stand in a fenced code block; behind the fence that closes it: no."""
        return bool(self._fence) and not self._closes(self.line)

    def feed(self, text: str) -> None:
        if "\n" in text:
            first, *middle, text = text.split("\n")
            self._end(self.line + first)
            for line in middle:
                self._end(line)
            self.line = ""
        self.line += text
        if len(self.line) > HEAD + 2 * TAIL:
            self.line = self.line[:HEAD] + self.line[-TAIL:]

    def copy(self) -> Lines:
        other = Lines()
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        return other

    def _end(self, line: str) -> None:
        if not line or line.isspace():
            self.after_blank = True
            return
        self.before, self.after_blank = line, False
        if "```" in line or "~~~" in line:
            if self._fence:
                if self._closes(line):
                    self._fence = ""
            elif (opening := _FENCE.match(line[:HEAD])) and "`" not in opening[2]:
                self._fence = opening[1]

    def _closes(self, line: str) -> bool:
        closing = _FENCE.match(line[:HEAD])
        return closing is not None and closing[1].startswith(self._fence) and not closing[2].strip()
