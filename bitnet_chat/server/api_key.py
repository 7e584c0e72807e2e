"""The API key: its headers, the session cookie of a browser, the limit of wrong attempts, and the login.

``POST /login`` gives the page a session cookie in exchange for the key; the page sends it with its requests.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from bitnet_chat.errors import InvalidFieldError, TooManyAttemptsError
from bitnet_chat.server.error_responses import rejection_response
from bitnet_chat.server.errors import RejectedRequest
from bitnet_chat.server.requests import read
from bitnet_chat.server.routing import route

COOKIE = "bitnet_chat_session"
SESSION = 30 * 24 * 3600
"""Seconds that a browser stays logged in."""
_GUESSES, _WINDOW = 20, 60.0
"""Maximum number of wrong keys from one address, within a number of seconds; further ones get 429."""
_ADDRESSES = 4096
"""Maximum number of addresses whose wrong keys are counted; those with the oldest attempts are forgotten."""
_LOGIN_LIMIT = 4096
"""Bytes of the body of a login, which needs no key."""


class ApiKeyAuth:
    """Checks the API key. An empty key allows all requests."""

    def __init__(self, key: str, clock: Callable[[], float] = time.time) -> None:
        self._key = key.encode()
        self._clock = clock
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()

    @property
    def wanted(self) -> bool:
        return bool(self._key)

    def is_right(self, key: str, address: str) -> bool:
        """Whether the key is right. Raises TooManyAttemptsError for a wrong key after too many from ``address``.

        The right key is always accepted: clients behind a proxy share an address, and one of them may have a wrong key.
        """
        # Digests have equal lengths, so that the time of the comparison reveals nothing.
        right = hmac.compare_digest(_digest(key.encode("utf-8", "surrogatepass")), _digest(self._key))
        if right or not self._key:
            return True
        now, times = self._clock(), self._wrong.get(address)
        while times and now - times[0] >= _WINDOW:
            times.popleft()
        if times and len(times) >= _GUESSES:
            raise TooManyAttemptsError(_WINDOW - (now - times[0]))
        if times is None:
            times = self._wrong[address] = deque(maxlen=_GUESSES)
        times.append(now)
        self._wrong.move_to_end(address)
        if len(self._wrong) > _ADDRESSES:
            self._wrong.popitem(last=False)
        return False

    def session(self) -> str:
        """Return a new value for the cookie. It does not reveal the key, and is invalid after a change of the key."""
        said = f"{int(self._clock()) + SESSION}.{secrets.token_urlsafe(12)}"
        return f"{said}.{self._mark(said)}"

    def is_session(self, value: str) -> bool:
        """Whether ``value`` was made by :meth:`session` and has not expired."""
        said, _, mark = value.rpartition(".")
        if not said.isascii() or not mark.isascii() or not hmac.compare_digest(mark, self._mark(said)):
            return False
        expires = said.partition(".")[0]
        return expires.isdecimal() and self._clock() < int(expires)

    def _mark(self, said: str) -> str:
        return hmac.new(_digest(self._key), b"session " + said.encode(), hashlib.sha256).hexdigest()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def key_in(authorization: str, x_api_key: str) -> str:
    """Return the key from ``Authorization: Bearer`` or ``x-api-key``; an empty string without one."""
    scheme, _, key = authorization.strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else x_api_key.strip()


def too_many_guesses(error: TooManyAttemptsError) -> RejectedRequest:
    wait = str(max(1, round(error.retry_after)))
    return RejectedRequest(
        429, str(error), f"wait {wait} s", "rate_limit_error", "too_many_wrong_keys", {"retry-after": wait}
    )


def routes(keys: ApiKeyAuth) -> list[BaseRoute]:
    async def login(request: Request) -> Response:
        path = request.scope["path"]
        address = request.client.host if request.client is not None else ""
        try:
            key = await read(request, _LOGIN_LIMIT, lambda fields: fields.needed_text("key"))
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
