"""Protection of special token texts in messages, for engines that read messages with special tokens enabled. Pure.

A modern engine and llama-server render a conversation with the template of the model and tokenize the whole text: the
text of a control token takes effect anywhere, and ``<|im_start|>system`` in a message begins a system prompt. They have
no option to read a message as plain text. An exact method would be ``/apply-template``, ``/tokenize`` without special
tokens for each message, and ``/completion`` with token ids; but then the server does not parse thinking and tool calls
in the reply, for which it has rules for some thirty families of models. Therefore, as in the replay of a classic
engine, a word joiner (U+2060, invisible) is inserted after the first character of such a text. It stays text, since
llama.cpp searches for these tokens first, and the model reads one more character than was written.

The control tokens are listed in the header of the model. Those of a remote server are unknown, and text is sent to it
unchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace

from bitnet_chat.conversation import Message, Tool

WORD_JOINER = "\u2060"


class SpecialTokens:
    """The control tokens of a model, and the protection of texts that spell them."""

    def __init__(self, tokens: Iterable[str] = (), mark: str = WORD_JOINER) -> None:
        """Compile the texts of the control tokens. ``mark``: the character to insert."""
        self._mark = mark
        texts = sorted((token for token in tokens if len(token) > 1), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, texts))) if texts else None

    def as_text(self, text: str) -> tuple[str, int]:
        """Return ``text`` with marks in all control tokens, and the number of changes."""
        changed = 0
        while self._pattern is not None and self._pattern.search(text):  # a token may contain another one
            text, count = self._pattern.subn(self._marked, text)
            changed += count
        return text, changed

    def _marked(self, match: re.Match[str]) -> str:
        token = match.group()
        return token[0] + self._mark + token[1:]

    def protect_messages(self, messages: Iterable[Message]) -> tuple[tuple[Message, ...], int]:
        """Apply :meth:`as_text` to messages, including the arguments of their calls."""
        total = 0
        protected: list[Message] = []
        for message in messages:
            content, changed = self.as_text(message.content)
            calls = [(call, *self.as_text(call.arguments)) for call in message.tool_calls]
            changed += sum(count for _, _, count in calls)
            if changed:
                total += changed
                calls_as_text = tuple(replace(call, arguments=arguments) for call, arguments, _ in calls)
                message = replace(message, content=content, tool_calls=calls_as_text)
            protected.append(message)
        return tuple(protected), total

    def protect_tools(self, tools: Iterable[Tool]) -> tuple[tuple[Tool, ...], int]:
        """Apply :meth:`as_text` to the descriptions and parameters of tools."""
        total = 0
        protected: list[Tool] = []
        for tool in tools:
            description, changed = self.as_text(tool.description)
            parameters, more = self.as_text(json.dumps(dict(tool.parameters), ensure_ascii=False))
            if changed or more:
                total += changed + more
                tool = replace(tool, description=description, parameters=json.loads(parameters))
            protected.append(tool)
        return tuple(protected), total


def note(changed: int, place: str = "message") -> str:
    """Return a message for the user about ``changed`` tokens; empty for 0."""
    tokens = f"{changed} special token{'s' * (changed > 1)}"
    return f"{tokens} in the {place} kept as text by an invisible joiner" if changed else ""
