"""Chat templates: a conversation as the text that a model was trained on, and the delimiters of a message.

Between two turns stands ``reply`` + end-of-turn token + in-prefix + ``message`` + in-suffix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.conversation.openai_codec import encode_template_message
from bitnet_chat.errors import FaultKind, ModelError, TemplateError, TemplateFaultError
from bitnet_chat.templates.jinja import JinjaProgram, TemplateProgram

# What llama.cpp itself takes for an end of generation, by text (llama-vocab.cpp).
END_TOKENS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end|>",
    "<|return|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|END_OF_TURN_TOKEN|>",
    "<EOT>",
    "</s>",
)
# Private-use characters: no template strips, folds or escapes them.
_FIRST, _REPLY, _SECOND = "\ue0001\ue000", "\ue0002\ue000", "\ue0003\ue000"


@dataclass(frozen=True, slots=True)
class TurnDelimiters:
    """The delimiters of each user message but the first: ``in_prefix``, from the end of the reply before it, and
    ``in_suffix``, up to the reply to it. ``end``: the end-of-turn token between a reply and ``in_prefix``, which the
    model generates itself; empty for a template without one.
    """

    in_prefix: str
    in_suffix: str
    end: str = ""


class ChatTemplate:
    """A parsed chat template. Raises ModelError for one that cannot be used."""

    def __init__(
        self,
        source: str,
        *,
        name: str,
        bos: str = "",
        eos: str = "",
        adds_bos: bool = True,
        read: Callable[[str], TemplateProgram] = JinjaProgram,
    ) -> None:
        """``adds_bos``: the engine adds ``bos`` to the prompt itself. ``read``: for an untrusted template,
        :func:`bitnet_chat.templates.sandbox.program_of`.
        """
        self.name = name
        self.source = source
        self.bos, self.eos, self.adds_bos = bos, eos, adds_bos and bool(bos)
        self.arguments: Mapping[str, object] = {}
        """Additional arguments, such as ``enable_thinking``."""
        try:
            self._program = read(source)
        except TemplateFaultError as fault:
            raise TemplateError(name, fault) from fault

    def render(
        self, conversation: Conversation, *, reply_follows: bool, tools: Sequence[Mapping[str, object]] = ()
    ) -> str:
        """The whole conversation as text, special tokens spelled out. ``tools``: in the form of the OpenAI API.

        Raises TemplateError.
        """
        given = {**self.arguments}
        if tools:  # some templates take None for a list
            given["tools"] = list(tools)
        try:
            given |= {
                "messages": [encode_template_message(each) for each in conversation.messages],
                "add_generation_prompt": reply_follows,
                "bos_token": self.bos,
                "eos_token": self.eos,
            }
            return self._program.run(given, datetime.now())
        except TemplateFaultError as fault:
            raise TemplateError(self.name, fault) from fault
        except (ValueError, RecursionError) as error:
            no_json = TemplateFaultError(FaultKind.REFUSED, f"the arguments of a call are not JSON ({error})")
            raise TemplateError(self.name, no_json) from error

    def marks(self) -> TurnDelimiters:
        """Raises ModelError for a template that drops or changes messages."""
        dialogue = Conversation((Message("user", _FIRST), Message("assistant", _REPLY), Message("user", _SECOND)))
        text = self.render(dialogue, reply_follows=True)
        before, found, after = text.partition(_REPLY)
        glue, found_too, suffix = after.partition(_SECOND)
        if not (found and found_too and _FIRST in before):
            raise ModelError(
                f"the chat template {self.name} leaves out messages",
                remedy="select another with --chat-template NAME",
            )
        for token in (self.eos, *END_TOKENS):
            if token and glue.startswith(token):
                return TurnDelimiters(glue[len(token) :], suffix, token)
        return TurnDelimiters(glue, suffix)

    def without_effect(self, arguments: Mapping[str, object]) -> str:
        """A line for the user if it uses none of the arguments; else empty."""
        if not arguments or any(name in self.source for name in arguments):
            return ""
        return f"the chat template {self.name} does not use {' or '.join(arguments)}"

    def without_bos(self, text: str) -> str:
        """A rendered prompt without the BOS token that the engine adds."""
        return text.removeprefix(self.bos) if self.adds_bos else text
