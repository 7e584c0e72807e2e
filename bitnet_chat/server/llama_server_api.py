"""Endpoints of llama-server about a model: ``/props``, ``/slots``, ``/tokenize``, ``/detokenize``, ``/apply-template``.
They change no state and reveal no conversation.

All data comes from the file of the model, whatever the backend; for a model on another computer they are 501.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from bitnet_chat.conversation.api_messages import conversation_of
from bitnet_chat.conversation.json_fields import Fields, IgnoredFields
from bitnet_chat.conversation.openai_codec import encode_tool
from bitnet_chat.errors import InvalidFieldError, ModelError
from bitnet_chat.server.requests import read
from bitnet_chat.server.responses import json_response, to_json
from bitnet_chat.server.routing import Handler, route
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
    api = _LlamaServerApi(scheduler, settings)
    return [
        route("/props", GET=api.props),
        route("/slots", GET=api.slots),
        route("/tokenize", POST=api.handler(_tokenized)),
        route("/detokenize", POST=api.handler(_detokenized)),
        route("/apply-template", POST=api.handler(_templated)),
    ]


@dataclass(frozen=True, slots=True)
class _TextRequest:
    """Chat template and tokenizer of a model."""

    header: ModelHeader
    template: ChatTemplate | None
    """None if it cannot be read."""
    tokenizer: Tokenizer | None
    """None if the kind of vocabulary is not supported."""


class _LlamaServerApi:
    def __init__(self, scheduler: ReplyScheduler, settings: ServeSettings) -> None:
        self._model_manager, self._limit = scheduler.model_manager, settings.body_limit
        self._strict = settings.strict
        self._texts: dict[str, _TextRequest] = {}

    async def props(self, request: Request) -> Response:
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
        return json_response(to_json(facts))

    async def slots(self, request: Request) -> Response:
        name = self._model_manager.choose(request.query_params.get("model", ""))
        pool, window = self._model_manager.pools[name], self._model_manager.window(name)
        slots = [
            {"id": number, "n_ctx": window, "is_processing": number < pool.busy, "model": name}
            for number in range(pool.source.parallel)
        ]
        return json_response(to_json(slots))

    def handler(self, work: _Work) -> Handler:
        """Return the handler of an endpoint. ``work``: from the model and the fields of a body to the reply, in a
        thread.
        """

        async def answer(request: Request) -> Response:
            # Fields that the reply APIs ignore are ignored here, too; the response has no place for a notice.
            notes = None if self._strict else IgnoredFields()
            fields = await read(request, self._limit, lambda fields: fields, notes)
            text = await self._text(self._model_manager.choose(fields.text("model") or ""))
            return json_response(to_json(await asyncio.to_thread(work, text, fields)))

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
    """Read the file of a model; blocks. Raises ModelError for a file that cannot be read."""
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
    options = options_of(fields)
    tools = [encode_tool(each) for each in options.tools]
    last = conversation.last
    follows = fields.flag("add_generation_prompt") is not False and (last is None or last.role != "assistant")
    prompt = text.template.render(conversation, reply_follows=follows, tools=tools, arguments=options.template)
    return {"prompt": prompt}
