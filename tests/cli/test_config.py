"""Settings: defaults < config.toml < persona < environment < flags."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from bitnet_chat import config, paths
from bitnet_chat.backend import Sampling
from bitnet_chat.cli.parser import build, parse
from bitnet_chat.config import Settings
from bitnet_chat.errors import UsageError


@pytest.fixture
def file(home: Path) -> Path:
    return home / "config.toml"


def test_defaults() -> None:
    assert config.load({}, {}) == (Settings(), "")


def test_sampling_without_a_value_is_left_to_the_backend() -> None:
    assert Settings().sampling == Settings(temperature=-0.5, seed=-2).sampling == Sampling()
    assert Settings(temperature=0.0, seed=0).sampling == Sampling(temperature=0.0, seed=0)


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
        ("colour = 1", "setting 'colour' does not exist"),
        ('ctx = "many"', "ctx must be a whole number"),
        ("ctx = 1.5", "ctx must be a whole number"),
        ("ctx = true", "ctx must be a whole number"),
        ("ctx = -1", "ctx cannot be -1"),
        ("timeout = nan", "timeout cannot be nan"),
        ("timeout = inf", "timeout cannot be inf"),
        ("temperature = nan", "temperature cannot be nan"),
        ("temperature = -inf", "temperature cannot be -inf"),
        ("seed = 99999999999999999999", "seed cannot be 9"),
        (f"ctx = {'9' * 5000}", "cannot be read"),
        (f"engine_args = {'[' * 100_000}", "cannot be read"),
        (f"# {'long' * 300_000}", "more than 1000000 bytes"),
        ('io = "serial"', "io is one of auto, pty, pipe"),
        ("engine_args = [1]", "a list of texts"),
        ("model = 7", "model must be a text"),
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


def test_a_variable_of_yes_or_no() -> None:
    assert config.load({}, {"BITNET_CHAT_JOURNAL": "Off"})[0].journal is False
    assert config.load({}, {"BITNET_CHAT_SPARE": "1"})[0].spare is True
    with pytest.raises(UsageError, match=r"\$BITNET_CHAT_SPARE: 'maybe' is neither"):
        config.load({}, {"BITNET_CHAT_SPARE": "maybe"})


@pytest.mark.parametrize("name", [each.name for each in fields(config.Settings)])
def test_a_variable_that_is_empty_is_not_set(file: Path, name: str) -> None:
    file.write_text('threads = 5\nmodel = "m.gguf"\nbackend = "ollama"\nengine_args = ["-x"]\nguard = false\n')
    variable = f"BITNET_CHAT_{name.upper()}"
    assert config.load({}, {variable: ""}) == config.load({}, {})
    assert config.sourced({}, {variable: ""}) == config.sourced({}, {})
    assert config.unknown_variables({"BITNET_CHAT_THREDS": "", "BITNET_CHAT_CTXX": "1"}) == ["BITNET_CHAT_CTXX"]


def test_a_slip_of_the_fingers_is_told(file: Path) -> None:
    file.write_text("max_token = 3")
    with pytest.raises(UsageError, match="setting 'max_token' does not exist; did you mean 'max_tokens'"):
        config.load({}, {})
    assert config.unknown_variables(
        {
            "BITNET_CHAT_TEMP": "1",
            "BITNET_CHAT_CTX": "1",
            "BITNET_CHAT_DATA": "x",
            "BITNET_CHAT_ENGINE": "x",
            "HOME": "",
        }
    ) == ["BITNET_CHAT_TEMP"]


def test_a_byte_order_mark_of_an_editor(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfctx = 5\n")
    assert config.load({}, {})[0].ctx == 5


# Where a value comes from


def test_each_value_says_where_it_comes_from(file: Path) -> None:
    file.write_text('engine = "/file"\nctx = 1\npersona = "own"\njournal = false\n')
    (file.parent / "personas").mkdir()
    (file.parent / "personas" / "own.toml").write_text('ctx = 2\nthreads = 2\nseed = 2\nengine = "/persona"')
    environment = {"BITNET_CHAT_THREADS": "3", "BITNET_CHAT_SEED": "3"}
    flags = {"seed": 4, "guard": False, "temperature": 0.0, "engine_args": ["-x"]}
    values = config.sourced(flags, environment)
    origins = {name: each.origin for name, each in values.items() if each.origin != "default"}
    assert origins == {
        "engine": "persona own",
        "ctx": "persona own",
        "threads": "$BITNET_CHAT_THREADS",
        "temperature": "--temp",
        "seed": "--seed",
        "persona": str(file),
        "guard": "--no-guard",
        "journal": str(file),
        "engine_args": "--",
    }
    assert (values["ctx"].value, values["threads"].value, values["seed"].value) == (2, 3, 4)
    settings, configured = config.load(flags, environment)
    assert configured == "/persona" and settings.engine == ""
    for name, each in values.items():
        assert name == "engine" or getattr(settings, name) == each.value
    assert config.sourced({}, {"BITNET_CHAT_ENGINE": "/e"})["engine"] == config.SettingValue(
        "/e", "$BITNET_CHAT_ENGINE"
    )
    assert config.sourced({"engine": "/f"}, {"BITNET_CHAT_ENGINE": "/e"})["engine"] == config.SettingValue(
        "/f", "--engine"
    )


# Every setting is a flag, and every flag that is none belongs to one run


def test_settings_and_flags_are_the_same() -> None:
    actions = {action.dest: action for action in build()._actions}
    names = {field.name for field in fields(Settings)}
    of_one_run = {"file", "input", "output", "json", "no_stream", "interactive", "resume", "resume_last"}
    of_one_run |= {"attachment", "allow_tools"}
    assert set(actions) - {"help", "version", "question"} == (names - {"engine_args"}) | of_one_run
    for name in names - {"engine_args"}:
        assert config.flag(name, getattr(Settings(), name)) in actions[name].option_strings or isinstance(
            getattr(Settings(), name), bool
        )
    for name in ("spare", "guard", "journal"):
        for value in (True, False):
            flag = config.flag(name, value)
            assert parse([flag])[1] == {name: value}
            assert getattr(config.load(parse([flag])[1], {f"BITNET_CHAT_{name.upper()}": "yes"})[0], name) is value
    assert parse(["-y"])[1] == parse(["--install", "yes"])[1] == {"install": "yes"}
    for name in ("install", "overflow", "markdown", "thinking", "io"):
        assert actions[name].choices is not None and getattr(Settings(), name) in actions[name].choices


def test_the_limit_of_states_is_a_size() -> None:
    assert config.load({"state_limit": "2G"}, {})[0].state_limit == "2G"
    assert config.load({}, {"BITNET_CHAT_STATE_LIMIT": "0"})[0].state_limit == "0"
    paths.config_file().write_text("state_limit = 1000")
    assert config.load({}, {})[0].state_limit == "1000", "bytes"
    paths.config_file().write_text('state_limit = "800M"')
    assert config.load({}, {})[0].state_limit == "800M"
    assert config.from_keywords(None, {"state_limit": 5})[0].state_limit == "5"
    for value in ("much", "-1", -1, True, 1.5, ["1G"]):
        with pytest.raises(UsageError, match=r"--state-limit: state_limit"):
            config.load({"state_limit": value}, {})


def test_help_tells_the_defaults() -> None:
    words = " ".join(build().format_help().split())
    for name in ("overflow", "repeat_limit", "typing_speed", "stall_timeout"):
        default = getattr(Settings(), name)
        assert f"(default: {default:g})" in words if isinstance(default, float) else f"(default: {default})" in words
