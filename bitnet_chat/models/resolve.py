"""From what ``-m`` says to a file: a path, the name of an installed model, or ``auto``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.errors import ModelError
from bitnet_chat.models import store
from bitnet_chat.models.choice import Option, choose
from bitnet_chat.models.registry import AUTO, entries, is_name
from bitnet_chat.progress import size


@dataclass(frozen=True, slots=True)
class Resolved:
    path: Path
    notice: str = ""
    """One line for the user: why this one."""


def resolve(model: str, *, engine: Path | None = None, context: int = 0) -> Resolved:
    """The file that ``model`` means. Raises ModelError where there is none.

    ``engine``: the program that will run it, for ``auto``; ``context``: --ctx. A file wins over a name; a path that is
    no file is given back as it is when it does not look like a name, and whoever opens it says what is wrong.
    """
    if model == AUTO:
        return _auto(engine, context)
    path = Path(model).expanduser()
    if path.exists() or not is_name(model):
        return Resolved(path)
    found = store.find(model)
    if found is not None:
        return Resolved(found.path)
    known = entries()
    if model in known:
        cost = f" ({size(known[model].bytes)})" if known[model].bytes else ""
        raise ModelError(
            f"the model {model} is not installed", remedy=f"bitnet-chat models pull {model} fetches it{cost}"
        )
    raise ModelError(
        f"there is no file and no installed model called {model}",
        remedy="give a .gguf file, or a name that bitnet-chat models list shows",
    )


def _auto(engine: Path | None, context: int) -> Resolved:
    from bitnet_chat.models.memory import available

    found = store.installed()
    choice = choose(options(found, engine, context), available())
    if choice.name:
        return Resolved(next(each.path for each in found if each.name == choice.name), f"-m auto: {choice.reason}")
    bundled = paths.bundled_model()
    if bundled is None:
        raise ModelError(f"-m auto: {choice.reason}", remedy="give a GGUF file with -m")
    return Resolved(bundled, f"-m auto: {choice.reason}; the bundled demo model answers")


def options(found: Sequence[store.Installed], engine: Path | None, context: int) -> list[Option]:
    """What a choice needs to know of installed models. Reads their headers, and the names in the engine's files."""
    from bitnet_chat.models import memory, support
    from bitnet_chat.models.info import ModelInfo, read_info

    infos: dict[str, ModelInfo] = {}
    broken: dict[str, str] = {}
    for each in found:
        try:
            infos[each.name] = info = read_info(each.path)
            if info.is_cut_off:
                broken[each.name] = "the file is cut off"
        except ModelError as error:
            broken[each.name] = f"it cannot be read ({error.what.replace(str(each.path), 'the file')})"
    names = support.known(engine, infos.values()) if engine is not None else None
    made = []
    for each in found:
        one = infos.get(each.name)
        need = 0
        obstacle = broken.get(each.name, "")
        if one is not None:
            window = memory.context_for(one.header.context_length, context)
            need = memory.need(each.size, one.shape, window)
            obstacle = obstacle or support.obstacle(one, names)
        made.append(Option(each.name, each.size, need, obstacle))
    return made
