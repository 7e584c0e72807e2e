"""The tools of a run: those of ``--tools``, and which of them need no question."""

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
    """The tools, and those that ``--allow-tools`` names. Runs the file. Raises UsageError."""
    given = getattr(flags, "allow_tools", None)
    if not settings.tools:
        if given is not None:
            raise UsageError("--allow-tools names tools, and there are none", remedy="add --tools FILE.py")
        return None, ()
    from bitnet_chat.tools.loading import load

    box = load(paths.meant(settings.tools))
    names = tuple(name.strip() for name in (given or "").split(",") if name.strip())
    if names == ("all",):
        return box, box.names
    for name in names:
        if name not in box.names:
            raise UsageError(f"--allow-tools: there is no tool {name!r}", remedy=f"there are: {', '.join(box.names)}")
    return box, names


def allowed_toolbox(flags: argparse.Namespace, settings: Settings) -> Toolbox | None:
    """For a run in which nobody is asked: the tools that were allowed beforehand, None where there are none.

    Raises UsageError for ``--tools`` on the command line that would all be useless. A file named in the settings waits
    for the next conversation."""
    if not hasattr(flags, "tools") and not hasattr(flags, "allow_tools"):
        return None
    box, allowed = toolbox(flags, settings)
    if box is None:
        return None
    if not allowed:
        raise UsageError(
            "--tools: nobody is asked here before a tool is called",
            remedy=f"--allow-tools {box.names[0]},… or --allow-tools all allows it beforehand; or start a conversation",
        )
    return box.only(allowed)


def offered(backend: Backend, box: Toolbox | None) -> Backend:
    """For a conversation, which goes on with whatever model: one without a place for tools is not offered them, and
    the user is told. Where nobody talks, and tools were asked for with the question, such a model is an error."""
    if box is None:
        return backend
    from bitnet_chat.backends.wrappers.optional_tools import OptionalToolsBackend

    expect(backend, box)
    return OptionalToolsBackend(backend)
