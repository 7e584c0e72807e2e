"""Block structure of a reply: determines the kind of each line from its first characters, and passes on its text."""

from __future__ import annotations

import re
from collections.abc import Callable

from bitnet_chat.markdown import style
from bitnet_chat.markdown.code import CodeBlock
from bitnet_chat.markdown.inline import InlineParser
from bitnet_chat.markdown.language import find
from bitnet_chat.markdown.painter import AnsiBuffer
from bitnet_chat.markdown.style import DIM, MARK, PLAIN, Palette
from bitnet_chat.markdown.table import Table

_LONGEST_HEAD = 64
"""Number of characters after which the start of a line is written anyway. Only a line of blanks has so many."""
_LONGEST_ROW = 4000
"""Maximum number of characters of a line that is held back as a possible part of a table."""
_MAX_HELD_ROWS = 100
"""Number of rows after which an incomplete table is written; later rows are then written one by one."""

# The start of a line after its indentation: complete block marks, and (_OPEN) incomplete ones.
_HEADING = re.compile(r"#{1,6}(?=\s)")
_ITEM = re.compile(r"(?:[-*+]|\d{1,9}[.)])(?=\s)")
_TASK = re.compile(r"\[[ xX]\](?=\s)")
_RULE = re.compile(r"---|\*\*\*(?=[\s*])|___(?=[\s_])")
_FENCE = re.compile(r"```|~~~")
_OPEN = re.compile(r"#{1,6}|-{1,2}|\*{1,3}|_{1,3}|\+|\d{1,9}[.)]?|`{1,2}|~{1,2}")
_OPEN_TASK = re.compile(r"\[[ xX]?\]?")

_Step = Callable[[str, int], int]


class BlockParser:
    """A :class:`~bitnet_chat.markdown.MarkdownRenderer`. The output does not depend on the pieces of the input."""

    def __init__(self, palette: Palette, columns: Callable[[], int]) -> None:
        self._palette = palette
        self._columns = columns
        self._begin()

    def _begin(self) -> None:
        self._painter = AnsiBuffer(self._palette)
        self._inline = InlineParser(self._painter)
        self._blank = True
        """Whether the line before was empty."""
        self._in_list = False
        self._table: Table | None = None
        self._preview: tuple[tuple[int, int], str] = (0, 0), ""
        """Cached output of the incomplete table, with the number of rows and columns for which it is valid."""
        self._begin_line()

    def _begin_line(self) -> None:
        self._step: _Step = self._start
        self._head = ""
        """The start of a line as long as its kind is unknown."""
        self._quotes = 0
        self._item = False
        """Whether the line begins with a list mark."""
        self._base = PLAIN

    def feed(self, text: str) -> str:
        at = 0
        while at < len(text):
            at = self._step(text, at)
        return self._painter.take()

    def pause(self) -> str:
        if self._step == self._in_code:
            self._code.pause()
        elif self._step == self._in_text:
            self._inline.pause()
        elif self._head and self._step in (self._start, self._code_start):
            self._painter.show(self._head, PLAIN if self._head.strip()[:1].isdecimal() else MARK)
        return self._painter.take()

    def flush(self) -> str:
        if self._is_in_table:
            self._release()
        text = self.pause()
        self._painter.plain()
        return text + self._painter.take()

    def finish(self) -> str:
        # A newline is fed to determine the kind of the last line; it is removed if the reply does not end with one.
        ended = not self._head and self._step in (self._start, self._code_start, self._row_start)
        text = "" if ended else self.feed("\n")
        if self.holding:
            self._end_table()
        self._painter.plain()
        text += self._painter.take()
        self._begin()
        return text if ended else text.removesuffix("\n")

    @property
    def _is_in_table(self) -> bool:
        return self._step in (self._row_start, self._in_row)

    @property
    def held(self) -> list[str]:
        if not self._is_in_table:
            return []
        rows = ""
        if self._table is not None:
            state = self._table.rows, self._columns()
            if self._preview[0] != state:
                painter = AnsiBuffer(self._palette)
                self._table.latest().write(painter, state[1])
                self._preview = state, painter.take()
            rows = self._preview[1]
        elif self._header is not None:
            rows = f"{self._header}\n"
        incomplete = "".join(self._row) if self._step == self._in_row else self._head
        return [line for line in f"{rows}{incomplete}".split("\n") if line.strip()]

    @property
    def holding(self) -> str:
        if not self._is_in_table:
            return ""
        rows = self._table.rows if self._table is not None else 0
        return f"table, {rows} row{'' if rows == 1 else 's'}" if rows > 0 else "table"

    # The start of a line

    def _start(self, text: str, at: int) -> int:
        self._head += text[at]
        self._classify()
        return at + 1

    def _classify(self) -> None:
        """Determine the kind of the line, if the characters so far suffice."""
        head = self._head
        rest = head.lstrip(" \t")
        blanks = head[: len(head) - len(rest)]
        if not rest:
            if len(head) > _LONGEST_HEAD:
                self._start_text(blanks, "")
        elif rest == "\n":
            self._painter.put(blanks)
            self._blank = not (self._item or self._quotes)
            self._newline()
        elif rest == ">" and not self._item:
            self._painter.put(blanks)
            self._painter.put(rest, MARK)
            self._quotes += 1
            self._base, self._head = style.QUOTE, ""
        elif rest == "|" and not self._quotes and not self._item:
            self._begin_table(head)
        elif not _OPEN.fullmatch(rest) and not (self._item and _OPEN_TASK.fullmatch(rest)):
            self._start_block(blanks, rest)

    def _start_block(self, blanks: str, rest: str) -> None:
        if self._is_indented_code(blanks):
            self._painter.put(blanks)
            self._step = self._in_indented_code
            self._step(rest, 0)
        elif match := _HEADING.match(rest):
            self._painter.put(blanks)
            self._painter.put(match[0], MARK)
            self._base = style.over(self._base, style.HEADING)
            self._start_text("", rest[match.end() :])
        elif match := _ITEM.match(rest):
            self._painter.put(blanks)
            self._painter.put(match[0], style.BULLET)
            self._item = self._in_list = True
            self._head = rest[match.end() :]
            self._classify()
        elif self._item and (match := _TASK.match(rest)):
            self._painter.put(blanks)
            self._painter.put(match[0], style.DONE if match[0] != "[ ]" else style.BULLET)
            self._start_text("", rest[match.end() :])
        elif _RULE.match(rest):
            self._painter.put(blanks)
            self._step = self._in_rule
            for number in range(len(rest)):
                self._step(rest, number)
        elif match := _FENCE.match(rest):
            self._fence = match[0]
            self._indent = len(blanks.expandtabs(4))
            self._painter.put(blanks)
            self._painter.put(match[0], MARK)
            self._step = self._in_fence
        else:
            self._start_text(blanks, rest)

    def _is_indented_code(self, blanks: str) -> bool:
        plain = not (self._quotes or self._item or self._in_list)
        return plain and self._blank and len(blanks.expandtabs(4)) >= 4

    def _start_text(self, blanks: str, rest: str) -> None:
        """Treat the line as text that begins with ``rest``."""
        if not blanks and not self._item and not self._quotes:
            self._in_list = False
        self._painter.put(blanks)
        self._head = ""
        self._blank = False
        self._inline.begin(self._base)
        self._step = self._in_text
        if rest:
            self._step(rest, 0)

    def _newline(self) -> None:
        self._painter.newline()
        self._begin_line()

    # What follows the start

    def _in_text(self, text: str, at: int) -> int:
        end = text.find("\n", at)
        if end < 0:
            self._inline.feed(text[at:])
            return len(text)
        self._inline.feed(text[at:end])
        self._inline.end()
        self._newline()
        if self._table is not None:  # the end of a table row whose beginning was already written
            self._step = self._row_start
        return end + 1

    def _in_indented_code(self, text: str, at: int) -> int:
        end = text.find("\n", at)
        self._painter.put(text[at : end if end >= 0 else len(text)])
        if end < 0:
            return len(text)
        self._newline()
        return end + 1

    def _in_rule(self, text: str, at: int) -> int:
        if text[at] == "\n":
            self._blank = False
            self._newline()
        elif text[at] in "-*_ ":
            self._painter.put(text[at], MARK)
        else:
            self._start_text("", text[at])
        return at + 1

    # Code

    def _in_fence(self, text: str, at: int) -> int:
        """Process the info string or further marks after the first three marks of a fence."""
        if text[at] == self._fence[0] and len(self._fence) < _LONGEST_HEAD:
            self._fence += text[at]
            self._painter.put(text[at], MARK)
            return at + 1
        self._info = ""
        self._step = self._in_info
        return at

    def _in_info(self, text: str, at: int) -> int:
        char = text[at]
        if char == "\n":
            self._code = CodeBlock(self._painter, find(self._info))
            self._code_quotes = self._quotes
            self._newline()
            self._step = self._code_start
        elif char == "`" and self._fence[0] == "`":  # inline code with three backticks
            self._blank = False
            self._inline.begin_code(self._base, len(self._fence))
            self._step = self._in_text
            return at
        else:
            self._painter.put(char, DIM)
            self._info += char if len(self._info) < _LONGEST_HEAD else ""
        return at + 1

    def _code_start(self, text: str, at: int) -> int:
        """Process the start of a line in a code block, which may be the closing fence."""
        self._head += text[at]
        if self._quotes < self._code_quotes:
            self._unquote()
        elif self._ends_code():
            self._painter.put(self._head[:-1], MARK)
            self._blank = True
            self._newline()
        elif not self._may_end_code():
            line, self._head = self._head, ""
            self._step = self._in_code
            self._step(line, 0)
        return at + 1

    def _unquote(self) -> None:
        """Process the start of a line of code in a block quote: without ``>`` the code has ended."""
        rest = self._head.lstrip(" ")
        if rest == ">":
            self._painter.put(self._head, MARK)
            self._quotes += 1
            self._head = ""
        elif rest or len(self._head) > 3:
            head = self._head
            self._begin_line()
            for number in range(len(head)):
                self._step(head, number)

    def _may_end_code(self) -> bool:
        rest = self._head.lstrip(" \t")
        if len(self._head) > _LONGEST_HEAD * 2 or self._head.endswith("\n"):
            return False
        if len(self._head[: len(self._head) - len(rest)].expandtabs(4)) > self._indent + 3:
            return False
        marks = rest.rstrip(" \t")
        return marks == self._fence[0] * len(marks) and (len(marks) >= len(self._fence) or marks == rest)

    def _ends_code(self) -> bool:
        return self._head.endswith("\n") and bool(self._head.strip()) and self._closing(self._head[:-1])

    def _closing(self, line: str) -> bool:
        marks = line.strip(" \t")
        indent = len(line[: len(line) - len(line.lstrip(" \t"))].expandtabs(4))
        return marks == self._fence[0] * len(marks) and len(marks) >= len(self._fence) and indent <= self._indent + 3

    def _in_code(self, text: str, at: int) -> int:
        end = text.find("\n", at)
        if end < 0:
            self._code.feed(text[at:])
            return len(text)
        self._code.feed(text[at:end])
        self._code.newline()
        self._newline()
        self._step = self._code_start
        return end + 1

    # Tables

    def _begin_table(self, head: str) -> None:
        self._table = None
        self._header: str | None = None
        self._row = [head]
        self._row_size = len(head)
        self._head = ""
        self._step = self._in_row

    def _in_row(self, text: str, at: int) -> int:
        end = text.find("\n", at)
        part = text[at : end if end >= 0 else len(text)]
        # The line below a header consists of these characters only; any other shows that this is not a table.
        if self._table is None and self._header is not None and part.strip(" \t|:-"):
            self._leave_table()
            return at
        self._row.append(part)
        self._row_size += len(part)
        if self._row_size > _LONGEST_ROW:
            self._leave_table()
        elif end >= 0:
            self._end_row("".join(self._row))
            return end + 1
        return at + len(part)

    def _end_row(self, row: str) -> None:
        if self._header is None:
            self._header = row
        elif self._table is None:
            try:
                self._table = Table(self._header, row)
            except ValueError:
                self._row = [row]
                self._leave_table()
                self._step("\n", 0)
                return
        else:
            self._table.add(row)
            if self._table.written or self._table.rows >= _MAX_HELD_ROWS:
                self._table.write(self._painter, self._columns())
        self._head = ""
        self._row, self._row_size = [], 0
        self._step = self._row_start

    def _row_start(self, text: str, at: int) -> int:
        """Process the start of the line after a row."""
        self._head += text[at]
        rest = self._head.lstrip(" \t")
        if rest == "|":
            self._row, self._row_size = [self._head], len(self._head)
            self._head = ""
            self._step = self._in_row
        elif rest or len(self._head) > _LONGEST_HEAD:
            head = self._head
            self._end_table()
            for number in range(len(head)):
                self._step(head, number)
        return at + 1

    def _release(self) -> None:
        """Write the text that was held back. The rest of an incomplete row becomes text; later rows are rows again."""
        row = "".join(self._row) if self._step == self._in_row else ""
        if self._table is not None:
            self._table.write(self._painter, self._columns())
        else:
            self._end_table()
        if row:
            self._row, self._row_size = [], 0
            self._start_text("", row)

    def _leave_table(self) -> None:
        """End the table, and treat the current line as text: it is not a row, or too long."""
        row = "".join(self._row)
        self._end_table()
        self._start_text("", row)

    def _end_table(self) -> None:
        """Write the complete rows that were held back, and start a new line."""
        self._head = ""
        if self._table is not None:
            self._table.write(self._painter, self._columns())
        elif self._header is not None:
            self._start_text("", self._header + "\n")
        self._table = self._header = None
        self._blank = False
        self._begin_line()
