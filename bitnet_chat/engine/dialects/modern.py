"""The modern dialect: llama-cli since December 2025, BitNet since July 2026.

It keeps the history itself, renders it with the model's own template, and takes only a system prompt from outside. A
history that it has not lived through is therefore told to it in that system prompt: the closest that it allows.
"""

from __future__ import annotations

from dataclasses import replace

from bitnet_chat.backends import Sampling
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.dialects import EngineOptions, Launch, common_flags
from bitnet_chat.prompt.specials import SpecialTokens, note
from bitnet_chat.prompt.tokens import Counter, TokenCount
from bitnet_chat.prompt.verbatim import MODERN_COMMANDS, encode_lines
from bitnet_chat.stream.framer import Framer
from bitnet_chat.stream.modern import ModernFramer

# "4: trace": tells the tokens of each turn. "5: debug": and whether a reply that has reached its limit is whole.
_VERBOSITY, _VERBOSITY_OF_LIMIT = "4", "5"
_MARKS = TokenCount(5, 0.4)  # around a message: 3 in the templates of Llama 2 and Mistral, 5 in ChatML, 7 elsewhere
_RETOLD = "this engine keeps its own history: the earlier turns were told to it in the system prompt"


class ModernTalk:
    """See :class:`bitnet_chat.engine.dialects.Talk`."""

    closes_interrupted = True
    shifts = False
    no_message: bytes | None = b"\n"
    keeps_thoughts = False  # they are a field of their own, which templates leave out of earlier turns
    go_on_message = "Continue your last reply exactly where it stops. Repeat nothing of it, and add nothing before."

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

    def launch(self, history: Conversation, *, unfinished: bool = False, sampling: Sampling | None = None) -> Launch:
        binary, options = self._binary, replace(self._options, sampling=sampling or self._options.sampling)
        argv = [str(binary.path), *common_flags(binary, options)]
        argv += ["--n-predict", str(options.max_tokens or -1)]
        argv += ["--log-verbosity", _VERBOSITY_OF_LIMIT if options.max_tokens else _VERBOSITY]
        if self._template:
            argv += ["--chat-template", self._template]
        system = history.system
        if history.turns:
            system = "\n\n".join(filter(None, (system, retell(history))))
        system, changed = self._specials.as_text(system)
        notes = (_RETOLD if history.turns else "", note(changed, "system prompt"))
        return Launch(
            argv=(*argv, *options.extra),
            framer=ModernFramer(),
            prompt=system + "\n" * system.endswith("\n"),
            prompt_flag="--system-prompt-file" if system else "",
            notes=tuple(filter(None, notes)),
        )

    def message(self, text: str, framer: Framer) -> bytes:
        named = framer.commands if isinstance(framer, ModernFramer) else frozenset()
        return encode_lines(self._specials.as_text(text)[0], MODERN_COMMANDS | named)

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
