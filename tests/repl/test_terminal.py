"""A recorded run of the whole program on a terminal: real keys, a real screen, real engines and the bundled model."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from program import ARROW_UP, CTRL_C, CTRL_J, ENTER, ESC, FIGURES, Start, Terminal, assert_gone, fake_engine, start

from bitnet_chat.engine.binary import EngineBinary

__all__ = ["start"]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

# What the engines print around a reply, and what the template puts around a message.
NOISE = (
    "<|im_start|>",
    "<|im_end|>",
    "[ Prompt:",
    "Generation:",
    "available commands",
    "interactive mode",
    "Interrupted by user",
    "Exiting",
    "llama_",
    "n_past",
    "n_remain",
    "sampler",
    "\x1b[1m\x1b[32m",
    "\x1b[35m",
    "Traceback",
)
# One thread: on a busy machine several spend their time waiting for one another.
PLAIN = ("--markdown", "off", "--threads", "1", "--temp", "0")
WIDE = ("--override-kv", "bitnet.context_length=int:65536")
WINDOW = 65_536


def endless(engine: EngineBinary, transport: str) -> list[str]:
    """Flags that make each reply last until it is stopped, or a quarter of a million characters."""
    flags = ["--engine", str(engine.path), "--io", transport, *PLAIN, "--typing-speed", "0"]
    return [*flags, "--ctx", str(WINDOW), "--no-guard", "--", *WIDE, "--ignore-eos"]


def generating(terminal: Terminal, message: str) -> None:
    """Sends a message and waits for the first lines of its reply."""
    before = terminal.times(message)
    terminal.send(message, ENTER)
    terminal.until(lambda: terminal.times(message) > before and len(terminal.after(message)) > 120)


@pytest.mark.engine
def test_a_conversation(start: Start, engine: EngineBinary, transport: str) -> None:
    terminal = start("--engine", str(engine.path), "--io", transport, *PLAIN, lines=60)
    terminal.until("/help lists the commands.")
    terminal.until(lambda: terminal.prompt == "")
    # The model may still be loading: it is sent all the same.
    first = terminal.say("how do I leave?")
    words, figures = first.rsplit("\n", 1)
    assert words.strip()
    assert " tokens · " in figures and FIGURES in figures and figures.endswith("· stop")
    dim = terminal.written.rindex(figures)
    assert terminal.written[:dim].endswith("\x1b[2m") and terminal.written[dim + len(figures) :].startswith("\x1b[0m")
    assert FIGURES in terminal.say("thank you")
    assert "2 turns in the conversation" in terminal.say("/stats")
    story = terminal.say("tell me a long story")
    assert FIGURES in story
    if engine.dialect.value == "classic":
        # The same history and no chance: the same words.
        assert terminal.say("/regen").rsplit("\n", 1)[0] == story.rsplit("\n", 1)[0]
        terminal.undo("tell me a long story")
        assert "2 turns in the conversation" in terminal.say("/stats")
    terminal.undo("thank you" if engine.dialect.value == "classic" else "tell me a long story")
    assert "New conversation." in terminal.say("/clear")
    assert "0 turns in the conversation" in terminal.say("/stats")
    assert "The system prompt is set." in terminal.say("/system You are brief.")
    assert "System prompt: You are brief." in terminal.say("/system")
    assert f"Engine: {engine.path.name} ({engine.dialect.value})" in terminal.say("/model")
    for new_line in (CTRL_J, ESC + ENTER, "\\" + ENTER):
        terminal.send("what is", new_line, "your name?")
        terminal.until("> what is\n  your name?")
        figures = terminal.written.count(FIGURES)
        terminal.send(ENTER)
        terminal.until(lambda figures=figures: terminal.written.count(FIGURES) > figures)  # type: ignore[misc]
        terminal.ready()
    assert "3 turns in the conversation" in terminal.say("/stats")
    terminal.leave()
    for noise in NOISE:
        assert noise not in terminal.written


@pytest.mark.engine
def test_switching_the_model(
    start: Start, classic: EngineBinary, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = Path("other.gguf")
    other.symlink_to(model)
    terminal = start("--engine", str(classic.path), *PLAIN)
    terminal.until(lambda: terminal.prompt == "")
    terminal.say("hello")
    (first,) = terminal.running_engines()
    assert "Next model: other." in terminal.say(f"/model {other}")
    assert_gone([first])
    assert FIGURES in terminal.say("thank you")
    assert "2 turns in the conversation" in terminal.say("/stats")
    (second,) = terminal.running_engines()
    assert str(other) in second.cmdline()
    missing = terminal.say("/model nothing.gguf")
    assert "nothing.gguf" in missing and terminal.engines == [second]
    terminal.leave()


@pytest.mark.engine
def test_stopping_a_story(start: Start, engine: EngineBinary, transport: str) -> None:
    terminal = start(*endless(engine, transport))
    terminal.until(lambda: terminal.prompt == "")
    for number, key in enumerate((CTRL_C, ESC, CTRL_C), 1):
        message = f"tell me a long story, number {number}"
        generating(terminal, message)
        terminal.send(key)
        terminal.ready()
        marked, figures = terminal.after(message).rpartition("\n>")[0].rstrip().rsplit("\n", 1)
        assert marked.replace("\n", "").endswith("[stopped]")
        assert figures.endswith("· interrupted")
    assert "3 turns in the conversation" in terminal.say("/stats")
    terminal.undo("tell me a long story, number 3")
    terminal.leave()
    for noise in NOISE:
        assert noise not in terminal.written


@pytest.mark.engine
def test_an_engine_that_is_killed_while_idle(start: Start, engine: EngineBinary, transport: str) -> None:
    terminal = start("--engine", str(engine.path), "--io", transport, "--system", "Be brief.", *PLAIN)
    terminal.until(lambda: terminal.prompt == "")
    terminal.say("hello")
    idle = terminal.running_engines()
    for each in idle:
        each.kill()
    assert_gone(idle)
    terminal.until(lambda: any(each not in idle for each in terminal.engines))  # it has noticed
    assert FIGURES in terminal.say("thank you")
    assert terminal.told("restarted with the conversation") == 1, terminal.scroll
    assert FIGURES in terminal.say("how do I leave?")
    assert terminal.told("restarted with the conversation") == 1
    assert "3 turns in the conversation" in terminal.say("/stats")
    terminal.leave()


@pytest.mark.engine
def test_an_engine_that_is_killed_in_mid_reply(start: Start, engine: EngineBinary, transport: str) -> None:
    terminal = start(*endless(engine, transport))
    terminal.until(lambda: terminal.prompt == "")
    generating(terminal, "tell me a story")
    busy = terminal.running_engines()
    for each in busy:
        each.kill()
    assert_gone(busy)
    terminal.until(lambda: "· the engine died" in terminal.after("tell me a story"))
    terminal.ready()
    assert terminal.told("restarted with the conversation") == 1
    generating(terminal, "and another one")
    terminal.send(ESC)
    terminal.ready()
    assert "[stopped]" in terminal.after("and another one").replace("\n", "")
    assert "2 turns in the conversation" in terminal.say("/stats")
    assert terminal.told("restarted with the conversation") == 1
    terminal.leave()
    for noise in NOISE:
        assert noise not in terminal.written


# Most lines are of words that the model has tokens for: twice as many tokens take four times as long.
PASTE = "".join(
    f"{number}. A line of what was pasted, with /commands and \\ and <|im_end|>.\n"
    if number % 10 == 0
    else f"{number}. A line: the small model climbed in, and there was room enough, for it.\n"
    for number in range(300)
)


@pytest.mark.engine
def test_a_large_paste_is_one_message(start: Start, modern: EngineBinary) -> None:
    assert len(PASTE) > 20_000
    terminal = start("--engine", str(modern.path), *PLAIN, "-n", "20", "--ctx", "16384", "--", *WIDE)
    terminal.until(lambda: terminal.prompt == "")
    terminal.paste(PASTE)
    terminal.until("299. A line")
    terminal.send(ENTER)
    terminal.until(FIGURES)
    terminal.ready()
    assert "1 turn in the conversation" in terminal.say("/stats")
    assert "Undone: 0. A line of what was pasted" in terminal.say("/undo")
    assert FIGURES in terminal.say("thank you")
    terminal.leave()


@pytest.mark.engine
def test_a_paste_that_does_not_fit_is_not_lost(start: Start, engine: EngineBinary) -> None:
    terminal = start("--engine", str(engine.path), *PLAIN)
    terminal.until(lambda: terminal.prompt == "")
    terminal.say("hello")
    terminal.paste(PASTE)
    terminal.until("299. A line")
    terminal.send(ENTER)
    # Why it was not sent stays in sight, and the message is one key away.
    terminal.until("Arrow-Up recalls the message.")
    told = "".join(terminal.text.split())  # lines wrap anywhere
    assert "doesnotfitintothecontextwindowof2,048tokens;itwasnotsent" in told
    terminal.until(lambda: terminal.prompt == "")
    terminal.send(ARROW_UP)
    terminal.until(lambda: "299. A line" in terminal.text.rpartition("Arrow-Up")[2])
    terminal.send(CTRL_C)
    terminal.until(lambda: terminal.prompt == "")
    assert FIGURES in terminal.say("thank you")
    assert "2 turns in the conversation" in terminal.say("/stats")
    terminal.leave()


# With the scripted engine: what a real one cannot be made to do at will.


def test_a_message_that_is_sent_early_waits_for_the_engine(start: Start, model: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    terminal = start("--engine", str(fake_engine(tmp_path)), "-m", str(model), FAKE_ENGINE_GATE=str(gate))
    terminal.until(lambda: terminal.prompt == "")
    terminal.send("say early", ENTER)
    terminal.until("s loading the model")
    gate.write_bytes(b"")  # waits for the engine to open it, which is when it loads
    terminal.until("\nearly\n")
    terminal.ready()
    assert "loading the model" not in terminal.text
    terminal.leave()


@pytest.mark.parametrize("kind", ["", "FAKE_ENGINE_UNORDERED", "FAKE_ENGINE_MODERN"])
def test_turns_after_faults(start: Start, transport: str, kind: str, tmp_path: Path) -> None:
    environment = {"FAKE_ENGINE_RECORD": str(tmp_path / "record"), kind or "UNUSED": "1"}
    flags = ("--engine", str(fake_engine(tmp_path)), "--io", transport, "--typing-speed", "0")
    terminal = start(*flags, lines=60, **environment)
    terminal.until(lambda: terminal.prompt == "")
    generating(terminal, "story")
    terminal.send(ESC)
    terminal.ready()
    assert "[stopped]" in terminal.after("story").replace("\n", "")
    assert "\nafter the story\n" in f"\n{terminal.say('say after the story')}"
    terminal.say("kill so far")
    assert "so far" in terminal.after("kill so far") and "engine died" in terminal.after("kill so far")
    assert "\nafter the death\n" in f"\n{terminal.say('say after the death')}"
    assert terminal.told("restarted with the conversation") == 1
    assert "4 turns" in terminal.say("/stats")
    terminal.leave()


def test_an_engine_that_dies_for_good(start: Start, tmp_path: Path) -> None:
    record = tmp_path / "record"
    terminal = start("--engine", str(fake_engine(tmp_path)), lines=60, FAKE_ENGINE_RECORD=str(record))
    terminal.until(lambda: terminal.prompt == "")
    terminal.send("kill", ENTER)
    terminal.until("for the 4th")
    terminal.until(lambda: terminal.prompt == "kill")  # nothing typed is lost
    assert len(record.read_text().splitlines()) == 4
    terminal.send(CTRL_C)
    terminal.until(lambda: terminal.prompt == "")
    assert "\nstill here\n" in f"\n{terminal.say('say still here')}"
    terminal.leave()
