r"""A conversation as a file: Markdown, HTML, JSON, JSON lines. Pure: texts in, one text out.

All formats are UTF-8 and end with a newline. JSON keeps any text exactly: bytes that are not UTF-8 become the JSON
escape of a lone surrogate (``\udcff``). In Markdown and HTML they become U+FFFD, and control characters become visible
symbols.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from bitnet_chat.conversation.message import Conversation, Message, ToolCall
from bitnet_chat.conversation.openai_codec import decode_conversation, encode_message
from bitnet_chat.errors import FinishReason, UsageError
from bitnet_chat.text.sanitize import escaped, one_line, visible
from bitnet_chat.text.utf8 import well_formed

Format = Literal["md", "json", "jsonl", "html"]
FORMATS: tuple[str, ...] = get_args(Format)

_NAMES = {"system": "System", "user": "You", "assistant": "Model", "tool": "Tool"}


@dataclass(frozen=True, slots=True)
class _ExportedMessage:
    message: Message
    details: Mapping[str, object]
    why: str = ""
    """The reason why the message is not part of the conversation; empty: it is part of it."""
    node: BranchMessage | None = None
    """Its place in the tree, if all branches are exported."""
    begins: bool = False
    """Whether another branch begins with it."""


def export(
    conversation: Conversation,
    format: str,
    *,
    about: Mapping[str, object] | None = None,
    details: Sequence[Mapping[str, object]] = (),
    asides: Sequence[SideNote] = (),
) -> str:
    """The text of the file. ``about``: facts about the conversation, such as ``title`` and ``model``. ``details``:
    further fields of each message. ``asides``: messages between those of the conversation, in order. Raises UsageError
    for an unknown format."""
    return _formatted(_shown(conversation, details, asides), format, dict(about or {}))


def export_branches(
    messages: Sequence[BranchMessage], format: str, *, about: Mapping[str, object] | None = None
) -> str:
    """The text of a file with all branches. ``messages``: the current branch, then each other one. Raises UsageError
    for an unknown format."""
    shown = list[_ExportedMessage]()
    for before, each in zip((None, *messages), messages, strict=False):
        continues = before is not None and before.why == OTHER_BRANCH and before.id == each.parent
        begins = each.why == OTHER_BRANCH and not continues
        shown.append(_ExportedMessage(each.message, each.details, each.why, each, begins))
    if format.startswith("json"):  # in the order of time, with parents
        shown.sort(key=lambda each: each.node.id if each.node is not None else 0)
    return _formatted(shown, format, dict(about or {}))


def _formatted(shown: Sequence[_ExportedMessage], format: str, facts: dict[str, object]) -> str:
    if format == "json":
        return json_text(facts | {"messages": [_object(each) for each in shown]}, indent=2) + "\n"
    if format == "jsonl":
        return "".join(f"{json_text(_object(each))}\n" for each in shown)
    if format == "md":
        return _markdown(shown, facts)
    if format == "html":
        return _html(shown, facts)
    raise UsageError(f"unknown format {one_line(format)!r}", remedy=f"use one of: {', '.join(FORMATS)}")


def _shown(
    conversation: Conversation, details: Sequence[Mapping[str, object]], asides: Sequence[SideNote]
) -> list[_ExportedMessage]:
    left, shown = deque(asides), list[_ExportedMessage]()
    for number, message in enumerate(conversation.messages):
        while left and left[0].place <= number:
            shown.append(_beside(left.popleft()))
        shown.append(_ExportedMessage(message, details[number] if number < len(details) else {}))
    return [*shown, *map(_beside, left)]


def _beside(aside: SideNote) -> _ExportedMessage:
    return _ExportedMessage(aside.message, aside.details, aside.why)


def restore(text: str) -> Conversation:
    """The conversation of a JSON or JSON lines export, without further facts. Raises UsageError for another text."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    try:
        # JSON lines of one message are valid JSON as well.
        dicts = whole["messages"] if isinstance(whole, dict) and "messages" in whole else _lines(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"this is not an exported conversation ({error})") from None
    if not isinstance(dicts, list):
        raise UsageError("this is not an exported conversation: 'messages' is not a list")
    dicts = [each for each in dicts if not (isinstance(each, dict) and each.get("left_out"))]
    messages = decode_conversation(dicts).messages
    return Conversation(tuple(_restored(*pair) for pair in zip(messages, dicts, strict=True)))


def _lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _restored(message: Message, fields: Mapping[str, Any]) -> Message:
    reason, thinking = fields.get("finish_reason"), fields.get("thinking", "")
    known = {each.value for each in FinishReason}
    finish = FinishReason(reason) if reason in known else None
    return replace(message, finish=finish, thinking=thinking if isinstance(thinking, str) else "")


def _object(shown: _ExportedMessage) -> dict[str, object]:
    message = shown.message
    fields: dict[str, object] = {} if shown.node is None else {"id": shown.node.id, "parent": shown.node.parent}
    fields |= encode_message(message)
    if message.role == "tool":
        fields["name"] = message.tool_name
    if message.finish is not None:
        fields["finish_reason"] = message.finish.value
    if message.thinking:
        fields["thinking"] = message.thinking
    if shown.why:
        fields["left_out"] = shown.why
    return fields | {key: value for key, value in shown.details.items() if key not in fields}


def json_text(value: object, indent: int | None = None) -> str:
    """``value`` as JSON for a terminal or a UTF-8 file, without loss: unsafe characters become escapes."""
    # All such characters are in strings.
    return escaped(json.dumps(value, ensure_ascii=False, indent=indent))


def _heading(facts: Mapping[str, object]) -> tuple[str, str]:
    """Title and facts."""
    title = _plain(one_line(str(facts.get("title") or ""))) or "Conversation"
    number = facts.get("id")
    known = [f"conversation {number}" if number else "", str(facts.get("model") or ""), str(facts.get("engine") or "")]
    return title, _plain(one_line(" · ".join(each for each in known if each)))


def _plain(text: str) -> str:
    return well_formed(visible(text))


def _cut(message: Message) -> str:
    """The finish reason of an incomplete reply, for display; empty for other messages."""
    return message.finish.value.replace("_", " ") if message.was_cut and message.finish is not None else ""


def _name(message: Message) -> str:
    """The author of a message."""
    tool = _plain(one_line(message.tool_name))
    return f"{_NAMES[message.role]}{' ' * bool(tool)}{tool}"


def _titled(shown: _ExportedMessage) -> str:
    """The author of a message, with its number and position if all branches are exported."""
    node, name = shown.node, _name(shown.message)
    return name if node is None else f"{name} {node.id}{' ' * bool(node.position)}{node.position}"


def _beginning(node: BranchMessage | None) -> str:
    """The heading of another branch."""
    after = "" if node is None or node.parent is None else f" after message {node.parent}"
    return f"Another branch{after or ', from the beginning'}"


def _called(call: ToolCall) -> str:
    return _plain(one_line(f"{call.name} {call.arguments}"))


def _code(text: str) -> str:
    """``text``, which may have backticks, as inline code in Markdown."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    pad = " " if text[:1] == "`" or text[-1:] == "`" else ""
    return f"{'`' * (longest + 1)}{pad}{text}{pad}{'`' * (longest + 1)}"


def _markdown(shown: Iterable[_ExportedMessage], facts: Mapping[str, object]) -> str:
    title, known = _heading(facts)
    parts = [f"# {title}", *([known] if known else [])]
    for each in shown:
        message = each.message
        if each.begins:
            parts.append(f"# {_beginning(each.node)}")
        parts.append(f"## {_titled(each)}")
        if message.thinking:
            parts.append("\n".join(f"> {line}".rstrip() for line in _plain(message.thinking).split("\n")))
        if message.content or not message.tool_calls:
            parts.append(_closed(_plain(message.content)))
        parts += [f"*called* {_code(_called(call))}" for call in message.tool_calls]
        if _cut(message):
            parts.append(f"*[{_cut(message)}]*")
        if each.why not in ("", OTHER_BRANCH):
            parts.append(f"*[{each.why}]*")
    return "\n\n".join(parts) + "\n"


_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})([^\n]*)")


def _closed(text: str) -> str:
    """Markdown with its last code block closed, so that the following text is not part of it."""
    fence = ""
    for line in text.split("\n"):
        match = _FENCE.match(line)
        if match is None:
            continue
        if not fence:
            fence = "" if match[1][0] == "`" and "`" in match[2] else match[1]
        elif match[1].startswith(fence) and not match[2].strip():
            fence = ""
    return f"{text}\n{fence}" if fence else text


# Without scripts and requests: text of a model has no effect in a browser.
_PAGE = """<!DOCTYPE html>
<html lang="und">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; }}
section {{ margin: 1.5rem 0; padding-left: 1rem; border-left: 3px solid #8886; }}
section.user {{ border-color: #2a8; }}
h2 {{ font-size: .85rem; margin: 0; opacity: .7; }}
div, details div {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
p.end, details, header p {{ opacity: .7; font-size: .9rem; }}
</style>
</head>
<body>
<header><h1>{title}</h1>
<p>{known}</p></header>
{sections}</body>
</html>
"""


def _html(shown: Iterable[_ExportedMessage], facts: Mapping[str, object]) -> str:
    title, known = map(_escaped, _heading(facts))
    return _PAGE.format(title=title, known=known, sections="".join(_sections(shown)))


def _sections(shown: Iterable[_ExportedMessage]) -> Iterable[str]:
    for each in shown:
        message = each.message
        if each.begins:
            yield f"<h1>{_escaped(_beginning(each.node))}</h1>\n"
        yield f'<section class="{message.role}"><h2>{_escaped(_titled(each))}</h2>\n'
        if message.thinking:
            yield f"<details><summary>Thoughts</summary><div>{_escaped(_plain(message.thinking))}</div></details>\n"
        if message.content or not message.tool_calls:
            yield f'<div dir="auto">{_escaped(_plain(message.content))}</div>\n'
        for call in message.tool_calls:
            yield f'<p class="end">called <code>{_escaped(_called(call))}</code></p>\n'
        if _cut(message):
            yield f'<p class="end">[{_escaped(_cut(message))}]</p>\n'
        if each.why not in ("", OTHER_BRANCH):
            yield f'<p class="end">[{_escaped(each.why)}]</p>\n'
        yield "</section>\n"


def _escaped(text: str) -> str:
    from html import escape

    return escape(text)


# Messages that are shown with a conversation without being part of it.

NOT_ANSWERED = "not answered"
"""The mark of a message without a reply."""
LEFT_OUT = "left out: its place is damaged"
"""The mark of a message of a damaged journal that cannot be part of a prompt at its place."""

OTHER_BRANCH = "another branch"
"""The mark of a message that is not in the current branch."""


@dataclass(frozen=True, slots=True)
class BranchMessage:
    """A message in an export of all branches. ``id``, ``parent``: its number, and that of the message before it.
    ``position``: ``< 2/3 >`` among the messages with this parent; empty without others. ``why``: the reason why it is
    not part of the conversation; empty: it is. ``details``: further facts.
    """

    id: int
    parent: int | None
    message: Message
    position: str = ""
    why: str = ""
    details: Mapping[str, object] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class SideNote:
    """``place``: the number of messages of the conversation before it. ``details``: further facts."""

    place: int
    message: Message
    why: str = NOT_ANSWERED
    details: Mapping[str, object] = field(default_factory=dict, compare=False)
