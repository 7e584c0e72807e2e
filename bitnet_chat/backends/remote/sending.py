"""What is sent to a server for a reply. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bitnet_chat.backends import ReplyOptions
from bitnet_chat.backends.remote.fit import Fit
from bitnet_chat.backends.remote.question import Question
from bitnet_chat.backends.remote.service import Target
from bitnet_chat.backends.remote.wire import Wire


@dataclass(frozen=True, slots=True)
class Sent:
    """``content``: the body of a request. ``changed``: special tokens in it that were made text."""

    content: dict[str, Any]
    changed: int


def sent(wire: Wire, question: Question, options: ReplyOptions, fit: Fit, target: Target) -> Sent:
    """The request for a streamed reply."""
    messages, changed = target.specials.told(fit.messages(question))
    tools, more = target.specials.offered(options.tools)
    body = wire.body(target.model, messages, replace(options, tools=tools), stream=True)
    return Sent(body, changed + more)
