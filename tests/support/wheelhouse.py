"""A package index in a folder: small wheels that pip takes for those of the prebuilt engines."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from bitnet_chat.engine.install import wheels
from bitnet_chat.engine.install.packages import EnginePackage, by_name
from bitnet_chat.util import pip

_CONTENT = {
    "llama.cpp": {
        "xllamacpp/__init__.py": b"class CommonParams: pass\n",
        "xllamacpp/xllamacpp.abi3.so": b"library" * 1000,
        "xllamacpp/notes.txt": b"not needed",
    },
    "bitnet": {
        "ik_llama_cpp/lib/libllama.so": b"library",
        "ik_llama_cpp/lib/libggml.so": b"twice",
        "ik_llama_cpp/bin/llama-quantize": b"program",
        "ik_llama_cpp_python.libs/libggml-1.so": b"library",
        "ik_llama_cpp/llama.py": b"not needed",
        "include/llama.h": b"not needed",
        "bin/convert_hf_to_gguf.py": b"not needed",
    },
}


def package(name: str) -> EnginePackage:
    found = by_name(name)
    assert found is not None
    return found


def write(path: Path, pin: pip.Pin, content: Mapping[str, bytes]) -> pip.Pin:
    """A wheel of that name; the pin that fits it."""
    info = f"{pin.project.replace('-', '_')}-{pin.version}.dist-info"
    tags = "\n".join(f"Tag: {'-'.join(pin.file.removesuffix('.whl').split('-')[-3:])}".split("\n"))
    files = {
        **content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {pin.project}\nVersion: {pin.version}\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\n{tags}\n".encode(),
        f"{info}/licenses/LICENSE": b"MIT License\n",
        f"{info}/RECORD": b"",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)
    return replace(pin, sha256=pip.sha256(path), size=path.stat().st_size)


def fill(folder: Path, monkeypatch: pytest.MonkeyPatch, content: Mapping[str, bytes] | None = None) -> None:
    """Makes ``folder`` the index of pip, with a wheel for each that is pinned, and pins those. ``content``: instead of
    the usual one of llama.cpp."""
    pinned = {}
    for name, known in wheels.WHEELS.items():
        files = content if content is not None and name == "llama.cpp" else _CONTENT[name]
        pinned[name] = tuple(
            replace(each, pin=write(folder / each.pin.file, each.pin, files), unpacked=10_000) for each in known
        )
    monkeypatch.setattr(wheels, "WHEELS", pinned)
    only(monkeypatch, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(folder))


def only(monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    """These settings of pip and no others."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", **settings}.items():
        monkeypatch.setenv(name, value)
