"""Which chat template a model gets: the one that the user wants, else its own, else the usual one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bitnet_chat import paths
from bitnet_chat.errors import ModelError
from bitnet_chat.prompt.builtin import DEFAULT, TEMPLATES

if TYPE_CHECKING:
    from bitnet_chat.models.gguf import ModelHeader


def template_source(wanted: str, header: ModelHeader, notify: Callable[[str], None]) -> tuple[str, str]:
    """Jinja source and its name, for errors. ``wanted``: a name, a file or a Jinja text; empty: the model's own.

    ``notify`` hears where the model has none. Raises ModelError for a template that cannot be read.
    """
    if wanted in TEMPLATES:
        return TEMPLATES[wanted], wanted
    if wanted and ("{{" in wanted or "{%" in wanted):
        return wanted, "of --chat-template"
    if wanted:
        try:
            return paths.meant(wanted).read_text("utf-8"), wanted
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(
                f"the chat template {wanted} is no name and no file that can be read ({error})",
                remedy=f"names are: {', '.join(sorted(TEMPLATES))}",
            ) from None
    if header.chat_template:
        return header.chat_template, f"of {header.label}"
    notify(f"{header.label} brings no chat template: using {DEFAULT}; --chat-template NAME takes another")
    return TEMPLATES[DEFAULT], DEFAULT
