"""The modern console: ``llama-cli`` since December 2025.

As measured on llama-cli 0.5.0 with ``--simple-io`` and colours on:

- start: a banner, the user-input colour, newline, ``> ``;
- after a message: colour reset, then the reply as it is made;
- end: a newline unless the reply has one, ``ESC[35m``, newline, ``[ Prompt: … t/s | Generation: … t/s ]``, newline,
  reset, the user-input colour, newline, ``> ``; interrupted: the same;
- an error: in the error colour, ``Error: …`` and a newline, reset; then the prompt as above;
- interrupted before it has read the message: reset, ``_FAREWELL``, and exit with 0;
- thinking: grey, ``[Start thinking]`` … ``[End thinking]``, each with blank lines around, reset.

A model can write such a prompt, too. The server inside logs ``all slots are idle`` when it has loaded, and behind the
last token of each reply its timings and ``stop processing``: if the log has these, a prompt before them does not end a
reply. The last line may wait in the engine's queue until another follows (seen in 10 of 200 replies), so the timings
count alone. After an interrupt or an error they may come late, or not at all.

The console adds a newline only where the reply has none at its end, so whether a reply ended in one cannot be known;
one is taken away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum, auto

from bitnet_chat.backend import ReplyOptions, Sampling
from bitnet_chat.context.token_count import Counter, TokenCount
from bitnet_chat.conversation import Conversation
from bitnet_chat.conversation.stdin_encoding import MODERN_COMMANDS, encode_lines
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.protocols import EncodedMessage, EngineOptions, LaunchCommand, common_flags, left_out
from bitnet_chat.engine_frames import (
    ERROR,
    INFO,
    REASONING,
    RESET,
    USER_INPUT,
    EngineError,
    Frame,
    Ready,
    ReplyText,
    ThinkingText,
    TurnEnd,
    UnexpectedOutput,
    held_length,
)
from bitnet_chat.templates.special_tokens import SpecialTokens, note

PROMPT = USER_INPUT + "\n> "
_START_LIMIT = 1 << 16
_THINKING = REASONING + "\n[Start thinking]\n\n"
_ANSWER = "[End thinking]\n\n" + RESET
_ERROR = ERROR + "Error: "
_FAREWELL = "\n\nExiting...\n"
_COMMAND = re.compile(r"^ +(/[a-z]+)", re.MULTILINE)
_TIMINGS = re.compile(re.escape(INFO) + r"\n\[ Prompt: [^\]\n]{1,40}\]\n" + re.escape(RESET) + r"\Z")
_TIMINGS_LIMIT = 80
_IDLE = "all slots are idle"
_STOPPED = re.compile(r"slot .*(?:stop processing: n_tokens = |print_timing: .* total time = )")
_LATE = 4096
"""Characters after a prompt without another sign of the end: the model wrote the prompt."""
_TIMINGS_START = INFO + "\n[ Prompt: "
# The text between the colours is free but short; while it may still become a timings line it is held back.
_TIMINGS_OPEN = re.compile(re.escape(INFO) + r"\n\[ Prompt: [^\]\n]{0,40}(?:\](?:\n(?:\x1b(?:\[(?:0m?)?)?)?)?)?\Z")


class _ModernState(Enum):
    LOADING = auto()
    IDLE = auto()
    SENT = auto()
    REPLY = auto()
    THINKING = auto()
    ERROR = auto()
    COMMAND = auto()


class ModernFramer:
    """Frames of one modern engine process."""

    def __init__(self) -> None:
        self._state = _ModernState.LOADING
        self._held = ""
        self._interrupted = False
        self._is_told = False
        """The log has each end of a reply."""
        self._has_stopped = True
        self.commands: frozenset[str] = frozenset()
        """The commands in this engine's banner."""

    @property
    def kind(self) -> str:
        return "modern"

    @property
    def reply(self) -> str:
        return ""

    def logged(self, line: str) -> bool:
        has_stopped = _STOPPED.match(line) is not None
        self._is_told = self._is_told or has_stopped or (line.startswith("srv ") and line.endswith(_IDLE))
        return has_stopped

    def waiting(self) -> list[Frame]:
        self._has_stopped = True
        return self.feed("") if self._state is _ModernState.REPLY else []

    def feed(self, text: str) -> list[Frame]:
        frames: list[Frame] = []
        text = self._held + text
        self._held = ""
        while text:
            text = self._step(text, frames)
        return frames

    def sent(self, data: bytes = b"") -> None:
        self._state = _ModernState.SENT
        self._held = ""
        self._interrupted = False
        self._has_stopped = not self._is_told

    def continued(self, data: bytes = b"") -> None:
        raise NotImplementedError("this console never goes on with a reply by itself")

    def commanded(self, data: bytes = b"") -> None:
        self._state = _ModernState.COMMAND
        self._held = ""

    def interrupted(self) -> None:
        self._interrupted = self._has_stopped = True

    def settle(self) -> list[Frame]:
        return self.waiting() if self._held.endswith(PROMPT) else []

    def eof(self, *, clean: bool) -> list[Frame]:
        held, self._held = self._held, ""
        if self._interrupted:
            held = held.removesuffix(_FAREWELL)
        state, self._state = self._state, _ModernState.LOADING
        if not held:
            return []
        if state is _ModernState.LOADING:
            return [EngineError(held.partition(_ERROR)[2].replace(RESET, "").strip())] if _ERROR in held else []
        if state is _ModernState.REPLY:
            return [ReplyText(held)]
        if state is _ModernState.THINKING:
            return [ThinkingText(held)]
        return [EngineError(held.strip())] if state is _ModernState.ERROR else []

    def _step(self, text: str, frames: list[Frame]) -> str:
        """Consume the front of ``text``. The returned rest is parsed again; undecided text is held."""
        if self._state in (_ModernState.LOADING, _ModernState.COMMAND):
            at = text.find(PROMPT)
            if at < 0:
                self._held = text[-_START_LIMIT:]
                return ""
            if self._state is _ModernState.LOADING:
                self.commands = frozenset(_COMMAND.findall(text[:at]))
            self._state = _ModernState.IDLE
            frames.append(Ready())
            return text[at + len(PROMPT) :]
        if self._state is _ModernState.IDLE:
            frames.append(UnexpectedOutput(text))
            return ""
        if self._state is _ModernState.SENT:
            if not text.startswith(RESET):
                if RESET.startswith(text):
                    self._held = text
                else:
                    frames.append(UnexpectedOutput(text))
                return ""
            self._state = _ModernState.REPLY
            return text.removeprefix(RESET)
        if self._state is _ModernState.THINKING:
            return self._until(text, _ANSWER, frames)
        if self._state is _ModernState.ERROR:
            at = text.find(RESET)
            if at < 0:
                self._held = text
                return ""
            frames.append(EngineError(text[:at].strip()))
            self._state, self._has_stopped = _ModernState.REPLY, True
            return text[at + len(RESET) :]
        return self._reply(text, frames)

    def _reply(self, text: str, frames: list[Frame]) -> str:
        # The prompt is looked for first: whatever stands before it belongs to this turn.
        at = text.find(PROMPT)
        body = text if at < 0 else text[:at]
        for mark, state in ((_THINKING, _ModernState.THINKING), (_ERROR, _ModernState.ERROR)):
            found = body.find(mark)
            if found >= 0 and (at < 0 or found < at):
                if found:
                    frames.append(ReplyText(body[:found]))
                self._state = state
                return text[found + len(mark) :]
        if at >= 0 and not self._has_stopped:
            return self._not_the_end(text, at, frames)
        if at >= 0:
            if self._is_told:  # the last one: others were the model's own
                at = text.rfind(PROMPT)
            self._finish(text[:at], frames)
            return text[at + len(PROMPT) :]
        cut = len(text) - self._held_length(text)
        if cut:
            frames.append(ReplyText(text[:cut]))
        self._held = text[cut:]
        return ""

    def _not_the_end(self, text: str, at: int, frames: list[Frame]) -> str:
        """Handle a prompt before a logged end: the text before it is shown, the rest waits for that end."""
        behind = at + len(PROMPT)
        cut = behind if len(text) - at > _LATE else at - self._held_length(text[:at])
        if cut > 0:
            frames.append(ReplyText(text[:cut]))
        if cut == behind:
            return text[cut:]
        self._held = text[cut:]
        return ""

    def _held_length(self, text: str) -> int:
        # A \0 behind it: it ends a reply only together with the process.
        farewell = (_FAREWELL + "\0",) if self._interrupted else ()
        endings = ("\n" + PROMPT, PROMPT, "\n" + _TIMINGS_START, _TIMINGS_START, _THINKING, _ERROR, *farewell)
        held = held_length(text, endings)
        start = text.rfind(INFO, max(0, len(text) - _TIMINGS_LIMIT - len(PROMPT)))
        if start >= 0:
            tail = text[start:]
            # Open timings, or whole ones followed by the beginning of the prompt.
            prompt = held_length(tail, (PROMPT,))
            if _TIMINGS_OPEN.match(tail) or _TIMINGS.match(tail[: len(tail) - prompt]):
                before = text[:start]
                lead = next((each for each in (RESET + "\n", RESET, "\n") if before.endswith(each)), "")
                held = max(held, len(lead) + len(tail))
        return held

    def _until(self, text: str, mark: str, frames: list[Frame]) -> str:
        at = text.find(mark)
        prompt = text.find(PROMPT)
        if at >= 0 and (prompt < 0 or at < prompt):
            if at:
                frames.append(ThinkingText(text[:at]))
            self._state = _ModernState.REPLY
            return text[at + len(mark) :]
        if prompt >= 0:  # stopped while it was thinking
            body = _TIMINGS.sub("", text[:prompt]).removesuffix("\n").removesuffix(RESET)
            if body:
                frames.append(ThinkingText(body))
            frames.append(TurnEnd(natural=False))
            self._state = _ModernState.IDLE
            return text[prompt + len(PROMPT) :]
        held = held_length(text, (mark, RESET + "\n" + _TIMINGS_START, RESET + _TIMINGS_START))
        cut = len(text) - max(held, self._held_length(text))
        if cut:
            frames.append(ThinkingText(text[:cut]))
        self._held = text[cut:]
        return ""

    def _finish(self, body: str, frames: list[Frame]) -> None:
        timings = _TIMINGS.search(body)
        if timings:
            body = body[: timings.start()]
        body = body.removesuffix("\n")
        if body:
            frames.append(ReplyText(body))
        frames.append(TurnEnd(natural=not self._interrupted))
        self._state = _ModernState.IDLE


# The modern dialect: llama-cli since December 2025, BitNet since July 2026.
#
# It keeps the history itself, renders it with the model's own template, and takes only a system prompt from outside. A
# history that it has not lived through is therefore told to it in that system prompt: the closest that it allows.

_MARKS = TokenCount(5, 0.4)  # around a message: 3 in the templates of Llama 2 and Mistral, 5 in ChatML, 7 elsewhere
_RETOLD = "this engine keeps its own history: the earlier turns were told to it in the system prompt"


class ModernProtocol:
    """See :class:`bitnet_chat.engine.protocols.EngineProtocol`."""

    closes_interrupted = True
    hears_while_reading = True
    no_message: bytes | None = b"\n"
    go_on_message = "Continue your last reply exactly where it stops. Repeat nothing of it, and add nothing before."
    carries_all = False

    def __init__(
        self,
        binary: EngineBinary,
        options: EngineOptions,
        overriding_template: str = "",
        control_tokens: frozenset[str] = frozenset(),
    ) -> None:
        self._specials = SpecialTokens(control_tokens)
        self._binary, self._options, self._template = binary, options, overriding_template
        self.max_tokens = options.max_tokens
        self.context_size = options.context_size

    def use(self, arguments: Mapping[str, object]) -> str:
        names = " or ".join(arguments)
        return f"this engine fills in the chat template by itself, and takes no {names} for one reply" if names else ""

    def launch(
        self,
        history: Conversation,
        *,
        message: str = "",
        unfinished: bool = False,
        sampling: Sampling | None = None,
    ) -> LaunchCommand:
        binary, advised = self._binary, self._options.sampling
        options = replace(self._options, sampling=(sampling or Sampling()).over(advised))
        argv = [str(binary.path), *common_flags(binary, options)]
        argv += binary.option("--n-predict", options.max_tokens or -1)
        argv += binary.option("--batch-size", options.batch_size) if options.batch_size else []
        # "trace" logs the tokens of each turn, "debug" also whether a reply that has reached its limit is whole.
        if verbosity := binary.verbosity("debug" if options.max_tokens else "trace"):
            argv += binary.option("--log-verbosity", verbosity)
        if self._template:
            argv += binary.option("--chat-template", self._template)
        system = history.system
        if history.turns:
            system = "\n\n".join(filter(None, (system, replay_prompt(history))))
        system, changed = self._specials.as_text(system)
        notes = (_RETOLD if history.turns else "", note(changed, "system prompt"), left_out(binary, options))
        return LaunchCommand(
            argv=(*argv, *options.extra),
            framer=ModernFramer(),
            prompt=system + "\n" * system.endswith("\n"),
            prompt_flag=binary.options.spelling("--system-prompt-file") if system else "",
            notes=tuple(filter(None, notes)),
        )

    def input(
        self, launch: LaunchCommand, context: str, history: Conversation, text: str, options: ReplyOptions | None = None
    ) -> EncodedMessage | None:
        named = launch.framer.commands if isinstance(launch.framer, ModernFramer) else frozenset()
        return EncodedMessage(encode_lines(self._specials.as_text(text)[0], MODERN_COMMANDS | named))

    def render_ahead(self, history: Conversation, text: str) -> None:
        pass  # it renders by itself

    def preparation(self, history: Conversation) -> EncodedMessage | None:
        return None

    def is_prepared(self, launch: LaunchCommand, context: str, history: Conversation) -> bool:
        return True

    def context_after(self, context: str, reply: str, *, natural: bool) -> str:
        return ""

    def note_of(self, text: str) -> str:
        return note(self._specials.as_text(text)[1])

    def clearing(self) -> bytes | None:
        return b"/clear\n"

    def cost_of_history(self, history: Conversation, count: Counter) -> TokenCount:
        system = history.system
        told = count(system) + _MARKS if system else TokenCount(0)
        return told + count(replay_prompt(history)) if history.turns else told

    def cost_of_message(self, text: str, count: Counter) -> TokenCount:
        return _MARKS + count(self._specials.as_text(text)[0]) + _MARKS


def replay_prompt(history: Conversation) -> str:
    """The turns of a history as text."""
    turns = "\n\n".join(f"{message.role.capitalize()}: {message.content}" for message in history.turns)
    return f"The conversation so far, which you continue:\n\n{turns}"
