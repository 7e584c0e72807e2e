"""Endpoints of a llama-server about its model: ``/props``, ``/slots``, ``/tokenize``, ``/detokenize`` and
``/apply-template``. They change nothing and reveal no conversation.

All data comes from the file of the model, with any backend; a model on another computer has no data.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from bitnet_chat.conversation.api_messages import conversation_of
from bitnet_chat.conversation.json_fields import Fields
from bitnet_chat.errors import BitnetChatError, InvalidFieldError, ModelError
from bitnet_chat.server.errors import openai_form, to_api_error
from bitnet_chat.server.openai.responses import to_json
from bitnet_chat.server.request_body import read
from bitnet_chat.server.responses import respond
from bitnet_chat.server.scheduler import ReplyScheduler
from bitnet_chat.server.settings import ServeSettings
from bitnet_chat.version import __version__

if TYPE_CHECKING:
    from bitnet_chat.backends.pool import BackendFactory
    from bitnet_chat.context.tokenizer import Tokenizer
    from bitnet_chat.models.gguf import ModelHeader
    from bitnet_chat.templates.chat_template import ChatTemplate

_MOST = 400_000
"""Maximum number of characters, and of tokens, of one request: some seconds of work, outside the event loop."""
_Work = Callable[["_TextRequest", Fields], dict[str, object]]


def routes(scheduler: ReplyScheduler, settings: ServeSettings) -> list[BaseRoute]:
    paths = _Paths(scheduler, settings)
    return [
        Route("/props", _LlamaEndpoint("GET", paths.props)),
        Route("/slots", _LlamaEndpoint("GET", paths.slots)),
        Route("/tokenize", _LlamaEndpoint("POST", paths.of(_tokenized))),
        Route("/detokenize", _LlamaEndpoint("POST", paths.of(_detokenized))),
        Route("/apply-template", _LlamaEndpoint("POST", paths.of(_templated))),
    ]


class _LlamaEndpoint:
    """A path with one method."""

    def __init__(self, method: str, answer: Callable[[Request], object]) -> None:
        self._method, self._answer = method, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(request: Request) -> Response:
            if request.method not in (self._method, "HEAD" if self._method == "GET" else self._method):
                what = f"method {request.method} is not supported by {request.url.path}"
                raise InvalidFieldError(what, code="method_not_allowed", status=405, remedy=f"use {self._method}")
            return _json(await self._answer(request))  # type: ignore[misc]  # each of them is awaited

        await respond(scope, receive, send, answer, _refusal)


@dataclass(frozen=True, slots=True)
class _TextRequest:
    """Chat template and tokenizer of a model."""

    header: ModelHeader
    template: ChatTemplate | None
    """None: it cannot be read."""
    tokenizer: Tokenizer | None
    """None: its kind of vocabulary is not supported."""


class _Paths:
    def __init__(self, scheduler: ReplyScheduler, settings: ServeSettings) -> None:
        self._model_manager, self._limit = scheduler.model_manager, settings.body_limit
        self._texts: dict[str, _TextRequest] = {}

    async def props(self, request: Request) -> dict[str, object]:
        name = self._model_manager.choose(request.query_params.get("model", ""))
        pool, card = self._model_manager.pools[name], await self._model_manager.card(name)
        facts: dict[str, object] = {
            "default_generation_settings": {"n_ctx": self._model_manager.window(name) or card.window, "params": {}},
            "total_slots": pool.source.parallel,
            "model_alias": name,
            "model_path": name,
            "modalities": {"vision": False, "audio": False},
            "chat_template": card.template,
            "chat_template_caps": {"supports_tools": card.takes_tools},
            "bos_token": "",
            "eos_token": "",
            "build_info": f"bitnet-chat {__version__}",
        }
        if pool.source.path is not None:
            text = await self._text(name)
            facts |= {"bos_token": text.header.bos, "eos_token": text.header.eos}
            facts |= {"chat_template": text.template.source} if text.template is not None else {}
        return facts

    async def slots(self, request: Request) -> list[dict[str, object]]:
        name = self._model_manager.choose(request.query_params.get("model", ""))
        pool, window = self._model_manager.pools[name], self._model_manager.window(name)
        return [
            {"id": number, "n_ctx": window, "is_processing": number < pool.busy, "model": name}
            for number in range(pool.source.parallel)
        ]

    def of(self, work: _Work) -> Callable[[Request], object]:
        async def answer(request: Request) -> dict[str, object]:
            fields = await read(request, self._limit, lambda fields: fields)
            text = await self._text(self._model_manager.choose(fields.text("model") or ""))
            return await asyncio.to_thread(work, text, fields)

        return answer

    async def _text(self, name: str) -> _TextRequest:
        if name not in self._texts:
            source = self._model_manager.pools[name].source
            if source.path is None:
                raise InvalidFieldError(
                    f"the model {name} is on another computer: its vocabulary is not available", status=501
                )
            self._texts[name] = await asyncio.to_thread(_read, source)
        return self._texts[name]


def _read(source: BackendFactory) -> _TextRequest:
    """Raises ModelError for a file that cannot be read."""
    from bitnet_chat.models.gguf import read_header
    from bitnet_chat.models.known_faults import repair
    from bitnet_chat.models.template_selection import template_source
    from bitnet_chat.models.vocabulary import read_tokenizer
    from bitnet_chat.templates.chat_template import ChatTemplate
    from bitnet_chat.templates.sandbox import program_of

    assert source.path is not None
    header = repair(read_header(source.path)).header
    template: ChatTemplate | None = None
    try:
        written, name = template_source(source.chat_template, header, lambda line: None)
        template = ChatTemplate(
            written, name=name, bos=header.bos, eos=header.eos, adds_bos=header.adds_bos, read=program_of
        )
    except ModelError:
        pass
    return _TextRequest(header, template, read_tokenizer(source.path))


def _tokenizer_of(text: _TextRequest) -> Tokenizer:
    if text.tokenizer is None:
        raise InvalidFieldError(f"the vocabulary of {text.header.label} is of an unsupported kind", status=501)
    return text.tokenizer


def _tokenized(text: _TextRequest, fields: Fields) -> dict[str, object]:
    tokenizer, content = _tokenizer_of(text), fields.needed_text("content")
    if len(content) > _MOST:
        raise fields.wrong("content", f"has more than {_MOST:,} characters")
    numbers: list[int] = []
    if fields.flag("add_special") and text.header.adds_bos and (bos := tokenizer.named(text.header.bos)) is not None:
        numbers.append(bos)
    special = (
        sorted(text.header.control_tokens, key=len, reverse=True) if fields.flag("parse_special") is not False else []
    )
    parts = re.split(f"({'|'.join(map(re.escape, special))})", content) if special else [content]
    for index, part in enumerate(parts):
        number = tokenizer.named(part) if index % 2 else None
        numbers += [number] if number is not None else tokenizer.numbers(part)
    if not fields.flag("with_pieces"):
        return {"tokens": numbers}
    return {"tokens": [{"id": number, "piece": tokenizer.written([number])} for number in numbers]}


def _detokenized(text: _TextRequest, fields: Fields) -> dict[str, object]:
    tokenizer, tokens = _tokenizer_of(text), fields.get("tokens")
    if not isinstance(tokens, list) or not all(type(each) is int for each in tokens) or len(tokens) > _MOST:
        raise fields.wrong("tokens", f"must be a list of at most {_MOST:,} token ids")
    try:
        return {"content": tokenizer.written(tokens)}
    except IndexError as error:
        raise fields.wrong("tokens", f"has {error}, which is not a token of this model") from None


def _templated(text: _TextRequest, fields: Fields) -> dict[str, object]:
    from bitnet_chat.server.openai.requests import options_of

    if text.template is None:
        raise InvalidFieldError(f"the chat template of {text.header.label} cannot be read", status=501)
    conversation = conversation_of(fields.needed_objects("messages"))
    tools = [
        {
            "type": "function",
            "function": {"name": each.name, "description": each.description, "parameters": dict(each.parameters)},
        }
        for each in options_of(fields).tools
    ]
    last = conversation.last
    follows = fields.flag("add_generation_prompt") is not False and (last is None or last.role != "assistant")
    return {"prompt": text.template.render(conversation, reply_follows=follows, tools=tools)}


def _refusal(error: BitnetChatError) -> Response:
    problem = to_api_error(error)
    return _json(openai_form(problem), problem.status, problem.headers)


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(value), status, headers, media_type="application/json")
