"""Rendering of a conversation with the chat template of a model, and the delimiters of a turn.

Between two messages of the user, a rendered conversation has the reply, the end-of-turn token, ``in_prefix``, the
message and ``in_suffix``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.conversation.openai_codec import encode_template_message
from bitnet_chat.errors import FaultKind, ModelError, TemplateError, TemplateFaultError
from bitnet_chat.templates.jinja import JinjaProgram, TemplateProgram

# Texts that llama.cpp treats as end-of-generation tokens (llama-vocab.cpp).
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
# Markers of private-use characters, which templates do not strip, change or escape.
_FIRST, _REPLY, _SECOND = "\ue0001\ue000", "\ue0002\ue000", "\ue0003\ue000"


@dataclass(frozen=True, slots=True)
class TurnDelimiters:
    """The text of a template around each user message except the first."""

    in_prefix: str
    """From the end of the preceding reply to the message, without the end-of-turn token."""
    in_suffix: str
    """From the message to the beginning of the reply."""
    end: str = ""
    """The end-of-turn token after a reply, which the model generates itself; empty for a template without one."""


class ChatTemplate:
    """A parsed chat template."""

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
        """Parse ``source``. Raises TemplateError for an invalid template.

        ``adds_bos``: the engine adds ``bos`` to a prompt. ``read``: the parser; for an untrusted template
        :func:`bitnet_chat.templates.sandbox.program_of`.
        """
        self.name = name
        self.source = source
        self.bos, self.eos, self.adds_bos = bos, eos, adds_bos and bool(bos)
        self.arguments: Mapping[str, object] = {}
        """Additional template variables, such as ``enable_thinking``."""
        try:
            self._program = read(source)
        except TemplateFaultError as fault:
            raise TemplateError(name, fault) from fault

    def render(
        self,
        conversation: Conversation,
        *,
        reply_follows: bool,
        tools: Sequence[Mapping[str, object]] = (),
        arguments: Mapping[str, object] | None = None,
    ) -> str:
        """Render the conversation, with special tokens as text. ``tools``: in the format of the OpenAI API.
        ``arguments``: further values for the template.

        Raises TemplateError.
        """
        given = {**self.arguments, **(arguments or {})}
        if tools:  # some templates treat None as a list
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
        """Determine the delimiters from a marked conversation. Raises ModelError for a template that drops or changes
        messages."""
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
        """Return a message if the template uses none of ``arguments``; else an empty text."""
        if not arguments or any(name in self.source for name in arguments):
            return ""
        return f"the chat template {self.name} does not use {' or '.join(arguments)}"

    def without_bos(self, text: str) -> str:
        """Remove the BOS token from a rendered prompt if the engine adds it."""
        return text.removeprefix(self.bos) if self.adds_bos else text
