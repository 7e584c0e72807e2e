"""``/v1``: the OpenAI API, chat completions, completions and models."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from bitnet_chat.conversation.json_fields import Fields, IgnoredFields
from bitnet_chat.errors import BitnetChatError, InvalidFieldError
from bitnet_chat.events import Completed, Failed, Notice
from bitnet_chat.server.broadcast import ReplyBroadcast
from bitnet_chat.server.errors import APIError, error_json, failure_of, openai_form, to_api_error, without_tools
from bitnet_chat.server.openai.requests import OpenAIRequest, chat_request, completion_request
from bitnet_chat.server.openai.responses import DONE, ChunkHeader, OpenAIChatEncoder, OpenAICompletionEncoder, to_json
from bitnet_chat.server.request_body import read
from bitnet_chat.server.responses import EventStream, is_urgent, respond, while_connected
from bitnet_chat.server.scheduler import ReplyRequest, ReplyScheduler
from bitnet_chat.server.settings import ServeSettings

Writer = OpenAIChatEncoder | OpenAICompletionEncoder
_Handler = Callable[[Request], Awaitable[Response]]
_NAMES = {"format": "response_format"}
"""Options that a backend may refuse, with the API's names for them."""


def routes(scheduler: ReplyScheduler, settings: ServeSettings) -> list[BaseRoute]:
    return [Route("/v1/{path:path}", _OpenAIApi(scheduler, settings))]


class _OpenAIApi:
    """The dispatcher of ``/v1``, so that each error has the form that its clients read."""

    def __init__(self, scheduler: ReplyScheduler, settings: ServeSettings) -> None:
        self._scheduler, self._settings = scheduler, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(request: Request) -> Response:
            return await self._handler(request)(request)

        await respond(scope, receive, send, answer, _refusal)

    def _handler(self, request: Request) -> _Handler:
        path: str = request.path_params["path"]
        handlers: Mapping[str, _Handler]
        match path:
            case "chat/completions":
                handlers = {"POST": self._chat}
            case "completions":
                handlers = {"POST": self._completion}
            case "models":
                handlers = {"GET": self._models, "HEAD": self._models}
            case _ if path.startswith("models/"):
                handlers = {"GET": self._model, "HEAD": self._model}
            case _:
                raise InvalidFieldError(f"/v1/{path} is not served here", code="not_found", status=404)
        if request.method not in handlers:
            raise _OpenAIWrongMethod(request.method, path, ", ".join(handlers))
        return handlers[request.method]

    async def _models(self, request: Request) -> Response:
        return _json(
            {"object": "list", "data": [self._described(name) for name in self._scheduler.model_manager.listed]}
        )

    async def _model(self, request: Request) -> Response:
        name = request.path_params["path"].removeprefix("models/")
        found = self._scheduler.model_manager.find(name)
        return _json(self._described(found or self._scheduler.model_manager.choose(name)))  # may raise

    def _described(self, name: str) -> dict[str, object]:
        created = int(self._scheduler.model_manager.created)
        return {"id": name, "object": "model", "created": created, "owned_by": "bitnet-chat"}

    async def _chat(self, request: Request) -> Response:
        return await self._reply(request, chat_request, "chatcmpl", OpenAIChatEncoder)

    async def _completion(self, request: Request) -> Response:
        return await self._reply(request, completion_request, "cmpl", OpenAICompletionEncoder)

    async def _reply(
        self,
        request: Request,
        parse: Callable[[Fields], OpenAIRequest],
        prefix: str,
        writer_of: type[OpenAIChatEncoder] | type[OpenAICompletionEncoder],
    ) -> Response:
        notes = None if self._settings.strict else IgnoredFields()
        asked = await read(request, self._settings.body_limit, parse, notes)
        notices = notes.lines if notes is not None else []
        order = ReplyRequest(
            asked.conversation,
            # As OpenAI and llama-server do: a prompt that is too long is refused, unless --overflow was given.
            replace(asked.options, overflow=self._settings.overflow or "stop"),
            asked.model,
            tools_optional=notes is not None and asked.options.tool_choice == "auto",
            one_call=asked.one_call,
            urgent=is_urgent(request.headers.get("priority")),
        )
        generation = self._scheduler.begin(order)
        try:
            if asked.stream:
                await while_connected(request, generation.started.wait())
            else:
                await while_connected(request, generation.ended())
        except BaseException:
            generation.stop()
            raise
        headers = generation.headers
        head = ChunkHeader(f"{prefix}-{generation.id}", int(generation.created), generation.model)
        writer = writer_of(head, usage=asked.usage)
        if asked.stream and not _failed_at_once(generation):
            return EventStream(_chunks(generation, writer, notices), gone=generation.stop, headers=headers)
        assert generation.end is not None
        if (error := failure_of(generation.end)) is not None:
            return _refusal(error, headers)
        assert isinstance(generation.end, Completed)
        notices += [text async for text in _notices(generation)]
        whole = writer.whole(generation.end, generation.thinking, generation.calls, notices)
        return _json(whole, headers=headers)


def _failed_at_once(generation: ReplyBroadcast) -> bool:
    """Whether the error is sent as a status, since streaming has not begun."""
    if generation.end is None or failure_of(generation.end) is None:
        return False
    return not (generation.text or generation.thinking or generation.calls)


async def _chunks(generation: ReplyBroadcast, writer: Writer, before: Sequence[str]) -> AsyncIterator[bytes]:
    for chunk in writer.first():
        yield chunk
    notices = [*before]
    async with aclosing(generation.watch()) as watched:
        async for seen in watched:
            match seen.event:
                case Notice(text):
                    notices.append(text)
                case Completed() | Failed() as end:
                    if (error := failure_of(end)) is not None:
                        form = openai_form(_in_words_of_the_api(to_api_error(error)))
                        yield b"data: %b\n\n" % error_json(form)
                        return
                    assert isinstance(end, Completed)
                    for chunk in writer.last(end, notices):
                        yield chunk
                    yield DONE
                case said:
                    for chunk in writer.piece(said):
                        yield chunk


async def _notices(generation: ReplyBroadcast) -> AsyncIterator[str]:
    """The usage object of a reply that has ended."""
    async for seen in generation.watch():
        if isinstance(seen.event, Notice):
            yield seen.event.text


class _OpenAIWrongMethod(InvalidFieldError):
    def __init__(self, method: str, path: str, allowed: str) -> None:
        super().__init__(
            f"{method} is not allowed at /v1/{path}", code="method_not_allowed", status=405, remedy=f"use {allowed}"
        )
        self.allowed = allowed


def _refusal(error: BitnetChatError, headers: Mapping[str, str] | None = None) -> Response:
    problem = _in_words_of_the_api(to_api_error(error))
    allow = {"Allow": error.allowed} if isinstance(error, _OpenAIWrongMethod) else {}
    told = {**problem.headers, **allow, **(headers or {})}
    return Response(error_json(openai_form(problem)), problem.status, told, media_type="application/json")


def _in_words_of_the_api(problem: APIError) -> APIError:
    if problem.param == "tools":
        return replace(problem, message=without_tools(problem.message))
    if problem.param not in _NAMES:
        return problem
    name = _NAMES[problem.param]
    return replace(problem, param=name, message=problem.message.replace(problem.param, name, 1))


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(value), status, headers, media_type="application/json")
