"""Markdown is styled while it streams, and stays what the model wrote."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from styled import SGR, markdown, marked, plain, style
from wcwidth import iter_graphemes

from bitnet_chat.markdown import Mode, PlainRenderer, prose
from bitnet_chat.text.sanitize import visible

SAMPLE = """\
# A `heading`
Some *words*, **more**, ~~less~~ and [a link](https://example.org/a_(b)).

1. one
   - [x] two **x
- ```js
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
e\u0301**e\u0301** 👩‍💻*👩‍💻* 数据**数据**
"""
WORDS = """\
** * _ __ ` `` ``` ~~ ~~~ - 1. > # | --- a Bc [ ]( ) \\ :// \u0301 👩\u200d💻 数据 \u200d \u0600
" ' /* */ // py [x] ==="""
MARKS = st.sampled_from(
    [
        *WORDS.split(),
        *("\n", "\n\n", "- ", "1. ", "> ", "# ", " ", "    ", "\t", "x y", "[x] "),
        *("| a | b |\n|---|---|\n", "```python\n", "~~~json\n", "def f(x): return 1.5 # c\n"),
    ]
)
# Text is safe for a terminal before it comes here.
texts = st.lists(MARKS).map("".join) | st.text().map(visible)
# A table is laid out anew: what is in it is the business of another test.
untabled = texts.map(lambda text: text.replace("|", "/"))


@settings(deadline=None)
@given(texts)
@example(SAMPLE)
def test_what_comes_out_does_not_depend_on_the_parts(text: str) -> None:
    assert style(*text) == style(text)


@settings(deadline=None)
@given(untabled)
@example(SAMPLE.replace("|", ""))
def test_the_words_stay_what_they_are(text: str) -> None:
    assert plain(style(text)) == text


@settings(deadline=None)
@given(texts)
@example(SAMPLE)
def test_no_look_goes_past_its_line(text: str) -> None:
    marked(style(*text))


@given(st.lists(texts, max_size=8), st.lists(st.booleans(), min_size=8))
@example(list(SAMPLE), [True] * len(SAMPLE))
def test_a_pause_shows_all_and_changes_no_word(parts: list[str], pauses: list[bool]) -> None:
    shown = markdown()
    written, fed = "", ""
    for part, pause in zip(parts, pauses, strict=False):
        written += shown.feed(part)
        fed += part
        if pause:
            written += shown.pause()
            assert shown.holding or plain(written) == fed or "|" in fed
    assert plain(written + shown.finish()) == fed or "|" in fed


@settings(deadline=None)
@given(untabled)
@example("**e\u0301**\u0301 `👩`\u200d👩 \u0600**a** *\u0301a*\u0301")
def test_no_character_is_cut_by_a_look(text: str) -> None:
    written = style(*text)
    starts, at = {0}, 0
    for line in plain(written).split("\n"):
        for cluster in iter_graphemes(line):
            at += len(cluster)
            starts.add(at)
        at += 1
        starts.add(at)
    cut, end = 0, 0
    for match in SGR.finditer(written):
        cut += match.start() - end
        end = match.end()
        # An escape sequence at the start of a line that begins with a joiner is where it has to be.
        assert cut in starts


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("# One\n", "{2:#}{1;35: One}\n"),
        ("###### Six", "{2:######}{1;35: Six}"),
        ("####### seven", "####### seven"),
        ("#hashtag", "#hashtag"),
        ("## **b** `c`", "{2:##}{1;35: }{2;35:**}{1;35:b}{2;35:**}{1;35: }{2;35:`}{1;36:c}{2;35:`}"),
        ("- a\n  * b\n+ c", "{35:-} a\n  {35:*} b\n{35:+} c"),
        ("1. a\n   12) b\n2024 was", "{35:1.} a\n   {35:12)} b\n2024 was"),
        ("1234567890. no", "1234567890. no"),
        ("-5 degrees, --flag", "-5 degrees, --flag"),
        ("- [ ] a\n- [x] b\n- [y] c", "{35:-} {35:[ ]} a\n{35:-} {32:[x]} b\n{35:-} [y] c"),
        ("[x] a", "[x] a"),
        ("---\n***\n___\n", "{2:---}\n{2:***}\n{2:___}\n"),
        ("--- a/file", "{2:--- }a/file"),
        ("> a\n> > *b*", "{2:>} {3:a}\n{2:>} {2:>} {2;3:*}{3:b}{2;3:*}"),
        ("a > b", "a > b"),
        ("    *p = 1;\n", "    *p = 1;\n"),
        ("- a\n\n    *b*\n", "{35:-} a\n\n    {2:*}{3:b}{2:*}\n"),
    ],
)
def test_lines(text: str, shown: str) -> None:
    assert marked(style(text)) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a *b* c", "a {2:*}{3:b}{2:*} c"),
        ("_b_ __c__", "{2:_}{3:b}{2:_} {2:__}{1:c}{2:__}"),
        ("**b**c", "{2:**}{1:b}{2:**}c"),
        ("***b***", "{2:***}{1;3:b}{2:***}"),
        ("**a *b* c**", "{2:**}{1:a }{2:*}{1;3:b}{2:*}{1: c}{2:**}"),
        ("~~b~~ ~5", "{2:~~}{9:b}{2:~~} ~5"),
        ("这是**重点**内容", "这是{2:**}{1:重点}{2:**}内容"),
        ("`a*b*`c", "{2:`}{36:a*b*}{2:`}c"),
        ("``a`b``", "{2:``}{36:a`b}{2:``}"),
        ("```a``` b", "{2:```a```} b"),
        ("say ```a``` b", "say {2:```}{36:a}{2:```} b"),
        ("[a](b(c)d) e", "[a]{2:(}{4:b(c)d}{2:)} e"),
        ("![a](b)", "![a]{2:(}{4:b}{2:)}"),
        ("[1] (2) a[0](x", "[1] (2) a[0]{2:(}{4:x}"),
        (r"\*a\* \`b", r"\*a\* \`b"),
        ("unclosed **bold\nplain", "unclosed {2:**}{1:bold}\nplain"),
    ],
)
def test_words(text: str, shown: str) -> None:
    assert marked(style(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "2 * 3 * 4 = 24, 2*3*4, x**2",
        "snake_case_name and a_b_c",
        "src/**/*.py, *.txt, /* no */",
        "https://x.org/_a_/*b*?c=_d_",
        "five ***** stars, ____ blank",
        "5 ** 2, a ~ b",
        "* ",
        "**",
        "end_ with*",
        "a | b",
    ],
)
def test_marks_that_are_none(text: str) -> None:
    assert "{1" not in marked(style(text)) and "{3:" not in marked(style(text))
    assert plain(style(text)) == text


@pytest.mark.parametrize(
    ("fed", "shown"),
    [
        ("word", "word"),
        ("two ", "two "),
        ("a *", "a "),
        ("a **b", "a **b"),
        ("``", ""),
        ("a `", "a `"),
        ("a `b", "a `b"),
        ("# H", "# H"),
        ("- i", "- i"),
        ("> q", "> q"),
        ("[a](b", "[a](b"),
        ("```py", "```py"),
        ("```py\nx = ", "```py\nx = "),
        ('```py\nx = "half a str', '```py\nx = "half a str'),
        ("```py\n# half a comm", "```py\n# half a comm"),
        ("```py\nretu", "```py\n"),
        ("```\nretu", "```\nretu"),
        ("```py\n" + "x" * 25, "```py\n" + "x" * 25),
    ],
)
def test_what_is_clear_is_shown_at_once(fed: str, shown: str) -> None:
    """And what may still be two things is at most a few characters."""
    reply = markdown()
    assert plain("".join(map(reply.feed, fed))) == shown
    assert plain(reply.pause()) == fed[len(shown) :]
    assert reply.pause() == ""


def test_something_in_between_is_written_plain_and_the_look_goes_on() -> None:
    reply = markdown()
    assert marked(reply.feed("# A hea") + reply.flush()) == "{2:#}{1;35: A hea}"
    assert marked(reply.feed("ding\nx") + reply.finish()) == "{1;35:ding}\nx"


def test_each_reply_begins_anew() -> None:
    reply = markdown()
    reply.feed("```python\ndef")
    reply.finish()
    assert marked(reply.feed("def *x*") + reply.finish()) == "def {2:*}{3:x}{2:*}"


def test_without_colours() -> None:
    assert marked(style("# **a** `b`\n- c", colour=False)) == "{2:#}{1: }{2:**}{1:a}{2:**}{1: }{2:`}{1:b}{2:`}\n- c"


@pytest.mark.parametrize(
    ("mode", "terminal", "colour", "shown"),
    [
        ("auto", True, True, "\x1b[2m`\x1b[0;36ma\x1b[0;2m`\x1b[0m"),
        ("auto", True, False, "`a`"),
        ("auto", False, True, "`a`"),
        ("on", True, False, "\x1b[2m`\x1b[0ma\x1b[2m`\x1b[0m"),
        ("on", False, True, "`a`"),
        ("off", True, True, "`a`"),
    ],
)
def test_when_it_is_styled(mode: Mode, terminal: bool, colour: bool, shown: str) -> None:
    reply = prose(mode, terminal=terminal, colour=colour, columns=lambda: 80)
    assert reply.feed("`a`") + reply.pause() + reply.flush() + reply.finish() == shown
    assert not reply.holding


def test_nothing_said_needs_no_markdown() -> None:
    for reply in (PlainRenderer(), prose("on", terminal=True, colour=True, columns=lambda: 80)):
        assert reply.feed("") + reply.pause() + reply.flush() + reply.finish() + reply.holding == ""
