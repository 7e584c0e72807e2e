"""Role markers: the text with which a chat template begins or ends a turn, where a model writes it as its reply. Pure.

Two kinds. A token is a text such as ``<|im_end|>`` that represents a special token; the well-known ones count beside
those of the template in use. A label is a word such as ``User:``; only those of the template in use count.

To take ordinary text for a marker is worse than to miss one, which is visible to the user. So none counts in a
fenced code block, and

- a token does not count in quotation marks or backticks, nor in the middle of a sentence (a space before it, and
  neither the end of the line, of the text nor another token behind it), nor when a message of the user contains one;
  ``</s>`` does not count where ``<s>`` is in the same line, or the one above: that is HTML;
- a label counts at the beginning of a line, behind a blank line or the end of a sentence. It does not behind a line
  that introduces it (``Here is one:``), a heading, a rule or another ``Name: value``: then the reply is a dialogue or a
  form, and labels no longer count in it. They do not either where the user has asked for a dialogue.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bitnet_chat.conversation import Conversation

WELL_KNOWN = (
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|user|>",
    "<|assistant|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜end▁of▁sentence｜>",
    "[INST]",
    "[/INST]",
)
"""Tokens of the common model families that are nothing else in any language."""

_TOKEN = re.compile(r"<\|[^|<>[\s]{1,40}\|>|<｜[^｜<>[\s]{1,40}｜>|<(?:start|end)_of_turn>|\[/?INST\]|</s>")
_LABEL = re.compile(r"^(?:#{1,6} ?)?[^\W\d_][\w ]{0,30}:$")
_STRUCK = re.compile(r"<s[ >]")
_SPACE = " \t\r\n"
_SPACE_LIMIT = 64
"""White space before a marker goes with it, and so much of it waits for what follows."""

_FENCE = re.compile("`{3,}")
_OPEN_APOSTROPHE = re.compile(r"(?:^|[\s(\[{=,:])'[^']*$")
_SENTENCE_END = re.compile(r"""[.!?…。！？][)\]"'”’»*_`]*\s*$""")
_NAME_AND_VALUE = re.compile(r"[\W_]*\w[\w ()-]{0,30}[*_]*[:：]")
_HEADING = re.compile(r"\s*(?:#|\*\*[^*]+\*\*\s*$|__[^_]+__\s*$|[\W_]*$)")
# In small letters, anywhere in a word: 6 times faster than in any letters at the beginning of one, and a long
# conversation is looked through for each reply.
_DIALOGUE = re.compile(
    r"dialog|diálogo|gespräch|conversation|transcript|interview|role.?play|screenplay|chat|对话|会話"
)


def markers_of(in_prefix: str, in_suffix: str) -> tuple[str, ...]:
    """The markers in what a template puts before and after a user message (see ``prompt.template.TurnMarks``)."""
    found: dict[str, None] = {}
    for text in (in_prefix, in_suffix):
        found |= dict.fromkeys(_TOKEN.findall(text))
        for line in _TOKEN.sub("\n", text).splitlines():
            if _LABEL.match(label := line.strip()):
                found[label] = None
                if label == "User:":  # models that were taught the one say the other as well
                    found["Human:"] = None
    return tuple(found)


def relevant(markers: Iterable[str], conversation: Conversation) -> tuple[str, ...]:
    """Those of ``markers`` and ``WELL_KNOWN`` that would tell something in a reply to this conversation."""
    said = [message.content for message in conversation.messages]
    asked = [message.content.lower() for message in conversation.messages if message.role == "user"]
    every = dict.fromkeys((*markers, *WELL_KNOWN))
    labels = [marker for marker in every if _LABEL.match(marker)]
    names = [label.strip("#: ").lower() for label in labels]
    about_labels = any(_DIALOGUE.search(text) or sum(name in text for name in names) > 1 for text in asked)
    about_tokens = any(_TOKEN.search(each.content) for each in conversation.messages if each.role == "user")
    return tuple(
        marker
        for marker in every
        if not (about_labels if marker in labels else about_tokens) and not any(marker in text for text in said)
    )


class RoleMarkerScanner:
    """Passes a reply on, up to the first marker; only what may be the beginning of one waits for more."""

    def __init__(self, markers: Iterable[str], before: str = "") -> None:
        """``before``: text that comes first and is not judged."""
        markers = sorted(markers, key=len, reverse=True)
        labels = [marker for marker in markers if _LABEL.match(marker)]
        tokens = [marker for marker in markers if marker not in labels]
        branches = [*map(re.escape, tokens)]
        if labels:
            branches.append(f"\n(?:{'|'.join(map(re.escape, labels))})(?=[ \n])")
        self._pattern = re.compile("|".join(branches) or r"(?!)")
        # By the first character, which stands nowhere else in any of them.
        self._open: dict[str, list[str]] = {}
        for whole in (*tokens, *(f"\n{label} " for label in labels)):
            self._open.setdefault(whole[0], []).append(whole)
        self._reach = max(map(len, branches), default=0)
        self._lines = FenceTracker()
        self._lines.feed(before)
        self._labels_count = True
        self._held = ""
        self.found = False
        """Whether a marker was found; nothing is passed on any more."""

    def feed(self, text: str) -> str:
        """The part of the reply that can be shown by now."""
        return self._scan(text, over=False)

    def flush(self) -> str:
        """The same at the end of the reply: all that waited."""
        return self._scan("", over=True)

    def _scan(self, text: str, *, over: bool) -> str:
        if self.found:
            return ""
        text = self._held + text
        ahead, done, waiting = self._lines, 0, len(text)
        for hit in self._pattern.finditer(text):
            if ahead is self._lines:
                ahead = ahead.copy()
            ahead.feed(text[done : hit.start()])
            done = hit.start()
            after = text[hit.end() : hit.end() + 1]
            counts = self._counts(hit.group(), ahead, after, over=over)
            if counts is None:
                waiting = done
                break
            if counts:
                self.found = True
                return text[: done - _space_at_end(text, done)]
            ahead.feed(hit.group())
            done = hit.end()
        cut = len(text)
        if not over:
            cut = waiting - (self._open_length(text, done) if waiting == len(text) else 0)
            cut -= _space_at_end(text, cut)
        self._held = text[cut:]
        self._lines.feed(text[:cut])
        return text[:cut]

    def _open_length(self, text: str, done: int) -> int:
        """Length of the end of ``text`` that may be the beginning of a marker."""
        tail = text[max(done, len(text) - self._reach) :]
        at, start = max(((tail.rfind(start), start) for start in self._open), default=(-1, ""))
        if at >= 0 and any(whole.startswith(tail[at:]) for whole in self._open[start]):
            return len(tail) - at
        return 0

    def _counts(self, marker: str, lines: FenceTracker, after: str, *, over: bool) -> bool | None:
        """Whether ``marker`` is one where it stands; None where that depends on what follows."""
        if lines.in_code:
            return False
        if marker[0] == "\n":
            return self._label_counts(lines)
        line = lines.line[-TAIL:]
        if marker == "</s>" and (_STRUCK.search(line) or _STRUCK.search(lines.before[-TAIL:])):
            return False
        if line.count('"') % 2 or _FENCE.sub("", line).count("`") % 2 or line.rfind("“") > line.rfind("”"):
            return False
        if _OPEN_APOSTROPHE.search(line):
            return False
        if not line.strip() or not line[-1].isspace():
            return True
        if not after and not over:
            return None
        return after in ("", "\n", "\r", "<", "[")

    def _label_counts(self, lines: FenceTracker) -> bool:
        lines = lines.copy()
        lines.feed("\n")
        before = lines.before
        if (
            not before
            or before.rstrip().endswith((":", "："))
            or _NAME_AND_VALUE.match(before[:HEAD])
            or _HEADING.match(before[:HEAD])
        ):
            self._labels_count = False
        return self._labels_count and bool(lines.after_blank or _SENTENCE_END.search(before[-TAIL:]))


def _space_at_end(text: str, end: int) -> int:
    """How much white space stands before ``text[end]``, up to the limit."""
    start = max(0, end - _SPACE_LIMIT)
    return end - start - len(text[start:end].rstrip(_SPACE))


# A position in a text: its line, the line before, and whether it is in a fenced code block. Pure.

# As CommonMark has it, but at any depth: lists and quotes put their own marks in front.
_FENCE_LINE = re.compile(r"[ \t>]*(`{3,}|~{3,})(.*)", re.DOTALL)
HEAD, TAIL = 200, 1000
"""Characters of a long line that are kept, of its beginning and of its end."""


class FenceTracker:
    """Follows a text. What it says does not depend on how the text was cut into pieces, unless the caller looks at
    more of a line than its first ``HEAD`` and its last ``TAIL`` characters. A line ends in a newline."""

    __slots__ = ("_fence", "after_blank", "before", "line")

    def __init__(self) -> None:
        self.line = ""
        """The line so far, without its middle if it is long: a piece then costs the same however long it gets."""
        self.before = ""
        """The last line above that is not blank; empty without one."""
        self.after_blank = False
        """Whether a blank line stands between the two."""
        self._fence = ""

    @property
    def in_code(self) -> bool:
        """Whether the next character would be in a fenced code block; behind the fence that closes it: no."""
        return bool(self._fence) and not self._closes(self.line)

    def feed(self, text: str) -> None:
        if "\n" in text:
            first, *middle, text = text.split("\n")
            self._end(self.line + first)
            for line in middle:
                self._end(line)
            self.line = ""
        self.line += text
        if len(self.line) > HEAD + 2 * TAIL:
            self.line = self.line[:HEAD] + self.line[-TAIL:]

    def copy(self) -> FenceTracker:
        other = FenceTracker()
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        return other

    def _end(self, line: str) -> None:
        if not line or line.isspace():
            self.after_blank = True
            return
        self.before, self.after_blank = line, False
        if "```" in line or "~~~" in line:
            if self._fence:
                if self._closes(line):
                    self._fence = ""
            elif (opening := _FENCE_LINE.match(line[:HEAD])) and "`" not in opening[2]:
                self._fence = opening[1]

    def _closes(self, line: str) -> bool:
        closing = _FENCE_LINE.match(line[:HEAD])
        return closing is not None and closing[1].startswith(self._fence) and not closing[2].strip()
