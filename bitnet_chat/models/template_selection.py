"""Selection of the chat template of a model: the one of the settings, else its own with corrections, else the
default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bitnet_chat import paths
from bitnet_chat.errors import ModelError
from bitnet_chat.templates.builtin import DEFAULT, TEMPLATES

if TYPE_CHECKING:
    from pathlib import Path

    from bitnet_chat.errors import TemplateError
    from bitnet_chat.models.gguf import ModelHeader
    from bitnet_chat.templates.chat_template import ChatTemplate
    from bitnet_chat.templates.checks import TemplateFlaw


@dataclass(frozen=True, slots=True)
class PreparedTemplate:
    """The template and the corrected header, for the start of an engine."""

    header: ModelHeader
    """The header of the model with corrections."""
    read: ChatTemplate | TemplateError
    """The parsed template, or the error of parsing it. A server may support a template that is not supported here."""
    replaces: str
    """Source of the template if it differs from the one in the file; else empty."""
    overrides: tuple[str, ...]
    """See :class:`bitnet_chat.models.known_faults.RepairedMetadata`."""

    @property
    def template(self) -> ChatTemplate:
        """The parsed template. Raises the ModelError of parsing it."""
        if isinstance(self.read, Exception):
            raise self.read
        return self.read


def prepare(
    model: Path, wanted: str, notify: Callable[[str], None], *, engine: Path, takes_overrides: bool
) -> PreparedTemplate:
    """Read the header of the model and select its template.

    ``wanted``: --chat-template. ``engine``: its binary. ``takes_overrides``: whether it accepts ``--override-kv``.
    ``notify`` receives messages about corrections, and about faults that were not corrected. Raises ModelError for a
    model that cannot be read or that the engine computes wrongly, and for a template with which replies are impossible.
    """
    from bitnet_chat.models.engine_support import mentioned, require_right_results
    from bitnet_chat.models.gguf import read_header
    from bitnet_chat.models.known_faults import repair
    from bitnet_chat.models.verify import lack
    from bitnet_chat.templates.checks import OTHER, flaws

    original = read_header(model)
    if (lacking := lack(model, original.split)) is not None:
        raise ModelError(f"the file {model} {lacking.what}", remedy=lacking.remedy)
    require_right_results(engine, original)
    result = repair(
        original,
        lambda word: word in mentioned(engine, (word,)),
        takes_overrides=takes_overrides,
        keeps_template=bool(wanted),
    )
    header, notes = result.header, [result.note] if result.note else []
    source, name = template_source(wanted, header, notes.append)
    template = _read(source, name, header)
    for flaw in flaws(template, header.eos):
        if isinstance(template, Exception) and not flaw.is_fatal:
            continue
        if flaw.is_fatal:
            raise ModelError(f"the chat template {name} {flaw.what}", remedy=OTHER)
        notes.append(f"the chat template {name} {flaw.what}; {OTHER}")
    for note in notes:
        notify(note)
    return PreparedTemplate(header, template, "" if source == original.chat_template else source, result.overrides)


def flaws_of(header: ModelHeader) -> tuple[TemplateFlaw, ...]:
    """Return the faults of the template of a model, found by rendering it."""
    from bitnet_chat.templates.checks import flaws

    return flaws(_read(header.chat_template, f"of {header.label}", header), header.eos)


def _read(source: str, name: str, header: ModelHeader) -> ChatTemplate | TemplateError:
    from bitnet_chat.errors import TemplateError
    from bitnet_chat.templates.chat_template import ChatTemplate
    from bitnet_chat.templates.sandbox import program_of

    try:
        return ChatTemplate(
            source, name=name, bos=header.bos, eos=header.eos, adds_bos=header.adds_bos, read=program_of
        )
    except TemplateError as error:
        return error


def template_source(wanted: str, header: ModelHeader, notify: Callable[[str], None]) -> tuple[str, str]:
    """Return the Jinja source and its name for messages.

    ``wanted``: a name, a file or Jinja text; empty: the template of the model. ``notify`` receives a message if the
    model has none. Raises ModelError for a template that cannot be read.
    """
    if wanted in TEMPLATES:
        return TEMPLATES[wanted], wanted
    if wanted and ("{{" in wanted or "{%" in wanted):
        return wanted, "of --chat-template"
    if wanted:
        try:
            return paths.expand(wanted).read_text("utf-8"), wanted
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(
                f"the chat template {wanted} is neither a name nor a readable file ({error})",
                remedy=f"available: {', '.join(sorted(TEMPLATES))}",
            ) from None
    if header.chat_template:
        return header.chat_template, f"of {header.label}"
    notify(f"{header.label} has no chat template: using {DEFAULT}; --chat-template NAME selects another")
    return TEMPLATES[DEFAULT], DEFAULT
