"""The modern dialect: ``llama-cli`` since December 2025, BitNet since July 2026.

The engine keeps the history, and renders it with the chat template of the model. Only a system prompt can be given. A
history that the process has not generated itself is therefore written as text into the system prompt, the nearest
approximation (:class:`ModernProtocol`).

:class:`ModernFramer` finds the replies in the output. As measured with llama-cli 0.5.0 with ``--simple-io`` and colours
on, it is:

- start: a banner, the user-input colour, a newline, ``> ``;
- after a message: the colour reset, then the reply;
- end: a newline unless the reply ends in one, ``ESC[35m``, a newline, ``[ Prompt: … t/s | Generation: … t/s ]``,
  a newline, the reset, the user-input colour, a newline, ``> ``; the same after an interrupt;
- an error: the error colour, ``Error: …``, a newline, the reset; then the prompt as above;
- interrupted before the message was evaluated: the reset, ``_FAREWELL``, and exit status 0;
- thoughts: grey, ``[Start thinking]`` … ``[End thinking]``, each with empty lines around, the reset.

A model can also generate text like such a prompt. The server in the program logs ``all slots are idle`` when it has
loaded, and its timings and ``stop processing`` after the last token of each reply. If the log has these lines, a prompt
before them does not end a reply. The line ``stop processing`` may be delayed until the next one (observed in 10 of 200
replies), so the timings are sufficient. After an interrupt or an error they may be late or missing.

The console adds a newline only if the reply does not end in one, so it is unknown whether it did; one is removed.
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
from bitnet_chat.engine_output import (
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
"""Maximum length of the line with the timings, in characters."""
_IDLE = "all slots are idle"
_STOPPED = re.compile(r"slot .*(?:stop processing: n_tokens = |print_timing: .* total time = )")
_LATE = 4096
"""Number of characters after a prompt, without a logged end, from which the prompt counts as text of the model."""
_TIMINGS_START = INFO + "\n[ Prompt: "
# A beginning of the line with the timings, which is held back until it is complete or turns out to be other text.
_TIMINGS_OPEN = re.compile(re.escape(INFO) + r"\n\[ Prompt: [^\]\n]{0,40}(?:\](?:\n(?:\x1b(?:\[(?:0m?)?)?)?)?)?\Z")


class _ModernState(Enum):
    """What the framer expects: the first prompt, no output, the reset after a message, a reply, thoughts, an error
    message, or the prompt after a command.
    """

    LOADING = auto()
    IDLE = auto()
    SENT = auto()
    REPLY = auto()
    THINKING = auto()
    ERROR = auto()
    COMMAND = auto()


class ModernFramer:
    """Parses the output of a modern engine process, with its log if available. See
    :class:`bitnet_chat.engine_output.Framer`.
    """

    def __init__(self) -> None:
        self._state = _ModernState.LOADING
        self._held = ""
        self._interrupted = False
        self._uses_log = False
        """Whether the log reports the end of each reply."""
        self._has_stopped = True
        """Whether the current reply has ended according to the log, or the log does not report that."""
        self.commands: frozenset[str] = frozenset()
        """The commands that the banner lists, such as ``/clear``."""

    @property
    def kind(self) -> str:
        """Name of this framer in recordings."""
        return "modern"

    @property
    def reply(self) -> str:
        """Empty: the engine keeps its history itself."""
        return ""

    def logged(self, line: str) -> bool:
        has_stopped = _STOPPED.match(line) is not None
        self._uses_log = self._uses_log or has_stopped or (line.startswith("srv ") and line.endswith(_IDLE))
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
        self._has_stopped = not self._uses_log

    def continued(self, data: bytes = b"") -> None:
        raise NotImplementedError("this console cannot continue a reply")

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
        """Parse the beginning of ``text`` in the current state. Returns the rest, which is parsed in the next state;
        ambiguous text is held back.
        """
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
        # The prompt is searched first: all text before it belongs to this turn.
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
            return self._handle_early_prompt(text, at, frames)
        if at >= 0:
            if self._uses_log:  # the last prompt: earlier ones are text of the model
                at = text.rfind(PROMPT)
            self._finish(text[:at], frames)
            return text[at + len(PROMPT) :]
        cut = len(text) - self._held_length(text)
        if cut:
            frames.append(ReplyText(text[:cut]))
        self._held = text[cut:]
        return ""

    def _handle_early_prompt(self, text: str, at: int, frames: list[Frame]) -> str:
        """Handle a prompt before the logged end: output the text before it, and hold the rest back until the end."""
        behind = at + len(PROMPT)
        cut = behind if len(text) - at > _LATE else at - self._held_length(text[:at])
        if cut > 0:
            frames.append(ReplyText(text[:cut]))
        if cut == behind:
            return text[cut:]
        self._held = text[cut:]
        return ""

    def _held_length(self, text: str) -> int:
        # The \0, which never matches, makes the farewell a proper prefix of an ending: it is held back, and ends a
        # reply only if the process ends then.
        farewell = (_FAREWELL + "\0",) if self._interrupted else ()
        endings = ("\n" + PROMPT, PROMPT, "\n" + _TIMINGS_START, _TIMINGS_START, _THINKING, _ERROR, *farewell)
        held = held_length(text, endings)
        start = text.rfind(INFO, max(0, len(text) - _TIMINGS_LIMIT - len(PROMPT)))
        if start >= 0:
            tail = text[start:]
            # An incomplete line with timings, or a complete one before the beginning of a prompt.
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
        if prompt >= 0:  # interrupted within thoughts
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


_MARKS = TokenCount(5, 0.4)
"""Estimated tokens around a message: 3 in the templates of Llama 2 and Mistral, 5 in ChatML, 7 in others."""
_HISTORY_NOTE = "this engine keeps its own history: the earlier turns were sent to it in the system prompt"


class ModernProtocol:
    """The modern dialect: see the module, and :class:`bitnet_chat.engine.protocols.EngineProtocol` for the methods.

    ``overriding_template``: Jinja text that replaces the chat template of the model. ``control_tokens``: special tokens
    of the model, which the text of a message must not contain.
    """

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
        return f"this engine renders the chat template itself: {names} has no effect" if names else ""

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
        # "trace" logs the tokens of each turn, "debug" also whether a reply that has reached its limit is complete.
        if verbosity := binary.verbosity("debug" if options.max_tokens else "trace"):
            argv += binary.option("--log-verbosity", verbosity)
        if self._template:
            argv += binary.option("--chat-template", self._template)
        system = history.system
        if history.turns:
            system = "\n\n".join(filter(None, (system, replay_prompt(history))))
        system, changed = self._specials.as_text(system)
        notes = (_HISTORY_NOTE if history.turns else "", note(changed, "system prompt"), left_out(binary, options))
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

    def variants(
        self, launch: LaunchCommand, history: Conversation, text: str, options: ReplyOptions, count: int
    ) -> EncodedMessage | None:
        return None

    def render_ahead(self, history: Conversation, text: str) -> None:
        pass  # the engine renders the prompt

    def preparation(self, history: Conversation) -> EncodedMessage | None:
        return None

    def cache_flags(self, file: str) -> list[str]:
        return []

    def save(self, file: str) -> bytes | None:
        return None

    def restore(self, file: str) -> bytes | None:
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
        cost = count(system) + _MARKS if system else TokenCount(0)
        return cost + count(replay_prompt(history)) if history.turns else cost

    def cost_of_message(self, text: str, count: Counter) -> TokenCount:
        return _MARKS + count(self._specials.as_text(text)[0]) + _MARKS


def replay_prompt(history: Conversation) -> str:
    """Return the turns of a conversation as text, for the system prompt."""
    turns = "\n\n".join(f"{message.role.capitalize()}: {message.content}" for message in history.turns)
    return f"The conversation so far, which you continue:\n\n{turns}"
