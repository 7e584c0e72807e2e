"""Dialects of engines: how an engine is started, how messages are written to it, and how its output is parsed.

A dialect (:class:`EngineProtocol`) does no I/O: it returns command lines and bytes to write. The output is parsed by
the :class:`bitnet_chat.engine_output.Framer` in the :class:`LaunchCommand`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bitnet_chat.backend import ReplyOptions, Sampling
from bitnet_chat.context.token_count import Counter, TokenCount
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine_output import Framer
from bitnet_chat.models.known_faults import OVERRIDE

__all__ = ["GO_ON", "EncodedMessage", "EngineOptions", "EngineProtocol", "LaunchCommand"]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Options for the start of an engine. None or 0: the default of the engine."""

    model: Path
    context_size: int = 0
    threads: int | None = None
    temperature: float | None = None
    seed: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    """Further sampling options, which override ``temperature`` and ``seed``."""
    max_tokens: int | None = None
    batch_size: int | None = None
    """Tokens of a prompt in one batch; the engine checks for an interrupt only between two batches."""
    rpc: tuple[str, ...] = ()
    """Addresses of rpc-servers that hold layers of the model."""
    overrides: tuple[str, ...] = ()
    """Corrections of wrong metadata of the model, as ``KEY=TYPE:VALUE``; only for an engine with the flag
    ``OVERRIDE``.
    """
    states: Path | None = None
    """Folder of saved states; None if none are kept."""
    variants: bool = True
    """Whether a native engine may be started for several replies at once."""
    extra: tuple[str, ...] = ()
    """Flags given after ``--``, last on the command line."""


@dataclass(frozen=True, slots=True)
class LaunchCommand:
    """The command line of an engine process, and the framer of its output."""

    argv: tuple[str, ...]
    framer: Framer
    prompt: str = ""
    """The initial prompt. It is written to a file, which ``prompt_flag`` names on the command line."""
    prompt_flag: str = ""
    context: str = ""
    """The text that the engine has evaluated after its start, in the form of
    :class:`bitnet_chat.templates.segments.PromptSegments`; empty for a dialect with its own history.
    """
    in_prefix: str = ""
    """The text that the engine itself puts before each message."""
    around: tuple[str, str] = ("", "")
    """The texts of the chat template before and after a message, for recordings."""
    answers: bool = False
    """Whether ``prompt`` ends with a message or an incomplete reply, which the engine continues after :data:`GO_ON`."""
    notes: tuple[str, ...] = ()
    """Lines for the user about values or text that had to be changed."""
    overlap: str = ""
    """The end of an incomplete reply that is not in ``prompt``, and which the engine generates again; see
    :mod:`bitnet_chat.filters.continuation`.
    """


@dataclass(frozen=True, slots=True)
class EncodedMessage:
    """The input of an engine for one message, or for the continuation of a reply."""

    data: bytes
    """The bytes to write."""
    context: str = ""
    """The text that the engine has evaluated before the reply, as in :class:`LaunchCommand`."""
    goes_on: bool = False
    """Whether the reply begins with text and not with thoughts, because it continues an earlier one or has a format."""
    overlap: str = ""
    """As in :class:`LaunchCommand`."""
    stop: bytes = b""
    """The bytes that stop the reply, or all variants; empty: a signal stops it."""
    variant_stops: tuple[bytes, ...] = ()
    """The bytes that stop each of several replies."""


GO_ON = b"\n"
"""Input that makes a classic engine generate a continuation of its context, without a message."""


class EngineProtocol(Protocol):
    """A dialect with a binary, a model and options."""

    closes_interrupted: bool
    """Whether the engine ends an interrupted reply in its own history as a complete one."""
    hears_while_reading: bool
    """Whether an interrupt ends the evaluation of a prompt, between two batches. If not, the whole prompt is evaluated
    first.
    """
    no_message: bytes | None
    """Input that makes the engine only show its prompt again; None if there is none."""
    max_tokens: int | None
    """The limit of each reply that the engine applies itself; None: no limit."""
    context_size: int
    """Requested tokens of the context window; 0: the default of the engine."""

    go_on_message: str
    """The message that requests the continuation of an incomplete reply; empty for an engine that continues it without
    a message.
    """
    carries_all: bool
    """Whether each message contains the whole conversation and the options of its reply. A running engine can then be
    used for any conversation, sampling, limit and format.
    """

    def use(self, arguments: Mapping[str, object]) -> str:
        """Set variables of the chat template. Returns a line for the user about those without effect, usually empty.
        Raises ModelError, see :meth:`launch`.
        """

    def launch(
        self,
        history: Conversation,
        *,
        message: str = "",
        unfinished: bool = False,
        sampling: Sampling | None = None,
    ) -> LaunchCommand:
        """Return the command line for a process whose context is ``history``.

        ``message``: a message to put at the end of the prompt; the engine replies to it after :data:`GO_ON`.
        ``unfinished``: the last message of ``history`` is an incomplete reply; the engine continues it after
        :data:`GO_ON`. ``sampling``: overrides that of the options.

        Raises ModelError if the chat template of the model cannot render the history.
        """

    def input(
        self, launch: LaunchCommand, context: str, history: Conversation, text: str, options: ReplyOptions | None = None
    ) -> EncodedMessage | None:
        """Return the input for the message ``text`` (sanitized) to an engine that was started with ``launch``, has the
        conversation ``history`` and has evaluated ``context``. With an empty ``text``: the input that continues the
        reply at the end of ``history``. None if no input produces the tokens of the chat template: then another process
        is needed.
        """

    def variants(
        self, launch: LaunchCommand, history: Conversation, text: str, options: ReplyOptions, count: int
    ) -> EncodedMessage | None:
        """Return the input for ``count`` replies to a message from one prefill, see :meth:`input`; None if the engine
        generates one at a time.
        """

    def render_ahead(self, history: Conversation, text: str) -> None:
        """Render the prompts for a turn with ``text`` after ``history``, and store them for later calls. A chat
        template may take seconds, so this is called in a thread. Errors are raised by the later calls.
        """

    def preparation(self, history: Conversation) -> EncodedMessage | None:
        """Return input that makes a running engine evaluate ``history`` before the next message is known; None if there
        is none.
        """

    def cache_flags(self, file: str) -> list[str]:
        """Return flags that make an engine start with the context in ``file`` and write that of its first prompt there;
        empty if there are none.
        """

    def save(self, file: str) -> bytes | None:
        """Command that makes a running engine write its context to ``file``, a name in the folder of states; None
        without such a command."""

    def restore(self, file: str) -> bytes | None:
        """Command that replaces the context of a running engine by a saved one; None without such a command."""

    def is_prepared(self, launch: LaunchCommand, context: str, history: Conversation) -> bool:
        """Return whether a process with this ``launch`` and ``context`` can be used for the next message after
        ``history``, which is not known yet, as well as a new one.
        """

    def context_after(self, context: str, reply: str, *, natural: bool) -> str:
        """Return the text that the engine has evaluated after a reply. ``reply``: as the engine printed it, including
        thoughts. ``natural``: the model itself has ended the reply.
        """

    def note_of(self, text: str) -> str:
        """Return a line for the user if the message ``text`` has to be changed before it is sent, else an empty
        text.
        """

    def clearing(self) -> bytes | None:
        """Return input that makes a running engine remove everything but the system prompt from its context; None if
        there is none.
        """

    def cost_of_history(self, history: Conversation, count: Counter) -> TokenCount:
        """Count the tokens in the context of an engine that was started with ``history``. Raises ModelError, see
        :meth:`launch`.
        """

    def cost_of_message(self, text: str, count: Counter) -> TokenCount:
        """Count the tokens that a message adds to the context, including those around it up to the reply."""


def _sampling_flags(options: EngineOptions) -> dict[str, float | None]:
    """Return the sampling values by their flags; None: the default of the engine."""
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
    """Return a line about requested sampling values for which the engine has no flag; empty if it has all."""
    names = [name for name, value in _sampling_flags(options).items() if value is not None and not binary.has(name)]
    return f"this engine does not list {', '.join(names)}: left out" if names else ""


def common_flags(binary: EngineBinary, options: EngineOptions) -> list[str]:
    """Return the flags that the classic and the modern dialect share."""
    option = binary.option
    valued: dict[str, object] = {
        "--ctx-size": options.context_size,
        "--threads": options.threads,
        **_sampling_flags(options),
        "--rpc": ",".join(options.rpc) or None,
    }
    if options.rpc and not binary.options.takes_value("--fit"):  # --fit is on by default, and distributes the layers
        valued["--n-gpu-layers"] = 999
    flags = [*option("--model", options.model), *option("--simple-io"), *option("--color")]
    for name, value in valued.items():
        if value is not None:
            flags += option(name, value)
    flags += [word for each in options.overrides for word in option(OVERRIDE, each)]
    flags += option("--escape", "off")  # else C:\\new in a message would contain a newline
    return flags + log_flags(binary)


def log_flags(binary: EngineBinary) -> list[str]:
    """Return flags for a log in the format that :mod:`bitnet_chat.engine.log` parses."""
    option = binary.option
    flags = [*option("--log-colors", "off"), *option("--log-prefix"), *option("--log-timestamps", "off")]
    if not binary.has("--log-verbosity"):
        # llama.cpp until September 2024 and ik_llama.cpp write main.log, with all tokens, to the working directory. If
        # the file cannot be opened they log to standard error. --log-disable would hide the size of the context.
        flags += option("--log-file", "/dev/null/log")
    return flags
