"""Requests of the chats API, parsed and checked, and their conversations. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.variants import MOST
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.conversation.api_messages import conversation_of
from bitnet_chat.conversation.json_fields import Fields
from bitnet_chat.errors import FinishReason, InvalidFieldError
from bitnet_chat.journal.votes import MOST_REPLIES
from bitnet_chat.server.openai.requests import options_of
from bitnet_chat.text.sanitize import one_line
from bitnet_chat.text.utf8 import well_formed

if TYPE_CHECKING:
    from bitnet_chat.journal import MessageRecord, StoredConversation

MOST_ROWS = 2**63 - 1
"""Maximum id of a conversation or message: a row number of SQLite."""
_TITLE = 200
"""Maximum number of characters of a title."""
_WAYS = ("content", "messages", "regenerate", "continue")


@dataclass(frozen=True, slots=True)
class NewChatRequest:
    title: str = ""
    model: str = ""
    conversation: Conversation = field(default_factory=Conversation)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request for a reply: one of ``content``, ``messages``, ``regenerate`` and ``goes_on``, or ``goes_on`` together
    with ``messages`` that end in the reply to continue.
    """

    content: str | None = None
    edit: int | None = None
    """The row of the message that ``content`` replaces."""
    messages: Conversation | None = None
    regenerate: bool = False
    goes_on: bool = False
    system: str | None = None
    model: str = ""
    options: ReplyOptions = field(default_factory=ReplyOptions)
    stream: bool = True
    variants: int = 1
    """Number of replies."""
    compare: bool = False
    """Whether the regenerated reply is compared with the new one."""
    blind: bool = False
    """Whether the models are hidden until the vote."""


@dataclass(frozen=True, slots=True)
class VoteRequest:
    """The choice between replies. ``replies``: their rows, in the order in which they were shown. ``chosen``: one of
    them; None: none is better. ``blind``: whether their models were hidden."""

    replies: tuple[int, ...]
    chosen: int | None
    blind: bool


def new_chat(fields: Fields) -> NewChatRequest:
    """Parse the body of ``POST /chats``. Raises InvalidFieldError."""
    messages = fields.objects("messages")
    # A copy of another conversation ends in its last reply.
    conversation = _messages(messages, reply=None, may_end_in_it=True) if messages else Conversation()
    system = fields.text("system")
    if system is not None:
        conversation = conversation.with_system(system)
    title = _title(fields)
    chat = NewChatRequest(title, fields.text("model") or "", conversation)
    fields.finish()
    return chat


def new_title(fields: Fields) -> str:
    """Parse the body of ``PATCH /chats/{id}``. Raises InvalidFieldError."""
    fields.needed_text("title")
    title = _title(fields)
    if not title:
        raise fields.wrong("title", "is empty")
    fields.finish()
    return title


def new_head(fields: Fields) -> int:
    """Parse the body of ``POST /chats/{id}/head``: the row of a message. Raises InvalidFieldError."""
    row = fields.needed_whole("message", 1, MOST_ROWS)
    fields.finish()
    return row


def vote(fields: Fields) -> VoteRequest:
    """Parse the body of ``POST /chats/{id}/votes``. Raises InvalidFieldError."""
    replies = fields.wholes("replies", 1, MOST_ROWS) or []
    if not 2 <= len(set(replies)) == len(replies) <= MOST_REPLIES:
        raise fields.wrong("replies", f"must have from 2 to {MOST_REPLIES} different messages")
    chosen = fields.whole("chosen", 1, MOST_ROWS)
    if chosen is not None and chosen not in replies:
        raise fields.wrong("chosen", f"is {chosen}, which is not one of the replies")
    choice = VoteRequest(tuple(replies), chosen, bool(fields.flag("blind")))
    fields.finish()
    return choice


def ask(fields: Fields) -> ChatRequest:
    """Parse the body of ``POST /chats/{id}/messages``. Raises InvalidFieldError."""
    content, objects = fields.text("content"), fields.objects("messages")
    regenerate, goes_on = bool(fields.flag("regenerate")), bool(fields.flag("continue"))
    given = [content is not None, objects is not None, regenerate, goes_on and objects is None]
    if sum(given) != 1:
        raise InvalidFieldError(f"exactly one of {', '.join(_WAYS)} is required", param="content")
    if content is not None and not content:
        raise fields.wrong("content", "is empty")
    edit = fields.whole("edit", 1, MOST_ROWS)
    if edit is not None and content is None:
        raise fields.wrong("edit", "requires content, the new text of the message")
    variants, compare, blind = fields.whole("variants", 1, MOST), bool(fields.flag("compare")), fields.flag("blind")
    if variants is not None and goes_on:
        raise fields.wrong("variants", "cannot be used with continue")
    if compare and (not regenerate or variants is not None):
        raise fields.wrong("compare", "requires regenerate, without variants")
    if blind and not compare:
        raise fields.wrong("blind", "requires compare")
    asked = ChatRequest(
        content=content,
        edit=edit,
        messages=None if objects is None else _messages(objects, may_end_in_it=goes_on),
        regenerate=regenerate,
        goes_on=goes_on,
        system=fields.text("system"),
        model=fields.text("model") or "",
        options=options_of(fields),
        stream=fields.flag("stream") is not False,
        variants=variants or 1,
        compare=compare,
        blind=bool(blind),
    )
    fields.finish()
    return asked


def stateless_request(fields: Fields) -> ChatRequest:
    """Parse the body of ``POST /replies``: messages without a chat. Raises InvalidFieldError."""
    goes_on = bool(fields.flag("continue"))
    messages = _messages(fields.needed_objects("messages"), may_end_in_it=goes_on)
    asked = ChatRequest(
        messages=messages, goes_on=goes_on, model=fields.text("model") or "", options=options_of(fields)
    )
    fields.finish()
    return asked


def line_of(stored: StoredConversation) -> tuple[MessageRecord, ...]:
    """Return the current branch, including a last message without a reply."""
    return stored.records if stored.pending is None else (*stored.records, stored.pending)


def before_asked(ask: ChatRequest, stored: StoredConversation) -> int | None:
    """Return the row before ``content``, or None if it is the first. A replaced message belongs to another branch; a
    message without a reply keeps its place.
    """
    before = [record.row for record in stored.shown if ask.edit is None or record.row < ask.edit]
    return before[-1] if before else None


def compared_of(ask: ChatRequest, stored: StoredConversation) -> int | None:
    """Return the row of the reply that is compared with the new one; None without a comparison. Raises
    InvalidFieldError if the chat has no such reply."""
    if not ask.compare:
        return None
    line = line_of(stored)
    if not line or line[-1].message.role != "assistant":
        raise InvalidFieldError("this chat has no reply to compare", param="compare")
    return line[-1].row


def asked_of(ask: ChatRequest, stored: StoredConversation) -> Conversation:
    """Return the conversation of a request. Raises InvalidFieldError for one that the chat does not allow."""
    line = [record.message for record in line_of(stored)]
    if ask.messages is not None:
        conversation = _known(ask.messages, line)
    elif ask.regenerate:
        conversation = Conversation(tuple(line)).without_last_reply()
        if conversation.last is None or conversation.last.role not in ("user", "tool"):
            raise InvalidFieldError("this chat has no reply to regenerate", param="regenerate")
    elif ask.goes_on:
        conversation = Conversation(tuple(line))
    elif ask.edit is not None:
        assert ask.content is not None
        conversation = Conversation(tuple(line[: _place(ask.edit, stored)])).with_user(ask.content)
    else:
        assert ask.content is not None
        conversation = stored.conversation.with_user(ask.content)
    if ask.goes_on:
        _check_goes_on(conversation)
    return conversation if ask.system is None else conversation.with_system(ask.system)


def lone_conversation(ask: ChatRequest) -> Conversation:
    """Return the conversation of a request without a chat. Raises InvalidFieldError."""
    assert ask.messages is not None
    if ask.goes_on:
        _check_goes_on(ask.messages)
    return ask.messages


def _check_goes_on(conversation: Conversation) -> None:
    last = conversation.last
    if last is None or last.role != "assistant":
        raise InvalidFieldError("this chat has no reply to continue", param="continue")
    if not last.was_cut:
        raise InvalidFieldError("the last reply is complete and cannot be continued", param="continue")


def _place(row: int, stored: StoredConversation) -> int:
    """Return the number of messages of the branch before a row. Raises InvalidFieldError."""
    for record in stored.shown:
        if record.row == row:
            if record.message.role != "user":
                raise InvalidFieldError(f"message {row} is not a user message and cannot be edited", param="edit")
            return sum(each.row < row for each in line_of(stored))
    raise InvalidFieldError(f"message {row} does not exist in this chat", param="edit", code="message_not_found")


def _messages(
    objects: list[Fields], *, may_end_in_it: bool, reply: FinishReason | None = FinishReason.INTERRUPTED
) -> Conversation:
    """Parse messages in the format of the OpenAI API. ``reply``: the finish reason of a reply at the end."""
    last = objects[-1] if objects else None
    if not (may_end_in_it and last is not None and last.text("role") == "assistant" and len(objects) > 1):
        return _question(objects)
    before = _question(objects[:-1])
    content = last.needed_text("content")
    last.accept("reasoning_content", "refusal", "annotations")
    last.finish()
    return before.with_assistant(content, reply)


def _question(objects: list[Fields]) -> Conversation:
    """Parse messages that do not end in a reply: in this API only ``continue`` continues a reply."""
    conversation = conversation_of(objects)
    if conversation.last is not None and conversation.last.role == "assistant":
        raise objects[-1].wrong("role", "is assistant: a reply must follow a user message or a tool result")
    return conversation


def _known(given: Conversation, line: list[Message]) -> Conversation:
    """Replace messages of ``given`` that are stored by their stored form, with finish reasons and with bytes that JSON
    cannot carry.
    """
    messages = list(given.messages)
    for place, (mine, theirs) in enumerate(zip(line, messages, strict=False)):
        if _key(mine) != _key(theirs):
            break
        messages[place] = mine
    return replace(given, messages=tuple(messages))


def _key(message: Message) -> tuple[object, ...]:
    return message.role, well_formed(message.content), message.tool_calls, message.call_id


def _title(fields: Fields) -> str:
    title = one_line(fields.text("title") or "").strip()
    if len(title) > _TITLE:
        raise fields.wrong("title", f"has more than {_TITLE} characters")
    return title
