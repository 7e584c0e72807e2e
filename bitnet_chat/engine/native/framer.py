"""The messages of the native engine as frames: one line of JSON each, so that nothing is guessed. Pure."""

from __future__ import annotations

import re

from bitnet_chat import frames
from bitnet_chat.engine.native.protocol import (
    Complete,
    Ended,
    EndReason,
    Failed,
    Loading,
    Message,
    Prefill,
    ProtocolError,
    Ready,
    Stop,
    Token,
    decode_message,
    decode_request,
)
from bitnet_chat.errors import FinishReason
from bitnet_chat.frames import EngineError, Figures, Frame, Progress, ReplyText, Stray, TurnEnd

KIND = "native"
_ID = re.compile(rb'\{"kind":"[a-z]+","id":(\d+)')
_SHOWN = 200
"""Characters of a line that cannot be read."""
_REASONS: dict[EndReason, FinishReason] = {
    "stop": FinishReason.STOP,
    "stop_text": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "interrupted": FinishReason.INTERRUPTED,
    "context_full": FinishReason.CONTEXT_OVERFLOW,
}


class NativeFramer:
    """Frames of one native engine process. See :class:`bitnet_chat.frames.Framer`."""

    kind = KIND

    def __init__(self, *, within: bool = False) -> None:
        """``within``: it is fed from somewhere in a reply on, of which the request is not known."""
        self._within = self._skips = within
        self._open = ""
        self._id: int | None = None
        """Of the request that is worked on."""
        self._said: list[str] = []
        self._is_command = False
        """Whether that request is no message."""

    @property
    def reply(self) -> str:
        return "".join(self._said)

    def feed(self, text: str) -> list[Frame]:
        *lines, self._open = (self._open + text).split("\n") if "\n" in text else (self._open + text,)
        if lines and self._skips:
            del lines[0]  # of which only the end is there
            self._skips = False
        frames: list[Frame] = []
        for line in lines:
            try:
                frames += self._frames(decode_message(line))
            except ProtocolError:
                frames.append(Stray(line[:_SHOWN]))
        return frames

    def _frames(self, message: Message) -> list[Frame]:
        if self._within and self._id is None:
            self._id, self._within = getattr(message, "id", None), False
        match message:
            case Loading():
                return []
            case Ready():
                return [Figures(context_size=message.context_size or None), frames.Ready()]
            case Failed(id=None):
                return [EngineError(message.what, message.why)]
            case Prefill() | Token() if message.id == self._id and self._is_command:
                return []
            case Ended() | Failed() if message.id == self._id and self._is_command:
                self._id = None
                return [frames.Ready()]
            case Prefill() if message.id == self._id:
                return [Progress(message.done, message.total)]
            case Token() if message.id == self._id:
                self._said.append(message.text)
                return [ReplyText(message.text)] if message.text else []
            case Ended() if message.id == self._id:
                return [_figures(message), self._end(_REASONS[message.reason], natural=message.reason == "stop")]
            case Failed() if message.id == self._id:
                return [EngineError(message.what, message.why), self._end(None, natural=False)]
        return [Stray(f"{type(message).__name__} of a request that is not under way")]

    def _end(self, reason: FinishReason | None, *, natural: bool) -> TurnEnd:
        self._id = None
        return TurnEnd(natural, reason)

    def logged(self, line: str) -> bool:
        return False

    def waiting(self) -> list[Frame]:
        return []

    def sent(self, data: bytes = b"") -> None:
        found = _ID.match(data)
        self._id = int(found[1]) if found else None
        self._within = self._skips = False
        self._said = []
        self._is_command = False

    def continued(self, data: bytes = b"") -> None:
        self.sent(data)

    def commanded(self, data: bytes = b"") -> None:
        self.sent(data)
        self._is_command = True

    def interrupted(self) -> None:
        """The end of the reply says it."""

    def settle(self) -> list[Frame]:
        return []

    def eof(self, *, clean: bool) -> list[Frame]:
        return []


def _figures(ended: Ended) -> Figures:
    return Figures(
        # With the token that ended the reply, which is evaluated with the next message.
        context_used=ended.prompt_size + ended.tokens + (ended.reason == "stop"),
        prompt_tokens=ended.prompt_tokens,
        prompt_size=ended.prompt_size,
        tokens=ended.tokens,
    )


def is_stop(data: bytes) -> bool:
    """Whether a line to the engine ends a reply."""
    return data.startswith(b'{"kind":"%s"' % Stop.kind.encode())


def prompt_of(data: bytes) -> str:
    """The prompt in a line to the engine; empty where there is none."""
    try:
        request = decode_request(data)
    except ProtocolError:
        return ""
    return "".join(text for text, _ in request.prompt) if isinstance(request, Complete) else ""
