"""Thoughts of a model in the format of its chat template, with the template arguments of a request."""

from __future__ import annotations

from collections.abc import Mapping

from bitnet_chat.filters.thinking import Tags, leaves_open
from bitnet_chat.templates.segments import PromptSegments


class TemplateThinking:
    """``tags``: the marks around thoughts; None for a model without thoughts."""

    def __init__(self, segments: PromptSegments, tags: Tags | None) -> None:
        self.tags = tags
        self._segments = segments
        self.is_open = self._leaves_open(segments.marks.in_suffix)
        """Whether the prompt ends with the opening mark, so that the reply begins within thoughts."""

    @property
    def closing(self) -> str:
        """The end of thoughts that are left out, before the answer."""
        return f"\n{self.tags[1]}\n\n" if self.tags is not None and self.is_open else ""

    def use(self, arguments: Mapping[str, object]) -> str:
        """See :meth:`bitnet_chat.engine.protocols.EngineProtocol.use`."""
        template = self._segments.template
        if arguments != template.arguments:
            self._segments.use(arguments)
            self.is_open = self._leaves_open(template.marks().in_suffix)
        if self.tags is None and not any(arguments.values()):
            return ""  # a model without thoughts was asked for none
        return template.without_effect(arguments)

    def _leaves_open(self, in_suffix: str) -> bool:
        return self.tags is not None and leaves_open(in_suffix, self.tags)
