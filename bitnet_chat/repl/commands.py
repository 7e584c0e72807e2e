"""The meaning of a typed line, and the result of a command.

Pure: a command returns a :class:`CommandResult`, and the controller carries it out. Files, the terminal, the journal
and the model are reached through the :data:`Action` in it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

from bitnet_chat.attachments import typed
from bitnet_chat.backend import BackendStatus
from bitnet_chat.backends.variants import MOST
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.repl.statistics import SessionStats
from bitnet_chat.repl.status_bar import SEPARATOR, context, rate, seconds, state, tokens
from bitnet_chat.text.sanitize import one_line, visible
from bitnet_chat.util.progress import size


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Text for the model."""

    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """A known command: a key of :data:`COMMANDS`, and the text after it."""

    name: str
    argument: str = ""


@dataclass(frozen=True, slots=True)
class UnknownCommand:
    """A line with the form of a command and an unknown name. ``guess``: the most similar command, or empty."""

    name: str
    guess: str = ""


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The state that a command may read."""

    conversation: Conversation
    status: BackendStatus
    session_stats: SessionStats = field(default_factory=SessionStats)
    tools: tuple[Tool, ...] = ()
    allowed: frozenset[str] = frozenset()
    """Tools that are called without confirmation."""
    unanswered: bool = False
    """Whether the last message sent has no reply."""
    temperature: float | None = None
    """The temperature of replies; None: not known."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The effects that a command requests. ``lines``: sanitized output."""

    conversation: Conversation
    lines: tuple[str, ...] = ()
    ask: bool = False
    """Request a reply to ``conversation``, or the rest of its last reply."""
    variants: int = 1
    """Number of replies to request, one of which is chosen."""
    leave: bool = False
    anew: bool = False
    """Whether ``conversation`` is a new one; the journal keeps the previous one."""
    action: Action | None = None
    back: str = ""
    """The text to put on the prompt."""


@dataclass(frozen=True, slots=True)
class _CommandEntry:
    usage: str
    help: str
    apply: Callable[[CommandContext, str], CommandResult]


# Letters only: "/etc/passwd is a file" and "/2" are messages.
_COMMAND = re.compile(r"/([A-Za-z]+|\?|)(?:\s+(.*))?", re.DOTALL)
_FENCED = re.compile(r"^ {0,3}(`{3,}|~{3,})[^\n]*\n(.*?)(?:^ {0,3}\1|\Z)", re.MULTILINE | re.DOTALL)
_ALIASES = {"": "help", "?": "help", "quit": "exit", "bye": "exit"}


def read(line: str) -> SendMessage | Command | UnknownCommand:
    """Parse a submitted line. ``//text`` is the message ``/text``; a line with a leading space is always a message."""
    if line.startswith("//"):
        return SendMessage(line[1:])
    match = _COMMAND.fullmatch(line)
    if match is None:
        return SendMessage(line)
    name, argument = match[1].lower(), (match[2] or "").strip()
    if argument and name in ("", "?"):
        return SendMessage(line)
    name = _ALIASES.get(name, name)
    if name in COMMANDS:
        return Command(name, argument)
    from difflib import get_close_matches  # imported here because only a mistyped command needs it

    close = get_close_matches(name, COMMANDS, n=1) or [known for known in COMMANDS if known.startswith(name)]
    return UnknownCommand(name, close[0] if close else "")


def retyped(text: str) -> str:
    """Return the line that sends ``text`` to the model, the inverse of :func:`read`."""
    return text if read(text) == SendMessage(text) else f"/{text}"


def explain(unknown: UnknownCommand) -> str:
    """Return one line with the error and the remedy."""
    meant = f"did you mean /{unknown.guess}?" if unknown.guess else "/help lists them."
    return f"Unknown command /{unknown.name}: {meant} To send it to the model, type a second slash first."


def apply(command: Command, current: CommandContext) -> CommandResult:
    """Return the result of ``command``, without side effects."""
    return COMMANDS[command.name].apply(current, command.argument)


def complete(text: str) -> list[tuple[str, str]]:
    """Return the commands that begin with ``text``, each as ``/name`` and its help."""
    return [(f"/{name}", entry.help) for name, entry in COMMANDS.items() if f"/{name}".startswith(text) and text]


def _help(current: CommandContext, argument: str) -> CommandResult:
    widest = max(len(entry.usage) for entry in COMMANDS.values())
    lines = [f"{entry.usage:<{widest}}  {entry.help}" for entry in COMMANDS.values()]
    return CommandResult(current.conversation, (*lines, "", *_KEYS))


_KEYS = (
    "Enter sends. Alt-Enter, Ctrl-J or a \\ at the end of the line insert a newline.",
    "Ctrl-C or Esc stops a reply. Ctrl-C clears the line, Ctrl-D exits.",
    "Alt-Left and Alt-Right switch between the variants of the last reply or message.",
    "Ctrl-R searches earlier lines, Ctrl-X Ctrl-E opens $EDITOR.",
    "@FILE in a message attaches the file. Tab completes commands and files.",
    "To send a message that begins with a command, type // or a space first.",
)


def _exit(current: CommandContext, argument: str) -> CommandResult:
    return CommandResult(current.conversation, leave=True)


def _clear(current: CommandContext, argument: str) -> CommandResult:
    cleared = current.conversation.cleared()
    kept = " The system prompt is kept." if cleared.messages else ""
    return CommandResult(cleared, (f"New conversation.{kept}",), anew=True)


def _regen(current: CommandContext, argument: str) -> CommandResult:
    """Regenerate the whole turn, including the replies to its tool calls."""
    count = int(argument) if argument.isascii() and argument.isdigit() and len(argument) < 3 else 0
    if argument and not 1 <= count <= MOST:
        wrong = f"{_short(argument)} is not a number of replies: /regen N, where N is from 1 to {MOST}."
        return CommandResult(current.conversation, (wrong,))
    asked = asked_last(current.conversation)
    if asked is None:
        return CommandResult(current.conversation, ("No reply to regenerate.",))
    note = ("The temperature is 0: all replies will be equal.",) if count > 1 and current.temperature == 0 else ()
    return CommandResult(asked, note, ask=True, variants=max(1, count))


def asked_last(conversation: Conversation) -> Conversation | None:
    """The conversation up to its last user message; None without one."""
    before = conversation.without_last_turn()
    asked = Conversation(conversation.messages[: len(before.messages) + 1])
    return asked if asked.last is not None and asked.last.role == "user" else None


def _compare(current: CommandContext, argument: str) -> CommandResult:
    name, words = argument, argument.split()
    blind = "--blind" in (*words[:1], *words[-1:])
    if blind:
        last = words[-1] == "--blind"
        name = (argument.removesuffix("--blind") if last else argument.removeprefix("--blind")).strip()
    if not name:
        return CommandResult(current.conversation, ("A model is missing: /compare MODEL [--blind]",))
    return CommandResult(current.conversation, action=Compare(name, blind))


def _undo(current: CommandContext, argument: str) -> CommandResult:
    before = current.conversation.without_last_turn()
    if before == current.conversation:
        return CommandResult(before, ("Nothing to undo.",))
    gone = current.conversation.messages[len(before.messages)].content
    back = typed(gone)
    lines = [f"Undone: {_short(back)}"]
    if back != gone:
        lines.append("Its attachments are removed: an @path in it attaches that file again, /file the others.")
    return CommandResult(before, tuple(lines), back=retyped(back))


def _system(current: CommandContext, argument: str) -> CommandResult:
    now = current.conversation.system
    if not argument:
        return CommandResult(current.conversation, (f"System prompt: {visible(now)}" if now else "No system prompt.",))
    if argument == "-":
        return CommandResult(current.conversation.with_system(""), ("The system prompt is removed.",))
    return CommandResult(current.conversation.with_system(argument), ("The system prompt is set.",))


def _stats(current: CommandContext, argument: str) -> CommandResult:
    session_stats, status = current.session_stats, current.status
    turns = sum(message.role == "user" for message in current.conversation.turns)
    replies = [f"{turns} turn{'' if turns == 1 else 's'} in the conversation"]
    noun = "reply" if session_stats.replies == 1 else "replies"
    replies.append(f"{tokens(session_stats.tokens, session_stats.exact)} in {session_stats.replies} {noun}")
    if session_stats.tokens_per_second is not None:
        replies.append(rate(session_stats.tokens_per_second))
    if session_stats.time_to_first_token is not None:
        replies.append(f"first token after {seconds(session_stats.time_to_first_token)} on average")
    engine = [one_line(status.engine), state(status)]
    if status.memory is not None:
        engine.append(size(status.memory))
    if status.cpu is not None:
        engine.append(f"{status.cpu:.0f} % CPU")
    last = session_stats.last
    if last is not None and last.prompt_size is not None:
        about = "" if last.exact else "~"
        new = f", {about}{last.prompt_tokens} of them new" if last.prompt_tokens is not None else ""
        replies.append(f"last prompt {tokens(last.prompt_size, last.exact)}{new}")
    size_of_window = status.context_size or (last.context_size if last else None)
    window = context(status.context_used, size_of_window, status.context_exact)
    if window:
        engine.append(window)
    if status.state_saved:
        engine.append("state saved")
    return CommandResult(
        current.conversation,
        (SEPARATOR.join(replies), f"{one_line(status.model)}: {SEPARATOR.join(part for part in engine if part)}"),
    )


def _model(current: CommandContext, argument: str) -> CommandResult:
    if argument:
        return CommandResult(current.conversation, action=SwitchModel(argument))
    status = current.status
    return CommandResult(
        current.conversation,
        (f"Model:  {one_line(status.model)}", f"Engine: {one_line(status.engine)}{SEPARATOR}{state(status)}"),
    )


def _continue(current: CommandContext, argument: str) -> CommandResult:
    conversation = current.conversation.with_all_answered()
    last = conversation.last
    if last is not None and last.role == "tool":
        return CommandResult(conversation, ask=True)
    if last is None or last.role != "assistant":
        return CommandResult(current.conversation, ("No reply to continue.",))
    if not last.was_cut:
        return CommandResult(current.conversation, ("The last reply is complete: ask for more, or use /regen.",))
    return CommandResult(current.conversation, ask=True)


def _edit(current: CommandContext, argument: str) -> CommandResult:
    before = current.conversation.without_last_turn()
    if before == current.conversation:
        return CommandResult(before, ("No message to edit.",))
    return CommandResult(current.conversation, action=Edit(current.conversation.messages[len(before.messages)].content))


def _resume(current: CommandContext, argument: str) -> CommandResult:
    if argument and not (argument.isascii() and argument.isdigit() and len(argument) < 19):
        return CommandResult(
            current.conversation, (f"{_short(argument)} is not the number of a conversation: /resume lists them.",)
        )
    return CommandResult(current.conversation, action=Resume(int(argument) if argument else None))


def _tree(current: CommandContext, argument: str) -> CommandResult:
    if argument and not (argument.isascii() and argument.isdigit() and len(argument) < 19):
        return CommandResult(
            current.conversation, (f"{_short(argument)} is not the number of a message: /tree lists them.",)
        )
    return CommandResult(current.conversation, action=ShowTree(int(argument) if argument else None))


def _rename(current: CommandContext, argument: str) -> CommandResult:
    if not argument:
        return CommandResult(current.conversation, ("A title is missing: /rename TITLE",))
    return CommandResult(current.conversation, action=Rename(one_line(argument)))


def _fork(current: CommandContext, argument: str) -> CommandResult:
    if not current.conversation.turns:
        return CommandResult(current.conversation, ("Nothing to copy: the conversation is empty.",))
    return CommandResult(current.conversation, action=Fork())


def _save(current: CommandContext, argument: str) -> CommandResult:
    if not argument:
        return CommandResult(
            current.conversation, ("A file name is missing: /save FILE, which ends in .md, .json, .jsonl or .html.",)
        )
    path, branches = _branches_of(argument)
    ending = path.rpartition(".")[2].lower()
    return _write(current, next((each for each in FORMATS if each == ending), "md"), path, branches)


def _export(current: CommandContext, argument: str) -> CommandResult:
    argument, branches = _branches_of(argument)
    name, _, path = argument.partition(" ")
    for format in FORMATS:
        if name.lower() == format:
            return _write(current, format, path.strip(), branches)
    forms = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    return CommandResult(
        current.conversation, (f"A format is missing: /export FORMAT [FILE], where FORMAT is {forms}.",)
    )


def _branches_of(argument: str) -> tuple[str, bool]:
    """The argument without a ``--branches`` at its end, and whether it was there."""
    rest = argument.removesuffix("--branches")
    is_flag = rest != argument and (not rest or rest.endswith(" "))
    return (rest.strip(), True) if is_flag else (argument, False)


def _write(current: CommandContext, format: ExportFormat, path: str, branches: bool) -> CommandResult:
    if not (current.conversation.turns or current.unanswered or branches):
        return CommandResult(current.conversation, ("Nothing to write: the conversation is empty.",))
    return CommandResult(current.conversation, action=Write(format, path, branches))


def _copy(current: CommandContext, argument: str) -> CommandResult:
    reply = next((each for each in reversed(current.conversation.turns) if each.role == "assistant"), None)
    if reply is None:
        return CommandResult(current.conversation, ("No reply to copy.",))
    if argument == "code":
        blocks = _FENCED.findall(reply.content)
        if not blocks:
            return CommandResult(current.conversation, ("The last reply has no code block.",))
        return CommandResult(current.conversation, action=Copy(blocks[-1][1], "The last code block"))
    return CommandResult(current.conversation, action=Copy(reply.content, "The last reply"))


def _file(current: CommandContext, argument: str) -> CommandResult:
    try:
        paths = tuple(shlex.split(argument))
    except ValueError:  # an unbalanced quote, such as an apostrophe in a name
        paths = (argument,)
    return CommandResult(current.conversation, action=Attach(paths))


def _thinking(current: CommandContext, argument: str) -> CommandResult:
    for mode in get_args(ThinkingMode):
        if argument == mode:
            return CommandResult(current.conversation, action=ShowThoughts("", mode))
    if argument:
        return CommandResult(
            current.conversation, ("Unknown mode: /thinking [MODE], where MODE is show, fold, hide or left out.",)
        )
    thoughts = next((each.thinking for each in reversed(current.conversation.turns) if each.thinking), "")
    if not thoughts:
        return CommandResult(current.conversation, ("The last reply has no thoughts.",))
    return CommandResult(current.conversation, action=ShowThoughts(thoughts))


def _tools(current: CommandContext, argument: str) -> CommandResult:
    if not current.tools:
        return CommandResult(current.conversation, ("No tools: --tools FILE.py adds the functions of a file.",))
    lines = [
        one_line(f"{tool.name}: {tool.description}") + (" (always allowed)" if tool.name in current.allowed else "")
        for tool in current.tools
    ]
    return CommandResult(current.conversation, tuple(lines))


def _short(text: str, columns: int = 60) -> str:
    text = one_line(text)
    return text if len(text) <= columns else text[: columns - 1] + "…"


COMMANDS = {
    "help": _CommandEntry("/help", "this list", _help),
    "exit": _CommandEntry("/exit", "leave", _exit),
    "clear": _CommandEntry("/clear", "start a new conversation with the same system prompt", _clear),
    "regen": _CommandEntry("/regen [N]", "regenerate the last reply, N times to choose from", _regen),
    "continue": _CommandEntry("/continue", "continue a reply that was cut", _continue),
    "undo": _CommandEntry("/undo", "remove the last message and its reply", _undo),
    "edit": _CommandEntry("/edit", "edit the last message in $EDITOR and send it again", _edit),
    "file": _CommandEntry("/file [PATH…]", "attach files to the next message (- removes them)", _file),
    "copy": _CommandEntry("/copy [code]", "copy the last reply or its last code block", _copy),
    "save": _CommandEntry("/save FILE", "write to a .md, .json, .jsonl or .html file", _save),
    "export": _CommandEntry("/export FORMAT [FILE]", "the same; --branches at the end: all branches", _export),
    "resume": _CommandEntry("/resume [ID]", "continue another conversation", _resume),
    "tree": _CommandEntry("/tree [ID]", "all branches of the conversation; switch to another", _tree),
    "rename": _CommandEntry("/rename TITLE", "change the title of the conversation", _rename),
    "fork": _CommandEntry("/fork", "continue in a copy of the conversation", _fork),
    "system": _CommandEntry("/system [TEXT]", "set the system prompt (- removes it), or show it", _system),
    "stats": _CommandEntry("/stats", "statistics of the session and the engine", _stats),
    "thinking": _CommandEntry("/thinking [MODE]", "show the last thoughts; or show, fold, hide later ones", _thinking),
    "tools": _CommandEntry("/tools", "list the tools that the model may call", _tools),
    "model": _CommandEntry("/model [NAME]", "switch to another model, or show the current one", _model),
    "compare": _CommandEntry("/compare MODEL [--blind]", "ask another model the same, and choose a reply", _compare),
}


# Actions: the effects of commands that need a file, the terminal, the journal or another model.

ExportFormat = Literal["md", "json", "jsonl", "html"]
ThinkingMode = Literal["show", "fold", "hide"]
FORMATS: tuple[ExportFormat, ...] = ("md", "json", "jsonl", "html")


@dataclass(frozen=True, slots=True)
class SwitchModel:
    """Continue the conversation with another model."""

    name: str


@dataclass(frozen=True, slots=True)
class Compare:
    """Ask the model ``name`` the last message, and choose one of the replies. ``blind``: hide the models until then."""

    name: str
    blind: bool = False


@dataclass(frozen=True, slots=True)
class Resume:
    """Continue another conversation of the journal. ``id`` None: let the user choose from a list."""

    id: int | None


@dataclass(frozen=True, slots=True)
class ShowTree:
    """Switch to the branch through the message ``row``. None: let the user choose from a list of all messages."""

    row: int | None


@dataclass(frozen=True, slots=True)
class Rename:
    """Change the title of the conversation."""

    title: str


@dataclass(frozen=True, slots=True)
class Fork:
    """Continue in a copy of the conversation; the original is unchanged."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Let the user edit ``text``, the last message, and send the result in its place."""

    text: str


@dataclass(frozen=True, slots=True)
class Write:
    """Write the conversation to a file. ``path`` empty: a name derived from the title. ``branches``: with all
    branches.
    """

    format: ExportFormat
    path: str = ""
    branches: bool = False


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy ``text`` to the clipboard of the terminal. ``what``: its name in messages."""

    text: str
    what: str


@dataclass(frozen=True, slots=True)
class Attach:
    """Attach files to the next message. ``paths`` empty: list the attached files; only ``-``: remove them."""

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShowThoughts:
    """Show thoughts (``mode`` None: ``text``, those of the last reply), or set how later ones are displayed."""

    text: str
    mode: ThinkingMode | None = None


Action = SwitchModel | Compare | Resume | ShowTree | Rename | Fork | Edit | Write | Copy | Attach | ShowThoughts
