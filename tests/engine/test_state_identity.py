"""What users give to an engine is a part of the identity of its states."""

from __future__ import annotations

import os
from pathlib import Path

from bitnet_chat.engine.state_identity import identity_flags, identity_version


def test_flags_overrides_and_variables_count() -> None:
    plain = identity_flags((), (), {})
    assert plain == ()
    found = [
        plain,
        identity_flags(("--cache-type-k", "q8_0"), (), {}),
        identity_flags(("--cache-type-k", "q4_0"), (), {}),
        identity_flags((), ("a=str:b",), {}),
        identity_flags((), (), {"LLAMA_ARG_CACHE_TYPE_K": "q8_0"}),
        identity_flags((), (), {"LLAMA_ARG_ROPE_SCALE": "2"}),
    ]
    assert len(set(found)) == len(found)
    assert identity_flags((), (), {"PATH": "/bin", "LLAMA_ARG_THREADS": "4"}) == plain, "not passed, or no flag"
    one, other = {"LLAMA_ARG_B": "1", "LLAMA_ARG_A": "2"}, {"LLAMA_ARG_A": "2", "LLAMA_ARG_B": "1"}
    assert identity_flags((), (), one) == identity_flags((), (), other)


def test_an_adapter_that_was_written_again_is_another_one(tmp_path: Path) -> None:
    file = tmp_path / "adapter.gguf"
    for flags, variables in (
        (("--lora", str(file)), {}),
        ((f"--lora={file}",), {}),
        ((), {"LLAMA_ARG_LORA": str(file)}),
    ):
        file.write_bytes(b"one")
        before = identity_flags(flags, (), variables)
        assert identity_flags(flags, (), variables) == before
        file.write_bytes(b"other")
        assert identity_flags(flags, (), variables) != before
        os.utime(file, ns=(1, 1))
        later = identity_flags(flags, (), variables)
        os.utime(file, ns=(2, 2))
        assert identity_flags(flags, (), variables) != later
    assert identity_flags(("--x", "a\0b", "y" * 5000), (), {})[:1] == ("--x",), "no file can have such a name"


def test_a_build_without_a_version_is_known_by_its_file(tmp_path: Path) -> None:
    program = tmp_path / "llama-cli"
    assert identity_version("b1", program) == "b1" and identity_version("", program) == str(program)
    program.write_bytes(b"one")
    before = identity_version("", program)
    program.write_bytes(b"two, longer")
    assert str(program) in before and identity_version("", program) != before
