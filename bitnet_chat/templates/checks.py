"""Faults of a chat template, found by rendering it."""

from __future__ import annotations

from dataclasses import dataclass

from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.errors import FaultKind, TemplateError
from bitnet_chat.templates.chat_template import END_TOKENS, ChatTemplate

# Private-use characters: no template strips, folds or escapes them.
_SYSTEM, _FIRST, _REPLY, _LAST = (f"\ue001{number}\ue001" for number in range(4))
OTHER = "select another with --chat-template NAME: bitnet, chatml, gemma, llama3, zephyr or plain, a file or Jinja text"


@dataclass(frozen=True, slots=True)
class TemplateFlaw:
    """``what``: a predicate for "the chat template NAME"."""

    what: str
    is_fatal: bool = False
    """Replies are impossible with it."""


def flaws(template: ChatTemplate | TemplateError, eos: str) -> tuple[TemplateFlaw, ...]:
    """``template``: the template, or its error. ``eos``: the end token of the model. None for a template that refuses
    to be rendered.
    """
    try:
        if isinstance(template, TemplateError):
            raise template
        return _flaws(template, eos)
    except TemplateError as error:
        # A server may read it, or compute what it fails at here; none limits what it takes.
        is_fatal = error.kind is FaultKind.LIMIT
        return (TemplateFlaw(error.fault if is_fatal else f"{error.fault}; a server may support it", is_fatal),)


def _flaws(template: ChatTemplate, eos: str) -> tuple[TemplateFlaw, ...]:
    asked = Conversation((Message("user", _FIRST),))
    dialogue = Conversation((*asked.messages, Message("assistant", _REPLY), Message("user", _LAST)))
    once, often = _rendered(template, asked), _rendered(template, dialogue)
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
    if once and often and not found and _does_not_begin(template, asked, once, often):
        found.append(TemplateFlaw("does not begin the reply (no add_generation_prompt): its beginning may be wrong"))
    told = _rendered(template, asked.with_system(_SYSTEM))
    if told and _SYSTEM not in told:
        found.append(TemplateFlaw("leaves out system prompts"))
    return tuple(found)


def _does_not_begin(template: ChatTemplate, asked: Conversation, once: str, often: str) -> bool:
    """Whether the text before a reply of the history is missing before the next one. If it is a part of the user
    message, as in ``[INST] … [/INST]``, nothing is missing.
    """
    if once != _rendered(template, asked, reply_follows=False):
        return False
    before_reply = often.partition(_REPLY)[0].rpartition(_FIRST)[2]
    return once.rpartition(_FIRST)[2].strip() != before_reply.strip()


def _rendered(template: ChatTemplate, conversation: Conversation, *, reply_follows: bool = True) -> str:
    """Empty if the template refuses the conversation. Raises TemplateError if it fails."""
    try:
        return template.render(conversation, reply_follows=reply_follows)
    except TemplateError as error:
        if error.kind is not FaultKind.REFUSED:
            raise
        return ""
