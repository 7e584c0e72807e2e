"""Paths of all files and directories of the program."""

from __future__ import annotations

import os
from pathlib import Path

from bitnet_chat.errors import UsageError

BUNDLED = "bitnet-demo.gguf"
APP = "bitnet-chat"


def expand(written: str) -> Path:
    """Expand ``~`` and ``~name`` in a path given by the user, as a shell does. Raises UsageError for an unknown
    user."""
    try:
        return Path(written).expanduser()
    except RuntimeError:
        raise UsageError(
            f"{written}: home directory not found", remedy=f"./{written} names a file that begins with ~"
        ) from None


def home() -> Path | None:
    """Return the home directory; None without one, for example in a container."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def _directory(variable: str, kind: str) -> Path:
    """Return the directory in ``variable``, or that of the platform. Raises UsageError without a home directory."""
    chosen = os.environ.get(variable)
    if chosen:
        return expand(chosen)
    from platformdirs import PlatformDirs  # imported late: it takes 10 ms, which --version does not need

    try:
        place = Path(getattr(PlatformDirs(APP, appauthor=False), kind))
    except RuntimeError:
        place = Path("~")
    if place.parts[:1] == ("~",):  # older releases of platformdirs return an unexpanded path
        raise UsageError("this user has no home directory to keep files in", remedy=f"set HOME, or {variable}=FOLDER")
    return place


def data_dir() -> Path:
    """Return the directory of engines, models and the journal: ``$BITNET_CHAT_DATA`` or the default of the platform."""
    return _directory("BITNET_CHAT_DATA", "user_data_dir")


def cache_dir() -> Path:
    """Return the directory of reproducible data: ``$BITNET_CHAT_CACHE`` or the default of the platform."""
    return _directory("BITNET_CHAT_CACHE", "user_cache_dir")


def config_file() -> Path:
    """Return ``$BITNET_CHAT_CONFIG``, or ``config.toml`` in the default directory of the platform."""
    chosen = os.environ.get("BITNET_CHAT_CONFIG")
    if chosen:
        return expand(chosen)
    return _directory("BITNET_CHAT_CONFIG_DIR", "user_config_dir") / "config.toml"


def engine_home() -> Path:
    """Return the directory of the engines of ``bitnet-chat engine install``, each in its own directory."""
    return data_dir() / "engine"


def models_dir() -> Path:
    """Return the directory of the models of ``bitnet-chat models pull``."""
    return data_dir() / "models"


def states_dir() -> Path:
    """Saved engine states, see :mod:`bitnet_chat.prompt_cache`."""
    return data_dir() / "states"


def checkout() -> Path | None:
    """Return the root of the source checkout that contains this package; None for an installed package."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "setup.cfg").is_file() and (root / "bin").is_dir() else None


def bundled_model() -> Path | None:
    """Return the demo model in the package; None if it is missing.

    In a zipped package it is copied to the cache once, because an engine maps a file.
    """
    file = Path(__file__).parent / "models" / BUNDLED
    if file.is_file():
        return file
    from importlib.resources import files  # imported late: zipped packages are rare

    packed = files("bitnet_chat") / "models" / BUNDLED
    if not packed.is_file():
        return None
    content = packed.read_bytes()
    copy = cache_dir() / BUNDLED
    try:
        if not copy.is_file() or copy.read_bytes() != content:
            copy.parent.mkdir(parents=True, exist_ok=True)
            partial = copy.with_name(f"{BUNDLED}.{os.getpid()}")
            partial.write_bytes(content)
            partial.replace(copy)
    except OSError:  # disk full, or cache not writable
        return None
    return copy
