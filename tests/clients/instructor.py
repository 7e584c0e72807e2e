"""instructor: answers in a given form."""

from __future__ import annotations

from typing import Any

import instructor
import openai
from pydantic import BaseModel


class Answer(BaseModel):
    """An answer."""

    yes: bool


class Weather(BaseModel):
    """The weather of a city."""

    model_config = {"title": "get_weather"}
    city: str


def main(url: str) -> dict[str, Any]:
    plain = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    def asked(kind: type[BaseModel], model: str, text: str, mode: instructor.Mode = instructor.Mode.JSON_SCHEMA) -> Any:
        messages = [{"role": "user", "content": text}]
        client = instructor.from_openai(plain, mode=mode)
        try:
            answer = client.chat.completions.create(
                model=model, response_model=kind, messages=messages, temperature=0, max_retries=0
            )
        except Exception as caught:
            return [type(caught).__name__, str(caught)]
        return answer.model_dump()

    return {
        "structured": asked(Answer, "bitnet-demo", "Is it?"),
        # A call that is asked for, and no other.
        "forced": asked(Weather, "tool-demo", "What is the weather in Oslo?", instructor.Mode.TOOLS),
        "unknown": asked(Answer, "missing", "Is it?"),
        "long": asked(Answer, "bitnet-demo", "word " * 2_500),
    }
