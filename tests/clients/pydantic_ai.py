"""pydantic-ai."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Answer(BaseModel):
    yes: bool


async def main(url: str) -> dict[str, Any]:
    provider = OpenAIProvider(base_url=f"{url}/v1", api_key="none")

    def agent(name: str, **more: Any) -> Agent[Any, Any]:
        return Agent(OpenAIChatModel(name, provider=provider), model_settings={"temperature": 0}, retries=1, **more)

    async def error(name: str, text: str) -> list[str]:
        try:
            return ["", (await agent(name).run(text)).output]
        except Exception as caught:
            return [type(caught).__name__, str(caught)]

    question = "What is bitnet-chat?"
    demo = agent("bitnet-demo")
    whole = await demo.run(question)
    got: dict[str, Any] = {"whole": whole.output}
    async with demo.run_stream(question) as result:
        got["streamed"] = "".join([piece async for piece in result.stream_text(delta=True)])
        got["usage"] = [whole.usage.output_tokens, result.usage.output_tokens]
    caller = agent("tool-demo", system_prompt="Be brief.")
    got["call"] = []

    @caller.tool_plain
    def get_weather(city: str) -> str:
        """The weather of a city."""
        got["call"].append(["get_weather", {"city": city}])
        return "snow"

    got["told"] = (await caller.run("What is the weather in Oslo?")).output
    structured = await agent("bitnet-demo", output_type=NativeOutput(Answer)).run("Is it?")
    got["structured"] = structured.output.model_dump()
    got["unknown"] = await error("missing", "hello")
    got["long"] = await error("bitnet-demo", "word " * 2_500)
    return got
