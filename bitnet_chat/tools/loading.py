"""A Python file as a toolbox: its public functions, with their type hints and docstrings."""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, get_type_hints

from bitnet_chat.conversation import Tool
from bitnet_chat.errors import UsageError
from bitnet_chat.tools.schema import Field, described, kind_of, object_kind
from bitnet_chat.tools.toolbox import Function, Toolbox, words

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # of the APIs


def load(path: Path) -> Toolbox:
    """Run the file. Raises UsageError for a failure, and for a function that cannot be a tool."""
    module = _run(path)
    functions = [
        _function(each, f"{path}, line {inspect.unwrap(each).__code__.co_firstlineno}")
        for name, each in vars(module).items()
        if isinstance(each, FunctionType) and each.__module__ == module.__name__ and not name.startswith("_")
        if name == each.__name__  # an alias is not a second tool
    ]
    if not functions:
        raise UsageError(
            f"{path} has no tools", remedy="define functions in it, with type hints and docstrings, without a leading _"
        )
    return Toolbox(functions)


def toolbox_of(functions: Iterable[Callable[..., object]]) -> Toolbox:
    """Python functions as tools, described to the model by their names, type hints and docstrings.

    Raises UsageError for a function that cannot be a tool, and for two of the same name."""
    found: dict[str, Function] = {}
    for each in functions:
        made = _function(each, getattr(each, "__module__", None) or "a tool")
        if made.tool.name in found:
            raise UsageError(f"two tools have the name {made.tool.name}", remedy="rename one of the functions")
        found[made.tool.name] = made
    return Toolbox(list(found.values()))


def _run(path: Path) -> ModuleType:
    path = path.absolute()
    if not path.is_file():
        raise UsageError(f"the tools file {path} does not exist")
    name = f"bitnet_chat_tools_{re.sub(r'[^A-Za-z0-9]', '_', path.stem)}"
    loader = SourceFileLoader(name, str(path))
    spec = spec_from_loader(name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # string type hints are resolved there
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # for modules beside the file
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout may be a file of answers
            loader.exec_module(module)
    except SyntaxError as error:
        raise UsageError(f"{path}, line {error.lineno}: {error.msg}", remedy="correct the tools file") from None
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == str(path)]
        where = f", line {lines[-1]}" if lines else ""
        raise UsageError(f"{path}{where}: {words(error)}", remedy="correct the tools file") from None
    return module


def _function(function: Callable[..., object], place: str) -> Function:
    name = getattr(function, "__name__", repr(function))

    def refused(why: str) -> UsageError:
        return UsageError(
            f"{place}: {name} cannot be a tool: {why}", remedy="change it, or begin its name with _ if it is not a tool"
        )

    if not _NAME.fullmatch(name):
        raise refused("its name has characters other than letters, digits, _ and -, or more than 64 of them")
    summary, words = described(inspect.getdoc(function) or "")
    if not summary:
        raise refused("it has no docstring to describe it to the model")
    try:
        hints = get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters
    except (NameError, TypeError, ValueError, SyntaxError) as error:
        raise refused(f"its type hints cannot be read ({error})") from None
    fields: dict[str, Field] = {}
    for each in parameters.values():
        if each.kind not in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY):
            raise refused(f"its parameter {each} cannot be passed by name")
        if each.name not in hints:
            raise refused(f"its parameter {each.name} has no type hint")
        try:
            kind = kind_of(hints[each.name])
        except TypeError as error:
            raise refused(f"its parameter {each.name}: {error}") from None
        more: dict[str, Any] = {}
        if each.name in words:
            more["description"] = words[each.name]
        if isinstance(each.default, str | int | float | bool):
            more["default"] = each.default
        fields[each.name] = Field(type(kind)(kind.schema | more, kind.read), each.default is each.empty)
    arguments = object_kind(fields, "argument")
    return Function(Tool(name, summary, arguments.schema), function, arguments)
