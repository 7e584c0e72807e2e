"""autogen, with its client of either API."""

from __future__ import annotations

from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import UserMessage
from autogen_ext.models.ollama import OllamaChatCompletionClient
from autogen_ext.models.openai import OpenAIChatCompletionClient
from pydantic import BaseModel

ABLE = {
    "vision": False,
    "function_calling": True,
    "json_output": True,
    "structured_output": True,
    "family": "unknown",
    "multiple_system_messages": True,
}


class Answer(BaseModel):
    yes: bool


async def asked(demo: Any, tools: Any, missing: Any) -> dict[str, Any]:
    async def error(client: Any, text: str) -> list[str]:
        try:
            return ["", str((await client.create([UserMessage(content=text, source="user")])).content)]
        except Exception as caught:
            return [type(caught).__name__, str(caught)]

    question = [UserMessage(content="What is bitnet-chat?", source="user")]
    whole = await demo.create(question)
    got: dict[str, Any] = {"whole": whole.content}
    *pieces, last = [piece async for piece in demo.create_stream(question)]
    got["streamed"] = "".join(pieces)
    got["usage"] = [whole.usage.completion_tokens, last.usage.completion_tokens]
    got["call"] = []

    async def get_weather(city: str) -> str:
        """The weather of a city."""
        got["call"].append(["get_weather", {"city": city}])
        return "snow"

    agent = AssistantAgent("agent", tools, tools=[get_weather], system_message="Be brief.", reflect_on_tool_use=True)
    got["told"] = (await agent.run(task="What is the weather in Oslo?")).messages[-1].content
    got["structured"] = (await demo.create(question, json_output=Answer)).content
    got["unknown"] = await error(missing, "hello")
    got["long"] = await error(demo, "word " * 2_500)
    for each in (demo, tools, missing):
        await each.close()
    return got


async def main(url: str) -> dict[str, Any]:
    names = ("bitnet-demo", "tool-demo", "missing")
    openai = {"base_url": f"{url}/v1", "api_key": "none", "temperature": 0, "max_retries": 0, "model_info": ABLE}
    openai["stream_options"] = {"include_usage": True}  # sent without a stream, too
    ollama = {"host": url, "options": {"temperature": 0}, "model_info": ABLE}
    return {
        "openai": await asked(*(OpenAIChatCompletionClient(model=name, **openai) for name in names)),
        "ollama": await asked(*(OllamaChatCompletionClient(model=name, **ollama) for name in names)),
    }
