"""The native dialect: the child process of bitnet-chat with a prebuilt library (:mod:`bitnet_chat.engine.native`).

Each message contains the whole prompt and the options of the reply. The child evaluates only what differs from the
previous prompt. A running process can therefore be used for any conversation and sampling, and is never replaced.

The prompt is sent in pieces: the special tokens of the chat template, and the text between them, in which special
tokens are not parsed. A tokenizer does not merge text across a special token, so the result is that of the whole
prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import count

from bitnet_chat import engine_output
from bitnet_chat.backend import ReplyOptions, Sampling
from bitnet_chat.context.token_count import Counter, TokenCount
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.native.protocol import (
    Complete,
    EndReason,
    Loading,
    Message,
    NativeFailed,
    NativeReady,
    NativeReplyEnded,
    Piece,
    Prefill,
    Restore,
    Restored,
    Save,
    Saved,
    Stop,
    Token,
    decode_message,
    decode_request,
    encode,
)
from bitnet_chat.engine.protocols import EncodedMessage, EngineOptions, LaunchCommand
from bitnet_chat.engine_output import (
    EngineError,
    Frame,
    PrefillProgress,
    ReplyFigures,
    ReplyText,
    TurnEnd,
    UnexpectedOutput,
    VariantFrame,
)
from bitnet_chat.errors import FinishReason, NativeProtocolError
from bitnet_chat.filters.thinking import Tags, ThinkingFramer
from bitnet_chat.templates.segments import PromptSegments, TemplateThinking, unguarded


class NativeProtocol:
    """The native dialect: see the module, and :class:`bitnet_chat.engine.protocols.EngineProtocol` for the methods.

    ``argv``: the command line of the child. ``thinking``: the tags of the model around thoughts; None if it has none.
    """

    closes_interrupted = True
    hears_while_reading = True
    no_message: bytes | None = None
    go_on_message = ""
    carries_all = True

    def __init__(
        self,
        argv: Sequence[str],
        options: EngineOptions,
        segments: PromptSegments,
        thinking: Tags | None = None,
        *,
        saves: bool = False,
    ) -> None:
        """``saves``: whether the command line names a folder of states."""
        self._saves = saves
        self._argv, self._options, self._segments = argv, options, segments
        self._thinking = TemplateThinking(segments, thinking)
        self._numbers = count(1)
        self.max_tokens = options.max_tokens
        self.context_size = options.context_size

    def use(self, arguments: Mapping[str, object]) -> str:
        return self._thinking.use(arguments)

    def launch(
        self,
        history: Conversation,
        *,
        message: str = "",
        unfinished: bool = False,
        sampling: Sampling | None = None,
    ) -> LaunchCommand:
        self._segments.before_message(history)  # raises an error of the chat template before the model is loaded
        framer = NativeFramer()
        thinking = self._thinking
        return LaunchCommand(
            argv=tuple(self._argv),
            framer=framer if thinking.tags is None else ThinkingFramer(framer, thinking.tags, is_open=thinking.is_open),
            around=(self._segments.marks.in_prefix, self._segments.marks.in_suffix),
        )

    def input(
        self, launch: LaunchCommand, context: str, history: Conversation, text: str, options: ReplyOptions | None = None
    ) -> EncodedMessage | None:
        return self._input(launch, history, text, options or ReplyOptions())

    def variants(
        self, launch: LaunchCommand, history: Conversation, text: str, options: ReplyOptions, count: int
    ) -> EncodedMessage | None:
        return self._input(launch, history, text, options, count)

    def _input(
        self, launch: LaunchCommand, history: Conversation, text: str, options: ReplyOptions, count: int = 1
    ) -> EncodedMessage:
        if isinstance(launch.framer, ThinkingFramer):
            launch.framer.is_open = self._thinking.is_open
        closing = self._thinking.closing
        overlap = ""
        if text:
            # A grammar applies to everything that the model generates, so thoughts are closed before it.
            prompt = self._segments.render(history.with_user(text)) + closing * (options.format is not None)
        else:
            prompt, overlap = self._segments.within_reply(history, closing)
        numbers = [next(self._numbers) for _ in range(count)]
        request = Complete(
            numbers[0],
            count=count,
            prompt=tuple(self._pieces(prompt)),
            max_tokens=options.max_tokens or self.max_tokens,
            sampling=self._sampling_values(options.sampling),
            # A stop text within thoughts must not end the reply. Only the guard of this program knows where they end,
            # and it handles stop texts for models with thoughts.
            stop=options.stop if self._thinking.tags is None else (),
            schema=dict(options.format.schema or {}) if options.format is not None else None,
        )
        stops = tuple(encode(Stop(number)) for number in numbers)
        return EncodedMessage(
            encode(request),
            goes_on=not text or options.format is not None,
            overlap=overlap,
            stop=b"".join(stops),
            variant_stops=stops,
        )

    def render_ahead(self, history: Conversation, text: str) -> None:
        self._segments.render_ahead(history, text)

    def preparation(self, history: Conversation) -> EncodedMessage | None:
        if not history.messages:
            return None
        number = next(self._numbers)
        prompt = tuple(self._pieces(self._segments.before_message(history)))
        return EncodedMessage(encode(Complete(number, prompt=prompt, max_tokens=0)), stop=encode(Stop(number)))

    def cache_flags(self, file: str) -> list[str]:
        return []

    def save(self, file: str) -> bytes | None:
        return encode(Save(next(self._numbers), file)) if self._saves else None

    def restore(self, file: str) -> bytes | None:
        return encode(Restore(next(self._numbers), file)) if self._saves else None

    def _pieces(self, prompt: str) -> Iterator[Piece]:
        template, at = self._segments.template, 0
        if template.adds_bos and template.bos:
            yield template.bos, True
        for token in self._segments.special.finditer(prompt) if self._segments.special is not None else ():
            if token.start() > at:
                yield unguarded(prompt[at : token.start()]), False
            yield token.group(), True
            at = token.end()
        if at < len(prompt):
            yield unguarded(prompt[at:]), False

    def _sampling_values(self, sampling: Sampling) -> dict[str, float]:
        """Return the sampling values by name: those of the reply, else those of the options. Missing ones have the
        defaults of the library.
        """
        options = self._options
        wanted = {"temperature": options.temperature, "seed": options.seed}
        for each in (options.sampling, sampling):
            wanted |= {field.name: value for field in fields(each) if (value := getattr(each, field.name)) is not None}
        return {name: value for name, value in wanted.items() if value is not None}

    def is_prepared(self, launch: LaunchCommand, context: str, history: Conversation) -> bool:
        return True

    def context_after(self, context: str, reply: str, *, natural: bool) -> str:
        return ""

    def note_of(self, text: str) -> str:
        return ""

    def clearing(self) -> bytes | None:
        return None

    def cost_of_history(self, history: Conversation, count: Counter) -> TokenCount:
        return self._segments.cost_of_history(history, count)

    def cost_of_message(self, text: str, count: Counter) -> TokenCount:
        return self._segments.cost_of_message(text, count)


KIND = "native"
_ID = re.compile(rb'\{"kind":"[a-z]+","id":(\d+)(?:,"count":(\d+))?')
_SHOWN = 200
"""Maximum number of characters of an invalid line in an error message."""
_REASONS: dict[EndReason, FinishReason] = {
    "stop": FinishReason.STOP,
    "stop_text": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "interrupted": FinishReason.INTERRUPTED,
    "context_full": FinishReason.CONTEXT_OVERFLOW,
}


class NativeFramer:
    """Converts the messages of a native engine process to frames. See :class:`bitnet_chat.engine_output.Framer`."""

    kind = KIND

    def __init__(self, *, within: bool = False) -> None:
        """Create a framer. ``within``: the output begins in the middle of a reply whose request is unknown, as in a
        recording that is incomplete.
        """
        self._within = self._skips = within
        self._open = ""
        self._id: int | None = None
        """Id of the current request; None if there is none."""
        self._variants: set[int] = set()
        """Ids of several replies from one prompt that have not ended."""
        self._parts: list[str] = []
        self._is_command = False
        """Whether the current request is a preparation without a reply."""

    @property
    def reply(self) -> str:
        """The text of the current reply so far."""
        return "".join(self._parts)

    def feed(self, text: str) -> list[Frame]:
        *lines, self._open = (self._open + text).split("\n") if "\n" in text else (self._open + text,)
        if lines and self._skips:
            del lines[0]  # its beginning is missing
            self._skips = False
        frames: list[Frame] = []
        for line in lines:
            try:
                frames += self._frames(decode_message(line))
            except NativeProtocolError:
                frames.append(UnexpectedOutput(line[:_SHOWN]))
        return frames

    def _frames(self, message: Message) -> list[Frame]:
        if self._within and self._id is None:
            self._id, self._within = getattr(message, "id", None), False
        if self._id is not None and getattr(message, "id", None) in self._variants:
            return self._frames_of_variant(message, self._id)
        if self._is_command and self._id is not None and getattr(message, "id", None) == self._id:
            return self._frames_of_command(message)
        match message:
            case Loading():
                return []
            case NativeReady():
                return [ReplyFigures(context_size=message.context_size or None), engine_output.Ready()]
            case NativeFailed(id=None):
                return [EngineError(message.what, message.why)]
            case Prefill() if message.id == self._id:
                return [PrefillProgress(message.done, message.total)]
            case Token() if message.id == self._id:
                self._parts.append(message.text)
                return [ReplyText(message.text)] if message.text else []
            case NativeReplyEnded() if message.id == self._id:
                return [_figures(message), self._end(_REASONS[message.reason], natural=message.reason == "stop")]
            case NativeFailed() if message.id == self._id:
                return [EngineError(message.what, message.why), self._end(None, natural=False)]
        return [UnexpectedOutput(f"{type(message).__name__} of a request that is not running")]

    def _frames_of_command(self, message: Message) -> list[Frame]:
        match message:
            case Prefill() | Token():
                return []
            case NativeReplyEnded() | Saved() | Restored():
                self._id = None
                tokens = message.prompt_size if isinstance(message, NativeReplyEnded) else message.tokens
                return [engine_output.Ready(tokens=tokens)]
            case NativeFailed():
                self._id = None
                return [engine_output.Ready(message.what)]
        return [UnexpectedOutput(f"{type(message).__name__} of a command")]

    def _frames_of_variant(self, message: Message, first: int) -> list[Frame]:
        match message:
            case Prefill(id):
                return [VariantFrame(id - first, PrefillProgress(message.done, message.total))]
            case Token(id):
                return [VariantFrame(id - first, ReplyText(message.text))] if message.text else []
            case NativeReplyEnded(id):
                end = TurnEnd(message.reason == "stop", _REASONS[message.reason])
                frames: list[Frame] = [VariantFrame(id - first, each) for each in (_figures(message), end)]
            case NativeFailed(id) if id is not None:
                failed = EngineError(message.what, message.why), TurnEnd(natural=False)
                frames = [VariantFrame(id - first, each) for each in failed]
            case _:
                return [UnexpectedOutput(f"{type(message).__name__} of a request with variants")]
        self._variants.discard(id)
        return frames if self._variants else [*frames, self._end(None, natural=False)]

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
        count = int(found[2] or 1) if found else 1
        self._variants = set(range(self._id, self._id + count)) if self._id is not None and count > 1 else set()
        self._within = self._skips = False
        self._parts = []
        self._is_command = False

    def continued(self, data: bytes = b"") -> None:
        self.sent(data)

    def commanded(self, data: bytes = b"") -> None:
        self.sent(data)
        self._is_command = True

    def interrupted(self) -> None:
        """Do nothing: the message at the end of the reply has the reason."""

    def settle(self) -> list[Frame]:
        return []

    def eof(self, *, clean: bool) -> list[Frame]:
        return []


def _figures(ended: NativeReplyEnded) -> ReplyFigures:
    return ReplyFigures(
        # Including the token that ended the reply, which is evaluated with the next message.
        context_used=ended.prompt_size + ended.tokens + (ended.reason == "stop"),
        prompt_tokens=ended.prompt_tokens,
        prompt_size=ended.prompt_size,
        tokens=ended.tokens,
    )


def is_stop(data: bytes) -> bool:
    """Return whether a line to the engine is a request to stop a reply."""
    return data.startswith(b'{"kind":"%s"' % Stop.kind.encode())


def prompt_of(data: bytes) -> str:
    """Return the prompt in a line to the engine; empty if it has none."""
    try:
        request = decode_request(data)
    except NativeProtocolError:
        return ""
    return "".join(text for text, _ in request.prompt) if isinstance(request, Complete) else ""
