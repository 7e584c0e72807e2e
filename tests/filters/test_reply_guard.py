"""Role markers: where a model speaks in another role its reply ends, and a reply that speaks of them is left alone."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from replies import NORMAL, installed_python, prose

from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import FinishReason
from bitnet_chat.filters.role_markers import WELL_KNOWN, RoleMarkerScanner, markers_of, relevant
from bitnet_chat.filters.runaway_guard import ReplyGuard
from bitnet_chat.templates.builtin import TEMPLATES
from bitnet_chat.templates.chat_template import ChatTemplate

ASKED = Conversation().with_user("What is the capital of France?")


def markers(template: str, conversation: Conversation = ASKED) -> tuple[str, ...]:
    source = TEMPLATES.get(template, template)
    marks = ChatTemplate(source, name="t", bos="<s>", eos="</s>").marks()
    return relevant(markers_of(marks.in_prefix, marks.in_suffix), conversation)


EVERY = tuple({marker for name in TEMPLATES for marker in markers(name)})
LABELS = markers("bitnet")


def watched(
    text: str, known: tuple[str, ...] = EVERY, cuts: list[int] | None = None
) -> tuple[str, FinishReason | None]:
    """What was shown of a reply, and why it was stopped."""
    guard = ReplyGuard(known, 12)
    shown, at = "", 0
    for end in [*sorted(cuts or []), len(text)]:
        shown += guard.feed(text[at:end])
        at = end
    return shown + guard.flush(), guard.finding


VICUNA = (
    "{% for m in messages %}{{ m.role | upper + ': ' + m.content + (eos_token if m.role == 'assistant' else ' ') }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
ALPACA = (
    "{% for m in messages %}{{ ('### Instruction:' if m.role == 'user' else '### Response:') + '\\n' + m.content + "
    "'\\n\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else "
    "' ' + m.content + eos_token }}{% endfor %}"
)


def test_the_markers_of_a_template() -> None:
    def of(template: str) -> set[str]:
        return set(markers(template)) - set(WELL_KNOWN)

    assert of("chatml") == of("llama3") == of("gemma") == set()
    assert of("bitnet") == of("plain") == {"User:", "Human:", "Assistant:"}
    assert of("zephyr") == {"</s>"}
    assert of(VICUNA) == {"USER:", "ASSISTANT:"}
    assert of(ALPACA) == {"### Instruction:", "### Response:"}
    assert {"[INST]", "[/INST]"} <= set(markers(MISTRAL))
    assert markers_of("\n", "") == ()
    assert markers_of("<|prompter|>", "<|endofprompt|><|bot|>") == ("<|prompter|>", "<|endofprompt|>", "<|bot|>")


@pytest.mark.parametrize("template", [*TEMPLATES, ALPACA, MISTRAL, VICUNA])
def test_a_model_that_plays_both_roles_is_stopped(template: str) -> None:
    chat = ChatTemplate(TEMPLATES.get(template, template), name="t", bos="<s>", eos="</s>")
    known = markers(template)
    for seed in range(20):
        reply = prose(Random(seed), 300).strip()
        turns = ASKED.with_assistant("REPLY").with_user("And of Spain?").with_assistant("Madrid.").with_user("Thanks")
        role_play = chat.render(turns, reply_follows=True).partition("REPLY")[2]
        if template == VICUNA:  # the template has only its end token there, which is no text; models make a line break
            role_play = role_play.replace("</s>USER:", "\nUSER:")
        shown, reason = watched(reply + role_play, known)
        assert reason is FinishReason.ROLE_MARKER
        assert shown.removesuffix("</s>") == reply, "the space before it goes with the marker"


@pytest.mark.parametrize(
    ("reply", "shown"),
    [
        ("Paris.<|im_end|>\n<|im_start|>user\nAnd", "Paris."),
        ("Paris. <|im_end|>", "Paris."),
        ("Paris. <|im_end|>\nmore", "Paris."),
        ("Paris. </s><s>[INST] more", "Paris."),
        ("Paris\n\n<|eot_id|>", "Paris"),
        ("<|im_start|>assistant\nParis", ""),
        ('He said "Paris".<|im_end|>', 'He said "Paris".'),
        ("It's Paris, isn't it?<|im_end|>", "It's Paris, isn't it?"),
        ("```\ncode\n```<|im_end|>", "```\ncode\n```"),
        ("```\ncode\n```\n<|im_end|>", "```\ncode\n```"),
        ("<s>Rome</s> Paris<|end_of_text|>x", "<s>Rome</s> Paris"),
        ("Paris.\n\nUser: and Spain?", "Paris."),
        ("Paris.\nUser: and Spain?", "Paris."),
        ("Paris\n\nHuman:\nand", "Paris"),
        ("Paris.\n\nAssistant: Paris.", "Paris."),
        ("- Paris\n- Lyon\n\nUser: more", "- Paris\n- Lyon"),
        ("Paris.\n\n   \n\n\nUser: more", "Paris."),
        ("Paris." + " " * 100 + "<|im_end|>\n", "Paris." + " " * 36),
    ],
)
def test_where_the_reply_ends(reply: str, shown: str) -> None:
    assert watched(reply) == (shown, FinishReason.ROLE_MARKER)


@pytest.mark.parametrize(
    "reply",
    [
        "Each turn ends with `<|im_end|>` there.",
        "Each turn ends with \"<|im_end|>\" there, not with '<|eot_id|>'.",
        "The token <|im_end|> marks the end, and [INST] begins one.",
        "| <|im_start|> | begins |\n",
        "```\n<|im_start|>user\nhi<|im_end|>\n\nUser: hi\n",
        "- 1. \n  ~~~ text\n  Done.\n\nUser: hi<|im_end|>\n  ~~~\n",
        "<del>x</del> <s>old</s> new <s class='a'>old</s>",
        "Here is one:\n\nUser: hi\n\nAssistant: hello\n\nUser: bye. \n\nUser: really.",
        "User: hi.\n\nAssistant: hello.\n\nUser: bye.",
        "# A talk\n\nUser: hi\n\nAssistant: hello",
        "**A talk**\n\nUser: hi\n\nAssistant: hello",
        "Scene one.\n\n---\n\nUser: hi\n\nAssistant: hello",
        "Host: db\nUser: admin\nPassword: x\n",
        "Host: db\n\nUser: admin\n",
        "first line\nUser: admin\n",
        "Paris.\n\nUser:admin is no turn, nor is\n\nUsers: two.\n\nThe User: is one",
        "Paris.\n\n**User:** hi\n\n> User: hi",
        "a < b <| c <|im c <|im_startx|> [INSTALL] <start_of_day>",
        "unfinished <|im_en",
        "unfinished\n\nUser",
        "unfinished\n\nUser:",
        "trailing space \n\n \n",
    ],
)
def test_what_is_no_marker(reply: str) -> None:
    assert watched(reply) == (reply, None)


@pytest.mark.parametrize(
    ("reply", "is_marker"),
    [
        ("Paris <|im_end|>", True),
        ("Paris <|im_end|>\n", True),
        ("Paris <|im_end|>\r\n", True),
        ("Paris <|im_end|><|im_start|>", True),
        ("Paris <|im_end|>[INST]", True),
        ("Paris <|im_end|> and", False),
        ("Paris <|im_end|>.", False),
        ("Paris<|im_end|>.", True),
        ("\t<|im_end|> and", True),
        ("'Paris <|im_end|>\n", False),
        ("It's Paris <|im_end|>\n", True),
        ('"a" and "b <|im_end|>\n', False),
        ("`a` and ``b <|im_end|>\n", True),
        ("“a” <|im_end|>\n", True),
        ("“a <|im_end|>\n", False),
        ("<s>x\n</s>", False),
        ("<s>x\ny\n</s>", True),
        ("<sx>x</s>", True),
        ("Yes!\nUser: hi", True),
        ("Yes,\nUser: hi", False),
        ("Yes.)\nUser: hi", True),
        ("Yes。\nUser: hi", True),
        ("Name: Ada.\nUser: hi", False),
        ("**Name**: Ada.\n\nUser: hi", False),
        ("# Title.\n\nUser: hi", False),
        ("Like so：\n\nUser: hi", False),
        ("***\n\nUser: hi", False),
    ],
)
def test_what_stands_around_a_marker(reply: str, is_marker: bool) -> None:
    assert (watched(reply)[1] is FinishReason.ROLE_MARKER) == is_marker


def test_a_marker_after_a_space_waits_for_the_character_behind_it() -> None:
    scanner = RoleMarkerScanner(["<|im_end|>"])
    assert (scanner.feed("Paris <|im_end|>x"), scanner.found) == ("Paris <|im_end|>x", False)
    assert (scanner.feed(" <|im_end|>"), scanner.found) == ("", False)
    assert (scanner.feed("x"), scanner.found) == (" <|im_end|>x", False)
    assert (scanner.feed(" <|im_end|>"), scanner.flush(), scanner.found) == ("", "", True)


def test_labels_count_only_in_templates_that_speak_so() -> None:
    assert watched("Paris.\n\nUser: and Spain?", markers("chatml"))[1] is None
    assert watched("Paris.\n\nUSER: and Spain?", markers("bitnet"))[1] is None


@pytest.mark.parametrize(
    ("asked", "token_counts", "label_counts"),
    [
        ("What does <|im_end|> mean?", False, True),
        ("What does <|eot_id|> mean?", False, True),  # the answer will speak of the others as well
        ("Write a dialogue about tea", True, False),
        ("Write something between a user and an assistant", True, False),
        ("How do I add a user in Linux?", True, True),
        ("What is User: in a YAML file?", True, False),
    ],
)
def test_what_the_user_spoke_of_does_not_count(asked: str, token_counts: bool, label_counts: bool) -> None:
    known = markers("bitnet", Conversation().with_system("You help the user.").with_user(asked))
    assert (watched("Paris.<|im_end|>\n", known)[1] is not None) == token_counts
    assert (watched("Paris.\n\nUser: more", known)[1] is not None) == label_counts


def test_what_stands_in_the_conversation_does_not_count() -> None:
    conversation = Conversation().with_system("End with <|end_of_text|>.").with_user("hi")
    assert watched("Paris.<|end_of_text|>", markers("chatml", conversation))[1] is None
    assert watched("Paris.<|im_end|>", markers("chatml", conversation))[1] is not None


def test_normal_replies_pass_unchanged() -> None:
    texts = [(kind, NORMAL[kind](Random(seed))) for kind in NORMAL for seed in range(8)]
    texts += installed_python(Random(3), 60)
    assert len(texts) >= 300
    stopped = [name for name, text in texts if watched(text) != (text, None)]
    assert len(stopped) <= len(texts) // 500, stopped


def test_thoughts_may_hold_markers_but_not_repeat_themselves_for_ever() -> None:
    guard = ReplyGuard(EVERY, 12)
    assert guard.think("The user wants <|im_end|>\n\nUser: hm") == "The user wants <|im_end|>\n\nUser: hm"
    assert guard.feed("So:") == "So:"
    assert len(guard.think("Wait, let me think once more. " * 100)) < 1000
    assert guard.finding is FinishReason.REPETITION
    assert guard.feed("more") == "" and guard.think("more") == "" and guard.flush() == ""


def test_only_what_may_be_a_marker_waits() -> None:
    guard = ReplyGuard(EVERY, 12)
    steps = [
        ("Paris", "Paris"),
        (" is", " is"),
        (" ", ""),
        ("a", " a"),
        (" <", ""),
        ("b", " <b"),
        ("\n\n", ""),
        ("Us", ""),
        ("ers", "\n\nUsers"),
        ("<|im_", ""),
        ("<|im_", "<|im_"),
        ("start", ""),
        ("<", "<|im_start"),
        ("<<", "<<"),
        ("1", "<1"),
    ]
    for given_text, shown in steps:
        assert guard.feed(given_text) == shown, given_text
    assert guard.finding is None


def is_open(end: str) -> bool:
    """Whether a text that ends so may become one with a marker: space, then the beginning of one, or a whole one
    whose meaning depends on the next character."""
    bare = end.lstrip()
    wholes = [*EVERY, *(f"{marker} " for marker in EVERY)]
    return not bare or any(whole.startswith(bare) for whole in wholes)


pieces = st.sampled_from(
    [*EVERY, "User", "Us", "<|im_", "<", "[", "\n", "\n\n", " ", "Paris.", "a", "`", "```\n", '"', "'", ":", "# ", "é"]
)


@given(st.lists(pieces, max_size=30).map("".join), st.lists(st.integers(0, 200), max_size=30))
@example("Paris. <|im_end|>", [8, 17])
@example("Paris.\n\nUser:\nhi", [6, 7, 8, 10, 13])
@example("Paris." + " " * 200 + "<|im_end|>", [50, 100, 200])
def test_any_cut_gives_the_same(text: str, cuts: list[int]) -> None:
    whole = watched(text)
    assert watched(text, cuts=[cut for cut in cuts if cut <= len(text)]) == whole
    assert watched(text, cuts=list(range(len(text)))) == whole
    assert text.startswith(whole[0])
    if whole[1] is None:
        assert whole[0] == text


@given(st.lists(pieces, max_size=30))
def test_nothing_waits_without_need(parts: list[str]) -> None:
    guard = ReplyGuard(EVERY, 12)
    given_text = shown = ""
    for part in parts:
        given_text += part
        shown += guard.feed(part)
        if guard.finding is not None:
            break
        assert given_text.startswith(shown)
        assert is_open(given_text[len(shown) :]), given_text[len(shown) :]
