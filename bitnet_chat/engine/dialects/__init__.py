"""How each dialect is started, addressed and understood. A dialect does no I/O; it says what is to be written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bitnet_chat.backends import Sampling
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import Dialect, EngineBinary
from bitnet_chat.models.faults import OVERRIDE
from bitnet_chat.prompt.tokens import Counter, TokenCount
from bitnet_chat.stream.framer import Framer
from bitnet_chat.stream.thinking import Tags

if TYPE_CHECKING:
    from bitnet_chat.prompt.template import ChatTemplate

__all__ = ["EngineOptions", "Launch", "Talk", "talk_for"]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine is started with. None or 0: the engine's own default."""

    model: Path
    context_size: int = 0
    threads: int | None = None
    temperature: float | None = None
    seed: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    """What one reply wants otherwise, and what there are no settings for."""
    max_tokens: int | None = None
    rpc: tuple[str, ...] = ()
    """Addresses of rpc-servers that hold layers of the model."""
    overrides: tuple[str, ...] = ()
    """Metadata of the model that is wrong, as ``KEY=TYPE:VALUE``; only for an engine that has ``OVERRIDE``."""
    extra: tuple[str, ...] = ()
    """Flags given after ``--``, last on the command line."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A command line in two parts: ``prompt_flag`` wants the name of a file that holds ``prompt``.

    ``lead`` goes in front of the first message. ``notes``: lines for the user about what could not be kept.
    ``loose_end``: the end of a reply that is to go on which is not in the prompt; see :mod:`bitnet_chat.stream.seam`.
    """

    argv: tuple[str, ...]
    framer: Framer
    prompt: str = ""
    prompt_flag: str = ""
    lead: str = ""
    notes: tuple[str, ...] = ()
    loose_end: str = ""


class Talk(Protocol):
    """A dialect bound to a binary, a model and options."""

    closes_interrupted: bool
    """Whether an interrupted reply is well-formed in the engine's own history."""
    no_message: bytes | None
    """Input that makes the engine show its prompt again and do nothing else; None where there is none."""
    max_tokens: int | None
    """The limit of each turn that the engine itself keeps to, if there is one."""
    shifts: bool
    """Whether an engine whose context is full forgets the oldest half of it without a word."""
    context_size: int
    """Tokens of the context window that were asked for; 0: whatever the engine takes."""

    keeps_thoughts: bool
    """Whether what the model thought stays in the engine's own history."""
    go_on_message: str
    """What asks for more of a reply that was cut; empty where the engine goes on with it without being asked."""

    def launch(self, history: Conversation, *, unfinished: bool = False, sampling: Sampling | None = None) -> Launch:
        """``unfinished``: the last message is a reply that the engine will go on with, where it does so unasked.
        ``sampling``: in place of what the options say.

        Raises ModelError when the history cannot be written in the model's template.
        """

    def message(self, text: str, framer: Framer) -> bytes:
        """What to write for a message that is clean and not empty."""

    def clearing(self) -> bytes | None:
        """What makes a running engine forget all but its system prompt; None where nothing does."""

    def cost_of_history(self, history: Conversation, count: Counter) -> TokenCount:
        """Tokens in the context of an engine that was started with ``history``. Raises ModelError as launch does."""

    def cost_of_message(self, text: str, count: Counter) -> TokenCount:
        """Tokens that a message adds, with what stands around it up to the first token of the reply."""


def talk_for(
    binary: EngineBinary,
    options: EngineOptions,
    template: Callable[[], ChatTemplate],
    *,
    control_tokens: frozenset[str] = frozenset(),
    overriding_template: str = "",
    thinking: Tags | None = None,
) -> Talk:
    """``template`` is asked for only where it is needed. ``overriding_template``: Jinja source for a modern engine.
    ``thinking``: the tags around what the model thinks, which a modern engine knows by itself."""
    if binary.dialect is Dialect.CLASSIC:
        from bitnet_chat.engine.dialects.classic import ClassicTalk

        return ClassicTalk(binary, options, template(), control_tokens, thinking)
    from bitnet_chat.engine.dialects.modern import ModernTalk

    return ModernTalk(binary, options, overriding_template)


def common_flags(binary: EngineBinary, options: EngineOptions) -> list[str]:
    """What both dialects share."""
    flags = ["--model", str(options.model), "--simple-io", "--color"]
    if binary.colour_takes_value:
        flags.append("on")
    flags += ["--ctx-size", str(options.context_size)]
    if options.threads is not None:
        flags += ["--threads", str(options.threads)]
    sampling = options.sampling
    drawn = {
        "--temp": options.temperature if sampling.temperature is None else sampling.temperature,
        "--seed": options.seed if sampling.seed is None else sampling.seed,
        "--top-p": sampling.top_p,
        "--top-k": sampling.top_k,
        "--min-p": sampling.min_p,
        "--repeat-penalty": sampling.repeat_penalty,
        "--presence-penalty": sampling.presence_penalty,
        "--frequency-penalty": sampling.frequency_penalty,
    }
    for flag, value in drawn.items():
        if value is not None:
            flags += [flag, str(value)]
    flags += [word for each in options.overrides for word in (OVERRIDE, each)]
    if options.rpc:
        flags += ["--rpc", ",".join(options.rpc)]
        if not binary.has("--fit"):  # which puts there what fits; before it was made, nothing was put there unasked
            flags += ["--n-gpu-layers", "999"]
    if binary.has("--no-escape"):  # or C:\\new would have a line break in it
        flags.append("--no-escape")
    if binary.has("--log-colors"):
        flags += ["--log-colors", "off", "--log-prefix", "--no-log-timestamps"]
    return flags
