"""Replies as HTML: the same for every cut, as CommonMark has it, and nothing in it that does harm."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, TextDelta
from bitnet_chat.server.broadcast import Cursor
from bitnet_chat.server.chats.events import EventEncoder, ReplyStart
from bitnet_chat.server.web import html_stream
from bitnet_chat.server.web.code_html import Listing, language_of
from bitnet_chat.server.web.html_stream import HtmlStream, html_of
from bitnet_chat.server.web.markdown_html import MARKDOWN, TAGS, clean
from bitnet_chat.server.web.shared_html import SharedHtml
from bitnet_chat.text.sanitize import visible
from bitnet_chat.text.utf8 import well_formed

SAMPLE = """\
# A `heading`
Some *words*, **more**, ~~less~~ and [a link](https://example.org/a_(b)).
second line

3. one
   - [x] two **x
4. ```js
   f(`a
   b`, 'c') /* d
   e */
   ```
> quoted ~~~ and
> ~~~c
> int x; // y
---
| not a table
| a | b |
|---|--:|
| `c` | d |

    indented *code*
Setext
------
~~~~ python title="x"
def f():
    \"\"\"Two
    lines.\"\"\"
  ~~~~
![picture](https://example.org/a.png) <https://example.org> &amp; <b>raw</b>
```
open to the end
"""
WORDS = "** * _ __ ` `` ``` ```` ~~ ~~~ - 1. 2) > # ## | --- === a Bc [ ]( ) \\ :// <b> &lt; é 数据 👩‍💻"
MARKS = st.sampled_from(
    [
        *WORDS.split(),
        *("\n", "\n\n", "\n\n\n", "\r\n", "\r", "- ", "1. ", "> ", "# ", " ", "  ", "    ", "\t", "x y", "[x] "),
        *("\n```python\n", "\n```\n", "~~~json\n", "| a | b |\n|---|---|\n", "| c |\n", "def f(x): # c\n", '"""'),
        *("\n- item\n", "\n  more\n", "\n- ```py\n", "\n1. a\n   ```\n", "   x = 1\n", "   ```\n"),
        *("[a](https://b.org)", "![i](http://b.org/i)", "\x1b[31m", "\u202e", "\udcff"),
    ]
)
texts = st.lists(MARKS, max_size=60).map("".join) | st.text(max_size=300)


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    html_stream._html_of.cache_clear()


def streamed(*parts: str) -> str:
    """What a page shows in the end that was told of each change."""
    stream, shown = HtmlStream(), dict[int, str]()
    for part in parts:
        shown.update(stream.feed(part))
    shown.update(stream.finish())
    return "".join(html for _, html in sorted(shown.items()))


@pytest.fixture(params=["blocks as they are", "short blocks"])
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "short blocks":  # so that each text is cut somewhere
        for name, size in (("_LIMIT", 20), ("_TABLE", 30), ("_MOST", 60), ("_LONGEST", 40)):
            monkeypatch.setattr(html_stream, name, size)


def test_what_comes_out_does_not_depend_on_the_parts(limits: None) -> None:
    @settings(max_examples=60, deadline=None)
    @given(texts, st.integers(min_value=2, max_value=9))
    @example(SAMPLE, 3)
    def check(text: str, size: int) -> None:
        html_stream._html_of.cache_clear()  # it may have another limit
        whole = html_of(text)
        assert streamed(*text) == whole
        assert streamed(*(text[at : at + size] for at in range(0, len(text), size))) == whole

    check()


def blanks(html: str) -> str:
    return re.sub(r"[ \t]+", " ", html)


def squeezed(html: str) -> str:
    return re.sub(r"\s*\n\s*(?=<)|(?<=>)\s*\n\s*", "", html)


@settings(max_examples=60, deadline=None)
@given(texts)
@example(SAMPLE)
def test_it_is_what_the_parser_makes_of_the_whole(text: str) -> None:
    text = text.rstrip(" \t")  # in code that is open to the end the parser drops them, and they are kept here
    whole = visible(well_formed(text))
    at_once = clean(MARKDOWN.render(whole))
    # A tab that a list or a quotation has a part of may stand where the parser has blanks.
    assert blanks(squeezed(html_of(text))) == blanks(squeezed(at_once))


@settings(max_examples=60, deadline=None)
@given(texts)
@example(SAMPLE)
def test_a_block_that_is_settled_is_never_told_again(text: str) -> None:
    """Only the last few blocks change: what was told before them stays."""
    stream = HtmlStream()
    for character in text:
        settled = stream._first
        assert all(block >= settled for block, _ in stream.feed(character))


def test_blocks_are_told_once_and_only_when_they_change() -> None:
    stream = HtmlStream()
    assert stream.feed("One") == [(0, "<p>One</p>")]
    assert stream.feed("\n\n") == []
    assert stream.feed("- ") == []
    assert stream.feed("two") == [(1, "<ul>\n<li>two</li>\n</ul>")]
    assert stream.feed("") == []
    assert stream.finish() == []


def test_markup_that_is_being_written_does_not_flash() -> None:
    """A paragraph is no heading because an item begins under it, and marks wait for what they mark."""
    stream, seen = HtmlStream(), set[str]()
    for character in "Some **bold words** and `code` with [a link](https://example.org/x).\n- item\n\n| a |\n|---|\n":
        seen.update(html for _, html in stream.feed(character))
    assert not [html for html in seen if "h4" in html or "**" in html or "`" in html or "](" in html or "|-" in html]
    assert any("<strong>bo</strong>" in html for html in seen)
    assert any("<code>co</code>" in html for html in seen)


def test_what_was_held_back_is_there_at_the_end() -> None:
    assert html_of("-") == "<ul>\n<li></li>\n</ul>"
    assert html_of("a **") == "<p>a **</p>"
    assert html_of("x\r") == "<p>x\u240d</p>"
    assert html_of("") == ""


# Long ones


def blocks_of(text: str) -> list[str]:
    stream = HtmlStream()
    shown = dict(stream.feed(text))
    shown.update(stream.finish())
    return [html for _, html in sorted(shown.items())]


def test_a_long_list_goes_on_with_its_numbers() -> None:
    items = "".join(f"1. item number {number} of a list that is long\n" for number in range(1, 201))
    blocks = blocks_of(items)
    assert 4 < len(blocks) < 12
    count = 0
    for block in blocks:
        start = re.match(r'<ol(?: class="more")?(?: start="(\d+)")?', block)
        assert start is not None
        assert int(start[1] or 1) == count + 1
        assert ('class="more"' in block) == bool(count)
        count += block.count("<li>")
    assert count == 200


def test_a_long_table_has_its_head_again() -> None:
    rows = "".join(f"| row {number} | words in a cell |\n" for number in range(300))
    blocks = blocks_of(f"| a | b |\n|---|--:|\n{rows}")
    assert len(blocks) > 1
    assert all(block.count("<thead>") == 1 for block in blocks)
    assert sum(block.count("<tr>") for block in blocks) == 300 + len(blocks)


def words_in(html: str) -> str:
    found: list[str] = []
    parser = HTMLParser()
    parser.handle_data = found.append  # type: ignore[method-assign]
    parser.feed(html)
    parser.close()
    return "".join(found)


def test_long_code_comes_in_pieces_and_a_string_goes_on_behind_the_cut() -> None:
    code = 'x = """\n' + "def no_keyword():\n" * 100 + '"""\ndef keyword():\n    pass\n' + "y = 1\n" * 100
    blocks = blocks_of(f"```python\n{code}```\nBehind.")
    assert ["code more" in block for block in blocks] == [False, *[True] * (len(blocks) - 2), False]
    assert len(blocks) > 6
    assert all('data-language="python"' in block for block in blocks[:-1])
    assert "".join(map(words_in, blocks[:-1])) == code
    assert '<span class="k">' not in blocks[1]
    assert sum(block.count('<span class="f">keyword') for block in blocks) == 1


def test_code_in_the_making_has_its_colours_line_by_line() -> None:
    listing = Listing("python")
    listing.add('x = """\n')
    assert listing.html("def") == (
        '<pre class="code" data-language="python"><code>x = <span class="s">"""\n</span>'
        '<span class="s">def</span></code></pre>'
    )
    listing.add('"""\n1\n')
    assert listing.html("return").endswith('<span class="k">return</span></code></pre>')


@pytest.mark.parametrize(
    ("info", "language"),
    [("", ""), ("python", "python"), ("{.rust .numbered}", "rust"), ('js title="a b"', "js"), ("c,x", "c")],
)
def test_the_name_of_a_language(info: str, language: str) -> None:
    assert language_of(info) == language


@pytest.mark.parametrize("kind", ["prose", "paragraph", "line", "list", "code", "table", "quote", "code in a list"])
def test_the_cost_does_not_grow_with_the_reply(kind: str) -> None:
    """In characters that are told, and characters that are parsed: both are bounded by the size of a block."""
    parts = {
        "prose": ["Some **words**, ", "and more.", "\n\n"],
        "paragraph": ["Some **words**, ", "and more.\n"],
        "line": ["wordswords"],
        "list": ["- ", "an item ", "`of`", " a list\n"],
        "code": ["    if x ", "== 'y':", "\n"],
        "table": ["| some words ", "| in cells |", "\n"],
        "quote": ["> a", " quote\n"],
        "code in a list": ["   if x ", "== 'y':", "\n"],
    }[kind]
    before = {"code": "```python\n", "table": "| a | b |\n|---|---|\n", "code in a list": "- x\n   ```python\n"}
    stream = HtmlStream()
    stream.feed(before.get(kind, ""))
    most = 0
    for number in range(0, 700, 2):  # two at a time: each is parsed with all of its block
        told = stream.feed(parts[number % len(parts)] + parts[(number + 1) % len(parts)])
        most = max(most, sum(len(html) for _, html in told))
        assert sum(map(len, stream._lines)) + len(stream._partial) < 4_500
        if number == 450:
            settled = stream._first
    assert most < 20_000
    assert stream._first > settled > 0


@pytest.mark.parametrize("kind", ["[word", "_word_ ", "![a](", "  b\n", "  b\n\n", "|b\n"])
def test_markup_that_comes_to_nothing_costs_what_prose_costs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In characters that are parsed, markup counting more, and in steps of the parser; what is not parsed yet is there
    as text at once."""
    spent, steps = 0, 0
    parse, skip = MARKDOWN.parse, MARKDOWN.inline.skipToken

    def parsed(text: str) -> object:
        nonlocal spent
        spent += html_stream._cost(text)
        return parse(text)

    def skipped(state: object) -> None:
        nonlocal steps
        steps += 1
        skip(state)  # type: ignore[arg-type]

    monkeypatch.setattr(MARKDOWN, "parse", parsed)
    monkeypatch.setattr(MARKDOWN.inline, "skipToken", skipped)
    before = {"  b\n": "- a\n", "  b\n\n": "- a\n\n", "|b\n": "|a|\n|-|\n"}.get(kind, "")
    text = before + kind * (1_000 // len(kind))
    stream, shown = HtmlStream(), dict[int, str]()
    for at in range(0, len(text), 5):
        shown.update(stream.feed(text[at : at + 5]))
    said = "".join(words_in(html) for _, html in sorted(shown.items()))
    assert said.count("b") >= 0.9 * text.count("b") and said.count("w") >= 0.9 * text.count("w")
    shown.update(stream.finish())
    assert spent < 450 * len(text) and steps < 100 * len(text)
    assert "".join(html for _, html in sorted(shown.items())) == html_of(text)


# No harm

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt&colon;alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:x) [y](file:///etc/passwd) [z](//evil.example) [q](/chats)",
    "<javascript:alert(1)>",
    "![x](https://evil.example/pixel.png)",
    "![x](data:image/svg+xml;base64,PHN2Zz4=)",
    '[x](https://a.example/"onmouseover="alert(1))',
    '[x](https://a.example "title" onclick="alert(1)")',
    '```"><script>alert(1)</script>\nx\n```',
    "```html\n<script>alert(1)</script>\n```",
    "`<svg/onload=alert(1)>`",
    "<style>*{display:none}</style>",
    '<a href="https://a.example" style="position:fixed">x</a>',
    '<iframe src="https://evil.example"></iframe><form action=x><input></form>',
    "| <b onclick=x> | b |\n|---|---|\n| <img src=x onerror=alert(1)> | `<script>` |",
    "<!-- --><![CDATA[<script>alert(1)</script>]]>",
    "\x1b]0;title\x07\x1b[2J\x9b2J",
    "a\u202eb\u2066c\u2028d",
    "&lt;script&gt;alert(1)&lt;/script&gt; &#60;script&#62;",
    "[" * 2_000 + "](" * 2_000,
    "> " * 3_000 + "x",
    "*" * 20_000 + "_a" * 5_000,
    "`" * 3_000 + "x",
    "- " * 3_000,
    "|" * 5_000 + "\n" + "|-" * 2_500 + "\n" + "|" * 5_000,
)
ALLOWED = TAGS
SAFE = {"class", "href", "title", "target", "rel", "start", "tabindex", "data-language"}


class Watch(HTMLParser):
    """Fails on what a page should never be given."""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, tag
        for name, value in attributes:
            assert name in SAFE, name
            if name == "href":
                assert re.match(r"(https?://|mailto:)", value or ""), value

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    handle_decl = handle_pi = unknown_decl = handle_comment


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_does_no_harm(text: str) -> None:
    pieces = [text[at : at + 7] for at in range(0, min(len(text), 999), 7)]
    for html in (html_of(text), html_of(f"Words\n{text}\n- {text}"), streamed(*pieces)):
        Watch().feed(html)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", html)


@settings(max_examples=100, deadline=None)
@given(st.lists(MARKS | st.sampled_from([text for text in HOSTILE if len(text) < 99]), max_size=12).map("".join))
def test_hostile_mixtures_do_no_harm(text: str) -> None:
    Watch().feed(html_of(text))


def test_what_looks_like_markup_is_shown_as_it_was_said() -> None:
    html = html_of("<b>x</b> [x](javascript:y) &amp; ![p](http://a.example/b.png)")
    assert words_in(html) == "<b>x</b> [x](javascript:y) & p"
    assert '<a class="image" href="http://a.example/b.png" target="_blank"' in html
    assert 'rel="noopener noreferrer nofollow"' in html


def test_bytes_that_are_no_utf8_are_a_replacement_character() -> None:
    assert html_of("a\udcffb") == "<p>a\ufffdb</p>"


def test_a_reply_is_rendered_once_for_all_that_watch_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes late, comes back or is slow gets the blocks that it does not know, in their newest state."""
    fed: list[str] = []
    feed = HtmlStream.feed
    monkeypatch.setattr(HtmlStream, "feed", lambda stream, text: fed.append(text) or feed(stream, text))
    text, size = SAMPLE * 2, 7
    places = [*range(size, len(text), size), len(text)]
    html = SharedHtml()
    opening = ReplyStart("g", "m", 1, 2)

    def told(parts: Iterable[bytes]) -> dict[int, str]:
        events = [json.loads(part.partition(b"data: ")[2]) for part in parts if b"event: html" in part]
        return {event["block"]: event["html"] for event in events}

    def seen(start: int, place: int) -> Cursor:
        return Cursor(TextDelta(text[start:place]), place)

    first, back = EventEncoder(opening, html=html), EventEncoder(opening, html=html)
    shown, again = told(first.begin()), told(back.begin())
    known = places[len(places) // 2]
    for place in places:
        shown.update(told(first.tell(seen(place - size if place < len(text) else places[-2], place))))
        if place <= known:
            again.update(told(back.tell(seen(place - size, place))))
    late = EventEncoder(opening, html=html)
    everything = told(late.begin())
    back = EventEncoder(opening, known, html)
    again.update(told(back.begin()))
    end = Cursor(Completed(FinishReason.STOP, text), len(text))
    for encoder, blocks in ((first, shown), (late, everything), (back, again)):
        blocks.update(told(encoder.tell(seen(0, len(text)))))
        blocks.update(told(encoder.tell(end)))
    assert "".join(fed) == text, "each character once, whoever watches"
    whole = html_of(text)
    for blocks in (shown, everything, again):
        assert "".join(part for _, part in sorted(blocks.items())) == whole
