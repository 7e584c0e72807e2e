"""A chat template as a Jinja program, in the environment of ``transformers``. Pure.

The sandbox of Jinja denies a template access to files and processes, but does not limit time and memory. Templates of
model files therefore run in a process with limits, see :mod:`bitnet_chat.templates.sandbox`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from bitnet_chat.errors import FaultKind, TemplateFaultError, TemplateRaisedError

if TYPE_CHECKING:
    from jinja2 import Environment
    from jinja2.ext import Extension

_MAX_MESSAGE = 300
"""Maximum number of characters of an error message. A template can raise a message of any length."""


class TemplateProgram(Protocol):
    """A parsed template."""

    def run(self, variables: Mapping[str, object], now: datetime) -> str:
        """Render the template. ``variables``: JSON values. Raises TemplateFaultError."""


class JinjaProgram:
    """A :class:`TemplateProgram` that runs in this process."""

    def __init__(self, source: str) -> None:
        """Compile ``source``. Raises TemplateFaultError."""
        from jinja2 import TemplateSyntaxError

        try:
            self._template = _environment().from_string(source)
        except TemplateSyntaxError as error:
            raise TemplateFaultError(FaultKind.UNREADABLE, _error_text(error)) from None
        except Exception as error:  # Jinja evaluates constant expressions while compiling
            raise _fault(error) from None

    def run(self, variables: Mapping[str, object], now: datetime, most: int | None = None) -> str:
        """Render the template. ``most``: maximum number of characters of output; None: unlimited. Raises
        TemplateFaultError."""
        pieces: list[str] = []
        length = 0
        try:
            for piece in self._template.generate(**variables, strftime_now=now.strftime):
                length += len(piece)
                if most is not None and length > most:
                    raise TemplateFaultError(FaultKind.LIMIT, f"it writes more than {most:,} characters")
                pieces.append(piece)
            return "".join(pieces)
        except (TemplateRaisedError, TemplateFaultError) as error:
            raise (
                error
                if isinstance(error, TemplateFaultError)
                else TemplateFaultError(FaultKind.REFUSED, _error_text(error))
            ) from None
        except Exception as error:  # a template can make Jinja and Python raise anything
            raise _fault(error) from None


def _fault(error: Exception) -> TemplateFaultError:
    if isinstance(error, MemoryError):
        return TemplateFaultError(FaultKind.LIMIT, "it exceeds the memory limit")
    return TemplateFaultError(FaultKind.FAILED, _error_text(error))


def _error_text(error: Exception) -> str:
    from jinja2 import TemplateError

    text = " ".join(str(error)[:_MAX_MESSAGE].split())
    return (
        text if text and isinstance(error, (TemplateError, TemplateRaisedError)) else f"{type(error).__name__}: {text}"
    )


def _environment() -> Environment:
    """Create the environment of ``apply_chat_template`` of Hugging Face transformers, for which templates are
    written."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _generation_tag()]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return environment


def _generation_tag() -> type[Extension]:
    """Create the tag ``{% generation %} … {% endgeneration %}``, which marks the output to train on and renders its
    content.

    Created on demand, because Jinja is imported late.
    """
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class GenerationTag(Extension):
        def __init__(self, environment: Environment) -> None:
            super().__init__(environment)
            self.tags = {"generation"}

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return GenerationTag


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The ``tojson`` filter of transformers. Unlike that of Jinja, it does not escape for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise TemplateRaisedError(message)
