"""``/api``: the API of Ollama, for its unmodified clients: chat, generate, and the list of models.

A disconnect stops the reply. Paths that fetch, make or remove models, and embeddings, are 501
(:func:`bitnet_chat.server.ollama.responses.not_served`). ``GET /`` is in :mod:`bitnet_chat.server.web.files`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from bitnet_chat.context.window import Policy
from bitnet_chat.conversation.json_fields import Fields, IgnoredFields
from bitnet_chat.errors import InvalidFieldError
from bitnet_chat.events import Completed, Failed, Notice
from bitnet_chat.server.broadcast import ReplyBroadcast
from bitnet_chat.server.error_responses import error_response
from bitnet_chat.server.errors import error_json, failure_of, to_api_error
from bitnet_chat.server.model_manager import ModelCard
from bitnet_chat.server.model_router import AUTO
from bitnet_chat.server.ollama import responses
from bitnet_chat.server.ollama.requests import OllamaRequest, chat_request, generate_request, model_request
from bitnet_chat.server.requests import is_urgent, read, while_connected
from bitnet_chat.server.responses import json_response, to_json
from bitnet_chat.server.routing import route
from bitnet_chat.server.scheduler import ReplyRequest, ReplyScheduler
from bitnet_chat.server.settings import ServeSettings
from bitnet_chat.version import __version__

API_VERSION = "0.40.12"
"""The version of Ollama with this API. Clients read it, and leave out fields that an older version does not support."""


def routes(scheduler: ReplyScheduler, settings: ServeSettings) -> list[BaseRoute]:
    api = _OllamaApi(scheduler, settings)
    return [
        route("/api/chat", POST=api.chat),
        route("/api/generate", POST=api.generate),
        route("/api/show", POST=api.show),
        route("/api/tags", GET=api.tags),
        route("/api/ps", GET=api.ps),
        route("/api/version", GET=api.version),
    ]


class _OllamaApi:
    def __init__(self, scheduler: ReplyScheduler, settings: ServeSettings) -> None:
        self._scheduler, self._settings = scheduler, settings
        self._model_manager = scheduler.model_manager

    # Replies

    async def chat(self, request: Request) -> Response:
        return await self._reply(request, chat_request, responses.OllamaChatEncoder)

    async def generate(self, request: Request) -> Response:
        return await self._reply(request, generate_request, responses.OllamaGenerateEncoder)

    async def _reply(
        self, request: Request, parse: Callable[[Fields], OllamaRequest], encoder_of: type[responses.OllamaEncoder]
    ) -> Response:
        notes = None if self._settings.strict else IgnoredFields()
        asked = await read(request, self._settings.body_limit, parse, notes)
        model = self._model_manager.choose(self._known(asked.model), asked.conversation)
        await self._check_window(asked, model, notes)
        notices = notes.lines if notes is not None else []
        encoder = encoder_of(model, thinking=asked.thinking)
        if asked.only_loads:
            return await self._load(request, asked, model, encoder)
        policy: Policy = "stop" if asked.whole else self._settings.overflow or "drop-oldest"
        reply_request = ReplyRequest(
            asked.conversation,
            replace(asked.options, overflow=policy),
            model,
            tools_optional=notes is not None,
            urgent=is_urgent(request.headers.get("priority")),
        )

        def over(generation: ReplyBroadcast) -> None:
            if asked.unloads:
                self._model_manager.unload(model)

        generation = self._scheduler.begin(reply_request, on_end=over)
        ready = generation.started.wait() if asked.stream else generation.ended()
        await while_connected(request, ready, generation.stop)
        headers = generation.headers
        if (error := generation.failure) is not None and (generation.is_empty or not asked.stream):
            return error_response(error, request.scope["path"], headers)
        if asked.stream:
            return _OllamaStream(_lines(generation, encoder, notices), generation.stop, headers)
        assert isinstance(generation.end, Completed)
        now = time.time()
        total = now - generation.created
        notices += generation.notices
        whole = encoder.whole(generation.end, generation.thinking, generation.calls, total, notices, now)
        return json_response(to_json(whole), headers=headers)

    async def _check_window(self, asked: OllamaRequest, model: str, notes: IgnoredFields | None) -> None:
        if not asked.window:
            return
        window = self._model_manager.window(model) or (await self._model_manager.card(model)).window
        if window and asked.window > window:
            why = f"is {asked.window}, and the window of {model} has {window} tokens"
            if notes is not None:
                notes.changed("options.num_ctx", why)
            else:
                raise InvalidFieldError(
                    f"options.num_ctx {why}",
                    param="options.num_ctx",
                    remedy="leave it out, or start the server with a larger --ctx",
                )

    async def _load(
        self, request: Request, asked: OllamaRequest, model: str, encoder: responses.OllamaEncoder
    ) -> Response:
        """Respond to a request without a prompt, which loads or unloads the model."""
        if asked.unloads:
            self._model_manager.unload(model)
            await self._model_manager.unloaded(model)
        else:
            await while_connected(request, self._model_manager.load(model))
        last = encoder.loaded("unload" if asked.unloads else "load", time.time())
        return Response(responses.line(last), media_type=_LINES) if asked.stream else json_response(to_json(last))

    # Models

    def _known(self, name: str) -> str:
        """Return the served name of a model for any spelling of it."""
        return self._model_manager.find(name) or name

    async def _card(self, name: str) -> ModelCard:
        return ModelCard(AUTO) if name == AUTO else await self._model_manager.card(name)

    async def tags(self, request: Request) -> Response:
        cards = [await self._card(name) for name in self._model_manager.listed]
        models = [responses.listed(card, self._model_manager.created) for card in cards]
        return json_response(to_json({"models": models}))

    async def ps(self, request: Request) -> Response:
        models = []
        for name in self._model_manager.loaded:
            card = await self._card(name)
            memory = self._model_manager.pools[name].memory
            models.append(responses.running(card, memory, self._model_manager.window(name) or card.window))
        return json_response(to_json({"models": models}))

    async def show(self, request: Request) -> Response:
        name = self._known(await read(request, self._settings.body_limit, model_request))
        chosen = self._model_manager.choose(name)  # raises for an unknown model
        card = await self._card(name)
        here = self._model_manager.pools[chosen].source.path is not None
        return json_response(to_json(responses.shown(card, self._model_manager.created, here=here)))

    async def version(self, request: Request) -> Response:
        return json_response(to_json({"version": API_VERSION, "bitnet_chat": __version__}))


_LINES = "application/x-ndjson"


class _OllamaStream(StreamingResponse):
    """A stream of JSON lines that stops its reply when the client disconnects."""

    def __init__(self, lines: AsyncIterator[bytes], gone: Callable[[], object], headers: Mapping[str, str]) -> None:
        super().__init__(lines, headers=headers, media_type=_LINES)
        self._gone = gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._gone()


async def _lines(
    generation: ReplyBroadcast, encoder: responses.OllamaEncoder, before: Sequence[str]
) -> AsyncIterator[bytes]:
    notices = [*before]
    async with aclosing(generation.watch()) as watched:
        async for seen in watched:
            match seen.event:
                case Notice(text):
                    notices.append(text)
                case Completed() | Failed() as end:
                    if (error := failure_of(end)) is not None:
                        yield error_json(responses.error_body(to_api_error(error))) + b"\n"
                        return
                    assert isinstance(end, Completed)
                    now = time.time()
                    yield responses.line(encoder.last(end, now - generation.created, notices, now))
                case said:
                    if (piece := encoder.piece(said, time.time())) is not None:
                        yield responses.line(piece)
