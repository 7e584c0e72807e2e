"""``/login`` and ``/logout``: the API key in exchange for a session cookie, which the page sends with its requests."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from bitnet_chat.errors import InvalidFieldError
from bitnet_chat.server.auth import (
    COOKIE,
    SESSION,
    ApiKeyAuth,
    RejectedRequest,
    TooManyAttemptsError,
    too_many_guesses,
)
from bitnet_chat.server.error_responses import rejection_response
from bitnet_chat.server.requests import read
from bitnet_chat.server.routing import route

_LIMIT = 4096
"""Bytes of a body; a login needs no key."""


def routes(keys: ApiKeyAuth) -> list[BaseRoute]:
    async def login(request: Request) -> Response:
        path = request.scope["path"]
        address = request.client.host if request.client is not None else ""
        try:
            key = await read(request, _LIMIT, lambda fields: fields.needed_text("key"))
            if not keys.is_right(key, address):
                wrong = RejectedRequest(401, "the API key is wrong", "", "authentication_error", "invalid_api_key")
                return rejection_response(wrong, path)
        except InvalidFieldError as error:
            invalid = RejectedRequest(error.status, error.what, 'send {"key": "…"}', code=error.code)
            return rejection_response(invalid, path)
        except TooManyAttemptsError as error:
            return rejection_response(too_many_guesses(error), path)
        response = Response(status_code=204)
        response.set_cookie(
            COOKIE,
            keys.session(),
            max_age=SESSION,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    async def logout(request: Request) -> Response:
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    return [route("/login", POST=login), route("/logout", POST=logout)]
