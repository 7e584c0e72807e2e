"""A conversation as a file: nothing is lost for programs, and nothing in it acts on a terminal or a browser."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.conversation.export import FORMATS, export, json_text, restore
from bitnet_chat.errors import FinishReason, UsageError
from bitnet_chat.text.sanitize import visible

ANY_TEXT = st.text(st.characters(codec=None, categories=None))
HOSTILE = "\x1b[31m <script>alert(1)</script> & \"'` \x9b2J \u202e \u2028 \udcf0 \0 </div></body> # **md**\r\n```\nopen"
TALK = (
    Conversation()
    .with_system("be brief")
    .with_user("数据?")
    .with_assistant("half", FinishReason.CUT_OFF, "a thought")
    .with_user(HOSTILE)
    .with_assistant(HOSTILE, FinishReason.STOP)
)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    conversation = Conversation().with_system(draw(ANY_TEXT))
    for _ in range(draw(st.integers(1, 3))):
        conversation = conversation.with_user(draw(ANY_TEXT))
        reason = draw(st.none() | st.sampled_from(FinishReason))
        conversation = conversation.with_assistant(draw(ANY_TEXT), reason, draw(ANY_TEXT))
    return conversation


@pytest.mark.parametrize("format", ["json", "jsonl"])
@given(conversation=conversations(), facts=st.dictionaries(ANY_TEXT, ANY_TEXT))
def test_json_comes_back(format: str, conversation: Conversation, facts: dict[str, str]) -> None:
    facts.pop("messages", None)
    text = export(conversation, format, about=facts, details=[facts] * 3)
    text.encode()
    assert text == visible(text), "nothing that a terminal would obey"
    assert restore(text) == conversation
    if format == "json":
        whole = json.loads(text)
        assert {key: whole[key] for key in facts} == facts


def test_json_has_what_openai_has_and_our_fields() -> None:
    details = [{}, {"created": 5.0}, {"model": "m", "stats": {"tokens": 3}, "content": "not this"}]
    whole = json.loads(export(TALK, "json", about={"title": "T", "id": 3}, details=details))
    assert (whole["title"], whole["id"]) == ("T", 3)
    assert whole["messages"][0] == {"role": "system", "content": "be brief"}
    assert whole["messages"][1] == {"role": "user", "content": "数据?", "created": 5.0}
    assert whole["messages"][2] == {
        "role": "assistant",
        "content": "half",
        "finish_reason": "cut_off",
        "thinking": "a thought",
        "model": "m",
        "stats": {"tokens": 3},
    }
    assert "数据" in export(TALK, "json"), "people read it too"
    lines = export(TALK, "jsonl").split("\n")
    assert lines.pop() == "" and [json.loads(line)["role"] for line in lines] == [m.role for m in TALK.messages]


@pytest.mark.parametrize(
    "text",
    ["", "no JSON", "{}", "[]", '{"messages": 5}', '{"messages": [5]}', '{"role": "user"}', "[" * 100_000,
     '{"role": "assistant", "content": "first"}', '{"messages": [{"role": "x", "content": ""}]}'],
)  # fmt: skip
def test_what_is_no_export(text: str) -> None:
    if text:
        with pytest.raises(UsageError):
            restore(text)
    else:
        assert restore(text) == Conversation()


@pytest.mark.parametrize("format", FORMATS)
@given(conversation=conversations(), title=ANY_TEXT)
def test_any_text_becomes_utf_8_that_no_terminal_obeys(format: str, conversation: Conversation, title: str) -> None:
    text = export(conversation, format, about={"title": title, "model": title, "engine": title})
    text.encode()
    assert text == visible(text) and text.endswith("\n")


def test_markdown() -> None:
    text = export(TALK, "md", about={"title": "A title\nof two lines", "id": 7, "model": "m"})
    assert text.startswith("# A title of two lines\n\nconversation 7 · m\n\n## System\n\nbe brief\n\n## You\n\n数据?\n")
    assert "> a thought\n\nhalf\n\n*[cut off]*\n\n## You" in text
    assert text.count("```\nopen\n```\n") == 2, "a code block that was left open ends with its message"


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        ("```py\ncode", "```py\ncode\n```"),
        ("```\ncode\n```", "```\ncode\n```"),
        ("~~~~\n~~~\n```\n", "~~~~\n~~~\n```\n\n~~~~"),
        ("```\n~~~\n", "```\n~~~\n\n```"),
        ("``` a`b ```", "``` a`b ```"),
        ("no code", "no code"),
    ],
)
def test_code_blocks_are_closed(text: str, closed: str) -> None:
    conversation = Conversation((Message("user", text),))
    assert export(conversation, "md").endswith(f"## You\n\n{closed}\n")


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@given(conversation=conversations(), title=ANY_TEXT)
def test_html_has_no_markup_but_ours(conversation: Conversation, title: str) -> None:
    page = Page()
    page.feed(export(conversation, "html", about={"title": title}))
    assert set(page.tags) <= {"html", "head", "meta", "title", "style", "body", "header", "h1", "p", "section", "h2",
                              "div", "details", "summary"}  # fmt: skip
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href", "style")]
    assert page.tags.count("section") == len(conversation.messages)


def test_html_shows_the_text_as_it_is() -> None:
    text = export(TALK, "html", about={"title": HOSTILE})
    page = Page()
    page.feed(text)
    shown = "".join(page.texts)
    assert visible(HOSTILE).replace("<F0>", "<F0>") in shown
    assert "<script" not in text and "a thought" in shown and "[cut off]" in shown
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert text.index("Content-Security-Policy") < text.index("<title>")


def test_a_format_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="unknown format 'doc'"):
        export(TALK, "doc")


def test_json_text_is_json() -> None:
    value = {"a\x9b": ["\udcff", "\u2028", 1.5, None, "数"]}
    assert json.loads(json_text(value)) == value and json_text("\x9b数") == '"\\u009b数"'
