"""The modern dialect: llama-cli since December 2025, BitNet since July 2026.

It keeps the history itself, renders it with the model's own template, and takes only a system prompt from outside. A
history that it has not lived through is therefore told to it in that system prompt: the closest that it allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bitnet_chat.backends import ReplyOptions, Sampling
from bitnet_chat.context.token_count import Counter, TokenCount
from bitnet_chat.conversation import Conversation
from bitnet_chat.conversation.stdin_encoding import MODERN_COMMANDS, encode_lines
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.dialects import EngineOptions, Input, Launch, common_flags, left_out
from bitnet_chat.stream.modern import ModernFramer
from bitnet_chat.templates.special_tokens import SpecialTokens, note

_MARKS = TokenCount(5, 0.4)  # around a message: 3 in the templates of Llama 2 and Mistral, 5 in ChatML, 7 elsewhere
_RETOLD = "this engine keeps its own history: the earlier turns were told to it in the system prompt"


class ModernTalk:
    """See :class:`bitnet_chat.engine.dialects.Talk`."""

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
    ) -> Launch:
        binary, advised = self._binary, self._options.sampling
        options = replace(self._options, sampling=(sampling or Sampling()).over(advised))
        argv = [str(binary.path), *common_flags(binary, options)]
        argv += binary.option("--n-predict", options.max_tokens or -1)
        argv += binary.option("--batch-size", options.batch_size) if options.batch_size else []
        # "trace" tells the tokens of each turn, "debug" also whether a reply that has reached its limit is whole.
        if verbosity := binary.verbosity("debug" if options.max_tokens else "trace"):
            argv += binary.option("--log-verbosity", verbosity)
        if self._template:
            argv += binary.option("--chat-template", self._template)
        system = history.system
        if history.turns:
            system = "\n\n".join(filter(None, (system, retell(history))))
        system, changed = self._specials.as_text(system)
        notes = (_RETOLD if history.turns else "", note(changed, "system prompt"), left_out(binary, options))
        return Launch(
            argv=(*argv, *options.extra),
            framer=ModernFramer(),
            prompt=system + "\n" * system.endswith("\n"),
            prompt_flag=binary.options.spelling("--system-prompt-file") if system else "",
            notes=tuple(filter(None, notes)),
        )

    def input(
        self, launch: Launch, context: str, history: Conversation, text: str, options: ReplyOptions | None = None
    ) -> Input | None:
        named = launch.framer.commands if isinstance(launch.framer, ModernFramer) else frozenset()
        return Input(encode_lines(self._specials.as_text(text)[0], MODERN_COMMANDS | named))

    def render_ahead(self, history: Conversation, text: str) -> None:
        pass  # it renders by itself

    def preparation(self, history: Conversation) -> Input | None:
        return None

    def is_prepared(self, launch: Launch, context: str, history: Conversation) -> bool:
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
        return told + count(retell(history)) if history.turns else told

    def cost_of_message(self, text: str, count: Counter) -> TokenCount:
        return _MARKS + count(self._specials.as_text(text)[0]) + _MARKS


def retell(history: Conversation) -> str:
    """The turns of a history in words."""
    turns = "\n\n".join(f"{message.role.capitalize()}: {message.content}" for message in history.turns)
    return f"The conversation so far, which you continue:\n\n{turns}"
