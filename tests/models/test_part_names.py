"""Names of the files of a model in several parts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import check_immutable

from bitnet_chat.models.names import ModelPart, keys_of, part, stem_of, suffix


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("x-00002-of-00003.gguf", ModelPart("x", 2, 3, ".gguf")),
        ("x-00002-of-00003", ModelPart("x", 2, 3, "")),
        ("x-00001-of-00001.gguf.partial", ModelPart("x", 1, 1, ".gguf.partial")),
        ("a-00001-of-00002-00003-of-00003.gguf", ModelPart("a-00001-of-00002", 3, 3, ".gguf")),
        ("a\nb-00001-of-00002.gguf", ModelPart("a\nb", 1, 2, ".gguf")),
        ("x-01000-of-01000.gguf", ModelPart("x", 1000, 1000, ".gguf")),
        ("x-00001-of-01001.gguf", None),
        ("x-00000-of-00003.gguf", None),
        ("x-00004-of-00003.gguf", None),
        ("x-1-of-3.gguf", None),
        ("x-000001-of-000003.gguf", None),
        ("x-00001-of-00003.bin", None),
        ("x.gguf", None),
    ],
)
def test_the_part_that_a_name_states(name: str, found: ModelPart | None) -> None:
    assert part(name) == found


def test_all_parts_of_a_model() -> None:
    names = ("m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf")
    assert all(found is not None and found.all() == names for found in map(part, names))
    assert ModelPart("m", 1, 1, "").all() == ("m-00001-of-00001",)


@given(st.text("ab-01.", max_size=12), st.integers(1, 1000), st.data())
def test_a_name_that_was_made_is_read(stem: str, count: int, data: st.DataObject) -> None:
    number = data.draw(st.integers(1, count))
    assert part(f"{stem}{suffix(number, count)}.gguf") == ModelPart(stem, number, count, ".gguf")


@pytest.mark.parametrize(
    ("name", "stem"),
    [("x-00001-of-00002.gguf", "x"), ("x.gguf", "x"), ("x", "x"), ("x-00001-of-00002", "x"), ("x.gguf.gguf", "x.gguf")],
)
def test_the_name_of_the_model(name: str, stem: str) -> None:
    assert stem_of(name) == stem


def test_a_part_is_immutable() -> None:
    check_immutable(ModelPart("x", 1, 2, ""))


@pytest.mark.parametrize(
    ("name", "path", "origin", "keys"),
    [
        ("qwen3:4b", "", "", ["qwen3-4b", "4b"]),
        ("m", "/x/File-Q4_K_M.gguf", "", ["m", "file-q4_k_m"]),
        (
            *("m", "/c/models--User--Repo--x/snapshots/abc/sub/File-Q4_K_M.gguf", ""),
            ["m", "file-q4_k_m", "hf:user/repo--x/sub/file-q4_k_m", "hf:user/repo--x-q4_k_m", "hf:user/repo--x"],
        ),
        ("m", "/c/models--User--Repo/other/abc/File.gguf", "", ["m", "file"]),
        ("m", "", "hf:User/Repo/File-Q8_0.gguf", ["m", "hf:user/repo/file-q8_0", "hf:user/repo-q8_0", "hf:user/repo"]),
    ],
)
def test_the_keys_of_a_model(name: str, path: str, origin: str, keys: list[str]) -> None:
    assert list(keys_of(name, Path(path) if path else None, origin)) == keys
