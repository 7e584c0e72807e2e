"""The description of ``/chats`` and ``/replies``. Data."""

from __future__ import annotations

from bitnet_chat.backends.variants import MOST
from bitnet_chat.journal.votes import MOST_REPLIES
from bitnet_chat.server.openapi.openai import (
    ALWAYS,
    SAMPLING,
    TOKENS,
    TOOLING,
    URGENCY,
    WHAT_WENT_WRONG,
    WITH_BODY,
    WITH_REPLY,
)
from bitnet_chat.server.openapi.schema import (
    AMOUNT,
    FLAG,
    NUMBER,
    OBJECT,
    TEXT,
    WHOLE,
    Schema,
    answer,
    array,
    between,
    body,
    described,
    errors,
    nullable,
    one_of,
    open_object,
    operation,
    parameter,
    ref,
    reply_object,
    request_object,
)

_ROW: Schema = {"type": "integer", "minimum": 1, "maximum": 2**63 - 1}
_SHORT: Schema = {"type": "string", "maxLength": 200}
_OPTIONS: dict[str, Schema] = {
    "model": described(TEXT, "Empty: the model of the chat, else the default model."),
    "max_completion_tokens": TOKENS,
    "max_tokens": TOKENS,
    **SAMPLING,
    **TOOLING,
}
_STATE = one_of("whole", "cut_off", "answering", "unanswered")
_CALL = reply_object(
    {"id": TEXT, "type": {"const": "function"}, "function": reply_object({"name": TEXT, "arguments": TEXT})}
)
_SAVED_STATE = described(FLAG, "Whether an engine continues the chat from a saved state, without reading it again.")
_TIMES: dict[str, Schema] = {
    "created": described(NUMBER, "Seconds since 1970."),
    "updated": described(NUMBER, "Seconds since 1970."),
}

_MESSAGE: dict[str, Schema] = {
    "id": nullable(_ROW),
    "role": one_of("system", "user", "assistant", "tool"),
    "content": TEXT,
    "thinking": TEXT,
    "finish_reason": described(nullable(TEXT), "null while the reply is running."),
    "created": NUMBER,
    "model": TEXT,
    "stats": OBJECT,
    "tool_calls": array(_CALL),
    "tool_call_id": nullable(TEXT),
}
_PLACE: dict[str, Schema] = {
    "siblings": array(
        _ROW, description="The ids of all messages with the same parent, oldest first; empty without others."
    ),
    "position": described(WHOLE, "The place of this one among them, from 1."),
}

SCHEMAS: dict[str, Schema] = {
    "ChatError": reply_object(
        {
            "error": reply_object(
                {"message": TEXT, "type": TEXT, "remedy": TEXT}, {"param": nullable(TEXT), "code": nullable(TEXT)}
            )
        }
    ),
    "NewChat": request_object({}, {"title": _SHORT, "system": TEXT, "model": TEXT, "messages": array(ref("Message"))}),
    "NewTitle": request_object({"title": {**_SHORT, "minLength": 1}}, {}),
    "Ask": described(
        open_object(
            {},
            {
                "content": described({"type": "string", "minLength": 1}, "The next user message."),
                "edit": described(_ROW, "The id of the message that content replaces."),
                "messages": array(ref("Message"), description="The whole conversation."),
                "regenerate": described(FLAG, "Regenerate the last reply."),
                "variants": described(between(1, MOST, WHOLE), "Number of replies; not with continue."),
                "compare": described(
                    FLAG, "With regenerate: the events and the chat name the earlier reply, for a comparison of both."
                ),
                "blind": described(FLAG, "With compare: clients hide the models until the vote."),
                "continue": described(FLAG, "Continue a reply that was cut."),
                "system": TEXT,
                "stream": described(FLAG, "false: the response is 202, and the reply is read from the events."),
                **_OPTIONS,
            },
        ),
        "Exactly one of content, messages, regenerate and continue.",
    ),
    "LoneAsk": open_object(
        {"messages": array(ref("Message"), minItems=1)},
        {"continue": described(FLAG, "The last message is a reply that was cut and is continued."), **_OPTIONS},
    ),
    "ChatEntry": reply_object(
        {
            "id": _ROW,
            "title": TEXT,
            **_TIMES,
            "turns": AMOUNT,
            "model": TEXT,
            "state": _STATE,
            "live": described(FLAG, "Whether a reply is running."),
            "saved_state": _SAVED_STATE,
        },
        {"snippet": TEXT},
    ),
    "Chats": reply_object({"chats": array(ref("ChatEntry"))}),
    "ChatMessage": reply_object(_MESSAGE | _PLACE, {"html": TEXT, "name": nullable(TEXT)}),
    "Chat": reply_object(
        {
            "id": _ROW,
            "title": TEXT,
            **_TIMES,
            "model": TEXT,
            "system": TEXT,
            "state": _STATE,
            "saved_state": _SAVED_STATE,
            "messages": array(ref("ChatMessage")),
            "passed_over": array(
                ref("ChatMessage"),
                description="Messages of the user that got no reply before the next one was sent. They stand among the"
                " others by their ids, can be edited, and no model sees them.",
            ),
            "votes": array(ref("Vote"), description="Oldest first."),
            "live": nullable(
                reply_object(
                    {
                        "generation": TEXT,
                        "message": nullable(WHOLE),
                        "place": AMOUNT,
                        "variants": array(
                            ref("LiveVariant"),
                            description="Of several variants, all; the first is also the last message of the chat.",
                        ),
                        "compare": nullable(
                            described(
                                reply_object({"message": _ROW, "blind": FLAG}),
                                "The earlier reply that the running one is compared with.",
                            )
                        ),
                    }
                )
            ),
        }
    ),
    "LiveVariant": reply_object({**_MESSAGE, "place": AMOUNT}, {"html": TEXT, "name": nullable(TEXT)}),
    "NewVote": request_object(
        {
            "replies": array(
                _ROW, minItems=2, maxItems=MOST_REPLIES, description="In the order in which they were shown."
            )
        },
        {
            "chosen": described(_ROW, "The preferred one; null: none is better."),
            "blind": described(FLAG, "Whether the models were hidden until the choice."),
        },
    ),
    "Vote": reply_object(
        {
            "id": _ROW,
            "conversation": _ROW,
            "created": described(NUMBER, "Seconds since 1970."),
            "blind": FLAG,
            "replies": array(reply_object({"message": _ROW, "model": TEXT, "engine": TEXT})),
            "chosen": nullable(_ROW),
        }
    ),
    "TreeMessage": reply_object(
        {
            **_MESSAGE,
            **_PLACE,
            "parent": described(nullable(_ROW), "The id of the message before it; null for a first one."),
        },
        {"name": nullable(TEXT)},
    ),
    "ChatTree": reply_object(
        {
            "id": _ROW,
            "head": described(nullable(_ROW), "The last message of the current branch."),
            "messages": array(ref("TreeMessage"), description="Of all branches, oldest first."),
            "votes": array(ref("Vote"), description="Oldest first."),
        }
    ),
    "NewHead": request_object({"message": described(_ROW, "The id of a message of any branch.")}, {}),
    "Begun": reply_object(
        {
            "generation": TEXT,
            "user_message": nullable(WHOLE),
            "message": nullable(WHOLE),
            "messages": array(nullable(WHOLE), description="Of all variants."),
        },
        {"notices": array(TEXT, description="About fields of the request without effect.")},
    ),
    "Stopped": reply_object({"stopped": described(FLAG, "Whether a reply was running.")}),
}

_ID = parameter("path", "id", _ROW, "Of the chat.")
_RENDER = parameter("query", "render", one_of("html"), "Replies also as sanitized HTML.")
_EVENTS = (
    "Events: start, progress, chunk, thinking, tool_call, notice, html, then complete or error. With several variants"
    " each of them has all of these, with its number, from 0, as variant."
)
_EVENT = reply_object(
    {
        "event": one_of(
            *("start", "progress", "chunk", "thinking", "tool_call", "notice", "html", "complete", "error"),
            *("chat", "saved_state", "message"),
        ),
        "data": described(TEXT, "JSON; empty for an event with only the time before a reconnect."),
    },
    {"id": described(TEXT, "The generation and the position after the event, for Last-Event-ID.")},
)


def _refusals(*statuses: int) -> dict[str, Schema]:
    return errors(ref("ChatError"), WHAT_WENT_WRONG, *statuses, *ALWAYS)


def _stream(description: str) -> Schema:
    return answer(description, _EVENT, kind="text/event-stream")


PATHS: dict[str, Schema] = {
    "/chats": {
        "get": operation(
            "listChats",
            "Chats",
            "List chats, newest first",
            {"200": answer("The list.", ref("Chats")), **_refusals(400)},
            parameter("query", "limit", between(1, 1000, WHOLE), "Maximum number of chats; default 100."),
            parameter("query", "q", {"type": "string", "maxLength": 1000}, "Words of the search."),
        ),
        "post": operation(
            "createChat",
            "Chats",
            "Create a chat",
            {"201": answer("It.", ref("Chat")), **_refusals(*WITH_BODY, 404, 503)},
            body=body(ref("NewChat")),
        ),
    },
    "/chats/{id}": {
        "get": operation(
            "showChat",
            "Chats",
            "Get a chat",
            {"200": answer("It.", ref("Chat")), **_refusals(400, 404)},
            _ID,
            _RENDER,
            parameter("query", "message", _ROW, "The last message of the branch to show instead of the current one."),
        ),
        "patch": operation(
            "renameChat",
            "Chats",
            "Rename a chat",
            {"200": answer("It.", ref("Chat")), **_refusals(*WITH_BODY, 404, 503)},
            _ID,
            body=body(ref("NewTitle")),
        ),
        "delete": operation(
            "removeChat",
            "Chats",
            "Delete a chat; a running reply is cancelled",
            {"204": answer("The chat is deleted."), **_refusals(404, 409, 503)},
            _ID,
        ),
    },
    "/chats/{id}/messages": {
        "post": operation(
            "ask",
            "Chats",
            "Generate a reply in a chat; it continues for a while after a disconnect",
            {
                "200": _stream(_EVENTS),
                "202": answer("The reply has begun.", ref("Begun")),
                **_refusals(*WITH_BODY, *WITH_REPLY, 409),
            },
            _ID,
            _RENDER,
            URGENCY,
            body=body(ref("Ask")),
        )
    },
    "/chats/{id}/head": {
        "post": operation(
            "setHead",
            "Chats",
            "Switch to the branch through a message, down to the newest message below it",
            {"200": answer("The chat with this branch.", ref("Chat")), **_refusals(*WITH_BODY, 404, 409, 503)},
            _ID,
            _RENDER,
            body=body(ref("NewHead")),
        )
    },
    "/chats/{id}/votes": {
        "post": operation(
            "vote",
            "Chats",
            "Store the choice between variants of a reply, and switch to the branch through the chosen one",
            {"200": answer("The chat with this branch.", ref("Chat")), **_refusals(*WITH_BODY, 404, 409, 503)},
            _ID,
            _RENDER,
            body=body(ref("NewVote")),
        )
    },
    "/chats/{id}/tree": {
        "get": operation(
            "showTree",
            "Chats",
            "Get the messages of all branches of a chat",
            {"200": answer("They.", ref("ChatTree")), **_refusals(400, 404)},
            _ID,
        )
    },
    "/chats/{id}/events": {
        "get": operation(
            "watch",
            "Chats",
            "Stream the running reply, from its beginning or from Last-Event-ID",
            {"200": _stream(_EVENTS), "204": answer("No reply is running."), **_refusals(400, 404)},
            _ID,
            _RENDER,
            parameter("query", "follow", one_of("0", "1"), "1: the stream stays open and includes every later reply."),
            parameter("query", "last_event_id", TEXT, "The same as the header, for clients that cannot set one."),
            parameter("header", "Last-Event-ID", TEXT, "The id of the last event received."),
        )
    },
    "/chats/{id}/stop": {
        "post": operation(
            "stop",
            "Chats",
            "Stop the running reply",
            {"200": answer("The result.", ref("Stopped")), **_refusals(404)},
            _ID,
        )
    },
    "/replies": {
        "post": operation(
            "reply",
            "Chats",
            "Generate a reply without a chat; a disconnect cancels it",
            {"200": _stream(_EVENTS), **_refusals(*WITH_BODY, *WITH_REPLY)},
            URGENCY,
            body=body(ref("LoneAsk")),
        )
    },
}
