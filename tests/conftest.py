"""What all tests share: a home of their own, and the engines that were really built."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from pathlib import Path

import hypothesis
import pytest

from bitnet_chat import paths
from bitnet_chat.engine.binary import Dialect, EngineBinary, EngineVariant
from bitnet_chat.engine.discovery import find
from bitnet_chat.engine.install import packages
from bitnet_chat.engine.probe import probe
from bitnet_chat.errors import EngineNotFoundError

# The suite runs often, so that fewer examples do each time; what a test takes depends on the other workers.
hypothesis.settings.register_profile("suite", hypothesis.settings.default, max_examples=50, deadline=None)
hypothesis.settings.load_profile("suite")

# Listing the tests makes a million objects that stay: looking for garbage among them takes a quarter of that time.
gc.disable()

# Found before any test changes the environment: the tests themselves look for nothing in the user's home.
_ENGINES: dict[Dialect, EngineBinary] = {}
for _dialect in (Dialect.CLASSIC, Dialect.MODERN):
    with contextlib.suppress(EngineNotFoundError):
        _ENGINES[_dialect] = find(dialect=_dialect)

MODEL = paths.bundled_model()
SMOLLM2 = paths.models_dir() / "smollm2-135m.gguf"

_NATIVE = {packages.name_of(each): each for each in packages.installed()}
_ANY_NATIVE = [package.name for package in packages.PACKAGES]
_SMOLLM2_IS_THERE = SMOLLM2.is_file()

# Engines beside the built ones, by their paths: BitNet builds, ik_llama.cpp, older llama.cpp.
OTHERS = [each for each in os.environ.get("BITNET_CHAT_TEST_ENGINES", "").split(os.pathsep) if each]
_NONE = "no other engine: BITNET_CHAT_TEST_ENGINES names none"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest begin first, for at the end all other workers would wait for one of them."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what was listed stays to the end
    gc.set_threshold(10_000)  # what makes many objects at once has them looked through again and again
    gc.enable()


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders for the homes of tests. ``mktemp`` would look at those of all earlier tests to number the next one."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(number) for number in count())


@pytest.fixture(autouse=True)
def home(homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings, data and cache of the test's own, and no variable of the user's."""
    folder = next(homes)
    folder.mkdir()
    for name in list(os.environ):
        if name.startswith("BITNET_CHAT_"):
            monkeypatch.delenv(name)
    for name in ("DATA", "CACHE"):
        monkeypatch.setenv(f"BITNET_CHAT_{name}", str(folder / name.lower()))
    for name in ("OLLAMA_MODELS", "HF_HUB_CACHE", "LLAMA_CACHE"):  # models of other programs
        monkeypatch.setenv(name, str(folder / name.lower()))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # a test that wants the hub has one of its own
    monkeypatch.setenv("BITNET_CHAT_CONFIG", str(folder / "config.toml"))
    monkeypatch.setenv("BITNET_CHAT_INSTALL", "no")  # a test that wants anything installed says so
    return folder


def _engine(dialect: Dialect) -> EngineBinary:
    if dialect not in _ENGINES:
        # Not a skip: a suite that was green without a real engine would say nothing.
        pytest.fail(f"no {dialect.value} engine was found; ./bin/test builds one", pytrace=False)
    return _ENGINES[dialect]


@pytest.fixture
def classic() -> EngineBinary:
    return _engine(Dialect.CLASSIC)


@pytest.fixture
def modern() -> EngineBinary:
    return _engine(Dialect.MODERN)


def _prebuilt(name: str) -> EngineBinary:
    if name not in _NATIVE:
        pytest.skip(f"NO PREBUILT LIBRARY: bitnet-chat engine install {name} fetches it")
    return _NATIVE[name]


@pytest.fixture
def native() -> EngineBinary:
    """The prebuilt llama.cpp."""
    return _prebuilt("llama.cpp")


@pytest.fixture
def bitnet() -> EngineBinary:
    """The prebuilt ik_llama.cpp."""
    return _prebuilt("bitnet")


@pytest.fixture(params=_ANY_NATIVE)
def any_native(
    request: pytest.FixtureRequest, dequantized: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> EngineBinary:
    """Each of the prebuilt libraries."""
    found = _prebuilt(request.param)
    if found.make is EngineVariant.IK:
        monkeypatch.setenv("BITNET_CHAT_MODEL", str(dequantized()))
    return found


@pytest.fixture
def natives() -> list[EngineBinary]:
    """All prebuilt libraries."""
    return [_prebuilt(name) for name in _ANY_NATIVE]


@pytest.fixture(params=["classic", *_ANY_NATIVE])
def exact_engine(request: pytest.FixtureRequest) -> EngineBinary:
    """Each engine that takes a conversation exactly as it was."""
    return _prebuilt(request.param) if request.param in _ANY_NATIVE else _engine(Dialect(request.param))


@pytest.fixture(params=["classic", "modern", *OTHERS, *_ANY_NATIVE])
def any_engine(
    request: pytest.FixtureRequest, dequantized: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> EngineBinary:
    """Each engine of each dialect."""
    if request.param in _ANY_NATIVE:
        found = _prebuilt(request.param)
    else:
        found = probe(Path(request.param)) if request.param in OTHERS else _engine(Dialect(request.param))
    if found.make is EngineVariant.IK:
        monkeypatch.setenv("BITNET_CHAT_MODEL", str(dequantized()))
    return found


@pytest.fixture(params=["classic", "modern", *OTHERS])
def engine(
    request: pytest.FixtureRequest, dequantized: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> EngineBinary:
    """Each of the two real engines that are built, and the others."""
    if request.param not in OTHERS:
        return _engine(Dialect(request.param))
    found = probe(Path(request.param))
    if found.make is EngineVariant.IK:
        monkeypatch.setenv("BITNET_CHAT_MODEL", str(dequantized()))
    return found


@pytest.fixture(params=["classic", "modern"])
def built_engine(request: pytest.FixtureRequest) -> EngineBinary:
    """Each of the two real engines that are built, with the others of their folder."""
    return _engine(Dialect(request.param))


@pytest.fixture(params=["built", *(OTHERS or [pytest.param("", marks=pytest.mark.skip(reason=_NONE))])])
def classic_engine(request: pytest.FixtureRequest) -> EngineBinary:
    """The built classic engine, and each other one."""
    return probe(Path(request.param)) if request.param in OTHERS else _engine(Dialect.CLASSIC)


@pytest.fixture(params=["pty", "pipe"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def dequantized(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """The bundled model in F32."""

    @cache
    def write() -> Path:
        from dequantized import write

        assert MODEL is not None
        return write(MODEL, tmp_path_factory.mktemp("model") / MODEL.name)

    return write


@pytest.fixture
def model(request: pytest.FixtureRequest, dequantized: Callable[[], Path]) -> Path:
    """The bundled model, as the engine of the test can load it."""
    assert MODEL is not None, "the bundled model is missing"
    names = [
        name
        for name in ("engine", "any_engine", "exact_engine", "any_native", "classic_engine")
        if name in request.fixturenames
    ]
    engines = [request.getfixturevalue(name) for name in names]
    return dequantized() if any(each.make is EngineVariant.IK for each in engines) else MODEL


@pytest.fixture
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, a real model, which the set-up of the tests fetches where it can."""
    if not _SMOLLM2_IS_THERE:
        pytest.skip("NO REAL MODEL: bitnet-chat models pull smollm2-135m fetches the one of these tests (93 MB)")
    return SMOLLM2
