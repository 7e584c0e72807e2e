"""pip as a downloader: it knows the user's index, proxy and certificates, and nothing here knows a server."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bitnet_chat.engine import diagnosis, job


def run(
    arguments: Sequence[str], *, purpose: str, log: Path, folder: Path, on_tick: Callable[[], None] = lambda: None
) -> None:
    """``pip ARGUMENTS`` with ``folder`` as its working and temporary directory; ``purpose`` completes "cannot …".

    :raises BuildError: pip is missing, there is no network, the disk is full, or what else pip says.
    """
    # PYTHONPATH could put another pip in its place, and PYTHONINSPECT makes a failure a success.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # pip unpacks what it downloads in the temporary directory, 250 MB here: keep that where the space was checked.
    env |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    # A user's rules for installing packages, with which pip refuses --target.
    env |= {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    offset = job.size(log)
    if job.run(argv, log=log, cwd=folder, env=env, on_tick=on_tick) != 0:
        raise diagnosis.of_pip(job.text_since(log, offset), purpose=purpose, log=log, python=sys.executable)
