"""Mask private data in a recording: the same entries, and streams with the same number of bytes. Pure.

Always: names, home directories, keys (:mod:`.redaction`). Unless the words are wanted: what was said in either
direction, wherever it shows (:mod:`.masking`), the debug log of the engine included, which has every token.
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
from bitnet_chat.trace.redaction import Redactor

_STREAMS = (TraceEntryKind.OUT, TraceEntryKind.ERR)
_WORD = re.compile(r"[^\W_]{3,}")

# What the engine's console says of its own, with the colours that only it writes.
_CONSOLE = (
    r"\x1b\[35m\n\[ Prompt: [\d.]+ t/s \| Generation: [\d.]+ t/s \]\n"
    r"|\x1b\[90m\n\[Start thinking\]\n\n|\[End thinking\]\n\n\x1b\[0m"
    r"|\x1b\[1m\x1b\[31mError: [^\x1b]{0,400}"
    r"|\n(?:Interrupted by user|Exiting\.\.\.)\n|\x1b\[0mChat history cleared\.\n"
)
_TEXTS = """--in-prefix --in-suffix -p --prompt -sys --system-prompt -r --reverse-prompt --chat-template --grammar -j
--json-schema"""
_TEXT_FLAGS = frozenset(_TEXTS.split())
# Flags of bitnet-chat whose value is not part of a conversation, as the name of a file in a question may be.
_PLAIN = """-m --model --engine -c --ctx -t --threads --temp --temperature --seed -n --max-tokens --timeout --persona
--overflow --repeat-limit --stall-timeout --resume --markdown --thinking --io --typing-speed
--state-limit"""
_PLAIN_FLAGS = frozenset(_PLAIN.split())


def mask_session(entries: Sequence[TraceEntry], redactor: Redactor, *, with_text: bool) -> Iterator[TraceEntry]:
    """Mask entries in their order. ``with_text``: the words of the conversation stay."""
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
    """The entries of one session, masked: what of them depends on the engines that were started in it."""

    def __init__(self, entries: Sequence[TraceEntry], redactor: Redactor, *, with_text: bool) -> None:
        self._redactor, self._with_text = redactor, with_text
        spawns = [entry for entry in entries if entry.kind is TraceEntryKind.SPAWN]
        self._argvs = {entry.process: entry.argv for entry in spawns}
        self._fronts = {entry.process: _front(entry) for entry in spawns}
        self._natives = {
            entry.process: [behind_marks(each) for each in _around(entry.facts.get("around"))]
            for entry in spawns
            if is_native(entry)
        }
        self._words = frozenset[str]() if with_text else _vocabulary(entries, self._argvs, self._fronts, self._natives)

    def stream(self, key: tuple[int, TraceEntryKind], data: bytes) -> bytes:
        """Mask all output or log of one engine."""
        process, kind = key
        text = data.decode("utf-8", "surrogateescape")
        if process in self._natives and kind is TraceEntryKind.OUT:
            return _encoded(native_output(text, self._change, self._told))
        if not self._with_text:
            if kind is TraceEntryKind.ERR:
                text = conceal_log(text, self._words)
            else:
                text = _conceal_output(text, self._argvs.get(process, ()), self._words)
        return _encoded(self._redactor.same_length(text))

    def facts(self, entry: TraceEntry) -> dict[str, Any]:
        """Masked facts of a SPAWN or ABOUT."""
        facts = entry.facts
        if "argv" in facts:
            arguments = list(entry.argv)
            if not self._with_text:
                masked = engine_arguments if entry.kind is TraceEntryKind.SPAWN else our_arguments
                arguments = masked(arguments)
            facts["argv"] = self._redactor.arguments(arguments)
        if "around" in facts:
            around = _around(facts["around"])
            if not self._with_text:
                around = [each if is_role(each) else mask(each, _marks(entry.argv)) for each in around]
            facts["around"] = [self._redactor.same_length(each) for each in around]
        if "folder" in facts:
            facts["folder"] = self._redactor.text(str(facts["folder"]))
        return facts

    def is_native_request(self, entry: TraceEntry) -> bool:
        return entry.kind in (TraceEntryKind.IN, TraceEntryKind.COMMAND) and entry.process in self._natives

    def input(self, entry: TraceEntry) -> bytes:
        """What was written to an engine."""
        if self.is_native_request(entry):
            return _encoded(native_request(entry.text, self._change, self._natives[entry.process]))
        front, text = _message(entry, self._fronts)
        text = front + (text if self._with_text else mask(text, _marks(self._argvs.get(entry.process, ()))))
        return _encoded(self._redactor.same_length(text))

    def _change(self, text: str) -> str:
        return self._redactor.same_length(text if self._with_text else mask(text))

    def _told(self, text: str) -> str:
        return self._redactor.same_length(_without(text, self._words))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def engine_arguments(argv: Sequence[str]) -> list[str]:
    """Arguments with masked prompts and templates."""
    keep = _marks(tuple(argv))
    return [
        mask(argument, keep) if at and argv[at - 1] in _TEXT_FLAGS else argument for at, argument in enumerate(argv)
    ]


def our_arguments(argv: Sequence[str]) -> list[str]:
    """The command line of bitnet-chat with its texts masked; arguments after ``--`` are for the engine."""
    ours, at = list(argv), list(argv).index("--") if "--" in argv else len(argv)
    masked = [
        argument if not number or ours[number - 1] in _PLAIN_FLAGS else _masked_value(argument)
        for number, argument in enumerate(ours[:at])
    ]
    return masked + engine_arguments(ours[at:])


def _masked_value(argument: str) -> str:
    if not argument.startswith("-"):
        return mask(argument)
    if argument.startswith(("-a", "-f")):  # with its value in the same word
        return argument[:2] + mask(argument[2:])
    flag, equals, value = argument.partition("=")
    return flag + equals + (value if flag in _PLAIN_FLAGS else mask(value)) if " " not in flag else mask(argument)


def _marks(argv: tuple[str, ...]) -> re.Pattern[str]:
    return marks(option(argv, "--in-prefix"), option(argv, "--in-suffix"))


def _joined(entries: Iterable[TraceEntry]) -> dict[tuple[int, TraceEntryKind], bytes]:
    """Each stream in one: a character may be cut between two reads, and so may a name."""
    parts: dict[tuple[int, TraceEntryKind], list[bytes]] = {}
    for entry in entries:
        if entry.kind in _STREAMS:
            parts.setdefault((entry.process, entry.kind), []).append(entry.data)
    return {key: b"".join(each) for key, each in parts.items()}


def _around(fact: object) -> list[str]:
    return [each for each in fact if isinstance(each, str)] if isinstance(fact, list) else []


def _front(spawn: TraceEntry) -> str:
    """The text before each message to an engine, if it consists of names of roles."""
    front, *_ = *_around(spawn.facts.get("around")), ""
    return encode_lines(front).decode().removesuffix("/\n") if front and is_role(front) else ""


def _message(entry: TraceEntry, fronts: Mapping[int, str]) -> tuple[str, str]:
    """Split input into the text before a message, and the message."""
    front = fronts.get(entry.process, "")
    return (front, entry.text.removeprefix(front)) if entry.text.startswith(front) else ("", entry.text)


def _vocabulary(
    entries: Sequence[TraceEntry],
    argvs: Mapping[int, tuple[str, ...]],
    fronts: Mapping[int, str],
    natives: Collection[int],
) -> frozenset[str]:
    """The words of the conversation, in lower case: they are masked in a log as well."""
    words: set[str] = set()
    for entry in entries:
        if entry.kind is TraceEntryKind.IN or (entry.kind is TraceEntryKind.COMMAND and entry.process in natives):
            text = native_text(entry.text) if entry.process in natives else _message(entry, fronts)[1]
            words.update(_WORD.findall(text.casefold()))
    for (process, kind), data in _joined(entries).items():
        if kind is TraceEntryKind.OUT:
            output = data.decode("utf-8", "surrogateescape")
            said = native_text(output) if process in natives else _parted(output, argvs.get(process, ()))[1]
            words.update(_WORD.findall(said.casefold()))
    return frozenset(words)


def _conceal_output(text: str, argv: tuple[str, ...], words: Set[str]) -> str:
    keep = re.compile(f"{_CONSOLE}|{_marks(argv).pattern}")
    banner, said = _parted(text, argv)
    masked = mask(said, keep)
    return banner + re.sub(
        r"(?<=\x1b\[1m\x1b\[31mError: )[^\x1b]{0,400}", lambda match: _without(match.group(), words), masked
    )


def _parted(text: str, argv: tuple[str, ...]) -> tuple[str, str]:
    """Split the output of a modern engine into its banner before the first message, and the rest."""
    if not is_modern(argv):
        return "", text
    greeting, prompt, said = text.partition(PROMPT)
    return greeting + prompt, said


def _without(text: str, words: Set[str]) -> str:
    return _WORD.sub(lambda match: mask(match.group()) if match.group().casefold() in words else match.group(), text)


# The log

_PREFIXED = re.compile(r"^(?=[DIWE] )", re.MULTILINE)
_LINES = re.compile(r"^", re.MULTILINE)
# Records about the model, the machine and figures, which hold no word of a conversation. Those of a server are, at its
# debug level, not among them: there it logs what it parses.
_OWN = re.compile(
    r"(?:[DIWE] )?(?:llama_(?!completion|server)\w+|llm_load_\w+|print_info|load|load_\w+|graph_\w+|sched_\w+|ggml_\w+"
    r"|done_getting_tensors|system_info|sampler \w+|resolve_\w+|common_\w*(?:fit|memory|perf)\w*) *:"
    r"|(?:D )?(?:n_past = |n_remain: |n_ctx: |embd_inp\.size|found an EOG token$|waiting for user input$)"
    r"|[IWE] (?:srv|slot) (?!.*(?:format|message|request|prompt:))"
)
# From here on it quotes: 'a text', "a text", [ 'token':1, … ] or { "json": … }.
_QUOTES = re.compile(
    r"(?:\b(?:prompt|buffer|tokens?|prefix|suffix|input|message|content|request|response|\w*format|pars\w+|eval|system)"
    r"\b[^:\n'\"\[{]{0,40}:|->) *(?=['\"\[{])|: \[ *(?=')"
)
_QUOTED = re.compile(r"""(?<=['"]).*(?=['"])""", re.DOTALL)


def conceal_log(text: str, words: Set[str]) -> str:
    """The log of an engine with what it quotes masked, and ``words`` wherever they turn up in what is not its own."""
    records = (_PREFIXED if _PREFIXED.search(text) else _LINES).split(text)
    return "".join(_conceal_record(record, words) for record in _whole(records))


def _whole(records: Iterable[str]) -> Iterator[str]:
    """Joins what an old engine, without a mark at each record, quotes over several lines."""
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


def _conceal_record(record: str, words: Set[str]) -> str:
    if _OWN.match(record):
        return record
    if opening := _QUOTES.search(record):
        return record[: opening.end()] + mask(record[opening.end() :])
    return _without(_QUOTED.sub(lambda match: mask(match.group()), record), words)


# Words made unreadable and nothing else: what a framer, a decoder or a terminal could trip over stays. Pure.
#
# Each letter, digit and mark becomes another of its class, which takes as many bytes: the mask of a text does not
# depend on what stands around it, so that what was sent and what came back still agree. White space, punctuation,
# control bytes and escape sequences stay, and so do those special tokens and names of roles that chat templates are
# made of.

# What chat templates write around messages. Not words of a conversation, and framers look for them.
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
    """Mask ``text`` to as many bytes of UTF-8 (surrogates are one byte each); matches of ``keep`` stay."""
    parts, at = [], 0
    for match in keep.finditer(text):
        parts += [text[at : match.start()].translate(_TABLE), match.group()]
        at = match.end()
    return "".join([*parts, text[at:].translate(_TABLE)])


def marks(*templates: str) -> re.Pattern[str]:
    """What to keep where a template writes ``templates`` around messages: they too, if they are made of known words.

    Others are masked like all the rest, alike in the command line and in what the engine echoes.
    """
    known = sorted((each for each in set(templates) if each and is_role(each)), key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, known), _MARK.pattern]))


def is_role(text: str) -> bool:
    """Whether a text consists only of special tokens, names of roles and punctuation."""
    return _ROLE_LINES.match(text) is not None


def behind_marks(text: str) -> str:
    """The end of ``text`` in which no special token is."""
    return _MARKS.split(text)[-1]


def _masked(code: int) -> str:
    if code < 0x80:
        character = chr(code)
        return "0" if character.isdigit() else "X" if character.isupper() else "x" if character.isalpha() else character
    if 0xD800 <= code <= 0xDFFF:
        # A byte that is not UTF-8: it may be a letter of another encoding. Continuations and others stay such.
        return "\udcbf" if 0xDC80 <= code < 0xDCC0 else "\udcff" if code >= 0xDCC0 else chr(code)
    size = 2 if code < 0x800 else 3 if code < 0x10000 else 4
    character = chr(code)
    category = unicodedata.category(character)
    if category[0] in "PZC" or category in ("Sm", "Sc", "Sk"):
        return character  # joiners among them: they say nothing without their letters
    if category[0] == "M":
        # Variation selectors choose a picture, no letter.
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
        self[code] = _masked(code)
        return self[code]


_TABLE = _MaskTable()


# The lines of a native engine, with the texts in them changed. Pure.
#
# A text that is changed takes as many bytes of UTF-8 as before, and a line as many characters: what is missing of one
# is white space at its end.

Change = Callable[[str], str]
"""Function that changes a text and keeps its number of bytes in UTF-8."""


def native_output(text: str, change: Change, told: Change) -> str:
    """What an engine wrote. ``change``: for the reply, all of it at once, as a word may come in several lines;
    ``told``: for what the engine says of its own, and for lines that cannot be read."""
    lines = text.split("\n")
    contents = [_content(line) for line in lines]
    pieces = [str(content["text"]) if _is_token(content) else "" for content in contents]
    changed = _apart(change("".join(pieces)), pieces)
    return "\n".join(
        _line(content | _concealed(content, new, told), line) if content else told(line)
        for line, content, new in zip(lines, contents, changed, strict=True)
    )


def native_request(text: str, change: Change, heads: Sequence[str] = ()) -> str:
    """What was written to an engine. The special tokens of a prompt stay, and names of roles behind them, ``heads`` of
    the chat template among them."""

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
    """The texts in lines of either direction, for the words in them."""
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


def _concealed(content: dict[str, Any], text: str, told: Change) -> dict[str, Any]:
    if _is_token(content):
        return {"text": text} | _numbers(content)
    own = {name: told(value) for name in ("what", "text") if isinstance(value := content.get(name), str)}
    return own | _numbers(content)


def _numbers(content: dict[str, Any]) -> dict[str, Any]:
    """Mask token numbers, which reveal their texts."""
    tokens = content.get("tokens")
    return {"tokens": [int("1" * len(str(each))) for each in tokens]} if isinstance(tokens, list) else {}


def _line(content: dict[str, Any], before: str) -> str:
    return json.dumps(content, separators=(",", ":")).ljust(len(before))


def _apart(text: str, pieces: Sequence[str]) -> Iterator[str]:
    """Split ``text`` into parts of the same numbers of bytes as ``pieces``."""
    data, at = text.encode("utf-8", "surrogateescape"), 0
    for piece in pieces:
        size = len(piece.encode("utf-8", "surrogateescape"))
        yield data[at : at + size].decode("utf-8", "surrogateescape")
        at += size
