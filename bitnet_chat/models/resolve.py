"""The model file for ``-m``: a path, the name of a model, ``auto``, or nothing, which means auto."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_chat import paths
from bitnet_chat.errors import ModelError
from bitnet_chat.models import other_programs, store
from bitnet_chat.models.names import key_of, keys_of
from bitnet_chat.models.registry import AUTO, entries, is_name
from bitnet_chat.util.progress import size

if TYPE_CHECKING:
    from bitnet_chat.models.info import ModelInfo


Judge = Callable[[Sequence["ModelInfo"]], list[str]]
"""Returns for each model the reason why it cannot be run here, or an empty text."""


def stock(infos: Sequence[ModelInfo]) -> list[str]:
    """The :data:`Judge` for an engine with unknown capabilities."""
    from bitnet_chat.models.engine_support import obstacle

    return [obstacle(each, None) for each in infos]


def by_engine(engine: Path) -> Judge:
    """Make a :data:`Judge` that examines the binaries of ``engine``."""
    from bitnet_chat.models.engine_support import known, obstacle

    def judge(infos: Sequence[ModelInfo]) -> list[str]:
        names = known(engine, infos) if infos else None
        return [obstacle(each, names) for each in infos]

    return judge


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """The result of :func:`resolve`."""

    path: Path
    notice: str = ""
    """The reason of the choice in one line; empty if it need not be shown."""


def resolve(model: str, *, judge: Judge | None = None, context: int = 0) -> ResolvedModel:
    """Return the file that ``model`` means. Raises ModelError without one.

    ``judge``: for ``auto``, decides which models can be run. ``context``: --ctx in tokens. An existing file takes
    precedence over a name. A path without a file is returned unchanged unless it looks like a name; opening it then
    reports the error.
    """
    if model in ("", AUTO):
        return _auto(judge or stock, context, named=bool(model))
    path = paths.expand(model)
    if path.exists():
        return ResolvedModel(path)
    found = find(model)
    if found is not None:
        return ResolvedModel(found.path)
    if not (is_name(model) or other_programs.may_be(model)):
        return ResolvedModel(path)
    known = entries()
    if model in known:
        cost = f" ({size(known[model].download)})" if known[model].download else ""
        raise ModelError(
            f"the model {model} is not installed", remedy=f"bitnet-chat models pull {model} fetches it{cost}"
        )
    raise ModelError(
        f"model {model} is neither a file nor installed",
        remedy="use a .gguf file, or a name of bitnet-chat models list",
    )


def find(name: str) -> store.InstalledModel | None:
    """Return the model with this name in any spelling (:mod:`bitnet_chat.models.names`): an installed one, the bundled
    one, or one of another program. None without one, or if the name is ambiguous."""
    found = store.find(name)
    if found is not None:
        return found
    ours = bundled()
    if ours is not None and ours.name == name:
        return ours
    other = other_programs.find(name)
    if other is not None:
        return _as_installed(other)
    models = [*present(), *([ours] if ours is not None else ())]
    key = key_of(name)
    meant = [each for each in models if key in keys_of(each.name, each.path, each.record.origin if each.record else "")]
    return meant[0] if len(meant) == 1 else None


def present() -> list[store.InstalledModel]:
    """List all models on this computer except the bundled one: installed ones, and those of other programs, each file
    once."""
    own = store.installed()
    seen = {each.path.resolve() for each in own}
    return [*own, *(_as_installed(each) for each in other_programs.found() if each.path.resolve() not in seen)]


def _as_installed(other: other_programs.OtherModel) -> store.InstalledModel:
    return store.InstalledModel(other.name, other.path, other.size, None, program=other.program)


def options(
    models: Sequence[store.InstalledModel], judge: Judge | None = None, context: int = 0, free: int | None = None
) -> list[ModelOption]:
    """Examine the models from the largest down to the first suitable one; reading a header takes a tenth of a second.

    ``free``: bytes of memory; None examines all models.
    """
    found: list[ModelOption] = []
    for model in sorted(models, key=lambda each: (-each.size, each.name)):
        found += judged([examine(model, context)], judge or stock)
        if free is not None and not found[-1].obstacle and found[-1].need <= free:
            break
    return found


def bundled() -> store.InstalledModel | None:
    """Return the demo model as an installed model with the name of its file; None if it is missing."""
    path = paths.bundled_model()
    return store.InstalledModel(path.stem, path, path.stat().st_size, None) if path is not None else None


def _auto(judge: Judge, context: int, *, named: bool) -> ResolvedModel:
    """Choose the model of ``auto``. ``named``: ``auto`` was given explicitly; then the notice is always shown."""
    from bitnet_chat.util.resources import available

    found, free = present(), available()
    examined = options(found, judge, context, free)
    choice = choose(examined, free, smaller=len(found) - len(examined))
    begin = "-m auto" if named else "without -m"
    if choice.name:
        notice = f"{begin}: {choice.reason}" if named or len(found) > 1 else ""
        return ResolvedModel(next(each.path for each in found if each.name == choice.name), notice)
    ours = bundled()
    if ours is None:
        raise ModelError(f"{begin}: {choice.reason}", remedy="use -m with a GGUF file")
    notice = f"{begin}: {choice.reason}; the bundled demo model is used" if named or found else ""
    return ResolvedModel(ours.path, notice)


@dataclass(frozen=True, slots=True)
class ExaminedModel:
    """An installed model with its header."""

    model: store.InstalledModel
    info: ModelInfo | None
    need: int
    """Bytes of memory; 0 if the header does not show it."""
    damage: str
    """The reason why the file cannot be used; empty for an intact one."""

    def option(self, obstacle: str) -> ModelOption:
        """Make the option. ``obstacle``: the reason why no engine can run it."""
        reason = self.damage or obstacle
        if not reason and self.info is not None and self.info.embeds:
            reason = "it is an embedding model"
        return ModelOption(self.model.name, self.model.size, self.need, reason)


def examine(model: store.InstalledModel, context: int) -> ExaminedModel:
    """Read the header. ``context``: --ctx in tokens."""
    from bitnet_chat.models import memory
    from bitnet_chat.models.info import read_info

    if model.missing:
        return ExaminedModel(model, None, 0, model.missing)
    try:
        info = read_info(model.path)
    except ModelError as error:
        return ExaminedModel(model, None, 0, f"it cannot be read ({error.what.replace(str(model.path), 'the file')})")
    window = memory.context_for(info.header.context_length, context)
    need = memory.need(model.size, info.shape, window)
    return ExaminedModel(model, info, need, "the file is cut off" if info.is_cut_off else "")


def judged(models: Sequence[ExaminedModel], judge: Judge) -> list[ModelOption]:
    """Make options of the models, with their obstacles."""
    infos = [each.info for each in models if each.info is not None]
    obstacles = iter(judge(infos))
    return [each.option(next(obstacles) if each.info is not None else "") for each in models]


# The choice of ``-m auto``: the model with the largest file that the engine can run and that fits into free memory,
# because more bytes store more information, whatever the quantization.


@dataclass(frozen=True, slots=True)
class ModelOption:
    """A candidate of ``-m auto``."""

    name: str
    size: int
    """Bytes of the files."""
    need: int
    """Bytes of memory, see :mod:`bitnet_chat.models.memory`."""
    obstacle: str = ""
    """The reason why it cannot be run here; empty if it can."""


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The chosen model."""

    name: str
    """Empty if no model can be used."""
    reason: str
    """The reason in one line."""


def choose(options: Sequence[ModelOption], free: int | None, *, smaller: int = 0) -> ModelChoice:
    """Choose a model. Pure.

    ``free``: bytes of memory for a new program; None if unknown: the smallest model is then chosen. ``smaller``: number
    of further models that are smaller than a suitable one.
    """
    if not options:
        return ModelChoice("", "no model is installed (bitnet-chat models list shows what can be pulled)")
    runnable = sorted((each for each in options if not each.obstacle), key=lambda each: (-each.size, each.name))
    refused = {each.name: each.obstacle for each in options if each.obstacle}
    if free is None and runnable:
        least = runnable[-1]
        return ModelChoice(least.name, f"{least.name} ({size(least.size)}), the smallest: free memory is unknown")
    fitting = [each for each in runnable if each.need <= (free or 0)]
    if fitting:
        taken = fitting[0]
        larger = {each.name: f"needs {size(each.need)}" for each in runnable[: runnable.index(taken)]}
        rank = "the largest that fits" if len(options) + smaller > 1 else "the only one installed, and it fits"
        why = f"{taken.name} ({size(taken.size)}), {rank}: it needs {size(taken.need)} of {size(free or 0)} free"
        return ModelChoice(taken.name, why + _others(larger | refused))
    small = {each.name: f"needs {size(each.need)}, {size(free or 0)} are free" for each in runnable}
    return ModelChoice("", f"none of the {len(options)} installed can be used" + _others(small | refused))


def _others(reasons: dict[str, str]) -> str:
    """Format at most three reasons."""
    listed = [f"{name}: {reason}" for name, reason in list(reasons.items())[:3]]
    if len(reasons) > 3:
        listed.append(f"{len(reasons) - 3} more")
    return f" ({'; '.join(listed)})" if listed else ""
