"""What is counted of a conversation, and what a server's own count teaches."""

from __future__ import annotations

import pytest

from bitnet_chat.backends.remote.fit import Fit
from bitnet_chat.backends.remote.question import Question
from bitnet_chat.conversation import Conversation, Message, Tool
from bitnet_chat.errors import ContextOverflow
from bitnet_chat.prompt.tokens import TokenCount

TOOL = Tool("weather", "word " * 100, {"type": "object"})


def words(text: str) -> TokenCount:
    """By a vocabulary that is known."""
    return TokenCount(len(text.split()), 0.03)


def guess(text: str) -> TokenCount:
    return TokenCount(len(text.split()), 0.5)


def fit(count: object = words, size: int = 2048) -> Fit:
    made = Fit("drop-oldest", count)  # type: ignore[arg-type]
    made.size = size
    return made


def asked(text: str) -> Question:
    return Question.of(Conversation().with_user(text))


def cost(fit: Fit, text: str) -> int:
    return fit.tokens([Message("user", text)]).count


def test_tools_are_counted_once_and_do_not_make_every_message_longer() -> None:
    known = fit()
    known.learn(asked("Hello there"), 600, [TOOL])
    assert cost(known, "x " * 1000) <= 1040
    known.to_drop(asked("x " * 1300), None)  # fits
    with pytest.raises(ContextOverflow):
        known.to_drop(asked("x " * 1500), None)  # not beside the tools


def test_what_a_template_puts_around_is_counted_once() -> None:
    known = fit()
    known.learn(asked("Hello"), 90)
    assert cost(known, "x " * 1000) <= 1040


def test_a_guess_is_corrected_by_as_much_as_it_was_wrong() -> None:
    unknown = fit(guess)
    unknown.learn(asked("x " * 100), 318)
    assert cost(unknown, "x " * 100) == 318
    unknown.learn(asked("x " * 100), 10)
    assert cost(unknown, "x " * 100) == 21  # a fifth is the least


def test_a_guess_takes_the_tools_for_as_much_of_the_rest() -> None:
    unknown = fit(guess)
    unknown.learn(asked("Hello there"), 300, [TOOL])
    assert cost(unknown, "x " * 100) < 320
    unknown.to_drop(asked("x " * 500), None)
