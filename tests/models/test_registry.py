"""Models by name: the list that is shipped, and the user's own."""

from __future__ import annotations

import dataclasses
import re
from importlib import resources
from pathlib import Path

import pytest

from bitnet_chat.backend import Sampling
from bitnet_chat.errors import UsageError
from bitnet_chat.models.registry import AUTO, entries, is_name, own_file, parse


def test_what_is_shipped_can_be_used() -> None:
    known = entries()
    for name, entry in known.items():
        assert parse(name, known).name == name
        assert entry.title and entry.license and entry.quantization and entry.parameters
        assert entry.kind == "chat" or not entry.template
        assert entry.engine == ("bitnet" if entry.quantization == "I2_S" else "any")
        assert not (entry.size and entry.size_about)
        assert bool(entry.sha256) == bool(entry.size), "a size is certain where a hash is, and nowhere else"
        assert not entry.revision or re.fullmatch("[0-9a-f]{40}", entry.revision)
        need = entry.memory()
        assert need is None or need > entry.bytes
    assert any(entry.engine == "any" and entry.parameters[0] == "3" for entry in known.values()), "a fast one"
    assert any(entry.engine == "any" and entry.parameters[0] in "78" for entry in known.values()), "a better one"
    families = (
        *("bitnet-2b", "falcon-e-1b", "falcon-e-3b", "falcon3-", "llama3-8b-1.58", "smollm2-135m", "smollm3", "qwen3-"),
        *("qwen3.5", "gemma-3-", "gemma-4-", "gpt-oss", "llama-3.", "phi-4", "ministral", "deepseek-r1", "nomic-embed"),
    )
    assert all(any(name.startswith(family) for name in known) for family in families)


def test_it_is_package_data() -> None:
    assert resources.files("bitnet_chat.models").joinpath("registry.toml").is_file()
    assert "registry.toml" in Path("setup.cfg").read_text("utf-8")


def test_memory_grows_with_the_window() -> None:
    entry = entries()["llama-3.1-8b"]
    small, usual, large = entry.memory(2048), entry.memory(), entry.memory(32768)
    assert small is not None and usual is not None and large is not None
    assert small < usual < large
    # 32 layers, 8 heads, 128 elements, keys and values, 2 bytes each: 131,072 bytes a token.
    assert usual - small >= (8192 - 2048) * 131_072


@pytest.fixture
def own(home: Path) -> Path:
    path = own_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_own_entries_are_added_and_win(own: Path) -> None:
    own.write_text('[mine]\nurl = "https://h/mine.gguf"\nsize = 5\n["bitnet-2b"]\nrepo = "u/r"\nfile = "f.gguf"\n')
    known = entries()
    assert (known["mine"].url, known["mine"].bytes, known["mine"].own) == ("https://h/mine.gguf", 5, True)
    assert (known["bitnet-2b"].repo, known["bitnet-2b"].sha256) == ("u/r", "")
    assert not known["llama-3.2-3b"].own


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[x\n", "cannot be read"),
        ("x = 1\n", r"\[x\]: must be a table"),
        ("[x]\n", "either repo and file, or url"),
        ('[x]\nrepo = "u/r"\n', "either repo and file, or url"),
        ('[x]\nrepo = "u/r"\nfile = "f"\nurl = "u"\n', "either repo and file, or url"),
        ('[x]\nurl = "u"\ncolour = "red"\n', "unknown key 'colour'"),
        ('[x]\nurl = "u"\nown = true\n', "unknown key 'own'"),
        ('[x]\nurl = "u"\nsize = "big"\n', "size must be a number"),
        ('[x]\nurl = "u"\nsize = true\n', "size must be a number"),
        ('[x]\nurl = "u"\nsize = -1\n', "size must be a number"),
        ("[x]\nurl = 1\n", "url must be a string"),
        ('[x]\nurl = "u"\nsha256 = "12"\n', "64 lower-case hexadecimal digits"),
        ('[x]\nurl = "u"\nengine = "mlx"\n', "engine is one of any, bitnet"),
        ('[x]\nurl = "u"\nkind = "image"\n', "kind is one of chat, embedding"),
        ('[x]\nurl = "u"\nfirst = 1\n', "first must be true or false"),
        ('[x]\nurl = "u"\nshape = {layers = 1}\n', "shape must have layers"),
        ('[x]\nurl = "u"\nsampling = {heat = 1}\n', "sampling may only have temperature"),
        ('[x]\nurl = "u"\nsampling = {top_p = "1"}\n', "sampling.top_p must be a number"),
        ('[x]\nurl = "u"\nsampling = 1\n', "sampling may only have"),
        ('[x]\nfile = "f"\nwheel = {project = "p"}\n', "wheel must have project, version"),
        ('[x]\nfile = "f"\nwheel = {project="p", version="1", file="p.whl", sha256="5", size=1}\n', "64 hexadecimal"),
        ('["../x"]\nurl = "u"\n', "a name is letters"),
        ('[auto]\nurl = "u"\n', "a name is letters"),
        ("\xff", "cannot be read"),
        ("x = " + "[" * 100_000, "cannot be read"),
        ("x = " + "9" * 5000, "cannot be read"),
    ],
)
def test_a_broken_entry_names_file_and_key(own: Path, content: str, words: str) -> None:
    own.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match=words) as caught:
        entries()
    assert str(own) in str(caught.value)


def test_names() -> None:
    assert all(is_name(name) for name in ("a", "Qwen2.5-7B_x", "0"))
    assert not any(is_name(name) for name in ("", ".a", "-a", "a/b", "a\\b", "a\n", "é", "x" * 129, AUTO, "m.gguf"))


def test_a_wheel_is_for_every_platform(own: Path) -> None:
    wheel = 'wheel = {project = "p", version = "1", file = "p-1-TAGS.whl", sha256 = "%s", size = 1}' % ("ab" * 32)
    content = f'[x]\nfile = "p/f.gguf"\n{wheel}\n'
    own.write_text(content.replace("TAGS", "py3-none-any"))
    assert entries()["x"].origin == "pip:p==1/p/f.gguf"
    own.write_text(content.replace("TAGS", "cp311-cp311-win_amd64"))
    with pytest.raises(UsageError, match="a wheel for every platform"):
        entries()


def test_an_entry_carries_what_its_card_recommends(own: Path) -> None:
    own.write_text('[x]\nurl = "https://h/x.gguf"\nsampling = {temperature = 0.6, top_k = 20}\n')
    known = entries()
    assert known["x"].sampling == {"temperature": 0.6, "top_k": 20}
    names = {field.name for field in dataclasses.fields(Sampling)}
    for entry in known.values():
        assert set(entry.sampling) <= names and (entry.kind == "chat" or not entry.sampling)
    assert known["gemma-3-4b"].sampling == {"temperature": 1.0, "top_p": 0.95, "top_k": 64}


def test_what_could_not_be_checked_says_so(own: Path) -> None:
    known = entries()
    assert known["qwen3-4b"].checked and not known["llama3-8b-1.58"].checked
    assert not any(entry.checked for entry in known.values() if not entry.sha256)
