"""The API key: who brings it, the cookie that stands for it in a browser, and those who guess.

Pure but for the clock and the random numbers, which are the caller's to replace.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable

COOKIE = "bitnet_chat_session"
SESSION = 30 * 24 * 3600
"""Seconds that a browser stays logged in."""
_GUESSES, _WINDOW = 20, 60.0
"""So many wrong keys in so many seconds are answered as such from one address; more are told to wait."""
_ADDRESSES = 4096


class TooManyGuesses(Exception):
    """``retry_after``: seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many wrong keys came from this address")
        self.retry_after = retry_after


class Keys:
    """Knows the key. An empty one lets everybody in."""

    def __init__(self, key: str, clock: Callable[[], float] = time.time) -> None:
        self._key = key.encode()
        self._clock = clock
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()

    @property
    def wanted(self) -> bool:
        return bool(self._key)

    def is_right(self, key: str, address: str) -> bool:
        """Raises TooManyGuesses for a wrong one after too many of them from ``address``. The right one always passes:
        many clients may share an address, behind a proxy for example, and one of them may have a wrong key."""
        # Digests have the same length whatever was sent, so that the time tells nothing.
        right = hmac.compare_digest(_digest(key.encode("utf-8", "surrogatepass")), _digest(self._key))
        if right or not self._key:
            return True
        now, times = self._clock(), self._wrong.get(address)
        while times and now - times[0] >= _WINDOW:
            times.popleft()
        if times and len(times) >= _GUESSES:
            raise TooManyGuesses(_WINDOW - (now - times[0]))
        if times is None:
            times = self._wrong[address] = deque(maxlen=_GUESSES)
        times.append(now)
        self._wrong.move_to_end(address)
        if len(self._wrong) > _ADDRESSES:
            self._wrong.popitem(last=False)
        return False

    def session(self) -> str:
        """A new value for the cookie. It tells nothing of the key, and is worth nothing under another one."""
        said = f"{int(self._clock()) + SESSION}.{secrets.token_urlsafe(12)}"
        return f"{said}.{self._mark(said)}"

    def is_session(self, value: str) -> bool:
        """Whether ``value`` is from :meth:`session`, and not too old."""
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
    """The key that a request brings by ``Authorization: Bearer`` or ``x-api-key``; empty: none."""
    scheme, _, key = authorization.strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else x_api_key.strip()
