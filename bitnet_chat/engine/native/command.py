"""The command line of the native child. Pure, for the parent alone.

The child is started with the interpreter of the parent and finds the same ``bitnet_chat``: in a checkout, in any folder
of installed packages, in a zip. No other package of the user can get in its way (``-I -S``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from bitnet_chat.engine.binary import EngineBinary, EngineVariant
from bitnet_chat.engine.install.packages import SITE

LIBRARIES = {EngineVariant.LLAMA: "llama.cpp", EngineVariant.IK: "ik_llama.cpp"}
"""The name of ``--library`` for what a package was built from."""

_ROOT = Path(__file__).parents[3]
_BOOT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from bitnet_chat.engine.native.__main__ import run; run()"


def command(
    engine: EngineBinary,
    model: Path,
    *,
    context_size: int | None = None,
    threads: int | None = None,
    batch_size: int | None = None,
    sequences: int | None = None,
    embeddings: bool = False,
    state_folder: Path | None = None,
    overrides: Sequence[str] = (),
) -> list[str]:
    """Command line of a child. ``engine``: of the dialect NATIVE. ``context_size``: of one sequence. None: the child's
    own choice.

    ``overrides``: ``KEY=TYPE:VALUE`` for metadata of the model, as llama.cpp's ``--override-kv`` has them.
    """
    options = {
        "--library": LIBRARIES[engine.make],
        "--folder": engine.path / SITE,
        "--model": model,
        "--ctx-size": context_size,
        "--threads": threads,
        "--batch-size": batch_size,
        "--parallel": sequences,
        "--state-folder": state_folder,
    }
    words = [str(word) for name, value in options.items() if value is not None for word in (name, value)]
    words += [word for override in overrides for word in ("--override", override)]
    python = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOT, str(_ROOT)]
    return [*python, *words, *(["--embeddings"] if embeddings else [])]
