"""Paths of files and folders. All of them are defined here."""

from __future__ import annotations

import os
from pathlib import Path

from bitnet_chat.errors import UsageError

BUNDLED = "bitnet-demo.gguf"
APP = "bitnet-chat"


def meant(written: str) -> Path:
    """A path given by the user, with ``~`` and ``~name`` as in a shell. Raises UsageError for an unknown home."""
    try:
        return Path(written).expanduser()
    except RuntimeError:
        raise UsageError(
            f"{written}: home directory not found", remedy=f"./{written} names a file that begins with ~"
        ) from None


def home() -> Path | None:
    """The home of the user; None without one, in a container for example."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def _place(variable: str, kind: str) -> Path:
    chosen = os.environ.get(variable)
    if chosen:
        return meant(chosen)
    from platformdirs import PlatformDirs  # imported late: 10 ms that --version need not pay

    try:
        place = Path(getattr(PlatformDirs(APP, appauthor=False), kind))
    except RuntimeError:
        place = Path("~")
    if place.parts[:1] == ("~",):  # older releases of platformdirs give back what they cannot expand
        raise UsageError("this user has no home directory to keep files in", remedy=f"set HOME, or {variable}=FOLDER")
    return place


def data_dir() -> Path:
    """Engines, history: ``$BITNET_CHAT_DATA`` or the default of the platform."""
    return _place("BITNET_CHAT_DATA", "user_data_dir")


def cache_dir() -> Path:
    """Reproducible data: ``$BITNET_CHAT_CACHE`` or the default of the platform."""
    return _place("BITNET_CHAT_CACHE", "user_cache_dir")


def config_file() -> Path:
    """``$BITNET_CHAT_CONFIG`` or ``config.toml`` in the default folder of the platform."""
    chosen = os.environ.get("BITNET_CHAT_CONFIG")
    if chosen:
        return meant(chosen)
    return _place("BITNET_CHAT_CONFIG_DIR", "user_config_dir") / "config.toml"


def engine_home() -> Path:
    """Engines of ``bitnet-chat engine install``, compiled or prebuilt, a folder each."""
    return data_dir() / "engine"


def models_dir() -> Path:
    """Models fetched by ``bitnet-chat models pull``, each a file named after its model."""
    return data_dir() / "models"


def states_dir() -> Path:
    """Saved engine states, see :mod:`bitnet_chat.prompt_cache`."""
    return data_dir() / "states"


def checkout() -> Path | None:
    """The root of the source checkout this package runs from; None for an installed package."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "setup.cfg").is_file() and (root / "bin").is_dir() else None


def bundled_model() -> Path | None:
    """The demo model of the package. From a zipped wheel it is copied into the cache once: an engine maps a file."""
    file = Path(__file__).parent / "models" / BUNDLED
    if file.is_file():
        return file
    from importlib.resources import files  # late: a zipped package is rare

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
    except OSError:  # a full disk, a cache that cannot be written
        return None
    return copy
