"""llama-index, with its model of either API."""

from __future__ import annotations

from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.ollama import Ollama
from llama_index.llms.openai_like import OpenAILike


def get_weather(city: str) -> str:
    """The weather of a city."""
    return "snow"


def asked(demo: Any, tools: Any, missing: Any) -> dict[str, Any]:
    def error(model: Any, text: str) -> list[str]:
        try:
            return ["", str(model.chat([ChatMessage(role="user", content=text)]).message.content)]
        except Exception as caught:
            return [type(caught).__name__, str(caught)]

    question = [ChatMessage(role="user", content="What is bitnet-chat?")]
    got: dict[str, Any] = {"whole": demo.chat(question).message.content}
    got["streamed"] = "".join(piece.delta or "" for piece in demo.stream_chat(question))
    got["plain"] = demo.complete("What is bitnet-chat?").text
    weather = FunctionTool.from_defaults(get_weather)
    reply = tools.chat_with_tools([weather], user_msg="What is the weather in Oslo?")
    calls = tools.get_tool_calls_from_response(reply, error_on_no_tool_call=False)
    got["call"] = [[call.tool_name, call.tool_kwargs] for call in calls]
    got["unknown"] = error(missing, "hello")
    got["long"] = error(demo, "word " * 2_500)
    return got


def main(url: str) -> dict[str, Any]:
    openai = {"api_base": f"{url}/v1", "api_key": "none", "temperature": 0, "max_retries": 0, "is_chat_model": True}
    ollama = {"base_url": url, "temperature": 0}
    names = ("bitnet-demo", "tool-demo", "missing")
    return {
        "openai": asked(*(OpenAILike(model=name, is_function_calling_model=True, **openai) for name in names)),
        "ollama": asked(*(Ollama(model=name, **ollama) for name in names)),
    }
