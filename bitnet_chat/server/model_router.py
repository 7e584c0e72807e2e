"""Choice of the model for a request for the model ``auto``. Pure.

The names of the models decide: ``code`` or ``coder`` among the words of a name (``qwen-coder``) marks a model for code,
``long`` one for long conversations, ``short`` one for all others. The rule:

1. A conversation about code uses the model for code, any other conversation the model for short ones. Without a model
   of such a name it uses the first model.
2. A conversation that takes more than half of the context window of that model uses the model for long conversations,
   or without such a name the one with the largest window. A model with a smaller window is never chosen.

A conversation is about code if the last user message contains or mentions code, or the reply before it contains code:
a fence of three backticks, a line that is a statement in a common language, or words that are rare in other texts. A
window of unknown size counts as large enough.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bitnet_chat.context.token_count import by_length
from bitnet_chat.conversation import Conversation

AUTO = "auto"
"""The reserved name: the best model for the conversation."""
SHARE = 0.5
"""Share of a context window; the rest is for the reply and for later turns."""


@dataclass(frozen=True, slots=True)
class RouteCandidate:
    name: str
    window: int = 0
    """Tokens; 0: not known."""

    def is_for(self, *words: str) -> bool:
        return not set(words).isdisjoint(re.split(r"[^a-z]+", self.name.lower()))


@dataclass(frozen=True, slots=True)
class Route:
    name: str
    kind: str
    """``code``, ``long`` or ``short``."""


def route(conversation: Conversation, candidates: Sequence[RouteCandidate]) -> Route:
    """Return the model for a conversation. ``candidates``: at least one, in the order of the command line."""
    about_code = is_about_code(conversation)
    kind = "code" if about_code else "short"
    words = ("code", "coder") if about_code else ("short",)
    chosen = next((each for each in candidates if each.is_for(*words)), candidates[0])
    if chosen.window and size_of(conversation) > SHARE * chosen.window:
        longer = _for_long(candidates)
        if longer.window > chosen.window or (not longer.window and longer.is_for("long")):
            return Route(longer.name, "long")
    return Route(chosen.name, kind)


def _for_long(candidates: Sequence[RouteCandidate]) -> RouteCandidate:
    named = next((each for each in candidates if each.is_for("long")), None)
    return named or max(candidates, key=lambda each: each.window)


def size_of(conversation: Conversation) -> int:
    """Return the estimated number of tokens. An estimate needs no loaded model."""
    return sum(by_length(each.content).count for each in conversation.messages)


_FENCE = re.compile(r"^ {0,3}(```|~~~)", re.M)
# Anchored at lines, and possessive where it could backtrack: linear time for any text.
_STATEMENT = re.compile(
    r"""^[ \t]*+(?:
        (?:async[ ])?def[ ]\w+[ ]?\(.*:           # Python
      | class[ ]\w+[ ]?(?:\([^)\n]*\))?[ ]?[:{][ ]*$
      | (?:from[ ][\w.]+[ ])?import[ ][\w.{}*, ]+;?$
      | \#include[ ]*[<"]                         # C, C++
      | \#!/                                      # a script
      | (?:const|let|var)[ ]\w+[ ]?=              # JavaScript, Go
      | (?:export[ ])?(?:async[ ])?function\b[ \w]*\(
      | (?:public|private|protected|static)[ ][\w<>\[\], ]+[({;=]
      | (?:pub[ ])?fn[ ]\w+[(<]                   # Rust
      | func[ ](?:\([^)\n]*\)[ ])?\w+\(           # Go
      | (?:select\b.+\bfrom|insert[ ]into|create[ ]table)[ ]
      | (?:if|for|while)[ ]?\(.*\)[ ]?\{
      | Traceback[ ]\(most[ ]recent
      | File[ ]".*",[ ]line[ ]\d
      | .*[)\w\]"'];\n.*[)\w\]"'}];$              # two lines that end like statements
    )""",
    re.M | re.X | re.I,
)
# One of these words is enough: they are rare in other texts.
_SURE = re.compile(
    r"\b(?:python|javascript|typescript|golang|kotlin|c\+\+|c#|sql|html|css|json|yaml|regex(?:es)?|regular expression"
    r"|bash script|shell script|dockerfile|makefile|stack ?trace|traceback|segfault|syntax error|null pointer"
    r"|refactor(?:ing|ed)?|unit tests?|pytest|codebase|source code|pull request|(?:this|my|your|some|write|more) code)"
    r"(?![\w+#])",
    re.I,
)
# Of these it takes two different ones, close to each other.
_MAYBE = re.compile(
    r"\b(?:code|coding|program|programming|function|variable|loop|array|integer|bug|debug|script|algorithm|recursive"
    r"|recursion|java|rust|api|library|parser|parse|compile|compiler|exception|implement|database|linux)\b",
    re.I,
)
_CLOSE = 200
"""Characters."""
_LOOKED_AT = 10_000
"""Characters at each end of a message that are examined: enough for its subject, at a bounded cost."""


def is_about_code(conversation: Conversation) -> bool:
    """Whether a conversation is about code; the module has the rule."""
    messages = conversation.messages
    at = next((i for i in reversed(range(len(messages))) if messages[i].role == "user"), None)
    if at is None:
        return False
    if shows_code(messages[at].content) or speaks_of_code(messages[at].content):
        return True
    return at > 0 and messages[at - 1].role == "assistant" and _FENCE.search(messages[at - 1].content) is not None


def shows_code(text: str) -> bool:
    text = _ends(text)
    return _FENCE.search(text) is not None or _STATEMENT.search(text) is not None


def speaks_of_code(text: str) -> bool:
    text = _ends(text)
    if _SURE.search(text):
        return True
    found = list(_MAYBE.finditer(text))
    return any(
        one[0].lower() != next_one[0].lower() and next_one.start() - one.end() < _CLOSE
        for one, next_one in pairwise(found)
    )


def _ends(text: str) -> str:
    return text if len(text) <= 2 * _LOOKED_AT else f"{text[:_LOOKED_AT]}\n{text[-_LOOKED_AT:]}"
