"""What an engine's log says about its end."""

from __future__ import annotations

from bitnet_chat.engine.log import EngineLog


def log(text: str) -> EngineLog:
    it = EngineLog(lambda line: None)
    it.feed(text.encode())
    it.close()
    return it


def test_progress_and_the_start_of_a_line_are_no_reason() -> None:
    """An engine that exits before its log thread has written why leaves the dots of the loading: another try may say
    it, and nobody is shown them."""
    assert log("D load\nI ").tail() == ""
    assert log("D load\n...........................\n").tail() == ""
    assert log(".....\nmain: prompt is too long\n").tail() == "main: prompt is too long"


def test_what_tells_most_comes_first() -> None:
    assert log("something\nE failed to open\nD debug\n").tail() == "E failed to open"
    assert log("something\nelse").tail(1) == "else"
