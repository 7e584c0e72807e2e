"""Options that an engine refuses although it lists them: left out, and the start is tried once more."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import fake_engine
import pytest

from bitnet_chat.backends.llama_server import LlamaServer
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.engine.binary import EngineBinary, recognise
from bitnet_chat.engine.start_errors import OptionRetry, RefusedOption, refused
from bitnet_chat.errors import EngineNotFoundError, UsageError
from bitnet_chat.events import Completed, Event, Failed, Notice

OPTIONS = Path(__file__).parents[1] / "data" / "options"
OURS = ["--file", "x", "--model", "m", "--color", "on", "--log-colors", "off", "--no-escape", "--temp", "0.5"]


def binary(name: str = "llama.cpp-2026-llama-completion") -> EngineBinary:
    found = recognise(Path("llama-completion"), (OPTIONS / f"{name}.txt").read_text("utf-8"), "")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("error: invalid argument: off", "--log-colors"),  # 2024 and later
        ("error: invalid argument: --no-escape", "--no-escape"),
        ("error: unknown argument: --no-escape", "--no-escape"),  # 2023, ik_llama.cpp
        ("error: invalid parameter for argument: --temp", "--temp"),
        ('error while handling argument "--temp": stof', "--temp"),
        ("llama-cli: unrecognized option '--no-escape'", "--no-escape"),
        ("E error: invalid argument: --no-escape", "--no-escape"),
        ("argument --no-escape not recognized", "--no-escape"),
        ("main: error: argument '--no-escape' is not recognized", "--no-escape"),
        ("error: unrecognized arguments: --no-escape", "--no-escape"),
    ],
)
def test_the_forms_in_which_engines_refuse(line: str, option: str) -> None:
    for log in ([line], ["loading", line, "usage: x", "error: unknown argument: --other"]):
        found = refused(binary(), OURS, (), log)
        assert found is not None and found.option == option and not found.is_users


@pytest.mark.parametrize(
    ("line", "extra"),
    [
        ("error: invalid argument: --foo", ["--foo"]),
        ("error: invalid argument: --foo", ["--foo=3"]),
        ("error: invalid argument: bar", ["--verbose", "bar"]),
        ('error while handling argument "--temp": stof', ["--temp", "warm"]),  # ours was checked
    ],
)
def test_an_option_of_the_user_is_not_left_out(line: str, extra: list[str]) -> None:
    found = refused(binary(), OURS, extra, [line])
    assert found is not None and found.is_users
    with pytest.raises(UsageError, match=r"does not support .* which was given after --"):
        OptionRetry(lambda binary: binary, print).without_refused(binary(), OURS, extra, [line])


@pytest.mark.parametrize(
    "line", ["error: failed to load model", "unknown argument of type 3 in tensor", "D n_past = 3"]
)
def test_other_ends_are_no_refusal(line: str) -> None:
    assert refused(binary(), OURS, (), [line]) is None


def test_a_word_that_was_not_passed_from_here() -> None:
    assert refused(binary(), OURS, (), ["error: unknown argument: --added"]) == RefusedOption("--added")
    with pytest.raises(EngineNotFoundError, match="was not passed by bitnet-chat"):
        OptionRetry(lambda binary: binary, print).without_refused(
            binary(), OURS, (), ["error: unknown argument: --added"]
        )


@pytest.mark.parametrize("option", ["--model", "--color", "--file"])
def test_what_a_chat_needs_is_not_left_out(option: str) -> None:
    with pytest.raises(EngineNotFoundError, match=f"does not support {option}, which a chat needs"):
        OptionRetry(lambda binary: binary, print).without_refused(
            binary(), OURS, (), [f"error: invalid argument: {option}"]
        )


def test_each_option_is_left_out_once() -> None:
    notices: list[str] = []
    refit = OptionRetry(lambda binary: binary, notices.append)
    first = refit.without_refused(binary(), OURS, (), ["error: invalid argument: off"])
    assert first is not None and not first.has("--log-colors")
    second = refit.without_refused(first, OURS, (), ["error: invalid argument: --no-escape"])
    assert second is not None and not second.has("--log-colors") and not second.has("--no-escape")
    assert refit.without_refused(binary(), OURS, (), ["error: invalid argument: off"]) is None
    assert len(notices) == 2 and "--log-colors" in notices[0]


# With processes.

REFUSE = """#!/bin/sh
case " $* " in
*" --help "*) cat <<'END'
{help}
--log-colors [on|off|auto]
-e, --escape, --no-escape
END
;;
*" --version "*) echo "version: 1 (fake)";;
*" {refused} "*) echo start >> "{count}"; echo "error: {words}" >&2; exit 1;;
*) echo start >> "{count}"; exec "{python}" -S -E "{script}" "$@";;
esac
"""


def engine(folder: Path, refused: str, words: str) -> Path:
    path = folder / "llama-cli"
    text = fake_engine.help_text(modern=False, unordered=False)
    script = fake_engine.__file__
    path.write_text(
        REFUSE.format(
            help=text, refused=refused, words=words, count=folder / "count", python=sys.executable, script=script
        )
    )
    path.chmod(0o755)
    return path


async def events_of(settings: Settings, questions: Sequence[str] = ("hello",)) -> list[Event]:
    backend = LocalEngineBackend(settings)
    try:
        conversation = Conversation((Message("user", questions[0]),))
        return [event async for event in backend.reply(conversation)]
    finally:
        await backend.close()


@pytest.mark.skipif(sys.platform == "win32", reason="programs are shell scripts here")
@pytest.mark.parametrize(
    ("refused", "words", "option"),
    [
        ("--no-escape", "invalid argument: --no-escape", "--no-escape"),
        ("--no-escape", "unknown argument: --no-escape", "--no-escape"),
        ("--log-colors off", "invalid argument: off", "--log-colors"),
    ],
)
def test_a_start_without_the_option(
    tmp_path: Path, model: Path, transport: str, refused: str, words: str, option: str
) -> None:
    path = engine(tmp_path, refused, words)
    settings = Settings(engine=str(path), model=str(model), journal=False, io=transport)  # type: ignore[arg-type]
    events = asyncio.run(events_of(settings))
    done = events[-1]
    assert isinstance(done, Completed) and done.text == "you said: hello", events
    told = [event.text for event in events if isinstance(event, Notice)]
    assert [line for line in told if option in line and "started without it" in line] == told
    assert (tmp_path / "count").read_text().split() == ["start"] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="programs are shell scripts here")
def test_an_option_behind_the_dashes_is_an_error_of_usage(tmp_path: Path, model: Path) -> None:
    path = engine(tmp_path, "--frobnicate", "invalid argument: --frobnicate")
    settings = Settings(engine=str(path), model=str(model), journal=False, engine_args=("--frobnicate", "3"))
    failed = asyncio.run(events_of(settings))[-1]
    assert isinstance(failed, Failed) and isinstance(failed.error, UsageError)
    assert "--frobnicate, which was given after --" in failed.error.what
    assert (tmp_path / "count").read_text().split() == ["start"]


@pytest.mark.skipif(sys.platform == "win32", reason="programs are shell scripts here")
def test_an_engine_that_was_replaced_by_an_older_one(tmp_path: Path, model: Path) -> None:
    """What was remembered of it lists an option that is gone."""
    path = engine(tmp_path, "--no-escape", "invalid argument: --no-escape")
    backend = LocalEngineBackend(Settings(engine=str(path), model=str(model), journal=False))
    path.write_text(
        path.read_text().replace("-e, --escape, --no-escape\n", "").replace("--log-colors [on|off|auto]\n", "")
    )

    async def ask() -> list[Event]:
        try:
            return [event async for event in backend.reply(Conversation((Message("user", "hello"),)))]
        finally:
            await backend.close()

    assert isinstance(asyncio.run(ask())[-1], Completed)
    assert not backend.binary.has("--log-colors")


@pytest.mark.skipif(sys.platform == "win32", reason="programs are shell scripts here")
def test_a_server_that_refuses_an_option(tmp_path: Path, model: Path, classic: EngineBinary) -> None:
    """With the real one behind a script that refuses what its help lists."""
    real = classic.path.with_name(classic.path.name.replace("completion", "server"))
    path = tmp_path / "llama-server"
    path.write_text(
        f'#!/bin/sh\ncase " $* " in *" --slots "*) echo "error: invalid argument: --slots" >&2; exit 1;; esac\n'
        f'exec "{real}" "$@"\n'
    )
    path.chmod(0o755)
    shared = LlamaServer(Settings(engine=str(path), model=str(model)))

    async def ask() -> list[Event]:
        backend = shared.backend()
        try:
            return [event async for event in backend.reply(Conversation((Message("user", "hello"),)))]
        finally:
            await backend.close()

    events = asyncio.run(ask())
    assert isinstance(events[-1], Completed), events
    assert any("--slots" in event.text for event in events if isinstance(event, Notice))
