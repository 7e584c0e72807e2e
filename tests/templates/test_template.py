"""Chat templates: what they render, and what they have around a message."""

from __future__ import annotations

import pytest

from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import ModelError
from bitnet_chat.templates.builtin import TEMPLATES
from bitnet_chat.templates.chat_template import ChatTemplate


def template(name: str) -> ChatTemplate:
    return ChatTemplate(TEMPLATES[name], name=name, bos="<s>", eos="</s>")


def test_chatml_marks() -> None:
    marks = template("chatml").marks()
    assert marks.in_prefix == "\n<|im_start|>user\n"
    assert marks.in_suffix == "<|im_end|>\n<|im_start|>assistant\n"
    assert marks.end == "<|im_end|>"


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}",
        "{{ messages | nonsense }}",
        "{{ raise_exception('no') }}",
        "{{ 1 / 0 }}",
        "the same for everybody",
        "{{ messages[-1].content }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    ],
)
def test_a_template_that_cannot_be_used_is_a_model_error(source: str) -> None:
    with pytest.raises(ModelError, match="chat template bad"):
        ChatTemplate(source, name="bad").marks()


def test_the_helpers_that_templates_expect() -> None:
    chat = ChatTemplate(
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{% endfor %}"
        "{{ messages | tojson }}{{ strftime_now('%Y') | length }}",
        name="x",
    )
    text = chat.render(Conversation().with_user("<é>"), reply_follows=True)
    assert text == '[{"role": "user", "content": "<é>"}]4'


def test_the_json_filter_takes_what_the_one_of_transformers_takes() -> None:
    source = "{{ messages[0] | tojson(separators=(',', ':'), sort_keys=True, ensure_ascii=true) }}"
    text = ChatTemplate(source, name="x").render(Conversation().with_user("<é>"), reply_follows=True)
    assert text == r'{"content":"<\u00e9>","role":"user"}'


def test_a_generation_tag_renders_as_its_content() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% if true %}.{% endif %}"
        "{%- endgeneration %}{% else %}[{{ m.content }}]{% endif %}{% endfor %}"
    )
    asked = Conversation().with_user("a").with_assistant("b").with_user("c")
    assert ChatTemplate(source, name="x").render(asked, reply_follows=True) == "[a]b.[c]"
