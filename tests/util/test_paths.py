"""Places on this computer, and people who have none."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitnet_chat import paths
from bitnet_chat.cli import main
from bitnet_chat.errors import UsageError

NOBODY = "~nobody-of-that-name/file"


def test_a_tilde_is_the_home() -> None:
    assert paths.expand("~/file") == Path.home() / "file"
    assert paths.expand("a/~/b") == Path("a/~/b")


def test_the_home_of_nobody() -> None:
    with pytest.raises(UsageError, match="home directory not found") as caught:
        paths.expand(NOBODY)
    assert f"./{NOBODY}" in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--engine", NOBODY, "hello"),
        ("-f", NOBODY),
        ("--input", NOBODY),
        ("-a", NOBODY, "hello"),
        ("replay", NOBODY),
        ("report", "-o", NOBODY),
        ("models", "info", NOBODY),
        ("engine", "probe", NOBODY),
    ],
)
def test_each_path_of_a_command_line(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and NOBODY in shown.err


@pytest.mark.parametrize("variable", ["BITNET_CHAT_DATA", "BITNET_CHAT_CONFIG"])
def test_a_variable_with_the_home_of_nobody(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, NOBODY)
    verb = ("history", "list") if variable.endswith("DATA") else ("config", "show")
    assert main(verb) == 2
    assert "home directory not found" in capsys.readouterr().err


@pytest.mark.parametrize("unexpanded", [True, False], ids=["as it was written", "an error"])
def test_a_user_without_a_home(
    unexpanded: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """platformdirs raises, or in older releases gives back what it cannot expand: a folder called ~ would be made."""
    import platformdirs

    def place(self: object) -> str:
        if unexpanded:
            return "~/.local/share/bitnet-chat"
        raise RuntimeError("could not determine the home directory")

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(platformdirs.PlatformDirs, "user_data_dir", property(place))
    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.delenv("BITNET_CHAT_DATA")
    assert paths.home() is None
    assert main(["history", "list"]) == 2
    assert "set HOME, or BITNET_CHAT_DATA=FOLDER" in capsys.readouterr().err
    assert main(["doctor", "--quick"]) == 1
    assert "set HOME" in capsys.readouterr().out
