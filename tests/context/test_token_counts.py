"""Every backend counts what a bare llama-server of the same build counts: tools, their tags and emoji included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from bitnet_chat.backend import Backend, ReplyOptions, Sampling
from bitnet_chat.backends.http.openai_format import tools_as_json
from bitnet_chat.backends.llama_server import LlamaServer
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.conversation.openai_codec import encode_message
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, ToolCall

pytestmark = pytest.mark.engine

TOOL_DEMO = Path(__file__).parents[1] / "data" / "models" / "tool-demo.gguf"
TOOLS = (
    Tool("get_weather", "The weather of a city.", {"type": "object", "properties": {"city": {"type": "string"}}}),
    Tool("add", "The sum of two numbers.", {"type": "object", "properties": {"a": {"type": "integer"}}}),
)
WEATHER = Conversation().with_user("What is the weather in Oslo?")
CALLING = ReplyOptions(max_tokens=60, tools=TOOLS)
EMOJI = Conversation().with_user("🙂🙂🙂").with_assistant("😂 你好").with_user("Say something in Japanese.")
SPEAKING = ReplyOptions(max_tokens=12, sampling=Sampling(repeat_penalty=1.0))


def settings(engine: EngineBinary, model: Path, kind: str = "engine") -> Settings:
    path, backend = str(engine.path), "llama-server" if kind == "llama-server" else "engine"
    return Settings(engine=path, model=str(model), temperature=0.0, threads=1, journal=False, ctx=2048, backend=backend)


@asynccontextmanager
async def answering(engine: EngineBinary, model: Path, kind: str) -> AsyncIterator[Backend]:
    made = settings(engine, model, kind)
    backend: Backend = LlamaServer(made).backend() if kind == "llama-server" else LocalEngineBackend(made)
    try:
        async with asyncio.timeout(60):
            yield backend
    finally:
        await backend.close()


async def ask(backend: Backend, conversation: Conversation, options: ReplyOptions) -> tuple[Completed, int]:
    """How a reply ended, and how many calls there were."""
    events = [event async for event in backend.reply(conversation, options)]
    end = events[-1]
    assert isinstance(end, Completed), end
    return end, sum(isinstance(each, ToolCall) for each in events)


async def counted(server: LlamaServer, conversation: Conversation, options: ReplyOptions) -> tuple[int, int, str]:
    """Tokens of the prompt and of the reply, without the one that ended it, and why it ended: as a llama-server says
    that is asked by hand."""
    process = server.server.process
    assert process is not None
    body = {"messages": [encode_message(each) for each in conversation.messages], "max_tokens": options.max_tokens}
    body |= {"temperature": 0, "repeat_penalty": options.sampling.repeat_penalty or 1.0, "cache_prompt": False}
    if options.tools:
        body |= tools_as_json(options, by_name=False)
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {process.key}"}, timeout=60) as client:
        answer = (await client.post(f"{process.url}/v1/chat/completions", json=body)).raise_for_status().json()
    finish, usage = answer["choices"][0]["finish_reason"], answer["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"] - (finish != "length"), finish


@pytest.mark.parametrize(
    ("name", "conversation", "options"), [("tool-demo", WEATHER, CALLING), ("smollm2", EMOJI, SPEAKING)]
)
def test_counts_are_those_of_a_bare_llama_server(
    name: str,
    conversation: Conversation,
    options: ReplyOptions,
    classic: EngineBinary,
    request: pytest.FixtureRequest,
) -> None:
    model = TOOL_DEMO if name == "tool-demo" else request.getfixturevalue("smollm2")

    async def main() -> None:
        server = LlamaServer(settings(classic, model, "llama-server"))
        backend = server.backend()
        end, calls = await ask(backend, conversation, options)
        told = await counted(server, conversation, options)
        await backend.close()
        assert told[1] > 10 and (end.stats.prompt_size, end.stats.tokens) == told[:2]
        for kind in ("classic", "modern", "native") if calls else ("native",):  # test_smollm2.py has the others
            async with answering(request.getfixturevalue(kind), model, kind) as other:
                end, others = await ask(other, conversation, options)
            assert end.reason.value == told[2], kind
            assert (end.stats.prompt_size, end.stats.tokens, others) == (*told[:2], calls), kind
            assert end.stats.exact, kind

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["classic", "native", "llama-server"])
def test_a_limit_cuts_no_call_that_is_within_it(kind: str, request: pytest.FixtureRequest) -> None:
    """The reply has 29 tokens, of which the two tags are one each and not their letters."""

    async def main() -> None:
        engine = request.getfixturevalue("classic" if kind == "llama-server" else kind)
        async with answering(engine, TOOL_DEMO, kind) as backend:
            for limit in (26, 28, 29, 30, 36, 43):
                end, calls = await ask(backend, WEATHER, ReplyOptions(max_tokens=limit, tools=TOOLS))
                is_whole = limit >= 29
                assert (calls, end.stats.tokens) == (int(is_whole), min(limit, 29)), limit
                assert end.reason is (FinishReason.TOOL_CALLS if is_whole else FinishReason.LENGTH), limit

    asyncio.run(main())
