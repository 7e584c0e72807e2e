"""What is known of a model that is served before it is loaded: sizes, window, template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bitnet_chat.backends.pool import Source
from bitnet_chat.errors import ModelError
from bitnet_chat.models import memory

if TYPE_CHECKING:
    from bitnet_chat.models.info import ModelInfo


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Facts for listings. Empty or 0 where nothing is known: for a model on another computer that is nearly all."""

    name: str
    """What it is called here."""
    size: int = 0
    """Bytes of its file."""
    modified: float = 0.0
    """When the file was changed, in seconds since 1970."""
    architecture: str = ""
    parameters: int = 0
    quantization: str = ""
    trained: int = 0
    """Tokens of the window that it was trained for."""
    window: int = 0
    """Tokens of the window that it gets here."""
    memory: int = 0
    """Bytes that all its backends together need: the weights once, and a window for each."""
    template: str = ""
    """Its own chat template."""
    license: str = ""

    @property
    def takes_tools(self) -> bool:
        """Whether its template has a place for tools."""
        return "tools" in self.template

    @property
    def thinks(self) -> bool:
        return any(mark in self.template for mark in ("<think>", "enable_thinking", "reasoning_content"))


def read_card(name: str, source: Source) -> ModelCard:
    """Reads the header of the file: a tenth of a second for a large model. A file that cannot be read leaves the card
    empty; whoever loads it says what is wrong with it."""
    from bitnet_chat.models.info import read_info

    if source.path is None:
        return ModelCard(name, window=source.context)
    try:
        info = read_info(source.path)
        modified = source.path.stat().st_mtime
    except (ModelError, OSError):
        return ModelCard(name)
    return _card(name, source, info, modified)


def _card(name: str, source: Source, info: ModelInfo, modified: float) -> ModelCard:
    header = info.header
    window = memory.context_for(header.context_length, source.context)
    size = header.size * (info.split[1] if info.split else 1)  # the parts of a model are about equal
    one = memory.need(size, info.shape, window)
    return ModelCard(
        name=name,
        size=size,
        modified=modified,
        architecture=header.architecture,
        parameters=info.parameters,
        quantization=info.quantization,
        trained=header.context_length or 0,
        window=window,
        memory=one + (source.parallel - 1) * (one - size),
        template=header.chat_template,
        license=info.license,
    )
