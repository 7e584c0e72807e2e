"""Golden transcripts: the same prompts through every backend, whole and streamed, character by character.

The bundled model says the same again and again at temperature 0, so what differs would have been changed on its way.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from serving import serving

from bitnet_chat.backend import Backend, ReplyOptions
from bitnet_chat.backends.llama_server import LlamaServer
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.backends.ollama import ollama_backend
from bitnet_chat.backends.openai import openai_backend
from bitnet_chat.backends.pool import BackendFactory
from bitnet_chat.batch import ask as ask_whole
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.conversation.openai_codec import encode_message
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Failed, TextDelta

pytestmark = pytest.mark.engine
TIMEOUT = 60
CONVERSATIONS = [
    Conversation().with_user("How do I save the conversation?"),
    Conversation().with_user("Write a list."),
    Conversation().with_user("Count to twenty."),
    Conversation().with_user("Tell me a long story"),
    Conversation().with_user("数据和模型 👩\u200d💻?"),
    Conversation().with_user("Show me some code\nin two lines"),
    Conversation().with_system("You are brief.").with_user("What is BitNet?"),
    Conversation()
    .with_user("Hello")
    .with_assistant("Hello! Ask me how to use bitnet-chat.", FinishReason.STOP)
    .with_user("What is BitNet?"),
]
OPTIONS = ReplyOptions(max_tokens=400)


async def transcripts(backend: Backend, whole: int = 3) -> list[str]:
    """Each reply streamed; and the first ``whole`` of them whole as well, as a batch has it."""
    told = []
    for number, conversation in enumerate(CONVERSATIONS):
        pieces, end = [], None
        async for event in backend.reply(conversation, OPTIONS):
            if isinstance(event, TextDelta):
                pieces.append(event.text)
            elif isinstance(event, Completed | Failed):
                end = event
        assert isinstance(end, Completed) and end.reason is FinishReason.STOP, (conversation, end)
        assert "".join(pieces) == end.text
        if number < whole:
            assert (await ask_whole(backend, conversation, OPTIONS, lambda line: None)).text == end.text
        told.append(end.text)
    await backend.close()
    return told


async def by_hand(url: str, key: str) -> list[str]:
    """The same from the server itself, not streamed, without any of our code in between."""
    told = []
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"} if key else {}) as session:
        for conversation in CONVERSATIONS:
            body: dict[str, Any] = {"messages": [encode_message(each) for each in conversation.messages]}
            body |= {"temperature": 0, "max_tokens": OPTIONS.max_tokens, "stream": False}
            async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                content = json.loads(await response.read())
            told.append(content["choices"][0]["message"]["content"])
    return told


@pytest.mark.long
def test_all_backends_say_the_same(classic: EngineBinary, modern: EngineBinary, model: Path) -> None:
    def settings(binary: EngineBinary, **more: Any) -> Settings:
        more = {"model": str(model)} | more
        return Settings(engine=str(binary.path), temperature=0.0, journal=False, **more)

    async def main() -> None:
        async with asyncio.timeout(TIMEOUT):
            server = LlamaServer(settings(classic, backend="llama-server"))
            keeping = server.backend()
            target = await keeping.service.ready()
            process = server.server.process
            assert process is not None
            golden = await by_hand(process.url, process.key)
            assert all(golden) and len(set(golden)) >= 6
            assert await transcripts(server.backend(), whole=8) == golden, "llama-server"
            outside = settings(
                classic, backend="openai", base_url=f"{target.connection.base}/v1", backend_key=process.key
            )
            assert await transcripts(openai_backend(outside)) == golden, "openai"
            await keeping.close()
            assert await transcripts(LocalEngineBackend(settings(classic))) == golden, "classic"
            source = BackendFactory("demo", 1, lambda: LocalEngineBackend(settings(classic)))
            async with serving(source) as served:
                through = settings(classic, backend="ollama", base_url=served.url, model="demo")
                assert await transcripts(ollama_backend(through)) == golden, "ollama, which is our own server"
                assert await by_hand(served.url, "") == golden, "our own server, whole"
                through = settings(classic, backend="openai", base_url=f"{served.url}/v1", model="demo")
                assert await transcripts(openai_backend(through), whole=0) == golden, "openai, which is our own server"
            # A modern engine keeps its own history, and is told any other in its system prompt: another prompt.
            told = await transcripts(LocalEngineBackend(settings(modern)))
            assert told[:-1] == golden[:-1], "modern"

    asyncio.run(main())
