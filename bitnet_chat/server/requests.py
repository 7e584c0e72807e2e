"""Requests: the JSON body, the priority, and the connection of the client.

A large body is parsed in a thread, and in steps of Python: while the C parser reads 7 MB of short messages it blocks
all other threads for a quarter of a second. :class:`bitnet_chat.conversation.json_fields.Fields` checks the fields.
"""

from __future__ import annotations

import asyncio
import json
import json.decoder
import json.scanner
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from bitnet_chat.conversation.json_fields import Fields, IgnoredFields
from bitnet_chat.errors import ClientDisconnectedError, InvalidFieldError
from bitnet_chat.text.utf8 import well_formed

T = TypeVar("T")
_CHARSET = re.compile(r"""charset\s*=\s*["']?([^"';\s]+)""", re.IGNORECASE)
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_AT_ONCE = 32_000
"""Bytes that are parsed on the event loop: about 8 ms for the shortest messages."""
_MOST_VALUES = 100_000
"""Maximum number of values in a body that is parsed in steps: about half a second in its thread."""


async def read(request: Request, limit: int, parse: Callable[[Fields], T], notes: IgnoredFields | None = None) -> T:
    """Read the JSON object of the body and return the result of ``parse``, which runs in a thread for a large body.

    ``limit``: bytes. ``notes``: see :class:`Fields`. Raises InvalidFieldError (400, 413 or 415), and
    ClientDisconnectedError if the client disconnects before the end of the body.
    """
    data = await _data(request, limit)
    if len(data) <= _AT_ONCE:
        return parse(object_of(data, notes))
    return await asyncio.to_thread(lambda: parse(object_of(data, notes)))


async def _data(request: Request, limit: int) -> bytes:
    _check_encoding(request)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise _too_large(limit)
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            parts.append(part)
    except ClientDisconnect:
        raise ClientDisconnectedError from None
    return b"".join(parts)


def _check_encoding(request: Request) -> None:
    """Raises InvalidFieldError for bytes that are not plain JSON in UTF-8."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise InvalidFieldError(
            f"the encoding {encoding[:40]!r} of the body is not supported",
            status=415,
            code="unsupported_encoding",
            remedy="send it without Content-Encoding",
        )
    charset = _CHARSET.search(request.headers.get("content-type", ""))
    if charset is not None and charset[1].lower() not in ("utf-8", "utf8", "us-ascii", "ascii"):
        raise InvalidFieldError(
            f"the character set {charset[1][:40]!r} of the body is not supported",
            status=415,
            code="unsupported_encoding",
            remedy="send it in UTF-8",
        )


def _too_large(limit: int) -> InvalidFieldError:
    return InvalidFieldError(
        f"the request is larger than {limit:,} bytes",
        status=413,
        code="request_too_large",
        remedy="send a shorter request, or begin another conversation",
    )


def object_of(data: bytes, notes: IgnoredFields | None = None) -> Fields:
    """Parse the JSON object of a body. Raises InvalidFieldError."""
    try:
        text = data.decode("utf-8-sig")
        value: Any = _json(text, in_steps=len(data) > _AT_ONCE)
    except UnicodeDecodeError as error:
        raise InvalidFieldError(f"the body is not UTF-8: byte {error.start} is invalid", code="invalid_json") from None
    except InvalidFieldError as error:
        raise error.with_traceback(None) from None  # its frames would keep the whole body in memory
    except RecursionError:
        raise InvalidFieldError("the body is nested too deeply", code="invalid_json") from None
    except ValueError as error:
        raise InvalidFieldError(f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise InvalidFieldError("the body is not a JSON object", code="invalid_json")
    if _HALF.search(text):  # half a surrogate pair, from a program that has cut a text within a character
        value = _whole(value)
    return Fields(value, notes=notes)


def _json(text: str, *, in_steps: bool) -> Any:
    """Parse JSON. ``in_steps``: Python parses lists and objects, so that other threads run between the steps."""
    if not in_steps:
        return json.loads(text, parse_constant=_no_number)
    parts: Any = json.decoder  # its Python functions have no types
    scanner: Any = json.scanner
    decoder: Any = json.JSONDecoder(parse_constant=_no_number)
    left = _MOST_VALUES

    def value(text: str, at: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise InvalidFieldError(
                f"the body contains more than {_MOST_VALUES:,} values",
                status=413,
                code="request_too_large",
                remedy="send fewer messages",
            )
        return scan(text, at)

    def read_list(start: tuple[str, int], _: object) -> Any:
        return parts.JSONArray(start, value)

    def read_dict(start: tuple[str, int], strict: bool, _: object, *more: Any) -> Any:
        return parts.JSONObject(start, strict, value, *more)

    decoder.parse_array, decoder.parse_object = read_list, read_dict
    scan = decoder.scan_once = scanner.py_make_scanner(decoder)
    return decoder.decode(text)


def _no_number(word: str) -> object:
    raise ValueError(f"{word} is not a number of JSON")


def _whole(value: object) -> object:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list):
        return [_whole(each) for each in value]
    if isinstance(value, dict):
        return {well_formed(key): _whole(each) for key, each in value.items()}
    return value


# The connection


async def while_connected(request: Request, work: Awaitable[T], stop: Callable[[], object] = lambda: None) -> T:
    """Return the result of ``work``. The body of the request must have been read before.

    Raises ClientDisconnectedError, with ``work`` cancelled, if the client disconnects first. ``stop`` is called after
    any exception.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda task: task.cancelled() or task.exception())  # there may be no waiter any more
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnectedError
    except BaseException:
        stop()
        raise
    finally:
        gone.cancel()
        task.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# The priority

_URGENCY = re.compile(r"(?:^|,)\s*u=([0-7])(?=\s*(?:$|[,;]))")
_BACKGROUND = 6
"""Urgency from which on a request has low priority; the default is 3."""


def is_urgent(header: str | None) -> bool:
    """Return False for a ``Priority`` header (RFC 9218) with ``u=6`` or ``u=7``. An invalid header is ignored."""
    found = _URGENCY.findall(header or "")
    return not found or int(found[-1]) < _BACKGROUND
