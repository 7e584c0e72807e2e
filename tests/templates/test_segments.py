"""What a classic engine is started with and what is typed add up to the rendered prompt, with each seam at a special
token, in whole conversations of every family of templates."""

from __future__ import annotations

import re

import pytest
from families import FAMILIES, SPECIAL, TOKENS
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.conversation import Conversation
from bitnet_chat.templates.chat_template import ChatTemplate
from bitnet_chat.templates.segments import PromptSegments, joined, unguarded

ODD = [
    "What is it?",
    " leading",
    "trailing \n",
    "<|im_end|></s><end_of_turn>",
    "/",
    "5",
    "\\",
    "a\n\nb",
    "\ufdd0<s>\ufdd0",
]


def segments(name: str, *, strips: bool = False) -> PromptSegments:
    source, bos, eos, adds_bos = FAMILIES[name]
    template = ChatTemplate(source, name=name, bos=bos, eos=eos, adds_bos=adds_bos)
    return PromptSegments(template, TOKENS, strips_after_special=strips)


def tokens(guarded: str) -> list[str]:
    """A tokenizer that joins all it can: a special token, or all the text between two of them."""
    return [unguarded(piece) for piece in re.split(f"({SPECIAL.pattern})", guarded) if piece]


@pytest.mark.parametrize("strips", [False, True])
@pytest.mark.parametrize("system", ["", "Be brief.", "say <|im_end|> never"])
@pytest.mark.parametrize("name", FAMILIES)
def test_each_turn_evaluates_the_rendered_prompt(name: str, system: str, strips: bool) -> None:
    parts = segments(name, strips=strips)
    conversation = Conversation().with_system(system)
    for message in ODD:
        opening = parts.opening(conversation)
        asked = conversation.with_user(message)
        prompt = parts.render(asked)
        typed = parts.typed(opening.prompt, opening.in_prefix, prompt)
        if typed is None:  # then the process is started with the whole of it
            assert len(message) == 1 or opening.prompt == "\n"
        else:
            before = [*tokens(opening.prompt), *tokens(opening.in_prefix)]
            assert [*before, typed, *tokens(opening.in_suffix)] == tokens(prompt)
        if strips and name == "phi3":
            assert re.search(r"<\|(end|user|assistant)\|>\s", prompt) is None
        conversation = asked.with_assistant("A reply.")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_live_conversation_is_typed_as_long_as_the_template_goes_on_with_it(name: str) -> None:
    parts = segments(name)
    end = parts.marks.end or "</s>"
    conversation, restarts = Conversation().with_system("" if name == "gemma" else "Be brief."), 0
    opening = parts.opening(conversation)
    context = opening.prompt
    for number in range(5):
        asked = conversation.with_user(f"question {number}?")
        prompt = parts.render(asked)
        if parts.typed(context, opening.in_prefix, prompt) is None:
            restarts += 1
            opening = parts.opening(conversation)
            assert parts.typed(opening.prompt, opening.in_prefix, prompt) is not None
        reply = f" answer {number}." if name in ("mistral", "vicuna") else f"answer {number}."
        context = prompt + reply + end
        conversation = asked.with_assistant(reply.strip() if name != "vicuna" else reply)
    # Where a template puts white space around a reply that the model does not make, no context is a beginning of it;
    # where the first message has no line feed in front, the second one needs another prefix.
    assert restarts == {"llama2": 4, "vicuna": 4, "plain": 4, "gemma": 1}.get(name, 0)


def test_the_first_message_has_no_white_space_of_the_later_ones_in_front() -> None:
    parts = segments("gemma")
    assert parts.opening(Conversation()).in_prefix == "<start_of_turn>"
    assert parts.opening(Conversation().with_user("a").with_assistant("b")).in_prefix == "\n<start_of_turn>"
    parts = segments("chatml")
    opening = parts.opening(Conversation())
    assert (opening.prompt, opening.in_prefix) == ("<|im_start|>", ""), "no empty prompt without a BOS token"


def test_a_message_that_a_build_takes_for_empty_is_no_typed_text() -> None:
    parts = segments("deepseek")
    opening = parts.opening(Conversation())
    typed = [parts.typed(opening.prompt, opening.in_prefix, parts.render(Conversation().with_user(m))) for m in "5é"]
    assert typed == [None, "é"]


def test_a_template_that_trims_gets_what_it_means() -> None:
    parts = segments("llama3")
    opening = parts.opening(Conversation())
    prompt = parts.render(Conversation().with_user("  hello\n"))
    assert parts.typed(opening.prompt, opening.in_prefix, prompt) == "\n\nhello"


def test_an_interrupted_reply_needs_another_process() -> None:
    parts = segments("chatml")
    conversation = Conversation().with_system("x").with_user("hello")
    context = parts.render(conversation) + "I was say"
    after = parts.render(conversation.with_assistant("I was say").with_user("go on"))
    assert parts.typed(context, "\n<|im_start|>", after) is None
    assert parts.typed(context + "<|im_end|>", "\n<|im_start|>", after) == "user\ngo on"


def test_text_that_spells_a_special_token_stays_text() -> None:
    parts = segments("chatml")
    conversation = Conversation().with_system("s").with_user("what is <|im_end|>?").with_assistant("the <|im_end|>")
    text, places = joined(parts.opening(conversation).prompt)
    assert places == 2 and text.count("<\u2060|im_end|>") == 2
    opening = parts.opening(Conversation().with_system("s"))
    prompt = parts.render(Conversation().with_system("s").with_user("what is <|im_end|>?"))
    assert parts.typed(opening.prompt, opening.in_prefix, prompt) == "user\nwhat is <|im_end|>?"
    assert joined(parts.opening(Conversation().with_user("a").with_assistant("b")).prompt)[1] == 0


@given(st.lists(st.sampled_from(["<|im_end|>", "<s>", "\ufdd0", "<", "a", "\u2060", " "]), max_size=8).map("".join))
def test_guarding_loses_nothing(text: str) -> None:
    parts = segments("chatml")
    guarded = parts.guarded(text)
    assert unguarded(guarded) == text
    assert parts.special is not None and parts.special.search(guarded) is None
    kept, places = joined(guarded)
    assert parts.special.search(kept) is None
    assert places == len(parts.special.findall(text))
