"""The tokens that a classic engine evaluates are those of the rendered conversation, tokenized at once.

For each family of templates a model of its own (see :mod:`token_model`), whole conversations of five turns with odd
messages, live and started in the middle. What is rendered was recorded from the ``transformers`` library; what it is in
tokens a llama-server tells; what was evaluated the engine itself tells in its log.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import pytest
import token_model
from families import FAMILIES, TOKENS

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.llama_server import LlamaServer
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.native.client import NativeClient
from bitnet_chat.engine.native.protocol import Complete, decode_request
from bitnet_chat.engine.process import EngineProcess
from bitnet_chat.engine.protocols import GO_ON
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed

pytestmark = pytest.mark.engine

# Family: the last token of a prompt, the one that ends a reply.
ENDS = {
    "chatml": ("\n", "<|im_end|>"),
    "chatml with a system prompt of its own": ("\n", "<|im_end|>"),
    "bitnet": (" ", "<|eot_id|>"),
    "llama3": ("\n\n", "<|eot_id|>"),
    "llama2": ("]", "</s>"),
    "mistral": ("]", "</s>"),
    "gemma": ("\n", "<end_of_turn>"),
    "phi3": ("\n", "<|end|>"),
    "zephyr": ("\n", "</s>"),
    "vicuna": (":", "</s>"),
    "deepseek": ("<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
    "plain": (":", "</s>"),
}
STRIPPING = "Phi-3 mini"
"""The name of a model by which llama.cpp drops white space behind special tokens."""
SENTENCEPIECE = ("llama2", "mistral", "vicuna", "zephyr", "phi3")
RENDERED = json.loads((Path(__file__).parents[1] / "data" / "rendered.json").read_text("utf-8"))
"""Family and system prompt: the five prompts of the conversation."""
MESSAGES = ("What is it?", " leading and ends in a slash/", "two\n\nlines.\n", "5", "C:\\ 🙂 é")
SYSTEMS = ("", "Be brief.")


@dataclass
class Tape:
    """What one engine process was given and has told."""

    argv: list[str]
    log: bytearray = field(default_factory=bytearray)
    typed: list[bytes] = field(default_factory=list)

    def output(self, data: bytes) -> None: ...
    def signalled(self, name: str) -> None: ...
    def exited(self, code: int) -> None: ...

    def logged(self, data: bytes) -> None:
        self.log += data

    def wrote(self, data: bytes, *, command: bool) -> None:
        self.typed.append(data)

    def option(self, name: str) -> str:
        return self.argv[self.argv.index(name) + 1]


class Tokens:
    """A llama-server asked for tokens."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._headers = url, {"Authorization": f"Bearer {key}"} if key else {}

    async def of(self, text: str, *, whole: bool) -> list[int]:
        """``whole``: a prompt, and not a part of one."""
        body = {"content": text, "add_special": whole, "parse_special": True}
        async with (
            aiohttp.ClientSession(headers=self._headers) as session,
            session.post(f"{self._url}/tokenize", json=body) as response,
        ):
            return list((await response.json())["tokens"])


@asynccontextmanager
async def token_server(settings: Settings, engine: EngineBinary) -> AsyncIterator[Tokens]:
    """``engine``: the classic one, which has a llama-server beside it."""
    server = LlamaServer(replace(settings, engine=str(engine.path), backend="llama-server"))
    backend = server.backend()
    try:
        await backend.service.ready()
        process = server.server.process
        assert process is not None
        yield Tokens(process.url, process.key)
    finally:
        await backend.close()


def model_of(folder: Path, family: str, kind: str, name: str) -> Path:
    source, bos, eos, adds_bos = FAMILIES[family]
    last, end = ENDS[family]
    if name == STRIPPING:
        last = "<|assistant|> "
    return token_model.write(
        folder / f"{family.replace(' ', '-')}-{kind}.gguf",
        template=source,
        bos=bos,
        eos=eos,
        adds_bos=adds_bos,
        special=sorted({*TOKENS, "<unk>", "<|endoftext|>"}),
        last=last,
        end=end,
        kind=kind,
        name=name,
    )


def cases() -> Iterator[tuple[str, str, str]]:
    for family in FAMILIES:
        yield family, "gpt2", "a model"
        if family in SENTENCEPIECE:
            yield family, "llama", "a model"
    yield "phi3", "llama", STRIPPING


async def evaluated(trace_listener: Tape, tokens: Tokens, reply: list[int], end: int) -> list[int]:
    """All tokens that a process has evaluated, as it tells them."""
    log = trace_listener.log.decode("utf-8", "replace")
    if lines := re.findall(r"eval: \[ (.*) \]\n", log):
        return [int(number) for line in lines for number in re.findall(r"':(\d+)(?=, '|$)", line)]
    # Today's engine tells those of its prompt and of what is typed; how many there are in all is looked at apart.
    listed = r"(?:^|\n)D (?:input )?tokens: \[ (.*?) \]\n[DIWE] "
    told = [
        [int(number) for number in re.findall(r"':(\d+)(?=, '|$)", line)] for line in re.findall(listed, log, re.DOTALL)
    ]
    prefix, suffix = [
        await tokens.of(trace_listener.option(f"--in-{each}"), whole=False) for each in ("prefix", "suffix")
    ]
    found = told.pop(0)
    for number, typed in enumerate(trace_listener.typed):
        found += [end] * (number > 0)
        if typed != GO_ON:
            found += [*prefix, *told.pop(0), *suffix]
        found += reply
    return found


@pytest.mark.parametrize(("family", "kind", "name"), list(cases()))
def test_what_is_evaluated_is_the_rendered_conversation(
    classic_engine: EngineBinary, classic: EngineBinary, tmp_path: Path, family: str, kind: str, name: str
) -> None:
    model = model_of(tmp_path, family, kind, name)
    settings = Settings(model=str(model), temperature=0.0, journal=False, threads=1)
    _, bos, _, adds_bos = FAMILIES[family]
    said = " ok" if name == STRIPPING else "ok"

    async def protocol(engine: EngineBinary, tokens: Tokens, system: str, start: int) -> None:
        """Turns from ``start`` on in one backend; the ones before it are its history."""
        tapes: dict[EngineProcess, Tape] = {}
        reply = (await tokens.of("ok", whole=False))[0 if name == STRIPPING else -2 :]
        (end,) = await tokens.of(ENDS[family][1], whole=False)

        def spawned(process: EngineProcess) -> None:
            tapes[process] = process.trace_listener = Tape(process.argv)

        backend = LocalEngineBackend(replace(settings, engine=str(engine.path)), on_spawn=spawned)
        conversation = Conversation().with_system(system)
        for turn, message in enumerate(MESSAGES):
            asked = conversation.with_user(message)
            conversation = asked.with_assistant(said, FinishReason.STOP)
            if turn < start:
                continue
            events = [event async for event in backend.reply(asked, ReplyOptions(max_tokens=8))]
            assert isinstance(events[-1], Completed), events
            process = backend._session.process
            assert process is not None
            trace_listener = tapes[process]
            assert (events[-1].text, events[-1].reason) == (said, FinishReason.STOP), (turn, trace_listener.typed)
            if engine.verbosity() is None:
                continue  # an engine that tells no tokens
            prompt = RENDERED[f"{family}/{system}"][turn]
            expected = await tokens.of(prompt.removeprefix(bos) if adds_bos else prompt, whole=True)
            answered = [*expected, *reply]
            stats = events[-1].stats
            assert stats.context_used == len(answered) + 1, "its end token too"
            assert stats.prompt_size == len(expected) and stats.tokens == len(reply)
            assert await evaluated(trace_listener, tokens, reply, end) == answered, (
                turn,
                trace_listener.typed,
                trace_listener.argv,
            )
        await backend.close()

    async def main() -> None:
        async with token_server(settings, classic) as tokens:
            for system, start in ((SYSTEMS[0], 0), (SYSTEMS[1], 2), (SYSTEMS[0], 4)):
                if not (system and family == "gemma"):  # which has no place for one
                    await protocol(classic_engine, tokens, system, start)

    asyncio.run(asyncio.wait_for(main(), 120))


@pytest.mark.parametrize(("family", "kind", "name"), list(cases()))
def test_native_engines_evaluate_the_rendered_conversation(
    natives: list[EngineBinary], classic: EngineBinary, tmp_path: Path, family: str, kind: str, name: str
) -> None:
    """Each in one process, whatever the conversation. The pieces of its prompts are put to another for their tokens."""
    model = model_of(tmp_path, family, kind, name)
    settings = Settings(model=str(model), temperature=0.0, journal=False, threads=1)
    _, bos, _, adds_bos = FAMILIES[family]
    said = " ok" if name == STRIPPING else "ok"
    tapes: list[Tape] = []

    def spawned(process: EngineProcess) -> None:
        tapes.append(Tape(process.argv))
        process.trace_listener = tapes[-1]

    async def main() -> None:
        async with token_server(settings, classic) as tokens:
            for native in natives:
                tapes.clear()
                backend = LocalEngineBackend(replace(settings, engine=str(native.path)), on_spawn=spawned)
                await read(backend, tokens)
                await backend.close()

    async def read(backend: LocalEngineBackend, tokens: Tokens) -> None:
        other: NativeClient | None = None
        reply = (await tokens.of("ok", whole=False))[0 if name == STRIPPING else -2 :]
        for system in SYSTEMS:
            if system and family == "gemma":  # which has no place for one
                continue
            conversation = Conversation().with_system(system)
            for turn, message in enumerate(MESSAGES):
                conversation = conversation.with_user(message)
                *_, end = [event async for event in backend.reply(conversation, ReplyOptions(max_tokens=8))]
                assert isinstance(end, Completed) and (end.text, end.reason) == (said, FinishReason.STOP), end
                prompt = RENDERED[f"{family}/{system}"][turn]
                expected = await tokens.of(prompt.removeprefix(bos) if adds_bos else prompt, whole=True)
                request = decode_request(tapes[0].typed[-1])
                assert isinstance(request, Complete)
                other = other or NativeClient(tapes[0].argv)
                assert list(other.tokenize(request.prompt)) == expected, (turn, request.prompt)
                stats = end.stats
                assert (stats.prompt_size, stats.tokens, stats.exact) == (len(expected), len(reply), True)
                assert stats.context_used == len(expected) + len(reply) + 1, "its end token too"
                conversation = conversation.with_assistant(end.text, end.reason)
        assert len(tapes) == 1
        assert other is not None
        other.close()

    asyncio.run(asyncio.wait_for(main(), 120))


@pytest.mark.parametrize(("family", "kind", "name"), [case for case in cases() if case[2] != STRIPPING])
def test_a_modern_engine_evaluates_as_many(
    modern: EngineBinary, classic: EngineBinary, tmp_path: Path, family: str, kind: str, name: str
) -> None:
    """Live: it renders the conversation itself, and tells how many tokens that are."""
    settings = Settings(model=str(model_of(tmp_path, family, kind, name)), temperature=0.0, journal=False, threads=1)
    _, bos, _, adds_bos = FAMILIES[family]

    async def main() -> None:
        async with token_server(settings, classic) as tokens:
            backend = LocalEngineBackend(replace(settings, engine=str(modern.path)))
            conversation = Conversation()
            for turn, message in enumerate(MESSAGES):
                conversation = conversation.with_user(message)
                *_, end = [event async for event in backend.reply(conversation, ReplyOptions(max_tokens=8))]
                assert isinstance(end, Completed), end
                prompt = RENDERED[f"{family}/"][turn]
                expected = await tokens.of(prompt.removeprefix(bos) if adds_bos else prompt, whole=True)
                assert end.stats.prompt_size == len(expected), (turn, end)
                conversation = conversation.with_assistant(end.text, end.reason)
            await backend.close()

    asyncio.run(asyncio.wait_for(main(), 120))
