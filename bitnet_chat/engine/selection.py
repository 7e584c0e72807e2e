"""The selection of an engine for a model, from the engines that are available.

:func:`select` reads which tensor types an engine supports and a model needs, and :func:`choose` decides, which is pure.
Reading both files takes 0.2 s, so the result is cached by their sizes and modification times.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bitnet_chat import paths
from bitnet_chat.engine import conversion, discovery, known_answer_results, speeds
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

_FILE, _FORMAT, _CACHE_SIZE = "fits.json", 1, 256
_CONVERTED_TYPES = ("IQ2_BN", "Q6_K", "F32")
"""Tensor types of a converted file."""


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """Which engine to search. ``engine``, ``configured``: those of the flags and the settings file; empty: any.
    ``dialect``: the required dialect; None: any. ``flags``: whether engine flags or rpc-servers are given, which a
    native engine does not support. ``limit``: see :func:`bitnet_chat.engine.probe.probe`.
    """

    engine: str = ""
    configured: str = ""
    dialect: Dialect | None = None
    flags: bool = False
    limit: float | None = None

    @property
    def is_named(self) -> bool:
        """Whether the user has named an engine."""
        return any(place.named for place in discovery.places(self.engine or None, self.configured or None))

    def require(self) -> EngineBinary:
        """Return the first engine that can chat. Raises EngineNotFoundError if there is none."""
        return discovery.find(self.engine or None, self.configured or None, dialect=self.dialect, limit=self.limit)

    def candidates(self) -> Iterable[EngineCandidate]:
        """Yield the engines that can chat, in search order. Raises EngineNotFoundError, see
        :func:`bitnet_chat.engine.discovery.candidates`.
        """
        for each in discovery.candidates(self.engine or None, self.configured or None, limit=self.limit):
            binary = each.binary
            if binary is not None and binary.can_chat and self.dialect in (None, binary.dialect):
                yield each


@dataclass(frozen=True, slots=True)
class _Fit:
    """Whether an engine can run a model, determined from their files. ``obstacle``: the reason if it cannot; the other
    fields describe the model.
    """

    obstacle: str
    converts: bool
    architecture: str
    quantization: str
    types: tuple[str, ...]


def select(request: EngineRequest, model: Path) -> EngineChoice:
    """Select the engine for a model file. An engine that the user has named is used without a check. Raises
    EngineMissingError if another engine must be installed, and EngineNotFoundError if none is found.
    """
    if request.is_named:
        return EngineChoice(_named(request, model))
    try:
        fits = _Fits(model)
    except (OSError, ModelError):  # the loader reports the problem
        return EngineChoice(_named(request, model))
    measured = speeds.known()
    found: list[EngineOption] = []
    for candidate in request.candidates():
        assert candidate.binary is not None
        found.append(_contender(candidate, candidate.binary, fits.of(candidate.binary), request, measured))
        if not measured and not found[-1].obstacle:  # later engines are preferred only if they were measured
            break
    fits.remember()
    if (choice := choose(found)) is not None:
        return choice
    if not found:
        _named(request, model)  # raises the error with the problem of each place
    info = read_info(model)
    package = package_for(info)
    is_i2_s = any(kind == "I2_S" for kind, _ in info.tensor_types)
    if package is None or any(
        each.engine.make is package.make and (not is_i2_s or _runs_i2_s(each.engine)) for each in found
    ):
        return EngineChoice(found[0])  # the error occurs when the engine loads the model
    raise missing(package, model.stem)


def missing(package: packages.EnginePackage, model: str) -> EngineMissingError:
    """Return the error for a model whose engine is not installed. ``model``: its name."""
    return EngineMissingError(
        f"{model} needs the engine {package.name}, which is not installed",
        package=package.name,
        remedy=f"bitnet-chat engine install {package.name} fetches it{_size(package)}",
    )


def judge(request: EngineRequest) -> Judge:
    """Return a function that determines which models can be run, by all available engines or the one that the user has
    named; without engines, as llama.cpp. It returns the obstacle of each model, empty for one that can be run. Raises
    EngineNotFoundError if the named engine is missing.
    """
    try:
        found = list(request.candidates())
    except EngineNotFoundError:
        if request.engine:
            raise
        found = []
    binaries = [each.binary for each in found if each.binary is not None]

    def judged(infos: Sequence[ModelInfo]) -> list[str]:
        reasons: list[list[str]] = [[] for _ in infos]
        for binary in binaries:
            names = known(binary.path, infos) if infos else None
            for info, so_far in zip(infos, reasons, strict=True):
                so_far.append(_obstacle(binary, _fit(binary, info, names), request))
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


def missing_package(request: EngineRequest, model: str) -> str:
    """Return the name of the prebuilt engine that must be installed to run ``model``; empty if none must be, or none
    can run it. ``model``: a file, or the name of an installed or available model; empty: any model.
    """
    from bitnet_chat.models.registry import entries
    from bitnet_chat.models.resolve import resolve

    path = None
    try:
        path = resolve(model).path if model else None
    except ModelError:
        entry = entries().get(model)
        return _missing_for(request, entry.engine == "bitnet") if entry is not None else ""
    try:
        if path is None:
            request.require()
        else:
            select(request, path)
    except EngineMissingError as error:
        return error.package
    except EngineNotFoundError:
        package: packages.EnginePackage | None = packages.PACKAGES[0]
        with contextlib.suppress(OSError, ModelError):  # the error occurs again when the model is loaded
            package = package_for(read_info(path)) if path is not None else package
        return package.name if package is not None else ""
    return ""


def _missing_for(request: EngineRequest, ternary: bool) -> str:
    """As :func:`missing_package`, for a model that is not installed. ``ternary``: it has types of BitNet."""
    with contextlib.suppress(EngineNotFoundError):
        for each in request.candidates():
            assert each.binary is not None
            # The prebuilt ik_llama.cpp computes some types of llama.cpp wrongly.
            is_plain = each.binary.make is not EngineVariant.IK or each.binary.dialect is not Dialect.NATIVE
            if _runs_i2_s(each.binary) if ternary else is_plain:
                return ""
    return "bitnet" if ternary else packages.PACKAGES[0].name


def _runs_i2_s(engine: EngineBinary) -> bool:
    """Whether an engine can run an I2_S model, as it is or converted."""
    return engine.make is EngineVariant.BITNET or (
        engine.make is EngineVariant.IK and conversion.quantizer(engine) is not None
    )


def missing_for_bitnet(request: EngineRequest) -> str:
    """Return a text for a list: which engine a model with types of BitNet installs; empty if one is installed."""
    with contextlib.suppress(EngineNotFoundError):
        if any(each.binary is not None and _runs_i2_s(each.binary) for each in request.candidates()):
            return ""
    package = packages.by_name("bitnet")
    assert package is not None
    return f"installs the engine {package.name}{_size(package)}"


def needs(package: packages.EnginePackage) -> str:
    """Return a text for a list: the engine that a model needs."""
    return f"needs the engine {package.name}{_size(package)}"


def package_for(info: ModelInfo) -> packages.EnginePackage | None:
    """Return the prebuilt engine that can run a model; None if an engine must be built for it."""
    types = {kind for kind, _ in info.tensor_types}
    is_strange = "I2_S" in types and info.header.architecture not in conversion.ARCHITECTURES
    if is_strange or types & BITNET_TYPES - {"I2_S"}:
        return None
    return packages.by_name("bitnet" if types & (IK_TYPES | BITNET_TYPES) else "llama.cpp")


def contenders(request: EngineRequest, info: ModelInfo) -> list[EngineOption]:
    """Return all available engines with what is known about them and the model."""
    measured = speeds.known()
    return [
        _contender(each, each.binary, _fit(each.binary, info, known(each.binary.path, [info])), request, measured)
        for each in request.candidates()
        if each.binary is not None
    ]


def _named(request: EngineRequest, model: Path) -> EngineOption:
    engine = request.require()
    converts = False
    if engine.make is EngineVariant.IK:
        with contextlib.suppress(OSError, ModelError):
            converts = conversion.is_for(engine, read_info(model))
    return EngineOption(engine, "", converts=converts)


def _contender(
    candidate: EngineCandidate, engine: EngineBinary, fit: _Fit, request: EngineRequest, measured: speeds.Speeds
) -> EngineOption:
    quantization = "IQ2_BN" if fit.converts else fit.quantization
    speed = measured.get((known_answer_results.key(engine), quantization))
    return EngineOption(engine, candidate.source, _obstacle(engine, fit, request), fit.converts, speed)


def _obstacle(engine: EngineBinary, fit: _Fit, request: EngineRequest) -> str:
    """Return the reason why an engine cannot be used, from its files and its known answers; empty if it can."""
    if request.flags and engine.dialect is Dialect.NATIVE:
        return "a prebuilt engine accepts no llama.cpp flags"
    if fit.obstacle:
        return fit.obstacle
    kept = known_answer_results.kept(engine)
    for kind in _CONVERTED_TYPES if fit.converts else fit.types:
        for name in (kind, f"{kind} ({fit.architecture})"):
            if kept.get(name):
                return f"its results with {kind} weights are wrong"
        # ik_llama.cpp computes some types of llama.cpp wrongly (measured); its own types need no known answer.
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
    """The cache of :class:`_Fit` for one model. Raises OSError if the file cannot be read."""

    def __init__(self, model: Path) -> None:
        self._model = model
        status = model.stat()
        self._key = f"{model.absolute()}|{status.st_size}|{status.st_mtime_ns}"
        self._all = _remembered()
        self._new = False
        self._info: ModelInfo | None = None

    def of(self, engine: EngineBinary) -> _Fit:
        """Return the fit of an engine, from the cache if possible. Raises ModelError."""
        converter = conversion.quantizer(engine) if engine.make is EngineVariant.IK else ""
        key = f"{known_answer_results.key(engine)}|{converter or ''}|{self._key}"
        with contextlib.suppress(KeyError, TypeError):
            content = self._all[key]
            return replace(_Fit(**content), types=tuple(map(str, content["types"])))
        self._info = self._info or read_info(self._model)
        fit = _fit(engine, self._info, known(engine.path, [self._info]))
        self._all[key] = {name: getattr(fit, name) for name in _Fit.__slots__}
        self._new = True
        return fit

    def remember(self) -> None:
        """Write new entries to the cache. Raises nothing."""
        if self._new:
            with contextlib.suppress(OSError):
                paths.cache_dir().mkdir(parents=True, exist_ok=True)
                latest = dict(list(self._all.items())[-_CACHE_SIZE:])
                write_json(paths.cache_dir() / _FILE, {"format": _FORMAT, "fits": latest})


def _remembered() -> dict[str, dict[str, Any]]:
    try:
        content = json.loads((paths.cache_dir() / _FILE).read_text("utf-8"))
        fits = content["fits"] if content["format"] == _FORMAT else {}
        return fits if isinstance(fits, dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _size(package: packages.EnginePackage) -> str:
    """Return the size of the download in parentheses; empty if it does not exist for this computer."""
    from bitnet_chat.engine.install import wheels

    with contextlib.suppress(EngineNotFoundError):
        return f" ({size(wheels.choose(package, wheels.here()).pin.size)})"
    return ""


_SIGNIFICANT = 1.05
"""Factor by which an engine must be faster to be preferred to one that comes earlier in the search order."""


@dataclass(frozen=True, slots=True)
class EngineOption:
    """An engine, and what is known about it for one model."""

    engine: EngineBinary
    source: str
    """The kind of place in which it was found."""
    obstacle: str = ""
    """The reason why it cannot run the model; empty if it can."""
    converts: bool = False
    """Whether the model must be converted for it."""
    speed: EngineSpeed | None = None
    """The measured speed with weights of this type on this computer."""

    @property
    def name(self) -> str:
        """The name of the engine for users, without its version."""
        name = self.engine.path.name
        return name.rpartition("-")[0] or name if self.engine.dialect is Dialect.NATIVE else name

    def types(self, info: ModelInfo) -> tuple[str, ...]:
        """Return the tensor types of a model as the engine computes them: those of the converted file, if any."""
        return _CONVERTED_TYPES if self.converts else tuple(kind for kind, _ in info.tensor_types)


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The selected engine. ``reason``: one line; empty if it is the first in the search order."""

    contender: EngineOption
    reason: str = ""


def choose(contenders: Sequence[EngineOption]) -> EngineChoice | None:
    """Choose one of ``contenders``, which are in search order: the first that can run the model, or one that was
    measured to be faster. None if none can run it. Pure.
    """
    able = [each for each in contenders if not each.obstacle]
    if not able:
        return None
    first = taken = able[0]
    for other in able[1:]:
        if other.speed and taken.speed and other.speed.seconds * _SIGNIFICANT < taken.speed.seconds:
            taken = other
    if taken is not first:
        assert taken.speed and first.speed
        factor = first.speed.seconds / taken.speed.seconds
        return EngineChoice(
            taken, f"{taken.name} is used: with this model it is {factor:.1f} times as fast as {first.name}"
        )
    if taken is not contenders[0]:
        return EngineChoice(taken, f"{taken.name} is used: {contenders[0].name} cannot run this model"
                             f" ({contenders[0].obstacle})")  # fmt: skip
    return EngineChoice(taken)
