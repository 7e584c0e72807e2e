"""Masking of private data in a trace: the entries stay the same, and each stream keeps its number of bytes. Pure.

Names, home directories and keys are always masked (:mod:`bitnet_chat.trace.secret_redaction`). Unless the text is
requested, the conversation is masked too: input, output, and its words in logs, including the debug log of an engine,
which contains every token.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from bitnet_chat.conversation.stdin_encoding import encode_lines
from bitnet_chat.engine.protocols.modern import PROMPT
from bitnet_chat.trace.format import TraceEntry, TraceEntryKind, of_facts
from bitnet_chat.trace.playback import is_modern, is_native, option
from bitnet_chat.trace.secret_redaction import Redactor

_STREAMS = (TraceEntryKind.OUT, TraceEntryKind.ERR)
_WORD = re.compile(r"[^\W_]{3,}")

# Messages of the console of an engine, with the colours that only the console writes.
_CONSOLE = (
    r"\x1b\[35m\n\[ Prompt: [\d.]+ t/s \| Generation: [\d.]+ t/s \]\n"
    r"|\x1b\[90m\n\[Start thinking\]\n\n|\[End thinking\]\n\n\x1b\[0m"
    r"|\x1b\[1m\x1b\[31mError: [^\x1b]{0,400}"
    r"|\n(?:Interrupted by user|Exiting\.\.\.)\n|\x1b\[0mChat history cleared\.\n"
)
_TEXTS = """--in-prefix --in-suffix -p --prompt -sys --system-prompt -r --reverse-prompt --chat-template --grammar -j
--json-schema"""
_TEXT_FLAGS = frozenset(_TEXTS.split())
# Flags of bitnet-chat whose values are not part of a conversation. The name of an attached file may be.
_PLAIN = """-m --model --engine -c --ctx -t --threads --temp --temperature --seed -n --max-tokens --timeout --persona
--overflow --repeat-limit --stall-timeout --resume --markdown --thinking --io --typing-speed
--state-limit"""
_PLAIN_FLAGS = frozenset(_PLAIN.split())


def mask_session(entries: Sequence[TraceEntry], redactor: Redactor, *, with_text: bool) -> Iterator[TraceEntry]:
    """Mask entries in their order. ``with_text``: the text of the conversation stays."""
    session = _SessionMask(entries, redactor, with_text=with_text)
    streams = {key: session.stream(key, data) for key, data in _joined(entries).items()}
    taken = dict.fromkeys(streams, 0)
    for entry in entries:
        key = entry.process, entry.kind
        if key in streams:
            start = taken[key]
            taken[key] += len(entry.data)
            yield replace(entry, data=streams[key][start : taken[key]])
        elif entry.kind in (TraceEntryKind.SPAWN, TraceEntryKind.ABOUT):
            yield of_facts(entry.at, entry.kind, entry.process, session.facts(entry))
        elif entry.kind is TraceEntryKind.IN or session.is_native_request(entry):
            yield replace(entry, data=session.input(entry))
        else:
            yield entry


class _SessionMask:
    """Masks the entries of one session, depending on the engines that were started in it."""

    def __init__(self, entries: Sequence[TraceEntry], redactor: Redactor, *, with_text: bool) -> None:
        self._redactor, self._with_text = redactor, with_text
        spawns = [entry for entry in entries if entry.kind is TraceEntryKind.SPAWN]
        self._argvs = {entry.process: entry.argv for entry in spawns}
        self._leads = {entry.process: _lead(entry) for entry in spawns}
        self._natives = {
            entry.process: [behind_marks(each) for each in _surrounding_texts(entry.facts.get("around"))]
            for entry in spawns
            if is_native(entry)
        }
        self._words = frozenset[str]() if with_text else _vocabulary(entries, self._argvs, self._leads, self._natives)

    def stream(self, key: tuple[int, TraceEntryKind], data: bytes) -> bytes:
        """Mask the whole output or log of one engine."""
        process, kind = key
        text = data.decode("utf-8", "surrogateescape")
        if process in self._natives and kind is TraceEntryKind.OUT:
            return _encoded(native_output(text, self._change, self._mask_message))
        if not self._with_text:
            if kind is TraceEntryKind.ERR:
                text = mask_log(text, self._words)
            else:
                text = _mask_output(text, self._argvs.get(process, ()), self._words)
        return _encoded(self._redactor.same_length(text))

    def facts(self, entry: TraceEntry) -> dict[str, Any]:
        """Mask the facts of a SPAWN or ABOUT."""
        facts = entry.facts
        if "argv" in facts:
            arguments = list(entry.argv)
            if not self._with_text:
                masked = engine_arguments if entry.kind is TraceEntryKind.SPAWN else chat_arguments
                arguments = masked(arguments)
            facts["argv"] = self._redactor.arguments(arguments)
        if "around" in facts:
            around = _surrounding_texts(facts["around"])
            if not self._with_text:
                around = [each if is_role(each) else mask(each, _marks(entry.argv)) for each in around]
            facts["around"] = [self._redactor.same_length(each) for each in around]
        if "folder" in facts:
            facts["folder"] = self._redactor.text(str(facts["folder"]))
        return facts

    def is_native_request(self, entry: TraceEntry) -> bool:
        """Whether the entry is input to a native engine."""
        return entry.kind in (TraceEntryKind.IN, TraceEntryKind.COMMAND) and entry.process in self._natives

    def input(self, entry: TraceEntry) -> bytes:
        """Mask input to an engine."""
        if self.is_native_request(entry):
            return _encoded(native_request(entry.text, self._change, self._natives[entry.process]))
        lead, text = _message(entry, self._leads)
        text = lead + (text if self._with_text else mask(text, _marks(self._argvs.get(entry.process, ()))))
        return _encoded(self._redactor.same_length(text))

    def _change(self, text: str) -> str:
        return self._redactor.same_length(text if self._with_text else mask(text))

    def _mask_message(self, text: str) -> str:
        return self._redactor.same_length(_mask_words(text, self._words))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def engine_arguments(argv: Sequence[str]) -> list[str]:
    """Mask prompts and templates in the arguments of an engine."""
    keep = _marks(tuple(argv))
    return [
        mask(argument, keep) if at and argv[at - 1] in _TEXT_FLAGS else argument for at, argument in enumerate(argv)
    ]


def chat_arguments(argv: Sequence[str]) -> list[str]:
    """Mask texts in the command line of bitnet-chat; arguments after ``--`` are those of the engine."""
    ours, at = list(argv), list(argv).index("--") if "--" in argv else len(argv)
    masked = [
        argument if not number or ours[number - 1] in _PLAIN_FLAGS else _masked_value(argument)
        for number, argument in enumerate(ours[:at])
    ]
    return masked + engine_arguments(ours[at:])


def _masked_value(argument: str) -> str:
    if not argument.startswith("-"):
        return mask(argument)
    if argument.startswith(("-a", "-f")):  # the value may be in the same argument
        return argument[:2] + mask(argument[2:])
    flag, equals, value = argument.partition("=")
    return flag + equals + (value if flag in _PLAIN_FLAGS else mask(value)) if " " not in flag else mask(argument)


def _marks(argv: tuple[str, ...]) -> re.Pattern[str]:
    return marks(option(argv, "--in-prefix"), option(argv, "--in-suffix"))


def _joined(entries: Iterable[TraceEntry]) -> dict[tuple[int, TraceEntryKind], bytes]:
    """Join each stream, since a character or a name may be split between two reads."""
    parts: dict[tuple[int, TraceEntryKind], list[bytes]] = {}
    for entry in entries:
        if entry.kind in _STREAMS:
            parts.setdefault((entry.process, entry.kind), []).append(entry.data)
    return {key: b"".join(each) for key, each in parts.items()}


def _surrounding_texts(fact: object) -> list[str]:
    return [each for each in fact if isinstance(each, str)] if isinstance(fact, list) else []


def _lead(spawn: TraceEntry) -> str:
    """The text before each message to an engine, if it consists of role names."""
    lead, *_ = *_surrounding_texts(spawn.facts.get("around")), ""
    return encode_lines(lead).decode().removesuffix("/\n") if lead and is_role(lead) else ""


def _message(entry: TraceEntry, leads: Mapping[int, str]) -> tuple[str, str]:
    """Split input into the text before a message, and the message."""
    lead = leads.get(entry.process, "")
    return (lead, entry.text.removeprefix(lead)) if entry.text.startswith(lead) else ("", entry.text)


def _vocabulary(
    entries: Sequence[TraceEntry],
    argvs: Mapping[int, tuple[str, ...]],
    leads: Mapping[int, str],
    natives: Collection[int],
) -> frozenset[str]:
    """The words of the conversation in lower case. They are masked in logs too."""
    words: set[str] = set()
    for entry in entries:
        if entry.kind is TraceEntryKind.IN or (entry.kind is TraceEntryKind.COMMAND and entry.process in natives):
            text = native_text(entry.text) if entry.process in natives else _message(entry, leads)[1]
            words.update(_WORD.findall(text.casefold()))
    for (process, kind), data in _joined(entries).items():
        if kind is TraceEntryKind.OUT:
            output = data.decode("utf-8", "surrogateescape")
            text_after = native_text(output) if process in natives else _split_banner(output, argvs.get(process, ()))[1]
            words.update(_WORD.findall(text_after.casefold()))
    return frozenset(words)


def _mask_output(text: str, argv: tuple[str, ...], words: Set[str]) -> str:
    keep = re.compile(f"{_CONSOLE}|{_marks(argv).pattern}")
    banner, text_after = _split_banner(text, argv)
    masked = mask(text_after, keep)
    return banner + re.sub(
        r"(?<=\x1b\[1m\x1b\[31mError: )[^\x1b]{0,400}", lambda match: _mask_words(match.group(), words), masked
    )


def _split_banner(text: str, argv: tuple[str, ...]) -> tuple[str, str]:
    """Split the output of a modern engine into the banner before the first message, and the rest."""
    if not is_modern(argv):
        return "", text
    greeting, prompt, text_after = text.partition(PROMPT)
    return greeting + prompt, text_after


def _mask_words(text: str, words: Set[str]) -> str:
    return _WORD.sub(lambda match: mask(match.group()) if match.group().casefold() in words else match.group(), text)


# The log

_PREFIXED = re.compile(r"^(?=[DIWE] )", re.MULTILINE)
_LINES = re.compile(r"^", re.MULTILINE)
# Log records about the model, the machine and measurements, which do not contain text of a conversation. Debug records
# of a server are not included, because they contain what it parses.
_HARMLESS = re.compile(
    r"(?:[DIWE] )?(?:llama_(?!completion|server)\w+|llm_load_\w+|print_info|load|load_\w+|graph_\w+|sched_\w+|ggml_\w+"
    r"|done_getting_tensors|system_info|sampler \w+|resolve_\w+|common_\w*(?:fit|memory|perf)\w*) *:"
    r"|(?:D )?(?:n_past = |n_remain: |n_ctx: |embd_inp\.size|found an EOG token$|waiting for user input$)"
    r"|[IWE] (?:srv|slot) (?!.*(?:format|message|request|prompt:))"
)
# The point in a record after which it quotes text: 'a text', "a text", [ 'token':1, … ] or { "json": … }.
_QUOTES = re.compile(
    r"(?:\b(?:prompt|buffer|tokens?|prefix|suffix|input|message|content|request|response|\w*format|pars\w+|eval|system)"
    r"\b[^:\n'\"\[{]{0,40}:|->) *(?=['\"\[{])|: \[ *(?=')"
)
_QUOTED = re.compile(r"""(?<=['"]).*(?=['"])""", re.DOTALL)


def mask_log(text: str, words: Set[str]) -> str:
    """Mask quotations in the log of an engine, and ``words`` in records that are not known to be harmless."""
    records = (_PREFIXED if _PREFIXED.search(text) else _LINES).split(text)
    return "".join(_mask_record(record, words) for record in _join_quotations(records))


def _join_quotations(records: Iterable[str]) -> Iterator[str]:
    """Join the lines of a quotation in the log of an old engine, which does not prefix each record."""
    held, quote = "", ""
    for record in records:
        if quote:
            held += record
            if record.rstrip("\n").endswith(quote) or len(held) > 1 << 20:
                yield held
                held, quote = "", ""
            continue
        opening = _QUOTES.search(record)
        mark = record[opening.end()] if opening else ""
        tail = record[opening.end() + 1 :].rstrip("\n") if opening else ""
        if mark in ("'", '"') and not tail.endswith(mark) and not re.match(r"[DIWE] ", record):
            held, quote = record, mark
        else:
            yield record
    if held:
        yield held


def _mask_record(record: str, words: Set[str]) -> str:
    if _HARMLESS.match(record):
        return record
    if opening := _QUOTES.search(record):
        return record[: opening.end()] + mask(record[opening.end() :])
    return _mask_words(_QUOTED.sub(lambda match: mask(match.group()), record), words)


# Masking of text. Letters, digits and marks become another character of the same class and number of bytes, independent
# of their context, so that input and its echo still agree. Everything that a framer, decoder or terminal could react to
# stays: white space, punctuation, control bytes, escape sequences, and the special tokens and role names of chat
# templates.

# Text that chat templates write around messages, which framers search for.
_TOKENS = (
    r"im_start|im_end|bos|eos|pad|begin_of_text|end_of_text|start_header_id|end_header_id|eot_id|eom_id|endoftext"
    r"|user|assistant|system|end"
)
_THOUGHTS = r"</?(?:think|thinking|thought|reasoning|seed:think|mm:think)>|\[/?THINK\]|<\|(?:START|END)_THINKING\|>"
_ROLES = r"(?:user|assistant|system|human|model|bot|gpt|instruction|response|input)"
_MARKS = re.compile(
    rf"<\|(?:{_TOKENS})\|>|<(?:start_of_turn|end_of_turn)>|</?s>|\[/?INST\]|<</?SYS>>|<unk>|{_THOUGHTS}"
)
_CSI = r"\x1b\[[0-9;]*[A-Za-z]"
_MARK = re.compile(rf"{_CSI}|{_MARKS.pattern}")
_ROLE_LINES = re.compile(rf"(?i)\A(?:{_MARKS.pattern}|{_ROLES}|[\W_])*\Z")


def mask(text: str, keep: re.Pattern[str] = _MARK) -> str:
    """Mask ``text``, keeping its number of bytes in UTF-8 (a surrogate counts as one byte). Matches of ``keep``
    stay."""
    parts, at = [], 0
    for match in keep.finditer(text):
        parts += [text[at : match.start()].translate(_TABLE), match.group()]
        at = match.end()
    return "".join([*parts, text[at:].translate(_TABLE)])


def marks(*templates: str) -> re.Pattern[str]:
    """Return the pattern of what to keep if ``templates`` are the texts around messages.

    They are kept if they consist of special tokens and role names. Others are masked like any text, in the same way in
    the command line and in the echo of the engine.
    """
    known = sorted((each for each in set(templates) if each and is_role(each)), key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, known), _MARK.pattern]))


def is_role(text: str) -> bool:
    """Whether a text consists only of special tokens, role names and punctuation."""
    return _ROLE_LINES.match(text) is not None


def behind_marks(text: str) -> str:
    """Return the text after the last special token."""
    return _MARKS.split(text)[-1]


def _mask_character(code: int) -> str:
    """The replacement of one character."""
    if code < 0x80:
        character = chr(code)
        return "0" if character.isdigit() else "X" if character.isupper() else "x" if character.isalpha() else character
    if 0xD800 <= code <= 0xDFFF:
        # A byte that is not UTF-8, perhaps a letter of another encoding. Continuation bytes stay continuation bytes.
        return "\udcbf" if 0xDC80 <= code < 0xDCC0 else "\udcff" if code >= 0xDCC0 else chr(code)
    size = 2 if code < 0x800 else 3 if code < 0x10000 else 4
    character = chr(code)
    category = unicodedata.category(character)
    if category[0] in "PZC" or category in ("Sm", "Sc", "Sk"):
        return character  # includes joiners, which reveal nothing without their letters
    if category[0] == "M":
        # Variation selectors select a glyph, not a letter.
        return (
            character
            if 0xFE00 <= code <= 0xFE0F or code >= 0xE0100
            else ("", "", "\u0301", "\u20d7", "\U0001d167")[size]
        )
    if category[0] == "N":
        return ("", "", "\u0660", "\u0966", "\U0001d7ce")[size]
    if category == "So":
        return ("", "", "\u00a9", "\u2605", "\U0001f642")[size]
    if size == 3:
        return "\u5b57" if unicodedata.east_asian_width(character) in "WF" else "\u1e8d"
    upper = category == "Lu"
    return ("\u00c4" if upper else "\u00e4") if size == 2 else "\U0001d4d0" if upper else "\U0001d4ea"


class _MaskTable(dict[int, str]):
    def __missing__(self, code: int) -> str:
        self[code] = _mask_character(code)
        return self[code]


_TABLE = _MaskTable()


# Masking of the JSON lines of a native engine. A masked text has the same number of bytes in UTF-8, and a line the same
# number of characters; it is padded with white space.

Change = Callable[[str], str]
"""A function that changes a text and keeps its number of bytes in UTF-8."""


def native_output(text: str, change: Change, mask_message: Change) -> str:
    """Mask the output of a native engine.

    ``change`` is applied to the whole reply at once, since a word may be split between lines; ``mask_message`` to
    messages of the engine and to lines that are not JSON.
    """
    lines = text.split("\n")
    contents = [_content(line) for line in lines]
    pieces = [str(content["text"]) if _is_token(content) else "" for content in contents]
    changed = _split_like(change("".join(pieces)), pieces)
    return "\n".join(
        _line(content | _mask_fields(content, new, mask_message), line) if content else mask_message(line)
        for line, content, new in zip(lines, contents, changed, strict=True)
    )


def native_request(text: str, change: Change, heads: Sequence[str] = ()) -> str:
    """Mask the input of a native engine. Special tokens of a prompt stay, and role names after them, including
    ``heads`` of the chat template."""

    def changed(piece: str) -> str:
        first = "".join(piece.partition("\n")[:2])
        kept = next((each for each in (*heads, first) if piece.startswith(each) and is_role(each)), "")
        return kept + change(piece[len(kept) :])

    content = _content(text)
    if not content:
        return change(text)
    if isinstance(prompt := content.get("prompt"), list):
        content["prompt"] = [[piece if special else changed(piece), special] for piece, special in prompt]
    content |= {"stop": [change(each) for each in content["stop"]]} if content.get("stop") else {}
    content |= {"grammar": change(content["grammar"])} if content.get("grammar") else {}
    content |= {"schema": {}} if content.get("schema") else {}
    return _line(content | _numbers(content), text.removesuffix("\n")) + "\n" * text.endswith("\n")


def native_text(text: str) -> str:
    """Return the texts in lines of either direction."""
    parts: list[str] = []
    for line in text.split("\n"):
        content = _content(line)
        parts += [piece for piece, special in content.get("prompt") or () if not special]
        parts.append(str(content.get("text", "")))
    return "".join(parts)


def _content(line: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_token(content: dict[str, Any]) -> bool:
    return content.get("kind") == "token" and isinstance(content.get("text"), str)


def _mask_fields(content: dict[str, Any], text: str, mask_message: Change) -> dict[str, Any]:
    if _is_token(content):
        return {"text": text} | _numbers(content)
    own = {name: mask_message(value) for name in ("what", "text") if isinstance(value := content.get(name), str)}
    return own | _numbers(content)


def _numbers(content: dict[str, Any]) -> dict[str, Any]:
    """Mask token ids, which reveal their texts."""
    tokens = content.get("tokens")
    return {"tokens": [int("1" * len(str(each))) for each in tokens]} if isinstance(tokens, list) else {}


def _line(content: dict[str, Any], before: str) -> str:
    return json.dumps(content, separators=(",", ":")).ljust(len(before))


def _split_like(text: str, pieces: Sequence[str]) -> Iterator[str]:
    """Split ``text`` into parts with the byte lengths of ``pieces``."""
    data, at = text.encode("utf-8", "surrogateescape"), 0
    for piece in pieces:
        size = len(piece.encode("utf-8", "surrogateescape"))
        yield data[at : at + size].decode("utf-8", "surrogateescape")
        at += size
