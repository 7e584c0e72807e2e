"""The flags ``--tools`` and ``--allow-tools``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bitnet_chat import paths
from bitnet_chat.backends.factory import expect
from bitnet_chat.config import Settings
from bitnet_chat.errors import UsageError

if TYPE_CHECKING:
    from bitnet_chat.backend import Backend
    from bitnet_chat.tools import Toolbox


def toolbox(flags: argparse.Namespace, settings: Settings) -> tuple[Toolbox | None, tuple[str, ...]]:
    """Load the tools. Returns them, and the names of those that ``--allow-tools`` calls without confirmation. Executes
    the Python file. Raises UsageError.
    """
    given = getattr(flags, "allow_tools", None)
    if not settings.tools:
        if given is not None:
            raise UsageError("--allow-tools requires --tools", remedy="add --tools FILE.py")
        return None, ()
    from bitnet_chat.tools.loading import load

    box = load(paths.expand(settings.tools))
    names = tuple(name.strip() for name in (given or "").split(",") if name.strip())
    if names == ("all",):
        return box, box.names
    for name in names:
        if name not in box.names:
            raise UsageError(f"--allow-tools: unknown tool {name!r}", remedy=f"available: {', '.join(box.names)}")
    return box, names


def allowed_toolbox(flags: argparse.Namespace, settings: Settings) -> Toolbox | None:
    """Load the tools of a run that cannot ask for confirmation: only the allowed ones. Returns None without tools.

    Raises UsageError for ``--tools`` on the command line without ``--allow-tools``. A tools file of the settings is
    ignored without these flags.
    """
    if not hasattr(flags, "tools") and not hasattr(flags, "allow_tools"):
        return None
    box, allowed = toolbox(flags, settings)
    if box is None:
        return None
    if not allowed:
        raise UsageError(
            "--tools: tool calls cannot be confirmed here",
            remedy=f"use --allow-tools {box.names[0]},… or --allow-tools all, or start a conversation",
        )
    return box.only(allowed)


def offered(backend: Backend, box: Toolbox | None) -> Backend:
    """Return a backend for a conversation that works with any model: if a model does not support tools, it is not
    offered them, and a line reports that. (A single question with such a model is an error.) ``box`` None: ``backend``.
    """
    if box is None:
        return backend
    from bitnet_chat.backends.wrappers.optional_tools import OptionalToolsBackend

    expect(backend, box)
    return OptionalToolsBackend(backend)
