"""What is counted of a conversation, and what a server's own count teaches."""

from __future__ import annotations

import pytest

from bitnet_chat.backends.http.context_window import ServerContextWindow
from bitnet_chat.backends.http.request import RequestMessages
from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.conversation import Conversation, Message, Tool
from bitnet_chat.errors import ContextOverflowError

TOOL = Tool("weather", "word " * 100, {"type": "object"})


def words(text: str) -> TokenCount:
    """By a vocabulary that is known."""
    return TokenCount(len(text.split()), 0.03)


def guess(text: str) -> TokenCount:
    return TokenCount(len(text.split()), 0.5)


def fit(count: object = words, size: int = 2048) -> ServerContextWindow:
    made = ServerContextWindow("drop-oldest", count)  # type: ignore[arg-type]
    made.size = size
    return made


def asked(text: str) -> RequestMessages:
    return RequestMessages.of(Conversation().with_user(text))


def cost(fit: ServerContextWindow, text: str) -> int:
    return fit.tokens([Message("user", text)]).count


def learned(fit: ServerContextWindow, text: str, tokens: int, *tools: Tool) -> None:
    """A reply with these tools was asked for, and the server has counted."""
    fit.tools = tools
    fit.learn(asked(text), tokens)


def test_tools_are_counted_once_and_do_not_make_every_message_longer() -> None:
    known = fit()
    learned(known, "Hello there", 600, TOOL)
    assert cost(known, "x " * 1000) <= 1040
    known.to_drop(asked("x " * 1300), None)  # fits
    with pytest.raises(ContextOverflowError):
        known.to_drop(asked("x " * 1500), None)  # not beside the tools


def test_what_tools_cost_is_charged_to_those_who_offer_them() -> None:
    known = fit()
    learned(known, "Hello there", 600, TOOL)
    known.tools = ()
    known.to_drop(asked("x " * 1900), None)  # would not fit beside the tools
    known.tools = (TOOL, Tool("other", "word " * 900))
    with pytest.raises(ContextOverflowError):
        known.to_drop(asked("x " * 1150), None)


def test_a_request_that_stands_for_itself_knows_nothing_of_others() -> None:
    shared = fit(guess)
    history = Conversation()
    for number in range(40):
        history = history.with_user(f"{number} " * 30).with_assistant("a " * 30)
    question = RequestMessages.of(history.with_user("And now?"))
    before = shared.alone(None).to_drop(question, None)
    learned(shared, "x " * 100, 500)
    learned(shared, "x " * 100, 2000, TOOL)
    shared.drop(history, 20, TokenCount(0))
    assert shared.alone(None).to_drop(question, None) == before > 0
    assert shared.alone(None).messages(question) == question.history.messages + question.asked
    with pytest.raises(ContextOverflowError, match=r"long, and 256 are kept for the reply") as raised:
        shared.alone("stop").to_drop(RequestMessages.of(Conversation(history.messages * 4).with_user("And?")), None)
    assert raised.value.size == 2048 and raised.value.needed is not None and raised.value.needed > 10_000


def test_what_a_template_puts_around_is_counted_once() -> None:
    known = fit()
    learned(known, "Hello", 90)
    assert cost(known, "x " * 1000) <= 1040


def test_a_guess_is_corrected_by_as_much_as_it_was_wrong() -> None:
    unknown = fit(guess)
    learned(unknown, "x " * 100, 318)
    assert cost(unknown, "x " * 100) == 318
    learned(unknown, "x " * 100, 10)
    assert cost(unknown, "x " * 100) == 21  # a fifth is the least


def test_a_guess_takes_the_tools_for_as_much_of_the_rest() -> None:
    unknown = fit(guess)
    learned(unknown, "Hello there", 300, TOOL)
    assert cost(unknown, "x " * 100) < 320
    unknown.to_drop(asked("x " * 500), None)
