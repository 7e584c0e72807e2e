"""Checks of a chat template by rendering it."""

from __future__ import annotations

from dataclasses import dataclass

from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.errors import FaultKind, TemplateError
from bitnet_chat.templates.chat_template import END_TOKENS, ChatTemplate

# Markers of private-use characters, which templates do not strip, change or escape.
_SYSTEM, _FIRST, _REPLY, _LAST = (f"\ue001{number}\ue001" for number in range(4))
OTHER = "select another with --chat-template NAME: bitnet, chatml, gemma, llama3, zephyr or plain, a file or Jinja text"
"""The remedy for an unusable template."""


@dataclass(frozen=True, slots=True)
class TemplateFlaw:
    """A fault of a template. ``what``: a predicate for the subject "the chat template NAME"."""

    what: str
    is_fatal: bool = False
    """Whether replies are impossible with the template."""


def flaws(template: ChatTemplate | TemplateError, eos: str) -> tuple[TemplateFlaw, ...]:
    """Find the faults of a template. ``template``: the template, or the error of its parser. ``eos``: the end token of
    the model."""
    try:
        if isinstance(template, TemplateError):
            raise template
        return _flaws(template, eos)
    except TemplateError as error:
        # A server may have another template parser. A limit was exceeded: fatal, since servers have no such limits.
        is_fatal = error.kind is FaultKind.LIMIT
        return (TemplateFlaw(error.fault if is_fatal else f"{error.fault}; a server may support it", is_fatal),)


def _flaws(template: ChatTemplate, eos: str) -> tuple[TemplateFlaw, ...]:
    asked = Conversation((Message("user", _FIRST),))
    dialogue = Conversation((*asked.messages, Message("assistant", _REPLY), Message("user", _LAST)))
    once, often = _render(template, asked), _render(template, dialogue)
    found: list[TemplateFlaw] = []
    ends = (eos, *END_TOKENS)
    for text, marker in ((once, _FIRST), (often, _LAST)):
        suffix = text.rpartition(marker)[2] if marker in text else ""
        if not found and (token := next((each for each in ends if each and suffix.endswith(each)), "")):
            found.append(
                TemplateFlaw(f"ends with {token} after the user message: the reply ends before it begins", True)
            )
    if often and not all(marker in often for marker in (_FIRST, _REPLY, _LAST)):
        found.append(TemplateFlaw("leaves out messages of the conversation"))
    if once and often and not found and _lacks_reply_start(template, asked, once, often):
        found.append(TemplateFlaw("does not begin the reply (no add_generation_prompt): its beginning may be wrong"))
    rendered = _render(template, asked.with_system(_SYSTEM))
    if rendered and _SYSTEM not in rendered:
        found.append(TemplateFlaw("leaves out system prompts"))
    return tuple(found)


def _lacks_reply_start(template: ChatTemplate, asked: Conversation, once: str, often: str) -> bool:
    """Whether the text before earlier replies is missing before the next reply.

    Nothing is missing if that text belongs to the user message, as in ``[INST] … [/INST]``.
    """
    if once != _render(template, asked, reply_follows=False):
        return False
    before_reply = often.partition(_REPLY)[0].rpartition(_FIRST)[2]
    return once.rpartition(_FIRST)[2].strip() != before_reply.strip()


def _render(template: ChatTemplate, conversation: Conversation, *, reply_follows: bool = True) -> str:
    """Render, or return an empty text if the template refuses the conversation. Raises TemplateError if it fails."""
    try:
        return template.render(conversation, reply_follows=reply_follows)
    except TemplateError as error:
        if error.kind is not FaultKind.REFUSED:
            raise
        return ""
