"""Settings: defaults < config.toml < environment < flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitnet_chat import config
from bitnet_chat.config import Settings
from bitnet_chat.errors import UsageError


@pytest.fixture
def file(home: Path) -> Path:
    return home / "config.toml"


def test_defaults() -> None:
    assert config.load({}, {}) == (Settings(), "")


def test_each_layer_wins_over_the_one_before(file: Path) -> None:
    file.write_text('ctx = 1\nthreads = 1\nseed = 1\nsystem = "s"\ntemperature = 1\nengine_args = ["--mlock"]\n')
    environment = {"BITNET_CHAT_THREADS": "2", "BITNET_CHAT_SEED": "2", "BITNET_CHAT_ENGINE_ARGS": "--a 'b c'"}
    settings, _ = config.load({"seed": 3}, environment)
    assert (settings.ctx, settings.threads, settings.seed, settings.system) == (1, 2, 3, "s")
    assert settings.temperature == 1.0
    assert settings.engine_args == ("--a", "b c")


def test_the_engine_of_the_file_has_a_place_of_its_own_in_the_search(file: Path) -> None:
    file.write_text('engine = "/opt/engine"')
    settings, configured = config.load({}, {"BITNET_CHAT_ENGINE": "/elsewhere"})
    assert (settings.engine, configured) == ("", "/opt/engine")
    assert config.load({"engine": "/flag"}, {}) == (Settings(engine="/flag"), "/opt/engine")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ctx = ", "cannot be read"),
        ("colour = 1", "there is no setting 'colour'"),
        ('ctx = "many"', "ctx wants a whole number"),
        ("ctx = 1.5", "ctx wants a whole number"),
        ("ctx = true", "ctx wants a whole number"),
        ("ctx = -1", "ctx cannot be -1"),
        ("timeout = nan", "timeout cannot be nan"),
        ("timeout = inf", "timeout cannot be inf"),
        ('io = "serial"', "io is one of auto, pty, pipe"),
        ("engine_args = [1]", "a list of texts"),
        ("model = 7", "model wants a text"),
    ],
)
def test_a_bad_file_names_itself_and_what_is_wrong(file: Path, text: str, words: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        config.load({}, {})
    assert str(file) in str(caught.value)


def test_a_file_that_is_no_text(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read"):
        config.load({}, {})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("CTX", "many", r"\$BITNET_CHAT_CTX: 'many' is not a number"),
        ("IO", "x", r"\$BITNET_CHAT_IO: io is one of"),
        ("TIMEOUT", "-3", "cannot be -3"),
        ("ENGINE_ARGS", "'", r"\$BITNET_CHAT_ENGINE_ARGS"),
    ],
)
def test_a_bad_variable(name: str, value: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        config.load({}, {f"BITNET_CHAT_{name}": value})
