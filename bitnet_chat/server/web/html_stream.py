"""Replies as safe HTML: Markdown by markdown-it-py, code by Pygments, cleaned by nh3. Pure.

A reply is rendered while it streams. It is split into top-level blocks, and only the last block can still change. A
block that grows too long is cut where its kind allows it: a list between two items, a table between two rows (with its
head repeated), code between two lines. Code in a list is cut as well: the piece follows the list, with the class
``more``. The cost per character therefore does not grow with the reply.

Three measures make the HTML safe. Raw HTML in Markdown is shown as text. Links lead to http, https and mailto only, and
an image becomes a link, so that nothing is loaded. And nh3 allows only the tags and attributes that are generated here.
Characters that reorder text or control a terminal are made visible.

Two differences from CommonMark: reference definitions remain text, since a definition at the end would change text
that is already shown; and headings are two levels lower, since the page has its own headings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from markdown_it.common.utils import escapeHtml
from markdown_it.token import Token

from bitnet_chat.server.web.code_html import Listing, language_of
from bitnet_chat.server.web.markdown_html import MARKDOWN, clean
from bitnet_chat.text.sanitize import Sanitizer
from bitnet_chat.text.utf8 import well_formed

_LIMIT, _TABLE = 1_000, 3_000
"""Characters from which on a block is cut; the second is for tables."""
_MOST = 4_000
"""Characters from which on any block is cut."""
_LONGEST = 2_000
"""Characters of a line; the rest becomes another line."""
_SMALL = 256
"""Characters of a block that is examined after each line; a larger one is examined when it has grown by an eighth."""
_RATE, _SAVED = 150, 15_000
"""Budget of the open block per received character, and its maximum, in parsed characters of prose. Markup costs up to
twenty times as much as prose: such a block is rendered less often, and text received meanwhile follows as plain text.
"""
_MARKS, _MARK = re.compile(r"[\[\]!*_`<&\\~|\n]"), 20
_FENCE = re.compile(r" {0,3}(?P<mark>`{3,}|~{3,})(?P<info>.*)")
_TELLING = re.compile(r" {0,3}(`{3}|~{3})|[ |:-]*-[ |:-]*$")
"""A line that may begin code or a table."""
_UNSAID = re.compile(r"[-=*+#>|_~`:\s]+")
"""A line that is only the beginning of markup: ``--`` may become an item, a heading, a table or a rule."""
_LINKING = re.compile(r"!?\[([^\[\]\n]*)\](\([^()\s]*)?$")


def html_of(text: str) -> str:
    """Return the HTML of a whole reply. It equals the final state of :class:`HtmlStream` for any cut of the text."""
    return _html_of(text)


@lru_cache(maxsize=128)
def _html_of(text: str) -> str:
    stream = HtmlStream()
    blocks = dict(stream.feed(text))
    blocks.update(stream.finish())
    return "".join(html for _, html in sorted(blocks.items()))


class HtmlStream:
    """A streamed reply. ``feed`` and ``finish`` return the changed blocks: number and HTML, which is empty if the block
    is removed. Blocks are numbered from 0; only the last ones change.
    """

    def __init__(self) -> None:
        self._sanitizer = Sanitizer()
        self._lines: list[str] = []
        """The complete lines of the open block, without newlines."""
        self._size = 0
        self._partial = ""
        self._listing: Listing | None = None
        """The open block, if it is fenced code."""
        self._mark = ""
        self._indent = 0
        self._nested = False
        """Whether the code began in a list, with which it ends."""
        self._table: str | None = None
        """The HTML of the open block, if it is a table."""
        self._number: int | None = None
        """If the open block continues a list: the number of its next item, or 0."""
        self._first = 0
        """The number of the open block."""
        self._told: list[str] = []
        """The HTML returned for the open block, and for provisional blocks after it."""
        self._changes: dict[int, str] = {}
        self._next = 0
        """The size at which the open block is examined again for a place to divide it."""
        self._drawn: int | None = None
        """Number of characters of the open block at its last rendering."""
        self._drawn_html = ""
        """The HTML of the last of these blocks."""
        self._credit = 0
        """Remaining budget for rendering the open block; see :data:`_RATE`."""

    def feed(self, text: str) -> list[tuple[int, str]]:
        """Add characters; return the changed blocks."""
        self._credit = min(self._credit + _RATE * len(text), _SAVED)
        self._take(self._sanitizer.feed(well_formed(text)))
        self._show(self._open())
        return self._changed()

    def finish(self) -> list[tuple[int, str]]:
        """End the reply; return the changed blocks. ``feed`` must not be called after it."""
        self._take(self._sanitizer.flush())
        if self._partial:
            self._line(self._partial, end="")
            self._partial = ""
        if self._listing is not None:
            blocks = [clean(self._listing.html())] if self._listing.needed else []
        else:
            blocks = self._rendered("\n".join(self._lines))
        for html in blocks:
            self._settle(html)
        self._show([])
        return self._changed()

    def _changed(self) -> list[tuple[int, str]]:
        changes, self._changes = self._changes, {}
        return sorted(changes.items())

    # Lines

    def _take(self, text: str) -> None:
        *lines, partial = (self._partial + text).split("\n")
        for line in lines:
            self._line(self._chopped(line))
        self._partial = self._chopped(partial)

    def _chopped(self, line: str) -> str:
        """Take the overlong parts of a line, and return the rest."""
        while len(line) > _LONGEST:
            cut = line.rfind(" ", _LONGEST // 2, _LONGEST) + 1 or _LONGEST
            self._line(line[:cut], end="")
            line = line[cut:]
        return line

    def _line(self, line: str, end: str = "\n") -> None:
        if self._listing is not None:
            self._code(self._listing, line, end)
            return
        self._lines.append(line)
        self._size += len(line) + 1
        if self._size > _LIMIT or not line.strip() or self._table is not None or _TELLING.match(line):
            if self._size >= self._next:
                self._divide()
            else:
                self._table = None

    def _code(self, listing: Listing, line: str, end: str) -> None:
        if self._nested and line.strip() and len(line) - len(line.lstrip(" ")) < self._indent:
            self._end_code(listing)
            self._line(line, end)
            return
        fence = _FENCE.match(self._dedented(line))
        if fence and fence["mark"].startswith(self._mark) and not fence["info"].strip():
            self._end_code(listing)
            return
        listing.add(self._dedented(line) + end)
        if listing.full:
            self._settle(clean(listing.cut()))

    def _end_code(self, listing: Listing) -> None:
        if listing.needed:
            self._settle(clean(listing.cut()))
        self._listing = None

    def _dedented(self, line: str) -> str:
        blanks = len(line) - len(line.lstrip(" "))
        return line[min(blanks, self._indent) :]

    # Blocks

    def _divide(self) -> None:
        """Settle blocks that are followed by another one; cut a long one."""
        self._table = None
        self._next = self._next_look()
        tokens = self._parsed("\n".join(self._lines))
        blocks = _blocks(tokens)
        if not blocks:
            self._restart([])
            return
        for first, behind in blocks[:-1]:
            self._settle(self._html(tokens[first:behind]))
        first, behind = blocks[-1]
        last = tokens[first]
        assert last.map is not None
        if len(blocks) > 1:
            self._restart(self._lines[last.map[0] :])
        if last.type == "fence":
            self._begin_code(last)
            return
        is_table = last.type == "table_open"
        if self._size > (_TABLE if is_table else _LIMIT):
            self._cut(tokens[first:behind], last.map[0] if len(blocks) > 1 else 0)
        elif is_table and self._lines[-1].strip():
            self._table = self._html(tokens[first:behind])

    def _next_look(self) -> int:
        """The size at which to divide again, after an attempt without effect. A cut at a limit happens exactly
        there.
        """
        if self._size <= _SMALL:
            return 0
        later = self._size * 9 // 8
        return min([later, *(limit + 1 for limit in (_LIMIT, _TABLE, _MOST) if limit >= self._size)])

    def _begin_code(self, token: Token) -> None:
        opened = next(number for number, line in enumerate(self._lines) if line.strip())
        opening, *lines = self._lines[opened:]
        self._restart([])
        self._mark = token.markup
        self._indent = len(opening) - len(opening.lstrip(" "))
        self._nested = False
        self._listing = Listing(language_of(token.info))
        for line in lines:
            self._line(line)

    def _cut(self, tokens: Sequence[Token], start: int) -> None:
        """``start``: the line of the parsed text with which the open block begins."""
        kind, at, head, number = tokens[0].type, len(self._lines) - 1, [], None
        if kind in ("bullet_list_open", "ordered_list_open"):
            items = [token for token in tokens if token.type == "list_item_open" and token.level == tokens[0].level + 1]
            assert items[-1].map is not None
            at = items[-1].map[0] - start
            if at <= 0 and self._cut_code(tokens, start):
                return
            number = 0
            if kind == "ordered_list_open":
                number = _first_number(tokens[0]) + len(items) - 1
        elif kind == "table_open":
            opened = next(number for number, line in enumerate(self._lines) if line.strip())
            head = self._lines[opened : opened + 2]
            at = max(at, opened + 2)
            if at == opened + 2:
                at = 0
        elif kind not in ("paragraph_open", "heading_open", "blockquote_open", "code_block"):
            at = 0
        if not any(line.strip() for line in self._lines[:at]):
            if self._size <= _MOST:
                return
            at, head, number = len(self._lines), [], None
        for html in self._rendered("\n".join(self._lines[:at])):
            self._settle(html)
        self._restart(head + self._lines[at:])
        self._number = number

    def _cut_code(self, tokens: Sequence[Token], start: int) -> bool:
        """If code in the list is being written, its next lines form a block of their own. False without code."""
        fence = next((token for token in reversed(tokens) if token.type == "fence" and token.map is not None), None)
        if fence is None or fence.map is None or fence.map[1] - start < len(self._lines):
            return False
        opened, last = fence.map[0] - start, self._lines[-1].strip()
        if opened < len(self._lines) - 1 and last.startswith(fence.markup) and not last.strip(fence.markup[0]):
            return False
        for html in self._rendered("\n".join([*self._lines, ""])):
            self._settle(html)
        self._mark = fence.markup
        self._indent = self._lines[opened].find(fence.markup)
        self._nested = True
        self._listing = Listing(language_of(fence.info), fence.content)
        self._restart([])
        return True

    def _restart(self, lines: list[str]) -> None:
        self._lines = lines
        self._size = sum(len(line) + 1 for line in lines)
        self._number = None
        self._table = None
        self._next = 0
        self._drawn = None

    def _settle(self, html: str) -> None:
        """Make the open block final, and begin the next block."""
        if self._told[:1] != [html]:
            self._changes[self._first] = html
        else:
            self._changes.pop(self._first, None)
        self._told = self._told[1:]
        self._first += 1
        self._drawn = None

    # The open block

    def _open(self) -> list[str]:
        if self._listing is not None:
            partial = self._dedented(self._partial)
            if partial.strip() and not partial.strip().strip(self._mark[0]):
                partial = ""  # possibly the closing fence
            return [clean(self._listing.html(partial))] if self._listing.needed or partial else []
        raw = "\n".join([*self._lines, self._partial])
        cost = _cost(self._partial if self._table is not None else raw)
        if cost > self._credit and self._drawn is not None and self._told:
            return [*self._told[:-1], _with_tail(self._drawn_html, raw[self._drawn :])]
        self._credit -= cost
        partial = "" if _UNSAID.fullmatch(self._partial) else _closed(self._partial)
        self._drawn = len(raw)
        if self._table is not None and partial:
            blocks = self._with_row(self._table, partial)
        else:
            blocks = self._rendered("\n".join([*self._lines, partial]))
        self._drawn_html = blocks[-1] if blocks else ""
        return blocks

    def _with_row(self, table: str, row: str) -> list[str]:
        """Return the open table with an incomplete row. Only the row is parsed, since a table is long."""
        head = [line for line in self._lines if line.strip()][:2]
        blocks = self._rendered("\n".join([*head, row]))
        if len(blocks) != 1:  # it is not a row
            return [table, *blocks[1:]]
        _, begun, new = blocks[0].partition("<tbody>")
        body = table.removesuffix("</table></div>").rstrip().removesuffix("</tbody>")
        return [body + (new if "<tbody>" in body else begun + new)]

    def _show(self, blocks: list[str]) -> None:
        for index in range(max(len(blocks), len(self._told))):
            html = blocks[index] if index < len(blocks) else ""
            if html != (self._told[index] if index < len(self._told) else None):
                self._changes[self._first + index] = html
        self._told = blocks

    def _rendered(self, text: str) -> list[str]:
        tokens = self._parsed(text)
        return [self._html(tokens[first:behind]) for first, behind in _blocks(tokens)]

    def _parsed(self, text: str) -> list[Token]:
        tokens = MARKDOWN.parse(text)
        if self._number is not None and tokens and tokens[0].type in ("bullet_list_open", "ordered_list_open"):
            tokens[0].attrSet("class", "more")
            if self._number and tokens[0].type == "ordered_list_open":
                tokens[0].attrSet("start", str(self._number))
        return tokens

    def _html(self, tokens: Sequence[Token]) -> str:
        return clean(MARKDOWN.renderer.render(tokens, MARKDOWN.options, {}))


def _cost(text: str) -> int:
    """Cost of parsing and rendering, in characters of prose."""
    return len(text) + _MARK * len(_MARKS.findall(text))


def _with_tail(html: str, tail: str) -> str:
    """Return a block with text that is not parsed yet inside its last tags."""
    at = len(html)
    while at and html[at - 1] in ">\n" and (html[at - 1] == "\n" or html.startswith("</", html.rfind("<", 0, at))):
        at = at - 1 if html[at - 1] == "\n" else html.rfind("<", 0, at)
    return f"{html[:at]}{escapeHtml(tail)}{html[at:]}" if at < len(html) else f"{html}<p>{escapeHtml(tail)}</p>"


def _blocks(tokens: Sequence[Token]) -> list[tuple[int, int]]:
    """Return the index of the first token of each top-level block, and the index after its last."""
    starts = [index for index, token in enumerate(tokens) if token.level == 0 and token.nesting >= 0]
    return list(pairwise([*starts, len(tokens)]))


def _first_number(token: Token) -> int:
    start = token.attrGet("start")
    return 1 if start is None else int(start)


def _closed(line: str) -> str:
    """Return an incomplete line with its open markup closed, so that marks do not flicker."""
    line = _LINKING.sub(r"\1", line)
    if line.count("`") % 2:
        return line.rstrip("`") if line.endswith("`") else line + "`"
    if line.endswith("*"):
        bare = line.rstrip("*")
        line = bare if len(bare.split("**")) % 2 or line.count("**") % 2 else line
    if line.count("**") % 2:
        return line.rstrip() + "**"
    return line
