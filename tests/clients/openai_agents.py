"""openai-agents."""

from __future__ import annotations

from typing import Any

import openai
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from pydantic import BaseModel

CALLS: list[Any] = []


class Answer(BaseModel):
    yes: bool


@function_tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    CALLS.append(["get_weather", {"city": city}])
    return "snow"


async def main(url: str) -> dict[str, Any]:
    set_tracing_disabled(True)
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    def agent(name: str, **more: Any) -> Agent[Any]:
        model = OpenAIChatCompletionsModel(model=name, openai_client=client)
        return Agent(name="Agent", model=model, model_settings=ModelSettings(temperature=0), **more)

    async def error(name: str, text: str) -> list[str]:
        try:
            return ["", (await Runner.run(agent(name), text)).final_output]
        except Exception as caught:
            return [type(caught).__name__, str(caught)]

    question = "What is bitnet-chat?"
    got: dict[str, Any] = {"whole": (await Runner.run(agent("bitnet-demo"), question)).final_output}
    streamed = Runner.run_streamed(agent("bitnet-demo"), question)
    events = [event.data async for event in streamed.stream_events() if event.type == "raw_response_event"]
    got["streamed"] = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    caller = agent("tool-demo", instructions="Be brief.", tools=[get_weather])
    got["told"] = (await Runner.run(caller, "What is the weather in Oslo?")).final_output
    got["call"] = CALLS
    structured = await Runner.run(agent("bitnet-demo", output_type=Answer), "Is it?")
    got["structured"] = structured.final_output.model_dump()
    got["unknown"] = await error("missing", "hello")
    got["long"] = await error("bitnet-demo", "word " * 2_500)
    await client.close()
    return got
