"""Conversion of a conversation with tools into one without, in the tool format of the chat template. Pure.

An engine on a pseudo-terminal takes only a system prompt and messages. The tools therefore become part of the system
prompt, calls part of the reply, and results a user message, each in the format of the template. That format is
determined by rendering conversations with markers, with and without tools, and taking the text between the markers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from bitnet_chat.conversation import Conversation, Message, Tool, ToolCall
from bitnet_chat.conversation.openai_codec import encode_tool
from bitnet_chat.errors import ModelError, UnsupportedError
from bitnet_chat.filters.tool_calls import CLOSING, OPENING, ParsedCall, PlainText, ToolCallSplitter
from bitnet_chat.templates.chat_template import END_TOKENS, ChatTemplate

# Markers of private-use characters, which templates do not strip, change or escape.
_SYSTEM, _USER, _REPLY, _AFTER = "\ue000s\ue000", "\ue000u\ue000", "\ue000r\ue000", "\ue000a\ue000"
_FIRST, _SECOND = "\ue0001\ue000", "\ue0002\ue000"
_CACHE_SIZE = 1000
"""Maximum number of cached replies with calls."""
_REMEDY = "use a model with a template that has tools in the form of Hermes or Qwen, or use --backend llama-server"


@dataclass(frozen=True, slots=True)
class RawToolTurn:
    """The raw text of a reply with calls, as generated. An engine that has it in its context need not read it again."""

    turns: tuple[Message, ...]
    """The messages from the reply on."""
    faults: tuple[str, ...] = ()
    """Results for its malformed calls, to be sent with the results of the others."""


class ToolFormat:
    """The tool format of one chat template."""

    def __init__(self, template: ChatTemplate) -> None:
        """Determine the format. Raises UnsupportedError if the template does not support tools, or writes calls in a
        form that cannot be recognized in a stream."""
        self._template = template
        self._cache: dict[tuple[str, tuple[ToolCall, ...]], str] = {}
        plain = self._render(_dialogue())
        before, _, self._after_system = plain.partition(_SYSTEM)
        self._before_system = before
        tool = Tool("probe", "A probe.", {"type": "object", "properties": {"x": {"type": "string"}}})
        if '"probe"' not in self.system(_SYSTEM, (tool,)):
            raise self._unsupported("does not support tools")
        call = ToolCall("call_1", "probe", '{"x": "y"}')
        splitter = ToolCallSplitter()
        text = self._calls(_REPLY, (call,)) or ""
        pieces = [*splitter.feed(text), *splitter.flush(whole=False)]
        if pieces != [PlainText(_REPLY), ParsedCall(call.name, call.arguments)]:
            raise self._unsupported("writes calls in an unsupported form")

    def system(self, system: str, tools: Iterable[Tool]) -> str:
        """Return the system prompt with the tools in it. Raises UnsupportedError."""
        text = self._render(_dialogue(_SYSTEM if system else ""), [encode_tool(tool) for tool in tools])
        found = _between(text, self._before_system, self._after_system)
        if found is None or (system and _SYSTEM not in found):
            raise self._unsupported("does not place its tools in the system prompt")
        found = _joined_systems(found)
        return found.replace(_SYSTEM, system)

    def calls(self, text: str, calls: tuple[ToolCall, ...]) -> str:
        """Return a reply with calls after its text."""
        key = text, calls
        known = self._cache.get(key)
        if known is None:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            content = _REPLY if text else ""
            known = (self._calls(content, calls) or written(content, calls)).replace(_REPLY, text)
            self._cache[key] = known
        return known

    def _calls(self, content: str, calls: tuple[ToolCall, ...]) -> str | None:
        """Render a reply with calls; None if the template does not write them in the form of Hermes."""
        before, _, behind = self._render(
            (*_dialogue(), Message("assistant", _REPLY), Message("user", _AFTER))
        ).rpartition(_REPLY)
        asked = (*_dialogue(), Message("assistant", content, tool_calls=calls), Message("user", _AFTER))
        found = _between(self._render(asked), before, behind)
        if found is None or OPENING not in found:
            return None
        # Some templates drop the text of a reply with calls.
        return f"{_REPLY}\n{found.lstrip()}" if content and _REPLY not in found else found

    def results(self, results: Sequence[str]) -> str:
        """Return the user message for results."""
        call = ToolCall("call_1", "probe", "{}")
        history = (*_dialogue(), Message("assistant", _REPLY, tool_calls=(call, replace(call, id="call_2"))))
        before, _, behind = self._render((*history, Message("user", _AFTER)), reply_follows=True).rpartition(_AFTER)
        all_results = (_result("call_1", _FIRST), _result("call_2", _SECOND))[: len(results)]
        found = _between(self._render((*history, *all_results), reply_follows=True), before, behind)
        # The template may use a separate role for results, which a classic engine cannot write. The form of Qwen is
        # then used, since it is a user message.
        single, _, rest = (found or "").partition(_FIRST)
        end, _, last = rest.partition(_SECOND)
        if not single or (len(results) > 1 and not last):
            return responses(results)
        if len(results) == 1:
            return f"{single}{results[0]}{rest}"
        return single + end.join(results) + last

    def _render(self, messages: tuple[Message, ...], tools: Sequence[dict[str, object]] = (), *,
                reply_follows: bool = False) -> str:  # fmt: skip
        try:
            return self._template.render(Conversation(messages), reply_follows=reply_follows, tools=tools)
        except ModelError:
            raise self._unsupported("refuses a conversation with tools") from None

    def _unsupported(self, why: str) -> UnsupportedError:
        return UnsupportedError("tools", f"the chat template {self._template.name} {why}", remedy=_REMEDY)


def inline_tools(
    conversation: Conversation,
    tools: Sequence[Tool],
    format: ToolFormat | None,
    spoken: Callable[[Message], RawToolTurn | None] = lambda message: None,
) -> Conversation:
    """Convert a conversation to messages without tools. Consecutive user messages are joined.

    ``format``: None for a template without tools; earlier calls are then written in the form of Hermes, so that a
    conversation can be continued with any model. ``spoken``: returns the raw text of a reply, if known.
    """
    turns: list[Message] = []
    faults: tuple[str, ...] = ()
    results: list[str] = []

    def add(message: Message) -> None:
        if message.role == "user" and turns and turns[-1].role == "user":
            turns[-1] = Message("user", f"{turns[-1].content}\n\n{message.content}")
        else:
            turns.append(message)

    def flush() -> None:
        nonlocal faults
        all_results = [*results, *faults]
        if all_results:
            add(Message("user", format.results(all_results) if format is not None else responses(all_results)))
        faults = ()
        results.clear()

    for message in conversation.turns:
        if message.role == "tool":
            results.append(message.content)
            continue
        flush()
        known = spoken(message) if message.role == "assistant" else None
        if known is not None:
            for each in known.turns[:-1]:
                add(each)
            add(replace(known.turns[-1], finish=message.finish))
            faults = known.faults
        elif message.tool_calls:
            text = (format.calls if format is not None else written)(message.content, message.tool_calls)
            add(Message("assistant", text, message.finish))
        else:
            add(message)
    flush()
    system = conversation.system
    if tools and format is not None:
        system = format.system(system, tools)
    return Conversation((*((Message("system", system),) if system else ()), *turns))


def written(text: str, calls: Iterable[ToolCall]) -> str:
    """Write a reply with calls in the form of Hermes."""
    each = [
        f'{OPENING}\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}\n{CLOSING}' for call in calls
    ]
    return "\n".join([text, *each] if text else each)


def responses(results: Iterable[str]) -> str:
    """Write results in the form of Hermes."""
    return "\n".join(f"<tool_response>\n{result}\n</tool_response>" for result in results)


def _dialogue(system: str = _SYSTEM) -> tuple[Message, ...]:
    return (*((Message("system", system),) if system else ()), Message("user", _USER))


def _result(id: str, text: str) -> Message:
    return Message("tool", text, call_id=id, tool_name="probe")


def _between(text: str, before: str, behind: str) -> str | None:
    """Return the text between two ends; None if ``text`` does not have these ends."""
    if len(text) < len(before) + len(behind) or not (text.startswith(before) and text.endswith(behind)):
        return None
    return text[len(before) : len(text) - len(behind)]


def _joined_systems(text: str) -> str:
    """Join two system messages: some templates write the tools into a second one."""
    for token in END_TOKENS:
        first, found, second = text.partition(token)
        if found:
            at = second.find(_SYSTEM)
            return f"{first.rstrip()}\n\n{second[at:]}" if at >= 0 else first.rstrip()
    return text
