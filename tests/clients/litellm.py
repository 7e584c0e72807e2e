"""litellm, by both APIs."""

from __future__ import annotations

import os
from typing import Any

from pydantic import BaseModel

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would look on the network for the prices of models
import litellm

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Answer(BaseModel):
    yes: bool


def asked(prefix: str, base: str) -> dict[str, Any]:
    def ask(model: str, text: str, messages: list[Any] | None = None, **more: Any) -> Any:
        return litellm.completion(
            model=f"{prefix}/{model}",
            api_base=base,
            api_key="none",
            messages=messages or [{"role": "user", "content": text}],
            temperature=0,
            num_retries=0,
            max_retries=0,
            **more,
        )

    def error(model: str, text: str) -> list[str]:
        try:
            return ["", ask(model, text).choices[0].message.content]
        except Exception as caught:
            return [type(caught).__name__, str(caught)]

    question = "What is bitnet-chat?"
    whole = ask("bitnet-demo", question)
    got: dict[str, Any] = {"whole": whole.choices[0].message.content}
    chunks = list(ask("bitnet-demo", question, stream=True, stream_options={"include_usage": True}))
    got["streamed"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    usages = [each.usage for each in (whole, *chunks) if getattr(each, "usage", None)]
    got["usage"] = [usage.completion_tokens for usage in usages]
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]
    called = ask("tool-demo", "", messages, tools=[WEATHER]).choices[0].message
    calls = called.tool_calls or ()
    got["call"] = [[each.function.name, each.function.arguments] for each in calls]
    results = [{"role": "tool", "tool_call_id": each.id, "content": "snow"} for each in calls]
    messages += [called.model_dump(), *results]
    got["told"] = ask("tool-demo", "", messages, tools=[WEATHER]).choices[0].message.content
    got["structured"] = ask("bitnet-demo", "Is it?", response_format=Answer).choices[0].message.content
    got["unknown"] = error("missing", "hello")
    got["long"] = error("bitnet-demo", "word " * 2_500)
    return got


def main(url: str) -> dict[str, Any]:
    litellm.suppress_debug_info = True
    return {"openai": asked("openai", f"{url}/v1"), "ollama": asked("ollama_chat", url)}
