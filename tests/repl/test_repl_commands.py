"""What a typed line means and what commands do."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.backend import BackendState, BackendStatus
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Stats
from bitnet_chat.repl.commands import (
    COMMANDS,
    Attach,
    Command,
    CommandContext,
    CommandResult,
    Copy,
    Edit,
    Fork,
    Rename,
    Resume,
    SendMessage,
    ShowThoughts,
    ShowTree,
    SwitchModel,
    UnknownCommand,
    Write,
    apply,
    complete,
    explain,
    read,
    retyped,
)
from bitnet_chat.repl.statistics import SessionStats

STATUS = BackendStatus("demo.gguf", "llama-completion 9090", BackendState.IDLE, 100, 2048, 812_000_000, 199.7)
TALK = Conversation().with_system("Be brief.").with_user("Hi").with_assistant("Hello", FinishReason.STOP)


def test_the_list_of_commands_fits_a_terminal() -> None:
    assert [line for line in do("/help").lines if len(line) > 80] == []


@pytest.mark.parametrize("id", ["abc", "-1", "٣", "9" * 19])
def test_no_number_of_a_conversation(id: str) -> None:
    outcome = do(f"/resume {id}")
    assert outcome.action is None
    assert outcome.lines == (f"{id} is not the number of a conversation: /resume lists them.",)
    outcome = do(f"/tree {id}")
    assert (outcome.action, outcome.lines) == (None, (f"{id} is not the number of a message: /tree lists them.",))


def do(line: str, conversation: Conversation = TALK, session_stats: SessionStats | None = None) -> CommandResult:
    command = read(line)
    assert isinstance(command, Command)
    return apply(command, CommandContext(conversation, STATUS, session_stats or SessionStats()))


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("hello", SendMessage("hello")),
        ("/help", Command("help")),
        ("/HELP", Command("help")),
        ("/", Command("help")),
        ("/?", Command("help")),
        ("/ hello", SendMessage("/ hello")),
        ("/quit", Command("exit")),
        ("/system  Be kind.\nAlways. ", Command("system", "Be kind.\nAlways.")),
        ("/model /a b/c.gguf", Command("model", "/a b/c.gguf")),
        ("//exit", SendMessage("/exit")),
        ("//", SendMessage("/")),
        (" /exit", SendMessage(" /exit")),
        ("/etc/passwd is a file", SendMessage("/etc/passwd is a file")),
        ("/2 is a half", SendMessage("/2 is a half")),
        ("/exit.", SendMessage("/exit.")),
        ("/read /etc/passwd", UnknownCommand("read", "rename")),
        ("/zzz", UnknownCommand("zzz")),
        ("/sytem x", UnknownCommand("sytem", "system")),
        ("/reg", UnknownCommand("reg", "regen")),
        ("C:\\new", SendMessage("C:\\new")),
    ],
)
def test_read(line: str, meaning: object) -> None:
    assert read(line) == meaning


@given(st.text())
def test_two_slashes_say_anything(text: str) -> None:
    assert read("//" + text) == SendMessage("/" + text)
    assert read(" " + text) == SendMessage(" " + text)
    assert read(retyped(text)) == SendMessage(text)


def test_unknown_commands_are_explained() -> None:
    assert "did you mean /system?" in explain(UnknownCommand("sytem", "system"))
    assert "/help" in explain(UnknownCommand("zzz"))


def test_complete() -> None:
    assert [name for name, _ in complete("/s")] == ["/save", "/system", "/stats"]
    assert [name for name, _ in complete("/")] == [f"/{name}" for name in COMMANDS]
    assert complete("") == complete("hello") == complete("/system x") == []


def test_help_names_every_command_and_the_escape() -> None:
    text = "\n".join(do("/help").lines)
    assert all(f"/{name}" in text for name in COMMANDS)
    assert "//" in text and "Ctrl-R" in text


def test_a_command_has_one_spelling_in_help_documents_and_messages() -> None:
    root = Path(__file__).parents[2]
    readme = (root / "README.md").read_text("utf-8")
    using = (root / "docs/using.md").read_text("utf-8")
    usages = {name: entry.usage for name, entry in COMMANDS.items()}
    arguments_of = {name: re.sub(r" \[--\w+\]", "", usage) for name, usage in usages.items()}
    rows = "".join(line.split(" | ")[0] for line in using.splitlines() if line.startswith("| `/"))
    assert {*re.findall(r"`(/[^`]*)`", rows)} >= {*usages.values()}
    written = re.compile(rf"(?<![\w./~-])/({'|'.join(COMMANDS)})\b((?: \[?[A-Z]{{2,}}…?\]?)*)")
    sources = [source.read_text("utf-8") for source in sorted((root / "bitnet_chat").rglob("*.py"))]
    for text in (readme, using, *sources):
        for name, arguments in written.findall(text):
            assert arguments == "" or f"/{name}{arguments}" == arguments_of[name], f"/{name}{arguments}"


def test_exit() -> None:
    assert do("/exit").leave


def test_clear_keeps_the_system_prompt() -> None:
    assert do("/clear").anew and not do("/undo").anew
    assert do("/clear").conversation == Conversation().with_system("Be brief.")
    assert "system prompt is kept" in do("/clear").lines[0]
    assert "system prompt" not in do("/clear", Conversation().with_user("x")).lines[0]


def test_regen() -> None:
    outcome = do("/regen")
    assert outcome.ask and outcome.conversation == TALK.without_last_reply()
    outcome = do("/regen", Conversation())
    assert not outcome.ask and outcome.lines and outcome.conversation == Conversation()


def test_undo() -> None:
    outcome = do("/undo")
    assert outcome.conversation == Conversation().with_system("Be brief.")
    assert outcome.lines == ("Undone: Hi",)
    assert do("/undo", Conversation()).lines == ("Nothing to undo.",)
    assert "\x1b" not in do("/undo", Conversation().with_user("\x1b[2J")).lines[0]


def test_system() -> None:
    assert do("/system").lines == ("System prompt: Be brief.",)
    assert do("/system Be long.").conversation.system == "Be long."
    assert do("/system Be long.").conversation.turns == TALK.turns
    assert do("/system -").conversation.system == ""
    assert do("/system", Conversation()).lines == ("No system prompt.",)
    assert "\x1b" not in do("/system", Conversation().with_system("\x1b[2J")).lines[0]


def test_model() -> None:
    assert do("/model other.gguf").action == SwitchModel("other.gguf")
    assert do("/model").action is None
    assert "demo.gguf" in do("/model").lines[0] and "llama-completion 9090" in do("/model").lines[1]


def test_stats() -> None:
    one = Stats(tokens=11, time_to_first_token=0.5, seconds=1.5, context_used=64, context_size=512, exact=True)
    two = Stats(tokens=21, time_to_first_token=1.5, seconds=2.5, exact=False)
    first, second = do("/stats", session_stats=SessionStats().plus(one).plus(two)).lines
    assert (
        first
        == "1 turn in the conversation · ~32 tokens in 2 replies · 15.0 tok/s · first token after 1.0 s on average"
    )
    assert second == "demo.gguf: llama-completion 9090 · idle · 812 MB · 200 % CPU · ctx 100/2048 (5 %)"


def test_stats_tell_the_whole_prompt_and_what_was_new_in_it() -> None:
    last = Stats(tokens=3, prompt_tokens=14, prompt_size=72, exact=True)
    assert "last prompt 72 tokens, 14 of them new" in do("/stats", session_stats=SessionStats().plus(last)).lines[0]
    guess = replace(last, exact=False)
    assert "last prompt ~72 tokens, ~14 of them new" in do("/stats", session_stats=SessionStats().plus(guess)).lines[0]


def test_stats_before_any_reply() -> None:
    assert do("/stats", Conversation()).lines[0] == "0 turns in the conversation · 0 tokens in 0 replies"


def test_continue_goes_on_with_a_reply_that_was_cut() -> None:
    cut = TALK.without_last_reply().with_assistant("Hel", FinishReason.LENGTH)
    assert do("/continue", cut).ask and do("/continue", cut).conversation == cut
    for whole in (TALK, Conversation(), TALK.without_last_reply()):
        outcome = do("/continue", whole)
        assert not outcome.ask and outcome.lines and outcome.conversation == whole


def test_edit_brings_the_last_message_to_the_editor() -> None:
    assert do("/edit").action == Edit("Hi")
    assert do("/edit", TALK.without_last_reply()).action == Edit("Hi")
    assert do("/edit", Conversation()).lines == ("No message to edit.",)


@pytest.mark.parametrize(
    ("line", "action"),
    [
        ("/resume", Resume(None)),
        ("/resume 12", Resume(12)),
        ("/tree", ShowTree(None)),
        ("/tree 12", ShowTree(12)),
        ("/rename  Tea and\tcake", Rename("Tea and cake")),
        ("/fork", Fork()),
        ("/save notes.md", Write("md", "notes.md")),
        ("/save my notes.HTML", Write("html", "my notes.HTML")),
        ("/save notes", Write("md", "notes")),
        ("/export jsonl", Write("jsonl")),
        ("/save notes.html --branches", Write("html", "notes.html", branches=True)),
        ("/save notes--branches", Write("md", "notes--branches")),
        ("/export json --branches", Write("json", branches=True)),
        ("/export json a b.json  --branches", Write("json", "a b.json", branches=True)),
        ("/export json my file.json", Write("json", "my file.json")),
        ("/file", Attach(())),
        ("/file a.txt 'b c.txt'", Attach(("a.txt", "b c.txt"))),
        ("/file don't.txt", Attach(("don't.txt",))),
        ("/copy", Copy("Hello", "The last reply")),
        ("/thinking fold", ShowThoughts("", "fold")),
    ],
)
def test_actions(line: str, action: object) -> None:
    assert do(line).action == action
    assert do(line).conversation == TALK


@pytest.mark.parametrize(
    "line", ["/resume soon", "/rename", "/save", "/export", "/export pdf", "/thinking", "/thinking aloud", "/copy code"]
)
def test_what_a_command_cannot_do_it_says(line: str) -> None:
    outcome = do(line)
    assert outcome.action is None and len(outcome.lines) == 1 and outcome.conversation == TALK


@pytest.mark.parametrize("line", ["/fork", "/save a.md", "/export md", "/copy", "/edit", "/continue"])
def test_nothing_can_be_done_with_nothing(line: str) -> None:
    outcome = do(line, Conversation().with_system("Be brief."))
    assert outcome.action is None and not outcome.ask and len(outcome.lines) == 1


def test_copy_code_takes_the_last_block() -> None:
    reply = "One:\n```python\nprint(1)\n```\nTwo:\n~~~~\n```\nx\n~~~~\nDone."
    conversation = Conversation().with_user("Hi").with_assistant(reply)
    assert do("/copy code", conversation).action == Copy("```\nx\n", "The last code block")
    cut = Conversation().with_user("Hi").with_assistant("```\nx = 1\ny")
    assert do("/copy code", cut).action == Copy("x = 1\ny", "The last code block")


def test_thinking_shows_the_last_thoughts() -> None:
    conversation = TALK.with_user("And?").with_assistant("Yes", thinking="Is it?").with_user("Good").with_assistant("!")
    assert do("/thinking", conversation).action == ShowThoughts("Is it?")
