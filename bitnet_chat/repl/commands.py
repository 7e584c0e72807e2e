"""What a typed line means, and what a command does. Pure: a front end carries out the :class:`Outcome`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from bitnet_chat.backends import BackendStatus
from bitnet_chat.conversation import Conversation
from bitnet_chat.repl.tally import Tally
from bitnet_chat.repl.toolbar import SEPARATOR, context, rate, seconds, size, tokens
from bitnet_chat.stream.sanitize import one_line, visible


@dataclass(frozen=True, slots=True)
class Say:
    """Words for the model."""

    text: str


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    argument: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Looks like a command and is none. ``guess`` is the nearest one, or empty."""

    name: str
    guess: str = ""


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a command may look at."""

    conversation: Conversation
    status: BackendStatus
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that a command may want. ``lines`` are safe for a terminal."""

    conversation: Conversation
    lines: tuple[str, ...] = ()
    ask: bool = False
    """Ask for a reply to ``conversation``, whose last message is the user's."""
    leave: bool = False
    switch: str | None = None
    """Change to this model."""


@dataclass(frozen=True, slots=True)
class _Entry:
    usage: str
    help: str
    apply: Callable[[Situation, str], Outcome]


# Nothing but letters: "/etc/passwd is a file" and "/2" are words for the model.
_COMMAND = re.compile(r"/([A-Za-z]+|\?|)(?:\s+(.*))?", re.DOTALL)
_ALIASES = {"": "help", "?": "help", "quit": "exit", "bye": "exit"}


def read(line: str) -> Say | Command | Unknown:
    """What a submitted line means. ``//text`` says ``/text``; a leading space makes any line words for the model."""
    if line.startswith("//"):
        return Say(line[1:])
    match = _COMMAND.fullmatch(line)
    if match is None:
        return Say(line)
    name, argument = match[1].lower(), (match[2] or "").strip()
    if argument and name in ("", "?"):
        return Say(line)
    name = _ALIASES.get(name, name)
    if name in COMMANDS:
        return Command(name, argument)
    from difflib import get_close_matches  # imported late: only a slip of the fingers needs it

    close = get_close_matches(name, COMMANDS, n=1) or [known for known in COMMANDS if known.startswith(name)]
    return Unknown(name, close[0] if close else "")


def explain(unknown: Unknown) -> str:
    """One line that says what is wrong and what to do."""
    meant = f"did you mean /{unknown.guess}?" if unknown.guess else "/help lists them."
    return f"There is no command /{unknown.name}: {meant} To say it to the model, type a second slash first."


def apply(command: Command, situation: Situation) -> Outcome:
    """What ``command`` does. It changes nothing by itself."""
    return COMMANDS[command.name].apply(situation, command.argument)


def complete(text: str) -> list[tuple[str, str]]:
    """Commands that begin with ``text``, each with its help; empty for text that does not begin one."""
    return [(f"/{name}", entry.help) for name, entry in COMMANDS.items() if f"/{name}".startswith(text) and text]


def _help(situation: Situation, argument: str) -> Outcome:
    widest = max(len(entry.usage) for entry in COMMANDS.values())
    lines = [f"{entry.usage:<{widest}}  {entry.help}" for entry in COMMANDS.values()]
    return Outcome(situation.conversation, (*lines, "", *_KEYS))


_KEYS = (
    "Enter sends. Alt-Enter, Ctrl-J or a \\ at the end of the line make a new line.",
    "Ctrl-C or Esc stops a reply. Ctrl-C clears the line, Ctrl-D leaves.",
    "Ctrl-R searches earlier lines, Ctrl-X Ctrl-E opens $EDITOR, Tab completes commands.",
    "A message that begins with a command word: type // or a space first.",
)


def _exit(situation: Situation, argument: str) -> Outcome:
    return Outcome(situation.conversation, leave=True)


def _clear(situation: Situation, argument: str) -> Outcome:
    cleared = situation.conversation.cleared()
    kept = " The system prompt stays." if cleared.messages else ""
    return Outcome(cleared, (f"The conversation starts anew.{kept}",))


def _regen(situation: Situation, argument: str) -> Outcome:
    asked = situation.conversation.without_last_reply()
    if asked.last is None or asked.last.role != "user":
        return Outcome(situation.conversation, ("There is no reply to make again.",))
    return Outcome(asked, ask=True)


def _undo(situation: Situation, argument: str) -> Outcome:
    before = situation.conversation.without_last_turn()
    if before == situation.conversation:
        return Outcome(before, ("There is nothing to take back.",))
    gone = situation.conversation.messages[len(before.messages)]
    return Outcome(before, (f"Taken back: {_short(gone.content)}",))


def _system(situation: Situation, argument: str) -> Outcome:
    now = situation.conversation.system
    if not argument:
        return Outcome(situation.conversation, (f"System prompt: {visible(now)}" if now else "No system prompt.",))
    if argument == "-":
        return Outcome(situation.conversation.with_system(""), ("The system prompt is removed.",))
    return Outcome(situation.conversation.with_system(argument), ("The system prompt is set.",))


def _stats(situation: Situation, argument: str) -> Outcome:
    tally, status = situation.tally, situation.status
    turns = sum(message.role == "user" for message in situation.conversation.turns)
    replies = [f"{turns} turn{'' if turns == 1 else 's'} in the conversation"]
    replies.append(f"{tokens(tally.tokens, tally.exact)} in {tally.replies} repl{'y' if tally.replies == 1 else 'ies'}")
    if tally.tokens_per_second is not None:
        replies.append(rate(tally.tokens_per_second))
    if tally.time_to_first_token is not None:
        replies.append(f"first token after {seconds(tally.time_to_first_token)} on average")
    engine = [one_line(status.engine), one_line(status.state)]
    if status.memory is not None:
        engine.append(size(status.memory))
    if status.cpu is not None:
        engine.append(f"{status.cpu:.0f} % CPU")
    last = tally.last
    used = status.context_used if status.context_used is not None else last.context_used if last else None
    window = context(used, status.context_size or (last.context_size if last else None))
    if window:
        engine.append(window)
    return Outcome(
        situation.conversation,
        (SEPARATOR.join(replies), f"{one_line(status.model)}: {SEPARATOR.join(part for part in engine if part)}"),
    )


def _model(situation: Situation, argument: str) -> Outcome:
    if argument:
        return Outcome(situation.conversation, switch=argument)
    status = situation.status
    return Outcome(
        situation.conversation,
        (f"Model:  {one_line(status.model)}", f"Engine: {one_line(status.engine)} ({one_line(status.state)})"),
    )


def _short(text: str, columns: int = 60) -> str:
    text = one_line(text)
    return text if len(text) <= columns else text[: columns - 1] + "…"


COMMANDS = {
    "help": _Entry("/help", "this list", _help),
    "exit": _Entry("/exit", "leave", _exit),
    "clear": _Entry("/clear", "forget the conversation, keep the system prompt", _clear),
    "regen": _Entry("/regen", "make the last reply again", _regen),
    "undo": _Entry("/undo", "take the last message and its reply back", _undo),
    "system": _Entry("/system [TEXT]", "set the system prompt (- removes it), or show it", _system),
    "stats": _Entry("/stats", "figures of this session and the engine", _stats),
    "model": _Entry("/model [PATH]", "switch to another model, or show this one", _model),
}
