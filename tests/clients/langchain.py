"""langchain-openai and langchain-ollama."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Answer(BaseModel):
    """An answer."""

    yes: bool


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return "sunny, 21 degrees"


def error(chat: BaseChatModel, text: str) -> list[str]:
    try:
        return ["", str(chat.invoke(text).content)]
    except Exception as caught:
        return [type(caught).__name__, str(caught)]


def asked(chat: BaseChatModel, tools: BaseChatModel, missing: BaseChatModel, method: str) -> dict[str, Any]:
    question = "What is bitnet-chat?"
    whole = chat.invoke(question)
    chunks = list(chat.stream([HumanMessage(question)]))
    streamed = chunks[0]
    for chunk in chunks[1:]:
        streamed = streamed + chunk
    got: dict[str, Any] = {"whole": whole.content, "streamed": streamed.content}
    got["usage"] = [each.usage_metadata and each.usage_metadata["output_tokens"] for each in (whole, streamed)]
    history = [SystemMessage("Be brief."), HumanMessage("What is the weather in Oslo?")]
    called = tools.bind_tools([get_weather]).invoke(history)
    got["call"] = [[call["name"], call["args"]] for call in called.tool_calls]
    history = [*history, called, *(ToolMessage("snow", tool_call_id=call["id"] or "") for call in called.tool_calls)]
    got["told"] = tools.bind_tools([get_weather]).invoke(history).content
    got["structured"] = chat.with_structured_output(Answer, method=method).invoke("Is it?").model_dump()
    got["unknown"] = error(missing, "hello")
    got["long"] = error(chat, "word " * 2_500)
    return got


def main(url: str) -> dict[str, Any]:
    openai = {"base_url": f"{url}/v1", "api_key": "none", "temperature": 0, "max_retries": 0, "stream_usage": True}
    ollama = {"base_url": url, "temperature": 0}
    names = ("bitnet-demo", "tool-demo", "missing")
    return {
        "openai": asked(*(ChatOpenAI(model=name, **openai) for name in names), method="json_schema"),
        "ollama": asked(*(ChatOllama(model=name, **ollama) for name in names), method="json_schema"),
    }
