"""``/v1``: the OpenAI API, chat completions, completions and models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from bitnet_chat.conversation.json_fields import Fields, IgnoredFields
from bitnet_chat.events import Completed, Failed, Notice
from bitnet_chat.server.broadcast import ReplyBroadcast
from bitnet_chat.server.error_responses import error_response
from bitnet_chat.server.errors import error_json, failure_of, to_api_error
from bitnet_chat.server.openai.requests import OpenAIRequest, chat_request, completion_request
from bitnet_chat.server.openai.responses import (
    DONE,
    ChunkHeader,
    OpenAIChatEncoder,
    OpenAICompletionEncoder,
    WholeReply,
    error_body,
)
from bitnet_chat.server.requests import is_urgent, read, while_connected
from bitnet_chat.server.responses import EventStream, json_response, to_json
from bitnet_chat.server.routing import route
from bitnet_chat.server.scheduler import ReplyRequest, ReplyScheduler
from bitnet_chat.server.settings import ServeSettings
from bitnet_chat.util.merge_generators import merged

Encoder = OpenAIChatEncoder | OpenAICompletionEncoder


def routes(scheduler: ReplyScheduler, settings: ServeSettings) -> list[BaseRoute]:
    api = _OpenAIApi(scheduler, settings)
    return [
        route("/v1/chat/completions", POST=api.chat),
        route("/v1/completions", POST=api.completion),
        route("/v1/models", GET=api.models),
        route("/v1/models/{name:path}", GET=api.model),
    ]


class _OpenAIApi:
    def __init__(self, scheduler: ReplyScheduler, settings: ServeSettings) -> None:
        self._scheduler, self._settings = scheduler, settings

    async def models(self, request: Request) -> Response:
        models = [self._described(name) for name in self._scheduler.model_manager.listed]
        return json_response(to_json({"object": "list", "data": models}))

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        found = self._scheduler.model_manager.find(name)
        return json_response(to_json(self._described(found or self._scheduler.model_manager.choose(name))))

    def _described(self, name: str) -> dict[str, object]:
        created = int(self._scheduler.model_manager.created)
        return {"id": name, "object": "model", "created": created, "owned_by": "bitnet-chat"}

    async def chat(self, request: Request) -> Response:
        return await self._reply(request, chat_request, "chatcmpl", OpenAIChatEncoder)

    async def completion(self, request: Request) -> Response:
        return await self._reply(request, completion_request, "cmpl", OpenAICompletionEncoder)

    async def _reply(
        self,
        request: Request,
        parse: Callable[[Fields], OpenAIRequest],
        prefix: str,
        encoder_of: type[OpenAIChatEncoder] | type[OpenAICompletionEncoder],
    ) -> Response:
        notes = None if self._settings.strict else IgnoredFields()
        asked = await read(request, self._settings.body_limit, parse, notes)
        notices = notes.lines if notes is not None else []
        reply_request = ReplyRequest(
            asked.conversation,
            # Like OpenAI and llama-server, refuse a prompt that is too long, unless --overflow is given.
            replace(asked.options, overflow=self._settings.overflow or "stop"),
            asked.model,
            tools_optional=notes is not None and asked.options.tool_choice == "auto",
            one_call=asked.one_call,
            urgent=is_urgent(request.headers.get("priority")),
        )
        generations = self._scheduler.begin_variants(reply_request, asked.count)
        first = generations[0]

        def stop() -> None:
            for each in generations:
                each.stop()

        ready = first.started.wait() if asked.stream else asyncio.gather(*(each.ended() for each in generations))
        await while_connected(request, ready, stop)
        headers = first.headers
        head = ChunkHeader(f"{prefix}-{first.id}", int(first.created), first.model)
        encoders = [encoder_of(head, usage=asked.usage, index=index) for index in range(asked.count)]
        error = next((each.failure for each in generations if each.failure is not None), None)
        if error is not None and (not asked.stream or (first.failure is not None and first.is_empty)):
            stop()
            return error_response(error, request.scope["path"], headers)
        if asked.stream:
            return EventStream(_chunks(generations, encoders, notices), gone=stop, headers=headers)
        replies = [
            WholeReply(each.end, each.thinking, each.calls) for each in generations if isinstance(each.end, Completed)
        ]
        notices += first.notices
        return json_response(to_json(encoders[0].whole(replies, notices)), headers=headers)


async def _chunks(
    generations: Sequence[ReplyBroadcast], encoders: Sequence[Encoder], before: Sequence[str]
) -> AsyncIterator[bytes]:
    """The chunks of all choices as they come. An error of one ends the stream."""
    streams = [_of_choice(*pair, before) for pair in zip(generations, encoders, strict=True)]
    if len(streams) == 1:  # without tasks
        async for chunk in streams[0]:
            yield chunk
    else:
        async with aclosing(merged(streams)) as chunks:
            async for _, chunk in chunks:
                yield chunk
                if any(each.failure is not None for each in generations) and chunk.startswith(_ERROR):
                    return
    ends = [each.end for each in generations if isinstance(each.end, Completed) and each.failure is None]
    if len(ends) == len(generations):
        for chunk in encoders[0].usage(ends):
            yield chunk
        yield DONE


_ERROR = b'data: {"error":'


async def _of_choice(generation: ReplyBroadcast, encoder: Encoder, before: Sequence[str]) -> AsyncGenerator[bytes]:
    for chunk in encoder.first():
        yield chunk
    notices = [*before]
    async with aclosing(generation.watch()) as watched:
        async for seen in watched:
            match seen.event:
                case Notice(text):
                    notices.append(text)
                case Completed() | Failed() as end:
                    if (error := failure_of(end)) is not None:
                        yield b"data: %b\n\n" % error_json(error_body(to_api_error(error)))
                    elif isinstance(end, Completed):
                        for chunk in encoder.last(end, notices):
                            yield chunk
                case said:
                    for chunk in encoder.piece(said):
                        yield chunk
