"""Separation of the thinking of a model from its answer. Pure.

Models that think generate ``<think>`` at the very beginning of a reply, then their thinking, ``</think>`` and the
answer. With some templates the prompt ends with the opening tag, and the reply begins with thinking. Only a tag at the
beginning opens, and only the first closing tag closes; later ones are text. White space around the thinking belongs to
the tags. A reply whose thinking does not end has no answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto

from bitnet_chat.engine_output import Frame, Framer, ReplyText, ThinkingText, TurnEnd, VariantFrame, held_length

# The tags in the templates of the test suite of llama.cpp (models/templates), most frequent first.
_TAGS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
Tags = tuple[str, str]
"""The opening and the closing tag."""


def thinking_tags(*templates: str) -> Tags | None:
    """Return the tags that occur in one of ``templates``; None for a model without visible thinking."""
    for tags in _TAGS:
        if any(tags[1] in template for template in templates):
            return tags
    return None


def leaves_open(prompt: str, tags: Tags) -> bool:
    """Whether ``prompt`` ends with the opening tag, so that the reply begins with thinking."""
    return prompt.rstrip().endswith(tags[0])


class _ThinkingState(Enum):
    START = auto()
    THINKING = auto()
    BETWEEN = auto()
    ANSWER = auto()


_Part = ReplyText | ThinkingText


class ThinkingSplitter:
    """Splits a reply into frames of thinking and text."""

    def __init__(self, tags: Tags, *, is_open: bool) -> None:
        """Start a reply. ``is_open``: it begins with thinking, without an opening tag."""
        self._opening, self._closing = tags
        self._is_open = is_open
        self._state = _ThinkingState.START
        self._held = ""
        self._has_text = False

    def feed(self, text: str) -> list[_Part]:
        """Return the frames of the next text."""
        frames: list[_Part] = []
        text = self._held + text
        self._held = ""
        if text and self._state is _ThinkingState.START:
            text = self._start(text, frames)
        if text and self._state is _ThinkingState.THINKING:
            text = self._think(text, frames)
        if text and self._state is _ThinkingState.BETWEEN:
            text = text.lstrip()
            if text:
                self._state = _ThinkingState.ANSWER
        if text:
            frames.append(ReplyText(text))
        return frames

    def flush(self) -> list[_Part]:
        """Return the text that was held back, at the end of the reply."""
        held, self._held = self._held, ""
        if self._state is _ThinkingState.THINKING or (self._state is _ThinkingState.START and self._is_open):
            return self._make_frames(held.rstrip())
        return [ReplyText(held)] if held else []

    def _start(self, text: str, frames: list[_Part]) -> str:
        bare = text.lstrip()
        if bare.startswith(self._opening):
            self._state = _ThinkingState.THINKING
            return bare.removeprefix(self._opening)
        if self._opening.startswith(bare):
            self._held = text
            return ""
        self._state = _ThinkingState.THINKING if self._is_open else _ThinkingState.ANSWER
        return text

    def _think(self, text: str, frames: list[_Part]) -> str:
        at = text.find(self._closing)
        if at >= 0:
            frames += self._make_frames(text[:at].rstrip())
            self._state = _ThinkingState.BETWEEN
            return text[at + len(self._closing) :]
        kept = text[: len(text) - held_length(text, (self._closing,))].rstrip()
        frames += self._make_frames(kept)
        self._held = text[len(kept) :]
        return ""

    def _make_frames(self, text: str) -> list[_Part]:
        if not self._has_text:
            text = text.lstrip()
        self._has_text = self._has_text or bool(text)
        return [ThinkingText(text)] if text else []


class ThinkingFramer:
    """A :class:`~bitnet_chat.engine_output.Framer` that splits thinking from the replies of ``inner``.

    ``is_open``: replies to messages begin with thinking, without an opening tag.
    """

    def __init__(self, inner: Framer, tags: Tags, *, is_open: bool) -> None:
        self.inner, self.tags, self.is_open = inner, tags, is_open
        self._splitter: ThinkingSplitter | None = None
        self._variants: dict[int, ThinkingSplitter] = {}
        """Of several replies, by their numbers."""

    @property
    def kind(self) -> str:
        return self.inner.kind

    @property
    def reply(self) -> str:
        return self.inner.reply

    def logged(self, line: str) -> bool:
        return self.inner.logged(line)

    def waiting(self) -> list[Frame]:
        return self._split(self.inner.waiting())

    def feed(self, text: str) -> list[Frame]:
        return self._split(self.inner.feed(text))

    def sent(self, data: bytes = b"") -> None:
        self._splitter, self._variants = self._new_splitter(), {}
        self.inner.sent(data)

    def _new_splitter(self) -> ThinkingSplitter:
        return ThinkingSplitter(self.tags, is_open=self.is_open)

    def continued(self, data: bytes = b"") -> None:
        self._splitter = None  # the thinking has ended: a continued reply is an answer
        self.inner.continued(data)

    def commanded(self, data: bytes = b"") -> None:
        self._splitter = None
        self.inner.commanded(data)

    def interrupted(self) -> None:
        self.inner.interrupted()

    def settle(self) -> list[Frame]:
        return self._split(self.inner.settle())

    def eof(self, *, clean: bool) -> list[Frame]:
        frames = self._split(self.inner.eof(clean=clean))
        for number, splitter in self._variants.items():
            frames += [VariantFrame(number, each) for each in splitter.flush()]
        return frames + (self._splitter.flush() if self._splitter is not None else [])

    def _split(self, frames: Iterable[Frame]) -> list[Frame]:
        if self._splitter is None:
            return list(frames)
        split: list[Frame] = []
        for frame in frames:
            if isinstance(frame, VariantFrame):
                split += self._split_variant(frame)
                continue
            if isinstance(frame, ReplyText):
                split += self._splitter.feed(frame.text)
                continue
            if isinstance(frame, TurnEnd):
                split += self._splitter.flush()
            split.append(frame)
        return split

    def _split_variant(self, frame: VariantFrame) -> list[Frame]:
        splitter = self._variants.setdefault(frame.variant, self._new_splitter())
        number, inner = frame.variant, frame.frame
        if isinstance(inner, ReplyText):
            return [VariantFrame(number, each) for each in splitter.feed(inner.text)]
        if isinstance(inner, TurnEnd):
            return [*(VariantFrame(number, each) for each in splitter.flush()), frame]
        return [frame]


class DuplicatePrefixFilter:
    """Removes from the thinking of a repeated attempt the beginning that equals the thinking already shown
    (``shown``)."""

    def __init__(self, shown: str) -> None:
        self._left = shown
        self._differs = not shown

    def feed(self, text: str) -> str:
        """Return the text that was not shown before. A difference in the middle starts a new paragraph."""
        if self._differs:
            return text
        if self._left.startswith(text):
            self._left = self._left[len(text) :]
            self._differs = not self._left
            return ""
        common = 0
        while common < min(len(text), len(self._left)) and text[common] == self._left[common]:
            common += 1
        self._differs = True
        return ("\n\n" if common < len(self._left) else "") + text[common:]
