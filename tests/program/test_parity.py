"""Replies at temperature 0 through engines that take a conversation as it was are those of a bare llama-server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.llama_server import LlamaServer
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.conversation.openai_codec import encode_message
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.events import Completed

pytestmark = pytest.mark.engine
LIMIT = 48
PROMPTS = (
    *("What is BitNet?", "Hello", "hello", "  Hello", "How do I save the conversation?", "Write a list."),
    *("Count to twenty.", "How do I leave?\n", "C:\\new\\table", "a path/", "5", "数据和模型 👩\u200d💻?"),
    *("Show me some code\nin two lines", "/exit", "Tell me a long story"),
)
CONVERSATIONS = (
    ("Hello", "What is BitNet?", "How do I leave?", "Thank you/", "5"),
    ("Write a list.", "Another one.", "\\", "hello\n", "How do I save the conversation?"),
    ("Count to twenty.", " again", "你好", "What can you do?", "bye"),
    # Its first reply is cut at the limit: no end-of-turn token was made, and the next prompt has one all the same.
    ("Tell me a long story", "And then?", "Hello"),
)


def test_replies_are_those_of_a_bare_server(exact_engine: EngineBinary, classic: EngineBinary, model: Path) -> None:
    settings = Settings(engine=str(classic.path), model=str(model), temperature=0.0, threads=1, journal=False)

    async def main() -> None:
        server = LlamaServer(settings)
        serving = server.backend()
        await serving.service.ready()
        process = server.server.process
        assert process is not None
        headers = {"Authorization": f"Bearer {process.key}"}
        backend = LocalEngineBackend(replace(settings, engine=str(exact_engine.path)))
        async with aiohttp.ClientSession(headers=headers) as session:

            async def bare(conversation: Conversation) -> tuple[str, int]:
                body = {"messages": [encode_message(each) for each in conversation.messages], "temperature": 0}
                body |= {"max_tokens": LIMIT, "cache_prompt": False}
                async with session.post(f"{process.url}/v1/chat/completions", json=body) as response:
                    answer = await response.json()
                return answer["choices"][0]["message"]["content"], answer["usage"]["prompt_tokens"]

            async def through(conversation: Conversation) -> tuple[str, int | None]:
                *_, end = [event async for event in backend.reply(conversation, ReplyOptions(max_tokens=LIMIT))]
                assert isinstance(end, Completed), end
                return end.text, end.stats.prompt_size

            for prompt in PROMPTS:
                asked = Conversation().with_user(prompt)
                assert await through(asked) == await bare(asked), prompt
            for messages in CONVERSATIONS:
                conversation = Conversation()
                for message in messages:
                    conversation = conversation.with_user(message)
                    reply = await through(conversation)
                    assert reply == await bare(conversation), message
                    conversation = conversation.with_assistant(reply[0])
        await backend.close()
        await serving.close()

    asyncio.run(asyncio.wait_for(main(), 120))
