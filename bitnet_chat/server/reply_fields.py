"""Fields that several APIs have in the same form: tools, stop texts, the seed. Pure; raises InvalidFieldError."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bitnet_chat.conversation import Tool
from bitnet_chat.conversation.json_fields import Fields

_SEEDS = 2**32 - 1
"""Number of seeds of an engine; larger ones are reduced. The next number means a random seed to llama.cpp."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Function names that OpenAI allows. Other servers allow dots, slashes and more."""
_NAME_LIMIT = 128
_MOST_TOOLS = 1000
_MOST_STOPS = 256


def tools_of(fields: Fields) -> tuple[Tool, ...]:
    """The functions in ``tools``."""
    tools = [_tool(each) for each in fields.objects("tools") or ()]
    if len(tools) > _MOST_TOOLS:
        raise fields.wrong("tools", f"has {len(tools)} tools; the maximum is {_MOST_TOOLS}")
    if twice := _twice(tool.name for tool in tools):
        raise fields.wrong("tools", f"contains the name {twice} twice")
    return tuple(tools)


def _twice(names: Iterable[str]) -> str:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return ""


def _tool(fields: Fields) -> Tool:
    function = needed_function(fields)
    name = name_of(function)
    parameters = function.inner("parameters")
    if parameters is not None and (parameters.values.get("type") or "object") != "object":
        raise parameters.wrong("type", "must be object")
    function.accept("strict", "cache_control")  # calls are read and checked here in any case
    fields.accept("cache_control", "items")  # the latter: clients of Ollama
    tool = Tool(name, function.text("description") or "", {} if parameters is None else parameters.values)
    function.finish()
    fields.finish()
    return tool


def needed_function(fields: Fields) -> Fields:
    """``function`` of an object with the type ``function``, which Ollama's clients may leave out."""
    kind = fields.text("type") or "function"
    if kind != "function":
        raise fields.wrong("type", f"is {kind!r}: only function is supported", code="unsupported_parameter")
    return fields.needed_inner("function")


def name_of(fields: Fields) -> str:
    """The name of a function or of a schema."""
    name = fields.needed_text("name")
    if fields.notes is None and not _NAME.fullmatch(name):
        raise fields.wrong("name", "must be 1 to 64 letters, digits, _ or -")
    if not 0 < len(name) <= _NAME_LIMIT or not name.isprintable():
        raise fields.wrong("name", f"must be 1 to {_NAME_LIMIT} characters")
    return name


def stops_of(fields: Fields) -> tuple[str, ...]:
    """The texts in ``stop``, a text or a list."""
    value = fields.get("stop")
    stops = (fields.texts("stop") or []) if isinstance(value, list | None) else [fields.needed_text("stop")]
    if len(stops) > _MOST_STOPS:
        raise fields.wrong("stop", f"has {len(stops)} texts; the maximum is {_MOST_STOPS}")
    if "" in stops:
        fields.change("stop", "has an empty text, which is left out")
    return tuple(filter(None, stops))


def seed_of(fields: Fields, *, random_below_zero: bool = False) -> int | None:
    """A seed that an engine takes, from any whole number of 64 bits. None: random."""
    seed = fields.whole("seed", -(2**63), 2**63 - 1)
    return None if seed is None or (random_below_zero and seed < 0) else seed % _SEEDS


def thinking(*, on: bool) -> dict[str, object]:
    """The arguments of a chat template for thoughts; templates use two names."""
    return {"enable_thinking": on, "thinking": on}
