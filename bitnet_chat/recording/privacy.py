"""A recording without what is private: the same entries, streams with the same number of bytes. Pure.

Always: names, home directories, keys (:mod:`.redaction`). Unless the words are wanted: what was said in either
direction, wherever it shows (:mod:`.masking`), the debug log of the engine included, which tells every token.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace

from bitnet_chat.conversation.stdin_encoding import encode_lines
from bitnet_chat.engine.protocols.modern import PROMPT
from bitnet_chat.recording import native
from bitnet_chat.recording.entry import Entry, Kind, of_facts
from bitnet_chat.recording.masking import behind_marks, is_role, marks, mask
from bitnet_chat.recording.playback import is_modern, is_native, option
from bitnet_chat.recording.redaction import Redactor

_STREAMS = (Kind.OUT, Kind.ERR)
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
# Of our own command line: what is behind these is no word of a conversation, as the name of a file that somebody asks
# about may be.
_PLAIN = """-m --model --engine -c --ctx -t --threads --temp --temperature --seed -n --max-tokens --timeout --persona
--overflow --repeat-limit --stall-timeout --resume --markdown --thinking --io --typing-speed"""
_PLAIN_FLAGS = frozenset(_PLAIN.split())


def conceal(entries: Sequence[Entry], redactor: Redactor, *, with_text: bool) -> Iterator[Entry]:
    """In the order they came. ``with_text``: the words of the conversation stay."""
    argvs = {entry.process: entry.argv for entry in entries if entry.kind is Kind.SPAWN}
    fronts = {entry.process: _front(entry) for entry in entries if entry.kind is Kind.SPAWN}
    natives = {
        entry.process: [behind_marks(each) for each in _around(entry.facts.get("around"))]
        for entry in entries
        if entry.kind is Kind.SPAWN and is_native(entry)
    }
    words = frozenset[str]() if with_text else _vocabulary(entries, argvs, fronts, natives)

    def change(text: str) -> str:
        return redactor.same_length(text if with_text else mask(text))

    def told(text: str) -> str:
        return redactor.same_length(_without(text, words))

    streams: dict[tuple[int, Kind], bytes] = {}
    for key, data in _joined(entries).items():
        process, kind = key
        text = data.decode("utf-8", "surrogateescape")
        if process in natives and kind is Kind.OUT:
            streams[key] = native.output(text, change, told).encode("utf-8", "surrogateescape")
            continue
        if not with_text:
            argv = argvs.get(process, ())
            text = conceal_log(text, words) if kind is Kind.ERR else _conceal_output(text, argv, words)
        streams[key] = redactor.same_length(text).encode("utf-8", "surrogateescape")
    taken = dict.fromkeys(streams, 0)
    for entry in entries:
        key = entry.process, entry.kind
        if key in streams:
            start = taken[key]
            taken[key] += len(entry.data)
            yield replace(entry, data=streams[key][start : taken[key]])
        elif entry.kind in (Kind.SPAWN, Kind.ABOUT):
            facts = entry.facts
            if "argv" in facts:
                arguments = list(entry.argv)
                if not with_text:
                    masked = engine_arguments if entry.kind is Kind.SPAWN else our_arguments
                    arguments = masked(arguments)
                facts["argv"] = redactor.arguments(arguments)
            if "around" in facts:
                around = _around(facts["around"])
                if not with_text:
                    around = [each if is_role(each) else mask(each, _marks(entry.argv)) for each in around]
                facts["around"] = [redactor.same_length(each) for each in around]
            if "folder" in facts:
                facts["folder"] = redactor.text(str(facts["folder"]))
            yield of_facts(entry.at, entry.kind, entry.process, facts)
        elif entry.kind in (Kind.IN, Kind.COMMAND) and entry.process in natives:
            yield replace(
                entry,
                data=native.request(entry.text, change, natives[entry.process]).encode("utf-8", "surrogateescape"),
            )
        elif entry.kind is Kind.IN:
            front, text = _message(entry, fronts)
            text = front + (text if with_text else mask(text, _marks(argvs.get(entry.process, ()))))
            yield replace(entry, data=redactor.same_length(text).encode("utf-8", "surrogateescape"))
        else:
            yield entry


def engine_arguments(argv: Sequence[str]) -> list[str]:
    """With the prompts and templates among them masked."""
    keep = _marks(tuple(argv))
    return [
        mask(argument, keep) if at and argv[at - 1] in _TEXT_FLAGS else argument for at, argument in enumerate(argv)
    ]


def our_arguments(argv: Sequence[str]) -> list[str]:
    """The command line of bitnet-chat with what is said in it masked; what follows ``--`` is for the engine."""
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


def _joined(entries: Iterable[Entry]) -> dict[tuple[int, Kind], bytes]:
    """Each stream in one: a character may be cut between two reads, and so may a name."""
    parts: dict[tuple[int, Kind], list[bytes]] = {}
    for entry in entries:
        if entry.kind in _STREAMS:
            parts.setdefault((entry.process, entry.kind), []).append(entry.data)
    return {key: b"".join(each) for key, each in parts.items()}


def _around(fact: object) -> list[str]:
    return [each for each in fact if isinstance(each, str)] if isinstance(fact, list) else []


def _front(spawn: Entry) -> str:
    """What is typed to an engine in front of each message, as far as it is made of names of roles."""
    front, *_ = *_around(spawn.facts.get("around")), ""
    return encode_lines(front).decode().removesuffix("/\n") if front and is_role(front) else ""


def _message(entry: Entry, fronts: Mapping[int, str]) -> tuple[str, str]:
    """What was typed to an engine in front of a message, and the message."""
    front = fronts.get(entry.process, "")
    return (front, entry.text.removeprefix(front)) if entry.text.startswith(front) else ("", entry.text)


def _vocabulary(
    entries: Sequence[Entry],
    argvs: Mapping[int, tuple[str, ...]],
    fronts: Mapping[int, str],
    natives: Collection[int],
) -> frozenset[str]:
    """The words that were said, in small letters: where a log repeats one it is masked."""
    words: set[str] = set()
    for entry in entries:
        if entry.kind is Kind.IN or (entry.kind is Kind.COMMAND and entry.process in natives):
            text = native.said(entry.text) if entry.process in natives else _message(entry, fronts)[1]
            words.update(_WORD.findall(text.casefold()))
    for (process, kind), data in _joined(entries).items():
        if kind is Kind.OUT:
            output = data.decode("utf-8", "surrogateescape")
            said = native.said(output) if process in natives else _parted(output, argvs.get(process, ()))[1]
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
    """What a modern engine greets with before anybody has said anything, and all the rest."""
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
# debug level, not among them: there it tells what it parses.
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
