"""Where things live on this computer. Every place is asked for here and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

from bitnet_chat.errors import UsageError

BUNDLED = "bitnet-demo.gguf"
APP = "bitnet-chat"


def meant(written: str) -> Path:
    """The path that a user wrote, with ``~`` and ``~name`` as a shell has them. Raises UsageError for a home that there
    is not."""
    try:
        return Path(written).expanduser()
    except RuntimeError:
        raise UsageError(
            f"{written}: there is no home directory for this", remedy=f"./{written} names a file that begins with ~"
        ) from None


def home() -> Path | None:
    """Of the user; None in a container, say, whose user has none."""
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
    """Engines, history: ``$BITNET_CHAT_DATA`` or the platform's place."""
    return _place("BITNET_CHAT_DATA", "user_data_dir")


def cache_dir() -> Path:
    """What can be made again: ``$BITNET_CHAT_CACHE`` or the platform's place."""
    return _place("BITNET_CHAT_CACHE", "user_cache_dir")


def config_file() -> Path:
    """``$BITNET_CHAT_CONFIG`` or ``config.toml`` in the platform's place."""
    chosen = os.environ.get("BITNET_CHAT_CONFIG")
    if chosen:
        return meant(chosen)
    return _place("BITNET_CHAT_CONFIG_DIR", "user_config_dir") / "config.toml"


def engine_home() -> Path:
    """Engines of ``bitnet-chat engine install``, compiled or prebuilt, a folder each."""
    return data_dir() / "engine"


def models_dir() -> Path:
    """Models fetched by ``bitnet-chat models pull``, each a file called after its name."""
    return data_dir() / "models"


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
