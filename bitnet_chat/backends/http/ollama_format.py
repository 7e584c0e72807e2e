"""The chat of Ollama's native API: a JSON line for each piece, arguments of tool calls as objects. No I/O."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.http.errors import describe
from bitnet_chat.backends.http.openai_format import unknown_choice
from bitnet_chat.backends.http.wire_format import Delta, DeltaSplitter, ToolCallParts, Usage
from bitnet_chat.conversation import Message, ToolCall
from bitnet_chat.conversation.openai_codec import encode_ollama_message, encode_tool
from bitnet_chat.errors import FinishReason
from bitnet_chat.filters.tool_call_repair import InvalidToolCall
from bitnet_chat.text.sse import NdjsonDecoder

_MOST_CALLS = 128
_EFFORTS = ("low", "medium", "high", "max")


class OllamaFormat:
    """See :class:`bitnet_chat.backends.http.wire_format.WireFormat`. ``context_size``: tokens of the context window; 0:
    the default of the server."""

    path = "/api/chat"
    optional: tuple[str, ...] = ()

    def __init__(self, *, context_size: int = 0) -> None:
        self._context_size = context_size

    depends_on_request = False

    def without(self, field: str) -> OllamaFormat:
        return self

    def refusal(self, options: ReplyOptions) -> tuple[str, str] | None:
        if unknown := unknown_choice(options):
            return unknown
        if options.tool_choice not in ("auto", "none"):
            return "tool_choice", "Ollama lets the model choose; use auto or none"
        return None

    def body(self, model: str, messages: Sequence[Message], options: ReplyOptions, *, stream: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": model,
            "messages": [encode_ollama_message(each) for each in messages],
            "stream": stream,
            # Ollama would drop the oldest messages without a notice. Older versions ignore these fields.
            "truncate": False,
            "shift": False,
            "options": self._options(options),
        }
        if options.offered:
            body["tools"] = [encode_tool(tool) for tool in options.tools]
        effort, thinks = options.template.get("reasoning_effort"), options.template.get("enable_thinking")
        if effort in _EFFORTS or thinks is not None:
            body["think"] = effort if effort in _EFFORTS else thinks
        if options.format is not None:
            body["format"] = "json" if options.format.schema is None else dict(options.format.schema)
        return body

    def preload(self, model: str) -> dict[str, Any]:
        """A request that only loads the model, with the context window of the replies."""
        return {"model": model, "messages": [], "stream": False, "options": self._options(ReplyOptions())}

    def _options(self, options: ReplyOptions) -> dict[str, Any]:
        sampling = options.sampling
        wanted = {
            "num_ctx": self._context_size or None,
            "num_predict": options.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "seed": sampling.seed,
            "repeat_penalty": sampling.repeat_penalty,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "stop": list(options.stop) or None,
        }
        return {name: value for name, value in wanted.items() if value is not None}

    def reader(self, options: ReplyOptions | None = None) -> OllamaResponseParser:
        return OllamaResponseParser()


class OllamaResponseParser:
    """See :class:`bitnet_chat.backends.http.wire_format.ResponseParser`."""

    def __init__(self) -> None:
        self._decoder = NdjsonDecoder()
        self._calls: list[ToolCallParts] = []
        self.call_size = 0
        self.speech = DeltaSplitter(tagged=True)
        self.done = False
        self.finish: FinishReason | None = None
        self.error = ""
        self.usage = Usage()

    def feed(self, data: bytes) -> list[Delta]:
        for line in self._decoder.feed(data):
            if not self.done:
                self._line(line)
        return self.speech.take()

    def end(self) -> list[Delta]:
        for line in self._decoder.flush():
            if not self.done:
                self._line(line)
        self.speech.end()
        return self.speech.take()

    def whole(self, content: Any) -> list[Delta]:
        self._object(content)
        if not self.done:
            raise ValueError("an answer that is not a reply")
        return self.end()

    def _line(self, line: str) -> None:
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError(f"a line that is not JSON: {line[:80]!r}") from None
        self._object(content)

    def _object(self, content: Any) -> None:
        if not isinstance(content, dict):
            raise ValueError(f"a line that is not an object: {str(content)[:80]!r}")
        if content.get("error"):
            self.error = describe(content)[0]
            self.done = True
            return
        message = content.get("message")
        if isinstance(message, dict):
            self._message(message)
        if content.get("done"):
            self.done = True
            self.finish = FinishReason.LENGTH if content.get("done_reason") == "length" else FinishReason.STOP
            prompt, made = content.get("prompt_eval_count"), content.get("eval_count")
            own = content.get("bitnet_chat")
            new = own.get("prompt_tokens") if isinstance(own, dict) else None
            # Some versions leave cached tokens out of prompt_eval_count, and the whole field if all are cached.
            self.usage = Usage(
                prompt if isinstance(prompt, int) else None,
                prompt - new if isinstance(prompt, int) and isinstance(new, int) else 0,
                made if isinstance(made, int) else None,
                isinstance(own, dict) and own.get("exact") is False,
            )

    def _message(self, message: dict[str, Any]) -> None:
        self.speech.think(message.get("thinking"))
        self.speech.say(message.get("content"))
        calls = message.get("tool_calls")
        for each in calls if isinstance(calls, list) else ():
            function = each.get("function") if isinstance(each, dict) else None
            if not isinstance(function, dict) or len(self._calls) >= _MOST_CALLS:
                continue
            name, arguments, id = function.get("name"), function.get("arguments"), each.get("id")
            words = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            name = name if isinstance(name, str) else ""
            self._calls.append(ToolCallParts(id if isinstance(id, str) else "", name, [words]))
            self.call_size += len(name) + len(words)

    def calls(self) -> list[ToolCall | InvalidToolCall]:
        if self.finish is not FinishReason.STOP or self.error:
            return []
        return [parts.made(f"call_{secrets.token_hex(8)}") for parts in self._calls]
