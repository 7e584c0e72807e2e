"""Verification: the replies of a conversation in the journal are made again, from what the journal keeps with each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from bitnet_chat import config
from bitnet_chat.backend import Backend, BackendState, ReplyOptions, ResponseFormat, Sampling
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import BitnetChatError
from bitnet_chat.events import Completed, ContextSource, Failed, TextDelta
from bitnet_chat.journal import MessageRecord, StoredConversation
from bitnet_chat.util.threads import run_in_daemon_thread

_OURS = ("engine", "llama-server")
_SHOWN = 30
"""Characters of a difference that are shown on each side."""
_SETTINGS = ("ctx", "chat_template", "overflow", "guard", "repeat_limit", "backend")
"""Settings that the journal keeps with a reply."""
_ERROR = 0.05
"""Relative error of a count with the vocabulary of the model; one by length has more."""
_QUIET = 0.3
"""Seconds without a change after which a prepared engine counts as ready."""


class Verdict(StrEnum):
    """The result for a reply. The values are those of JSON output."""

    IDENTICAL = "identical"
    DIFFERENT = "different"
    NOT_REPEATABLE = "not_repeatable"


@dataclass(frozen=True, slots=True)
class ReplyCheck:
    """The result for one reply. ``reply``: its number in the conversation, from 1. ``row``: its row in the journal.
    ``at``: the first character that differs, from 0; ``token``: the number of the token, from 1, in which it is;
    ``kept`` and ``made``: the text from there, in the journal and as it was made again. ``reason``: why it is not
    repeatable, or probably differs."""

    reply: int
    row: int
    verdict: Verdict
    reason: str = ""
    at: int | None = None
    kept: str = ""
    made: str = ""
    token: int | None = None


@dataclass(frozen=True, slots=True)
class _Remade:
    """A reply that was made again, and with what. ``equal_tokens``: tokens of the text up to the first difference."""

    text: str
    equal_tokens: int | None
    source: ContextSource | None
    engine: str
    version: str
    threads: int | None
    template: str


async def verify(stored: StoredConversation, /, **keywords: object) -> AsyncGenerator[ReplyCheck]:
    """Make the replies of a conversation again, one after the other, and yield the result for each. Raises UsageError
    for an invalid keyword.

    ``keywords``: settings in place of those that the journal keeps with each reply, such as ``model``, ``engine`` and
    ``threads``; see :func:`bitnet_chat.open_backend`. A reply that cannot be made again is a result, not an error.
    """
    config.from_keywords(None, keywords)  # an invalid one is an error
    remaking, number = _Remaking(keywords), 0
    try:
        for index, record in enumerate(stored.records):
            if record.message.role != "assistant":
                continue
            number += 1
            before = Conversation(tuple(each.message for each in stored.records[:index]))
            yield await _check(number, record, before, remaking)
    finally:
        await remaking.close()


async def _check(number: int, record: MessageRecord, before: Conversation, remaking: _Remaking) -> ReplyCheck:
    why = unrepeatable(record) or await run_in_daemon_thread(lambda: remaking.unavailable(record))
    if why:
        return ReplyCheck(number, record.row, Verdict.NOT_REPEATABLE, why)
    try:
        made = await remaking.remake(record, before)
    except BitnetChatError as error:
        return ReplyCheck(number, record.row, Verdict.NOT_REPEATABLE, str(error))
    kept = record.message.content
    at = first_difference(kept, made.text, is_whole=not record.message.was_cut)
    if at is None:
        return ReplyCheck(number, record.row, Verdict.IDENTICAL)
    reason = probable_reason(record, made.engine, made.version, made.threads, made.template, made.source)
    theirs, ours = kept[at : at + _SHOWN], made.text[at : at + _SHOWN]
    token = None if made.equal_tokens is None else made.equal_tokens + 1
    return ReplyCheck(number, record.row, Verdict.DIFFERENT, reason, at, theirs, ours, token)


class _Remaking:
    """Makes replies again, with one backend after the other: consecutive replies with equal settings have one, so that
    the later ones find a context that was evaluated turn by turn. ``given``: settings of the command line."""

    def __init__(self, given: Mapping[str, object]) -> None:
        self._given = given
        self._settings: config.Settings | None = None
        self._backend: Backend | None = None

    def unavailable(self, record: MessageRecord) -> str:
        """Why the model of a reply cannot be used; empty if it can."""
        from bitnet_chat.backends.local_engine import model_path
        from bitnet_chat.prompt_cache.model_hash import compute_hash

        try:
            settings, _ = self._wanted(record)
            model = model_path(settings)
            if compute_hash(model) != record.options["model_hash"]:
                return f"made with another model than {model.name}"
        except BitnetChatError as error:
            return str(error)
        return ""

    def _wanted(self, record: MessageRecord) -> tuple[config.Settings, str]:
        """The settings of a reply, and the configured engine. Raises UsageError."""
        options = record.options
        kept: dict[str, object] = {name: options[name] for name in _SETTINGS if name in options}
        kept |= {"model": record.model, "threads": options.get("threads") or 0, "ctx": options.get("window") or 0}
        name, _, dialect = record.engine.partition(" (")
        if dialect == "native)":
            kept["engine"] = name
        settings, configured = config.from_keywords(None, kept | dict(self._given))
        extra = options.get("engine_args")
        words = tuple(map(str, extra)) if isinstance(extra, list) else ()
        return replace(settings, engine_args=words, system="", persona="", attach=""), configured

    async def remake(self, record: MessageRecord, before: Conversation) -> _Remade:
        """Raises BitnetChatError."""
        settings, configured = self._wanted(record)
        read = record.options.get("read")
        source = read.get("from") if isinstance(read, dict) else None
        is_cold = source == ContextSource.COLD and len(before.turns) > 1
        if self._backend is None or settings != self._settings or is_cold:
            await self.close()
            from bitnet_chat.backends.factory import open_backend

            def opened() -> Backend:  # a conversion takes minutes
                return open_backend(settings, configured, advice="nothing")

            self._backend, self._settings = await run_in_daemon_thread(opened), settings
            if is_cold and _was_prepared(record):
                await _prepare(self._backend, before.without_last_turn())
        return await _made_again(self._backend, before, record)

    async def close(self) -> None:
        if self._backend is not None:
            await self._backend.close()
            self._backend = None


async def _made_again(backend: Backend, before: Conversation, record: MessageRecord) -> _Remade:
    """Raises BitnetChatError. Ends early after a difference, and at the length of a reply that was cut."""
    text, source, kept = "", None, record.message.content
    enough = len(kept) + (not record.message.was_cut)
    async with aclosing(backend.reply(before, options_of(record))) as events:
        async for event in events:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Completed):
                text = event.text
                source = event.origin.source if event.origin is not None else None
            elif isinstance(event, TextDelta):
                text += event.text
                if len(text) >= enough or (not text.startswith(kept) and not kept.startswith(text)):
                    backend.interrupt()
    status = backend.status()
    facts = status.facts
    equal = _equal_tokens(backend, kept, first_difference(kept, text, is_whole=not record.message.was_cut))
    return _Remade(text, equal, source, status.engine, facts.version, facts.threads, facts.template)


def _equal_tokens(backend: Backend, kept: str, at: int | None) -> int | None:
    """The number of whole tokens of a reply before the character ``at``; None: of the reply. None if the
    vocabulary is not readable."""

    end = len(kept) if at is None else at
    counts = [backend.count(text) for text in (kept, kept[:end], kept[end:])]
    if any(each is None or each.error > _ERROR for each in counts):
        return None
    whole, before, behind = (each.count for each in counts if each is not None)
    # A token that goes on behind the difference is not equal.
    return before if end == len(kept) or before + behind == whole else max(0, before - 1)


async def _prepare(backend: Backend, history: Conversation) -> None:
    """Have the engine read a history before the message, as the terminal does on a resume."""
    backend.prepare(history)
    quiet = 0.0
    while quiet < _QUIET:
        await asyncio.sleep(_QUIET / 6)
        quiet = quiet + _QUIET / 6 if backend.status().state is BackendState.IDLE else 0.0


# What a record says. Pure.


def unrepeatable(record: MessageRecord) -> str:
    """Why a reply cannot be made again; empty if it can."""
    options = record.options
    if options.get("backend", "engine") not in _OURS:
        return f"made by {record.engine or options.get('backend')}"
    if not options.get("model_hash"):
        return "the journal has no hash of the model"
    if record.message.tool_calls or options.get("tools"):
        return "made with tools"
    sampling = options_of(record).sampling
    if not sampling.repeats:
        return "sampled without a seed"
    if sampling.temperature != 0 and _begun(record):
        return f"sampled anew after its first {_begun(record)} characters, where it was cut"
    return ""


def _begun(record: MessageRecord) -> int:
    """Characters of a reply that were read as text when it was continued."""
    read = record.options.get("read")
    begun = read.get("begun") if isinstance(read, dict) else 0
    return begun if isinstance(begun, int) else 0


def options_of(record: MessageRecord) -> ReplyOptions:
    """The options of a reply as the journal has them, without its limits: a reply that was continued had each twice."""
    kept = record.options
    sampling: dict[str, Any] = {
        each.name: value for each in fields(Sampling) if isinstance(value := kept.get(each.name), int | float)
    }
    for name in ("temperature", "seed"):  # the settings have negative values for those of the engine
        if sampling.get(name, 0) < 0:
            del sampling[name]
    stop, wanted = kept.get("stop"), kept.get("response_format")
    schema = wanted if isinstance(wanted, dict) else None
    return ReplyOptions(
        sampling=Sampling(**sampling),
        stop=tuple(map(str, stop)) if isinstance(stop, list) else (),
        format=ResponseFormat(schema) if wanted else None,
    )


def _was_prepared(record: MessageRecord) -> bool:
    """Whether the engine had read the history when the message came."""
    evaluated, whole = record.stats.get("prompt_tokens"), record.stats.get("prompt_size")
    return isinstance(evaluated, int) and isinstance(whole, int) and 2 * evaluated < whole


def first_difference(kept: str, made: str, *, is_whole: bool) -> int | None:
    """The first character that differs; None for identical texts. ``is_whole``: the reply was not cut off, so that
    another length is a difference."""
    for at, (theirs, ours) in enumerate(zip(kept, made, strict=False)):
        if theirs != ours:
            return at
    if len(made) < len(kept) or (is_whole and len(made) > len(kept)):
        return min(len(made), len(kept))
    return None


def probable_reason(
    record: MessageRecord,
    engine: str,
    version: str,
    threads: int | None,
    template: str,
    source: ContextSource | None,
) -> str:
    """Why a reply that was made again differs. The rest of the arguments: of the second making."""
    kept, before = record.options, record.options.get("read")
    if record.engine != engine or kept.get("engine_version", version) != version:
        theirs = f"{record.engine} {kept.get('engine_version', '')}".strip()
        return f"another engine or version: {f'{engine} {version}'.strip()} instead of {theirs}"
    if kept.get("template", template) != template:
        return "another chat template"
    if kept.get("threads", threads) != threads:
        return f"other threads: {threads} instead of {kept['threads']}"
    if isinstance(before, dict) and source is not None and before.get("from") != source:
        how = {"cold": "read anew", "live": "evaluated turn by turn", "state": "restored"}
        return f"the context was {how[source]} instead of {how.get(str(before.get('from')), 'unknown')}"
    if begun := _begun(record):
        return f"its first {begun} characters, after which it was cut, were read as text when it was continued"
    if record.message.was_cut:
        return "not known: perhaps the reply was continued after it was cut"
    return "not known"
