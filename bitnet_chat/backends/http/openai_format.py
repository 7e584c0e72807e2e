"""The chat completions of OpenAI's API, for llama-server, vLLM, SGLang, llamafile, LM Studio and others.

Strict servers refuse unknown fields: of the options only those that the request sets are sent. No I/O.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.http.errors import describe
from bitnet_chat.backends.http.wire_format import Delta, DeltaSplitter, ToolCallParts, Usage
from bitnet_chat.conversation import Message, ToolCall
from bitnet_chat.conversation.openai_codec import (
    encode_message,
    encode_response_format,
    encode_tool,
    encode_tool_choice,
)
from bitnet_chat.errors import FinishReason
from bitnet_chat.filters.tool_call_repair import InvalidToolCall
from bitnet_chat.text.sse import SseDecoder

_SPEECH = "content", "reasoning_content", "reasoning", "tool_calls"
_STOPS = 4
"""Maximum number of stop texts in the API. More of them are left to the guard of this program."""
_MOST_CALLS = 128
_FINISH = {
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "abort": FinishReason.ENGINE_DIED,
    "error": FinishReason.ENGINE_DIED,
}


class OpenAIFormat:
    """See :class:`bitnet_chat.backends.http.wire_format.WireFormat`. ``llama``: for llama-server, with its additional
    fields."""

    def __init__(self, *, llama: bool = False, left_out: frozenset[str] = frozenset(), slot: int | None = None) -> None:
        """``slot``: of llama-server; None lets it choose."""
        self._slot = slot
        self.path = "/v1/chat/completions" if llama else "/chat/completions"
        self._llama = llama
        self._left_out = left_out

    @property
    def optional(self) -> tuple[str, ...]:
        return tuple(each for each in ("stream_options", "max_tokens") if each not in self._left_out)

    def without(self, field: str) -> OpenAIFormat:
        return OpenAIFormat(llama=self._llama, left_out=self._left_out | {field}, slot=self._slot)

    @property
    def depends_on_request(self) -> bool:
        return "max_tokens" in self._left_out

    def refusal(self, options: ReplyOptions) -> tuple[str, str] | None:
        return unknown_choice(options)

    def body(self, model: str, messages: Sequence[Message], options: ReplyOptions, *, stream: bool) -> dict[str, Any]:
        sampling = options.sampling
        body: dict[str, Any] = {
            "model": model,
            "messages": [encode_message(each) for each in messages],
            "stream": stream,
        }
        if stream and "stream_options" not in self._left_out:
            body["stream_options"] = {"include_usage": True}
        if options.max_tokens is not None:
            # The newest models of OpenAI accept max_completion_tokens only, most other servers max_tokens only.
            name = "max_completion_tokens" if "max_tokens" in self._left_out else "max_tokens"
            body[name] = options.max_tokens
            if self._llama and stream:
                # n_predict takes precedence over max_tokens. The additional token shows whether a reply of max_tokens
                # tokens is complete; the parser leaves it out.
                body["n_predict"] = options.max_tokens + 1
        wanted = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "seed": sampling.seed,
            "repeat_penalty": sampling.repeat_penalty,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
        }
        if not self._llama:
            wanted["repetition_penalty"] = sampling.repeat_penalty  # the name in vLLM and SGLang
        body |= {name: value for name, value in wanted.items() if value is not None}
        if options.stop and (self._llama or len(options.stop) <= _STOPS):
            body["stop"] = list(options.stop)
        if options.offered:
            body |= tools_as_json(options, by_name=not self._llama)
        arguments = dict(options.template)
        if not self._llama and "reasoning_effort" in arguments:  # a field of its own in the API of OpenAI
            body["reasoning_effort"] = arguments.pop("reasoning_effort")
        if arguments:
            body["chat_template_kwargs"] = arguments
        if options.format is not None:
            body["response_format"] = encode_response_format(options.format.schema)
        if self._llama:
            # With progress events the server notices during prefill that its client has disconnected.
            body |= {"cache_prompt": True, "timings_per_token": stream, "return_progress": stream}
            body |= {"id_slot": self._slot} if self._slot is not None else {}
        return body

    def reader(self, options: ReplyOptions | None = None) -> OpenAIResponseParser:
        options = options or ReplyOptions()
        limit = options.max_tokens if self._llama else None
        return OpenAIResponseParser(tells_thoughts=self._llama, limit=limit, has_stops=bool(options.stop))


def unknown_choice(options: ReplyOptions) -> tuple[str, str] | None:
    """The name of the option and the reason, for a ``tool_choice`` that does not fit the tools."""
    names = [tool.name for tool in options.tools]
    if options.tool_choice in ("auto", "none") or (options.tools and options.tool_choice == "required"):
        return None
    if options.tool_choice in names:
        return None
    return "tool_choice", f"the request has no tool {options.tool_choice!r}"


def tools_as_json(options: ReplyOptions, *, by_name: bool) -> dict[str, Any]:
    """The fields for tools. ``by_name``: whether the server accepts the name of a tool as the choice; otherwise the
    chosen tool is sent alone, and required."""
    named = options.tool_choice not in ("auto", "required")
    offered = [tool for tool in options.tools if by_name or not named or tool.name == options.tool_choice]
    body: dict[str, Any] = {"tools": [encode_tool(tool) for tool in offered]}
    if options.tool_choice != "auto":
        body["tool_choice"] = encode_tool_choice("required" if named and not by_name else options.tool_choice)
    return body


class OpenAIResponseParser:
    """See :class:`bitnet_chat.backends.http.wire_format.ResponseParser`. ``tells_thoughts``: the server separates
    thoughts from text; otherwise their tags are parsed. ``limit``: tokens of the reply, for a request with one more
    token, whose text is left out. ``has_stops``: a stop text may end the reply instead of a token."""

    def __init__(self, *, tells_thoughts: bool = False, limit: int | None = None, has_stops: bool = False) -> None:
        self._decoder = SseDecoder()
        self._calls: dict[int, ToolCallParts] = {}
        self.call_size = 0
        self.speech = DeltaSplitter(tagged=not tells_thoughts)
        self.done = False
        self.finish: FinishReason | None = None
        self.error = ""
        self.usage = Usage()
        self._limit, self._has_stops = limit, has_stops
        self._is_estimate = False
        self._late: list[dict[str, Any]] = []
        """Pieces with tokens beyond the limit: part of the reply if the model ends it there, else left out."""
        self._made: int | None = None
        """Tokens up to the last piece within the limit, for a server that sends a count with each piece."""

    def feed(self, data: bytes) -> list[Delta]:
        for event in self._decoder.feed(data):
            self._event(event.data)
            if self.done:
                break
        return self.speech.take()

    def end(self) -> list[Delta]:
        for event in self._decoder.flush():
            if not self.done:
                self._event(event.data)
        self.speech.end()
        return self.speech.take()

    def _event(self, data: str) -> None:
        if data == "[DONE]":
            self.done = True
            self.finish = self.finish or FinishReason.STOP
            return
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            raise ValueError(f"an event that is not JSON: {data[:80]!r}") from None
        if not isinstance(content, dict):
            raise ValueError(f"an event that is not an object: {data[:80]!r}")
        choices = content.get("choices")
        if isinstance(choices, list) and choices:
            choice = choices[0]
            if isinstance(choice, dict) and choice.get("index", 0) == 0:
                self._piece(choice, _made(content.get("timings")))
        elif content.get("error") or content.get("object") == "error":
            self.error = describe(content)[0] or "an error without words"
            self.done = True
            return
        self._look_for_estimate(content)
        if content.get("usage") or content.get("timings"):
            self._count(content)

    def _look_for_estimate(self, content: dict[str, Any]) -> None:
        """A server of this program reports whether its counts are estimates."""
        own = content.get("bitnet_chat")
        self._is_estimate = self._is_estimate or (isinstance(own, dict) and own.get("exact") is False)

    def _piece(self, choice: dict[str, Any], made: int | None) -> None:
        """``made``: tokens so far; None for a server from before October 2024, which sends a piece for each token."""
        delta = choice.get("delta")
        if finish := choice.get("finish_reason"):
            late, self._late = self._late, []
            if _FINISH.get(str(finish)) is not FinishReason.LENGTH:
                for each in late:
                    self._choice(each, each.get("delta"))
        elif self._limit is not None and (self.speech.pieces + 1 if made is None else made) > self._limit:
            self._late.append(choice)
            return
        elif made is not None and isinstance(delta, dict) and any(map(delta.get, _SPEECH)):
            self._made = made
        self._choice(choice, delta)

    def whole(self, content: Any) -> list[Delta]:
        if isinstance(content, dict) and content.get("error"):
            self.error = describe(content)[0]
            self.done = True
            return []
        try:
            choice = content["choices"][0]
            message = choice["message"]
        except (KeyError, IndexError, TypeError):
            raise ValueError("an answer that is not a reply") from None
        self._choice(choice, message)
        self.finish = self.finish or FinishReason.STOP
        self._look_for_estimate(content)
        self._count(content)
        self.done = True
        return self.end()

    def _choice(self, choice: dict[str, Any], delta: Any) -> None:
        if isinstance(delta, dict):
            self.speech.think(delta.get("reasoning_content") or delta.get("reasoning"))
            self.speech.say(delta.get("content"))
            calls = delta.get("tool_calls")
            if calls:
                self._take_calls(calls)
        if finish := choice.get("finish_reason"):
            self.finish = _FINISH.get(str(finish), FinishReason.STOP)

    def _take_calls(self, calls: Any) -> None:
        for at, each in enumerate(calls if isinstance(calls, list) else ()):
            if not isinstance(each, dict):
                continue
            index, function = each.get("index"), each.get("function")
            # Without an index each part is a call of its own, except one without id and name.
            if not isinstance(index, int):
                new = each.get("id") or (isinstance(function, dict) and function.get("name"))
                index = len(self._calls) if new or not self._calls else max(self._calls) + at
            if index not in self._calls and len(self._calls) >= _MOST_CALLS:
                continue
            parts = self._calls.setdefault(index, ToolCallParts())
            if isinstance(each.get("id"), str):
                parts.id = parts.id or each["id"]
            if isinstance(function, dict):
                if isinstance(function.get("name"), str):
                    parts.name = parts.name or function["name"]
                    self.call_size += len(function["name"])
                arguments = function.get("arguments")
                if isinstance(arguments, dict):  # some servers send an object instead of a text
                    arguments = json.dumps(arguments)
                if isinstance(arguments, str):
                    parts.arguments.append(arguments)
                    self.call_size += len(arguments)

    def _count(self, content: dict[str, Any]) -> None:
        usage, timings = content.get("usage"), content.get("timings")
        if isinstance(usage, dict):
            details = usage.get("prompt_tokens_details")
            cached = _whole(details.get("cached_tokens")) if isinstance(details, dict) else None
            prompt, made = _whole(usage.get("prompt_tokens")), _whole(usage.get("completion_tokens"))
            self.usage = Usage(prompt, cached or 0, made, self._is_estimate)
        if isinstance(timings, dict):
            cached, new, made = (_whole(timings.get(name)) for name in ("cache_n", "prompt_n", "predicted_n"))
            if new is not None and made is not None:
                made, beyond = self._of_text(made)
                self.usage = Usage((cached or 0) + new, cached or 0, made, beyond=beyond)

    def _of_text(self, made: int) -> tuple[int, int]:
        """For llama-server: the tokens of ``made`` within the limit, and the number of those that are not text."""
        if self.finish is FinishReason.TOOL_CALLS or (self.finish is FinishReason.STOP and not self._has_stops):
            return made, min(made, 1)
        if self.finish is FinishReason.STOP:
            return made, min(made, 1) if self._made is None else max(0, made - self._made)
        return made if self._limit is None else min(made, self._limit), 0

    def calls(self) -> list[ToolCall | InvalidToolCall]:
        if self.finish not in (FinishReason.STOP, FinishReason.TOOL_CALLS) or self.error:
            return []  # the last call may be incomplete
        return [parts.made(f"call_{secrets.token_hex(8)}") for _, parts in sorted(self._calls.items())]


def _made(timings: object) -> int | None:
    return _whole(timings.get("predicted_n")) if isinstance(timings, dict) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
