"""Dialects of engines: command line, input and output. A dialect does no I/O; it returns the bytes to be written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bitnet_chat.backend import ReplyOptions, Sampling
from bitnet_chat.context.token_count import Counter, TokenCount
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine_frames import Framer
from bitnet_chat.models.known_faults import OVERRIDE

__all__ = ["GO_ON", "EncodedMessage", "EngineOptions", "EngineProtocol", "LaunchCommand"]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Options for the start of an engine. None or 0: the engine's own default."""

    model: Path
    context_size: int = 0
    threads: int | None = None
    temperature: float | None = None
    seed: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    """Options of a single reply that differ from the settings or have no setting."""
    max_tokens: int | None = None
    batch_size: int | None = None
    """Tokens of a prompt that are evaluated at once: a stop is heard only between two batches."""
    rpc: tuple[str, ...] = ()
    """Addresses of rpc-servers that hold layers of the model."""
    overrides: tuple[str, ...] = ()
    """Metadata of the model that is wrong, as ``KEY=TYPE:VALUE``; only for an engine that has ``OVERRIDE``."""
    extra: tuple[str, ...] = ()
    """Flags given after ``--``, last on the command line."""


@dataclass(frozen=True, slots=True)
class LaunchCommand:
    """A command line in two parts: ``prompt_flag`` takes the name of a file that holds ``prompt``.

    ``context``: what the engine has evaluated then, as :class:`bitnet_chat.templates.segments.PromptSegments` writes
    it; empty for a dialect that keeps its history itself. ``in_prefix``: what it puts in front of a message.
    ``around``: what is typed in front of each message and behind it. ``answers``: the prompt ends with a message,
    which is answered as soon as it is told to go on. ``notes``: lines for the user about what could not be kept.
    ``overlap``: the end of a reply that is to go on which is not in the prompt; see
    :mod:`bitnet_chat.filters.continuation`.
    """

    argv: tuple[str, ...]
    framer: Framer
    prompt: str = ""
    prompt_flag: str = ""
    context: str = ""
    in_prefix: str = ""
    around: tuple[str, str] = ("", "")
    answers: bool = False
    notes: tuple[str, ...] = ()
    overlap: str = ""


@dataclass(frozen=True, slots=True)
class EncodedMessage:
    """Input of an engine for a message: ``data``. ``context``: what it has evaluated then. ``goes_on``: the
    reply begins with an answer, as more of an earlier one does, and not with thoughts. ``overlap``: the end of a
    reply that is to go on which the engine does not have; see :mod:`bitnet_chat.filters.continuation`. ``stop``: what
    is written to end the reply; empty: a signal does."""

    data: bytes
    context: str = ""
    goes_on: bool = False
    overlap: str = ""
    stop: bytes = b""


GO_ON = b"\n"
"""Input that makes a classic engine continue the end of its context, without a prefix."""


class EngineProtocol(Protocol):
    """A dialect bound to a binary, a model and options."""

    closes_interrupted: bool
    """Whether an interrupted reply is well-formed in the engine's own history."""
    hears_while_reading: bool
    """Whether an interrupt ends the reading of a prompt, between two batches; where not, all of it is read first."""
    no_message: bytes | None
    """Input that makes the engine show its prompt again and do nothing else; None without such an input."""
    max_tokens: int | None
    """The limit of each turn that the engine itself keeps to, if there is one."""
    context_size: int
    """Requested tokens of the context window; 0: the engine's default."""

    go_on_message: str
    """Request to continue a reply that was cut; empty for an engine that continues it without a request."""
    carries_all: bool
    """Whether each message carries the whole conversation and the options of its reply: a running engine then fits any
    history, draws tokens in any way, and keeps to limits and formats by itself."""

    def use(self, arguments: Mapping[str, object]) -> str:
        """Set the variables of the chat template. Returns a line for the user about those without effect; mostly empty.
        Raises ModelError as launch does."""

    def launch(
        self,
        history: Conversation,
        *,
        message: str = "",
        unfinished: bool = False,
        sampling: Sampling | None = None,
    ) -> LaunchCommand:
        """Command line for a start. ``message``: the last one of the prompt, answered after the input to go on; its
        :class:`EncodedMessage` is :data:`GO_ON`. ``unfinished``: the last message of ``history`` is a reply that the
        engine goes on with in the same way. ``sampling``: in place of what the options say.

        Raises ModelError when the history cannot be written in the model's template.
        """

    def input(
        self, launch: LaunchCommand, context: str, history: Conversation, text: str, options: ReplyOptions | None = None
    ) -> EncodedMessage | None:
        """How ``text``, clean, is put to an engine that was started with ``launch``, has ``history`` and has evaluated
        ``context``; None where nothing that can be written gives the tokens of the chat template. Without ``text`` the
        engine goes on with the reply that ``history`` ends with."""

    def render_ahead(self, history: Conversation, text: str) -> None:
        """Render what a turn of ``text`` after ``history`` needs, so that it is at hand: a template may take seconds,
        and this is called in a thread. What goes wrong is raised where it is needed."""

    def preparation(self, history: Conversation) -> EncodedMessage | None:
        """Input that makes a running engine read ``history`` before a message is known; None without such an input."""

    def is_prepared(self, launch: LaunchCommand, context: str, history: Conversation) -> bool:
        """Whether no other start of an engine would be better for a message after ``history`` that is not known yet."""

    def context_after(self, context: str, reply: str, *, natural: bool) -> str:
        """What the engine has evaluated behind a reply, ``natural``: which the model ended itself. ``reply``: as the
        engine printed it, all thoughts included."""

    def note_of(self, text: str) -> str:
        """A line for the user about what is not as in ``text`` when it is sent; mostly empty."""

    def clearing(self) -> bytes | None:
        """Input that makes a running engine forget all but its system prompt; None without such an input."""

    def cost_of_history(self, history: Conversation, count: Counter) -> TokenCount:
        """Tokens in the context of an engine that was started with ``history``. Raises ModelError as launch does."""

    def cost_of_message(self, text: str, count: Counter) -> TokenCount:
        """Tokens that a message adds, with what stands around it up to the first token of the reply."""


def _drawn(options: EngineOptions) -> dict[str, float | None]:
    """Sampling values by option; None: the engine's own default."""
    sampling = options.sampling
    return {
        "--temp": options.temperature if sampling.temperature is None else sampling.temperature,
        "--seed": options.seed if sampling.seed is None else sampling.seed,
        "--top-p": sampling.top_p,
        "--top-k": sampling.top_k,
        "--min-p": sampling.min_p,
        "--repeat-penalty": sampling.repeat_penalty,
        "--presence-penalty": sampling.presence_penalty,
        "--frequency-penalty": sampling.frequency_penalty,
    }


def left_out(binary: EngineBinary, options: EngineOptions) -> str:
    """A line about requested values that this engine has no option for; empty without any."""
    names = [name for name, value in _drawn(options).items() if value is not None and not binary.has(name)]
    return f"this engine does not list {', '.join(names)}: left out" if names else ""


def common_flags(binary: EngineBinary, options: EngineOptions) -> list[str]:
    """Common parts of both dialects."""
    option = binary.option
    valued: dict[str, object] = {
        "--ctx-size": options.context_size,
        "--threads": options.threads,
        **_drawn(options),
        "--rpc": ",".join(options.rpc) or None,
    }
    if options.rpc and not binary.options.takes_value("--fit"):  # on by default, it puts there what fits
        valued["--n-gpu-layers"] = 999
    flags = [*option("--model", options.model), *option("--simple-io"), *option("--color")]
    for name, value in valued.items():
        if value is not None:
            flags += option(name, value)
    flags += [word for each in options.overrides for word in option(OVERRIDE, each)]
    flags += option("--escape", "off")  # or C:\\new would have a line break in it
    return flags + log_flags(binary)


def log_flags(binary: EngineBinary) -> list[str]:
    """Flags for a log in the format that is parsed here."""
    option = binary.option
    flags = [*option("--log-colors", "off"), *option("--log-prefix"), *option("--log-timestamps", "off")]
    if not binary.has("--log-verbosity"):
        # llama.cpp until September 2024 and ik_llama.cpp write main.log into the working directory, tokens included.
        # Where no file can be opened they write to standard error; --log-disable would hide the size of the window.
        flags += option("--log-file", "/dev/null/log")
    return flags
