"""``/api``: Ollama's API for its unchanged clients: chat, generate, and the list of models.

A reply ends with its connection. Models are neither fetched, made nor removed through this API, and nothing is
embedded: these are refused. ``GET /`` is in :mod:`bitnet_chat.server.web.files`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from bitnet_chat.context.window import Policy
from bitnet_chat.conversation.json_fields import Fields, IgnoredFields
from bitnet_chat.errors import BitnetChatError, InvalidFieldError
from bitnet_chat.events import Completed, Failed, Notice
from bitnet_chat.server.broadcast import ReplyBroadcast
from bitnet_chat.server.errors import APIError, error_json, failure_of, to_api_error, without_tools
from bitnet_chat.server.model_manager import ModelCard
from bitnet_chat.server.model_router import AUTO
from bitnet_chat.server.ollama import responses
from bitnet_chat.server.ollama.requests import OllamaRequest, chat_request, generate_request, model_request
from bitnet_chat.server.request_body import read
from bitnet_chat.server.responses import is_urgent, respond, while_connected
from bitnet_chat.server.scheduler import ReplyRequest, ReplyScheduler
from bitnet_chat.server.settings import ServeSettings
from bitnet_chat.version import __version__

API_VERSION = "0.40.12"
"""The version of Ollama whose API this is. Clients read it, and leave out fields that an older one does not know."""
_Handler = Callable[[Request], Awaitable[Response]]
_REFUSED = {
    "embed": "embeddings are not made here",
    "embeddings": "embeddings are not made here",
    "pull": "models are not fetched through this API; bitnet-chat models pull does it",
    "push": "models are not published through this API",
    "create": "models are not made through this API; bitnet-chat serve -m NAME=FILE names one",
    "copy": "models are not copied through this API; bitnet-chat serve -m NAME=FILE names one",
    "delete": "models are not removed through this API; bitnet-chat models rm does it",
    "blobs": "files are not taken through this API",
}


_NAMES = {"response_format": "format"}


def routes(scheduler: ReplyScheduler, settings: ServeSettings) -> list[BaseRoute]:
    return [Route("/api/{path:path}", _OllamaApi(scheduler, settings))]


class _OllamaApi:
    """The dispatcher of ``/api``, so that each error has the form that its clients read."""

    def __init__(self, scheduler: ReplyScheduler, settings: ServeSettings) -> None:
        self._scheduler, self._settings = scheduler, settings
        self._model_manager = scheduler.model_manager

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(request: Request) -> Response:
            return await self._handler(request)(request)

        await respond(scope, receive, send, answer, _refusal)

    def _handler(self, request: Request) -> _Handler:
        path: str = request.path_params["path"]
        get, post = ("GET", "HEAD"), ("POST",)
        handlers: Mapping[str, tuple[tuple[str, ...], _Handler]] = {
            "chat": (post, self._chat),
            "generate": (post, self._generate),
            "show": (post, self._show),
            "tags": (get, self._tags),
            "ps": (get, self._ps),
            "version": (get, self._version),
        }
        if (why := _REFUSED.get(path.split("/")[0])) is not None:
            raise InvalidFieldError(f"/api/{path} is not supported here: {why}", status=501)
        if path not in handlers:
            raise InvalidFieldError(f"/api/{path} is not served here", status=404)
        methods, handler = handlers[path]
        if request.method not in methods:
            raise _OllamaWrongMethod(request.method, path, ", ".join(methods))
        return handler

    # Replies

    async def _chat(self, request: Request) -> Response:
        return await self._reply(request, chat_request, responses.OllamaChatEncoder)

    async def _generate(self, request: Request) -> Response:
        return await self._reply(request, generate_request, responses.OllamaGenerateEncoder)

    async def _reply(
        self, request: Request, parse: Callable[[Fields], OllamaRequest], writer_of: type[responses.OllamaEncoder]
    ) -> Response:
        notes = None if self._settings.strict else IgnoredFields()
        asked = await read(request, self._settings.body_limit, parse, notes)
        model = self._model_manager.choose(self._known(asked.model), asked.conversation)
        await self._check_window(asked, model, notes)
        notices = notes.lines if notes is not None else []
        writer = writer_of(model, thinking=asked.thinking)
        if asked.only_loads:
            return await self._load(request, asked, model, writer)
        policy: Policy = "stop" if asked.whole else self._settings.overflow or "drop-oldest"
        order = ReplyRequest(
            asked.conversation,
            replace(asked.options, overflow=policy),
            model,
            tools_optional=notes is not None,
            urgent=is_urgent(request.headers.get("priority")),
        )

        def over(generation: ReplyBroadcast) -> None:
            if asked.unloads:
                self._model_manager.unload(model)

        generation = self._scheduler.begin(order, on_end=over)
        try:
            await while_connected(request, generation.started.wait() if asked.stream else generation.ended())
        except BaseException:
            generation.stop()
            raise
        headers = generation.headers
        if not asked.stream or _failed_at_once(generation):
            return await _whole(generation, writer, notices, headers)
        return _OllamaStream(_lines(generation, writer, notices), generation.stop, headers)

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
        self, request: Request, asked: OllamaRequest, model: str, writer: responses.OllamaEncoder
    ) -> Response:
        """Answer a request without a prompt, which loads or unloads the model."""
        if asked.unloads:
            self._model_manager.unload(model)
            await self._model_manager.unloaded(model)
        else:
            await while_connected(request, self._model_manager.load(model))
        last = writer.loaded("unload" if asked.unloads else "load", time.time())
        return Response(responses.line(last), media_type=_LINES) if asked.stream else _json(last)

    # Models

    def _known(self, name: str) -> str:
        """The served name of a model, from any spelling of a client."""
        return self._model_manager.find(name) or name

    async def _card(self, name: str) -> ModelCard:
        return ModelCard(AUTO) if name == AUTO else await self._model_manager.card(name)

    async def _tags(self, request: Request) -> Response:
        cards = [await self._card(name) for name in self._model_manager.listed]
        return _json({"models": [responses.listed(card, self._model_manager.created) for card in cards]})

    async def _ps(self, request: Request) -> Response:
        models = []
        for name in self._model_manager.loaded:
            card = await self._card(name)
            memory = self._model_manager.pools[name].memory
            models.append(responses.running(card, memory, self._model_manager.window(name) or card.window))
        return _json({"models": models})

    async def _show(self, request: Request) -> Response:
        name = self._known(await read(request, self._settings.body_limit, model_request))
        chosen = self._model_manager.choose(name)  # raises for an unknown model
        card = await self._card(name)
        here = self._model_manager.pools[chosen].source.path is not None
        return _json(responses.shown(card, self._model_manager.created, here=here))

    async def _version(self, request: Request) -> Response:
        return _json({"version": API_VERSION, "bitnet_chat": __version__})


_LINES = "application/x-ndjson"


class _OllamaStream(StreamingResponse):
    """A response that ends with its client, and stops the reply of that client."""

    def __init__(self, lines: AsyncIterator[bytes], gone: Callable[[], object], headers: Mapping[str, str]) -> None:
        super().__init__(lines, headers=headers, media_type=_LINES)
        self._gone = gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._gone()


async def _lines(
    generation: ReplyBroadcast, writer: responses.OllamaEncoder, before: Sequence[str]
) -> AsyncIterator[bytes]:
    notices = [*before]
    async with aclosing(generation.watch()) as watched:
        async for seen in watched:
            match seen.event:
                case Notice(text):
                    notices.append(text)
                case Completed() | Failed() as end:
                    if (error := failure_of(end)) is not None:
                        yield error_json(responses.error(_message(to_api_error(error)))) + b"\n"
                        return
                    assert isinstance(end, Completed)
                    now = time.time()
                    yield responses.line(writer.last(end, now - generation.created, notices, now))
                case said:
                    if (piece := writer.piece(said, time.time())) is not None:
                        yield responses.line(piece)


async def _whole(
    generation: ReplyBroadcast, writer: responses.OllamaEncoder, before: Sequence[str], headers: Mapping[str, str]
) -> Response:
    end = await generation.ended()
    if (error := failure_of(end)) is not None:
        return _refusal(error, headers)
    assert isinstance(end, Completed)
    notices = [*before]
    notices += [seen.event.text async for seen in generation.watch() if isinstance(seen.event, Notice)]
    now = time.time()
    total = now - generation.created
    return _json(writer.whole(end, generation.thinking, generation.calls, total, notices, now), headers=headers)


def _failed_at_once(generation: ReplyBroadcast) -> bool:
    """Whether the error is sent as a status, since streaming has not begun."""
    if generation.end is None or failure_of(generation.end) is None:
        return False
    return not (generation.text or generation.thinking or generation.calls)


class _OllamaWrongMethod(InvalidFieldError):
    def __init__(self, method: str, path: str, allowed: str) -> None:
        super().__init__(f"{method} is not allowed at /api/{path}", status=405, remedy=f"use {allowed}")
        self.allowed = allowed


def _refusal(error: BitnetChatError, headers: Mapping[str, str] | None = None) -> Response:
    problem = to_api_error(error)
    allow = {"Allow": error.allowed} if isinstance(error, _OllamaWrongMethod) else {}
    told = {**problem.headers, **allow, **(headers or {})}
    return Response(error_json(responses.error(_message(problem))), problem.status, told, media_type="application/json")


def _message(problem: APIError) -> str:
    """Return a backend's refusal with the names that this API has for OpenAI's options."""
    if problem.param == "tools":
        return without_tools(problem.message)
    name = _NAMES.get(problem.param, "")
    return problem.message.replace(problem.param, name, 1) if name else problem.message


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(responses.to_json(value), status, headers, media_type="application/json")
