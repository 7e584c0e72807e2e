"""Which model ``auto`` is: by code, by length, by the names."""

from __future__ import annotations

import pytest

from bitnet_chat.conversation import Conversation
from bitnet_chat.server.model_router import RouteCandidate, is_about_code, route

SMALL, CODER, LONG = RouteCandidate("short", 2048), RouteCandidate("qwen-coder", 4096), RouteCandidate("long", 32768)
ALL = [RouteCandidate("main", 8192), SMALL, CODER, LONG]


def asked(text: str) -> Conversation:
    return Conversation().with_user(text)


CODE = {
    "a fence": "What is wrong here?\n```\nx = 1\n```",
    "a fence of tildes": "~~~\nls -l\n~~~",
    "Python": "look:\n\n    def add(a, b):\n        return a + b",
    "an import": "import os\nimport sys",
    "C": "#include <stdio.h>\nint main(void) { }",
    "JavaScript": "const a = 1",
    "Rust": "pub fn main() {}",
    "Go": "func (s *Server) Serve() error",
    "SQL": "SELECT name FROM people WHERE age > 3",
    "a script": "#!/bin/sh\necho hi",
    "a traceback": 'Traceback (most recent call last):\n  File "a.py", line 1',
    "statements": "a = f(1);\nb = g(2);",
    "one sure word": "How do I write a regex for dates?",
    "a language": "Explain generators in Python.",
    "two words that go together": "my function has a bug",
    "this code": "explain this code",
}
NO_CODE = {
    "nothing": "",
    "a greeting": "Hello! How are you?",
    "a poem": "Write a poem about the sea, and import nothing from Byron.",
    "one word": "What is the dress code for a wedding?",
    "words far from each other": "The library opens at nine. " + "It rains. " * 40 + "What is on the program?",
    "the same word twice": "code red, code blue",
    "a backtick": "what does `hello` mean?",
    "prose with semicolons": "He came; he saw; he won. He left; she stayed.",
    "another sea": "From the coast, import duties are paid; select committees from the north say so",
}


@pytest.mark.parametrize("text", CODE.values(), ids=CODE)
def test_what_is_about_code(text: str) -> None:
    assert is_about_code(asked(text))


@pytest.mark.parametrize("text", NO_CODE.values(), ids=NO_CODE)
def test_what_is_not(text: str) -> None:
    assert not is_about_code(asked(text))


def test_a_conversation_is_about_what_was_last_said() -> None:
    shown = asked("Hello").with_assistant("Here:\n```python\nx\n```").with_user("And faster?")
    assert is_about_code(shown)
    assert not is_about_code(shown.with_assistant("It is fast.").with_user("Thank you."))
    assert is_about_code(asked("fix this code").with_assistant("…"))
    assert not is_about_code(Conversation().with_system("You write Python code."))


def test_the_names_say_what_a_model_is_for() -> None:
    assert route(asked("Hello"), ALL).name == "short"
    assert route(asked("my python script"), ALL).name == "qwen-coder"
    assert route(asked("my python script"), [SMALL, LONG]).name == "short"
    assert route(asked("Hello"), [RouteCandidate("main"), CODER]).name == "main"
    assert route(asked("Hello"), [RouteCandidate("shortening"), SMALL]).name == "short", "words, not parts of words"
    assert route(Conversation(), [RouteCandidate("only")]).name == "only"


def test_what_is_long_goes_where_there_is_room() -> None:
    chatter = asked("la " * 1500)  # some 1300 tokens: more than half of 2048
    assert route(chatter, ALL) == route(chatter, [SMALL, LONG])
    assert (route(chatter, ALL).name, route(chatter, ALL).kind) == ("long", "long")
    assert route(chatter, [SMALL, RouteCandidate("big", 4096), RouteCandidate("bigger", 8192)]).name == "bigger"
    assert route(chatter, [RouteCandidate("a", 2048), RouteCandidate("b", 2048)]).name == "a", (
        "there is no more room anywhere"
    )
    assert route(chatter, [RouteCandidate("unknown"), LONG]).name == "unknown", "nobody knows that it is too small"
    assert route(chatter, [SMALL, RouteCandidate("long")]).name == "long", "its name says so"
    code = asked("fix this code\n```\n" + "x = 1\n" * 2000 + "```")  # some 3400 tokens
    assert route(code, ALL).name == "long", "more than half of the window of the model for code"
    assert route(asked("fix this code" + " la" * 1500), ALL).name == "qwen-coder", "which it fits into"


def test_the_turns_before_count_too() -> None:
    talk = Conversation()
    for _ in range(20):
        talk = talk.with_user("la " * 60).with_assistant("la " * 60)
    assert route(talk.with_user("and?"), ALL).kind == "long"


@pytest.mark.parametrize(
    "text",
    [
        " " * 50_000,
        "\t\n" * 50_000,
        "a;" * 50_000,
        "class a(" * 10_000,
        "class a" + " " * 50_000 + "x",
        "if (" + ")" * 50_000,
        "import " + "a, " * 30_000 + "!",
        "select " * 20_000,
        "code " * 20_000,
        "public static " * 10_000,
        "```"[:2] * 50_000,
    ],
    ids=lambda text: text[:12].strip() or "blank",
)
def test_no_text_takes_long_to_look_at(text: str) -> None:
    is_about_code(asked(text))  # seconds or minutes, if an expression went back over the text again and again
