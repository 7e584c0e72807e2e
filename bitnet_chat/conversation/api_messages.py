"""The messages of a request of the OpenAI or Ollama API as a conversation. Pure.

Batches and servers share it, so that the same messages get the same reply. Chat templates and engines require one
system message and then alternating turns: so all system messages become one at the beginning, consecutive messages of
one role become one, with a blank line between them, and a reply at the end is continued. Linear in the number of
messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bitnet_chat.conversation.json_fields import Fields
from bitnet_chat.conversation.message import NOT_CALLED, Conversation, Message, Role, ToolCall
from bitnet_chat.conversation.openai_codec import decode_arguments
from bitnet_chat.errors import FinishReason, InvalidFieldError

MOST_MESSAGES = 10_000
"""Maximum of one request, more than any context window holds."""
_MOST_CALLS = 256
_BETWEEN = "\n\n"
_THOUGHTS = ("reasoning_content", "reasoning", "reasoning_details", "thinking", "thinking_blocks")
"""Fields with thoughts, which are never sent to a model."""
_OTHER_THINGS = ("refusal", "annotations", "parsed", "prefix", "partial")
_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Types of content parts with text, and the field of the text."""
_OTHER_INPUT = ("image", "audio", "video", "file")
_PASSED_OVER = ("thinking", "redacted_thinking", "reasoning")


@dataclass(slots=True)
class _Draft:
    """A message to which the next one may be joined."""

    role: Role
    texts: list[str]
    calls: tuple[ToolCall, ...] = ()
    call: ToolCall | None = None
    """The call of a result."""

    def message(self, finish: FinishReason | None = None) -> Message:
        text = _BETWEEN.join(filter(None, self.texts))
        if self.call is not None:
            return Message("tool", text, call_id=self.call.id, tool_name=self.call.name)
        return Message(self.role, text, finish, tool_calls=self.calls)


@dataclass(slots=True)
class _MessageReader:
    systems: list[str] = field(default_factory=list)
    drafts: list[_Draft] = field(default_factory=list)
    open_calls: list[ToolCall] = field(default_factory=list)
    """Calls without a result."""

    def add(self, draft: _Draft) -> None:
        last = self.drafts[-1] if self.drafts else None
        if last is not None and last.role == draft.role != "tool" and not last.calls:
            last.texts += draft.texts
            last.calls = draft.calls
        else:
            self.drafts.append(draft)

    def answered(self, fields: Fields) -> ToolCall:
        """The open call of a result: by id, by name, or else the first one."""
        id = fields.text("tool_call_id")
        name = fields.text("tool_name") or fields.text("name")
        for place, call in enumerate(self.open_calls):
            if (call.id == id) if id else (not name or call.name == name):
                return self.open_calls.pop(place)
        if self.open_calls or fields.notes is None:
            if id:
                raise fields.wrong("tool_call_id", f"is {id!r}, which is not the id of a pending tool call")
            raise fields.wrong("role", "is tool, without a pending tool call")
        fields.change("role", "is the result of a tool call that is missing: a call without arguments is added")
        call = ToolCall(id or f"call_{len(self.drafts)}", name or "tool", "{}")
        self.add(_Draft("assistant", [""], (call,)))
        return call

    def settle(self, fields: Fields) -> None:
        """Add results for the open calls before a message that is not a result."""
        if not self.open_calls:
            return
        fields.change("role", "follows tool calls without results: they are marked as not executed")
        self.drafts += [_Draft("tool", [NOT_CALLED], call=call) for call in self.open_calls]
        self.open_calls.clear()


def conversation_of(messages: Sequence[Fields]) -> Conversation:
    """The conversation of the request. Raises InvalidFieldError, naming an invalid field such as
    ``messages[2].content[0].type``.
    """
    if not messages:
        raise InvalidFieldError("messages is empty", param="messages")
    if len(messages) > MOST_MESSAGES:
        raise InvalidFieldError(
            f"messages has {len(messages):,} messages; the maximum is {MOST_MESSAGES:,}",
            param="messages",
            code="array_above_max_length",
        )
    reading = _MessageReader()
    for fields in messages:
        _read(fields, reading)
    return _whole(reading, messages[-1])


def _read(fields: Fields, reading: _MessageReader) -> None:
    role = fields.needed_text("role")
    match role:
        case "system" | "developer":
            if reading.drafts:
                fields.change("role", f"is {role} after other messages: it is moved before them")
            reading.systems.append(_content(fields))
        case "user":
            reading.settle(fields)
            fields.refuse("images", [], why=f"is set: {text_only('image')}")
            reading.add(_Draft("user", [_content(fields)]))
        case "assistant":
            reading.settle(fields)
            reading.add(_assistant(fields, len(reading.drafts), reading))
        case "tool" | "function":
            call = reading.answered(fields)
            reading.drafts.append(_Draft("tool", [_content(fields, needed=False)], call=call))
        case _:
            raise fields.wrong("role", f"is {role!r}", remedy="use system, developer, user, assistant or tool")
    if role not in ("tool", "function"):
        fields.ignore("name", "")  # without a place in chat templates
        fields.accept("tool_call_id", "tool_name")
    fields.accept("cache_control", *_THOUGHTS, *_OTHER_THINGS)
    fields.refuse("images", [], why=f"is set: {text_only('image')}")
    fields.finish()


def _whole(reading: _MessageReader, last: Fields) -> Conversation:
    """The conversation of all messages. Raises InvalidFieldError without a message to reply to."""
    drafts, systems = reading.drafts, [each for each in reading.systems if each]
    if reading.open_calls:
        call = reading.open_calls[0]
        raise InvalidFieldError(f"the result of the call {call.id} of {call.name} is missing", param="messages")
    finish: FinishReason | None = None
    if drafts and drafts[-1].role == "assistant":
        if any(drafts[-1].texts):
            finish = FinishReason.LENGTH  # it is continued
        else:
            drafts.pop()
    if not drafts and systems:
        last.change("role", "is the only message: it is sent as a user message")
        drafts, systems = [_Draft("user", systems)], []
    if not any(draft.role == "user" for draft in drafts):
        raise last.wrong("role", "ends messages without a user message")
    messages = [draft.message() for draft in drafts[:-1]]
    messages.append(drafts[-1].message(finish))
    if messages[-1].role == "user" and not messages[-1].content:
        last.change("content", "is empty: a space is sent")
        messages[-1] = Message("user", " ")
    system = [Message("system", _BETWEEN.join(systems))] if systems else []
    return Conversation((*system, *messages))


def text_only(noun: str) -> str:
    """Why a field with other input than text is refused, in words for the user of a chat program: it shows no more,
    and sends the input again with each later message."""
    return f"{noun} input is not supported, only text is; remove it from the conversation"


def _content(fields: Fields, *, needed: bool = True) -> str:
    """A text, or the texts of its parts, joined by newlines."""
    content = fields.get("content")
    if content is None and needed and fields.notes is not None:
        fields.change("content", "is missing: the message is empty")
        return ""
    if not isinstance(content, list):
        return fields.needed_text("content") if needed else fields.text("content") or ""
    if content and all(isinstance(part, str) for part in content):
        return "\n".join(content)
    texts = []
    for part in fields.needed_objects("content"):
        kind = part.needed_text("type")
        if kind in _PASSED_OVER:
            continue
        if kind not in _TEXTS:
            noun = next((each for each in _OTHER_INPUT if each in kind), "other")
            raise part.wrong("type", f"is {kind!r}: {text_only(noun)}", code="unsupported_content")
        texts.append(part.needed_text(_TEXTS[kind]))
        part.accept("cache_control", "prompt_cache_breakpoint", "annotations", "id", "index")
        part.finish()
    return "\n".join(texts)


def _assistant(fields: Fields, number: int, reading: _MessageReader) -> _Draft:
    calls = tuple(
        _call(each, f"call_{number}_{place}") for place, each in enumerate(fields.objects("tool_calls") or ())
    )
    if len(calls) > _MOST_CALLS:
        raise fields.wrong("tool_calls", f"has {len(calls)} calls; the maximum is {_MOST_CALLS}")
    if not calls and (old := fields.inner("function_call")) is not None:
        calls = (_function(old, f"call_{number}"),)
    fields.accept("function_call")
    fields.ignore("audio")
    reading.open_calls = list(calls)
    return _Draft("assistant", [_content(fields, needed=False)], calls)


def _call(fields: Fields, id: str) -> ToolCall:
    kind = fields.text("type") or "function"
    if kind != "function":
        raise fields.wrong("type", f"is {kind!r}: only function is supported", code="unsupported_parameter")
    call = _function(fields.needed_inner("function"), fields.text("id") or id)
    fields.accept("index", "cache_control", "extra_content")
    fields.finish()
    return call


def _function(fields: Fields, id: str) -> ToolCall:
    """A call. Its arguments are a text in the OpenAI API, and an object in that of Ollama."""
    value = fields.get("arguments")
    try:
        arguments = decode_arguments(value if isinstance(value, dict) else fields.text("arguments") or "{}")
    except ValueError:
        raise fields.wrong("arguments", "is not a JSON object") from None
    fields.accept("index", "description", "parsed_arguments")
    call = ToolCall(id, fields.needed_text("name"), arguments)
    fields.finish()
    return call
