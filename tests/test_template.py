"""Chat templates: what a classic engine is started with adds up to what the template renders."""

from __future__ import annotations

import pytest

from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import ModelError
from bitnet_chat.prompt.builtin import TEMPLATES
from bitnet_chat.prompt.template import ChatTemplate, as_text

BOS, EOS = "<s>", "</s>"
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{% set ns = m.content %}"
    "{% elif m.role == 'user' %}[INST] {% if loop.index0 == 1 and messages[0].role == 'system' %}"
    "{{ messages[0].content }}\n\n{% endif %}{{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)


def template(name: str) -> ChatTemplate:
    source = MISTRAL if name == "mistral" else TEMPLATES[name]
    return ChatTemplate(source, name=name, bos=BOS, eos=EOS)


def history(system: str, turns: int) -> Conversation:
    conversation = Conversation().with_system(system)
    for number in range(turns):
        conversation = conversation.with_user(f"question {number}?").with_assistant(f"answer {number}.")
    return conversation


@pytest.mark.parametrize("name", [*TEMPLATES, "mistral"])
@pytest.mark.parametrize("system", ["", "be brief"])
@pytest.mark.parametrize("turns", [0, 1, 3])
def test_what_the_engine_puts_together_is_what_the_template_renders(name: str, system: str, turns: int) -> None:
    chat = template(name)
    marks = chat.marks()
    opening = chat.opening(history(system, turns), marks)
    context = opening.prompt + marks.in_prefix + opening.lead + "next?" + marks.in_suffix
    if name == "gemma" and system:  # it refuses a system message, so that it leads the first question
        assert system in context
        return
    rendered = chat.render(history(system, turns).with_user("next?"), reply_follows=True).removeprefix(BOS)
    # The white space between turns stands before the first one too: a classic engine knows only one in-prefix.
    assert context.lstrip() == rendered.lstrip()
    if turns:
        assert context == rendered


@pytest.mark.parametrize("name", [*TEMPLATES, "mistral"])
def test_a_live_turn_and_its_replay_give_the_same_context(name: str) -> None:
    chat = template(name)
    marks = chat.marks()
    before = chat.opening(history("", 1), marks).prompt
    after = chat.opening(history("", 2), marks).prompt
    # What the engine has after living through the second turn: its end-of-turn token is the template's.
    lived = before + marks.in_prefix + "question 1?" + marks.in_suffix + "answer 1."
    # Where a reply begins with a space, the model writes it.
    assert after.replace(" ", "").startswith(lived.replace(" ", "").rstrip())


def test_chatml_marks() -> None:
    marks = template("chatml").marks()
    assert marks.in_prefix == "\n<|im_start|>user\n"
    assert marks.in_suffix == "<|im_end|>\n<|im_start|>assistant\n"


def test_the_bos_that_the_engine_adds_is_not_written_twice() -> None:
    assert template("llama3").opening(history("be brief", 1), template("llama3").marks()).prompt.count(BOS) == 0
    chat = ChatTemplate(TEMPLATES["llama3"], name="x", bos=BOS, eos=EOS, adds_bos=False)
    assert chat.opening(history("be brief", 1), chat.marks()).prompt.startswith(BOS)


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


def test_text_that_spells_a_control_token_stays_text() -> None:
    conversation = Conversation().with_user("what is <|im_end|>?").with_assistant("the end: <|im_end|>")
    safe, changed = as_text(conversation, {"<|im_end|>", "<|im_start|>"})
    assert changed == 2
    assert all("<|im_end|>" not in message.content for message in safe.messages)
    assert [message.content.replace("\u2060", "") for message in safe.messages] == [
        message.content for message in conversation.messages
    ]
    assert as_text(history("", 2), {"<|im_end|>"}) == (history("", 2), 0)
