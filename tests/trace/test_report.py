"""A file for a bug report: everything that helps, nothing that is private."""

from __future__ import annotations

import base64
import getpass
import json
import os
import socket
import sys
from pathlib import Path

import pytest
from program import fake_engine, run

from bitnet_chat.cli import replay
from bitnet_chat.cli.report import of_session
from bitnet_chat.config import Settings
from bitnet_chat.conversation.stdin_encoding import encode_lines
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine_output import Frame, ReplyText, TurnEnd
from bitnet_chat.trace import format, recorder
from bitnet_chat.trace.conversation_masking import chat_arguments, mask_session
from bitnet_chat.trace.format import TraceEntry, TraceEntryKind, of_facts
from bitnet_chat.trace.playback import play
from bitnet_chat.trace.secret_redaction import Redactor

FLAGS = ("--temp", "0", "--threads", "1")
QUESTION = "I am Zebulon Quagmire, zebulon@quagmire.org; my key_token=abcdefgh1, how do I leave?"


def bytes_in(text: str) -> bytes:
    """All that a file says, what is base64 in it included."""
    found = [text.encode()]
    for line in text.splitlines():
        found += [base64.b64decode(value) for key, value in json.loads(line).items() if key == "b64"]
    return b"\n".join(found)


def shape(text: str) -> list[Frame]:
    return [frame for each in play(format.of_lines(text.split("\n"), "report")) for frame in each.frames]


@pytest.mark.engine
def test_a_real_session_without_a_word_that_was_said(
    any_engine: EngineBinary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER", "lovelace")
    system = "You are Sherlock Holmes of Bakerstreet"
    one = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Elementary Watson"}]}
    one["messages"].append({"role": "user", "content": QUESTION})
    asked = run(
        "--engine", str(any_engine.path), *FLAGS, "--system", system, "--input", "-", stdin=json.dumps(one) + "\n"
    )
    assert asked.returncode == 0, asked.stderr
    reply = json.loads(asked.stdout)["reply"]
    assert reply.strip()

    file = tmp_path / "report.jsonl"
    done = run("report", "-o", str(file))
    assert done.returncode == 0, done.stderr
    assert b"masked" in done.stdout and b"Check this text file before you send it" in done.stdout
    text = file.read_text("utf-8")
    said = bytes_in(text)
    for secret in (*QUESTION.split(), *system.split(), "Elementary", "Watson"):
        if len(secret) > 5 and secret != "leave?":  # engines leave memory free, in their logs
            assert secret.strip(".,;?").encode() not in said, secret
    # The reply of the bundled model has words that engines write too; as a whole it is nowhere.
    assert reply[:30].encode() not in said
    for private in (str(Path.home()), "lovelace", socket.gethostname()):
        if len(private) > 3 and private not in ("localhost", "/root"):
            assert private.encode() not in said, private

    kinds = [json.loads(line)["kind"] for line in text.splitlines()]
    assert kinds[:3] == ["report", "versions", "settings"] and {"finding", "about", "spawn", "in", "out"} <= set(kinds)
    masked = "".join(frame.text for frame in shape(text) if isinstance(frame, ReplyText))
    assert len(masked) == len(reply) and masked != reply
    assert [frame.natural for frame in shape(text) if isinstance(frame, TurnEnd)] == [True]
    if sys.platform != "win32":
        assert file.stat().st_mode & 0o777 == 0o600

    # The words on request, and still no names.
    open_file = tmp_path / "open.jsonl"
    assert run("report", "--with-text", "-o", str(open_file)).returncode == 0
    text = open_file.read_text("utf-8")
    assert "".join(frame.text for frame in shape(text) if isinstance(frame, ReplyText)) == reply
    said = bytes_in(text)
    assert b"Zebulon" in said and b"zebulon@quagmire.org" not in said and b"abcdefgh1" not in said


@pytest.fixture
def session(tmp_path: Path) -> Path:
    path = fake_engine(tmp_path)
    assert run("--engine", str(path), "say something").returncode == 0
    return path


def test_a_file_that_is_there_stays(session: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.jsonl"
    file.write_text("precious")
    environment = {"BITNET_CHAT_ENGINE": str(session)}
    done = run("report", "-o", str(file), **environment)
    assert done.returncode == 2 and file.read_text() == "precious"
    done = run("report", "-o", str(tmp_path / "missing" / "report.jsonl"), **environment)
    assert done.returncode == 2 and b"cannot be written" in done.stderr
    assert run("report", "-o", str(file), "--force", **environment).returncode == 0
    assert json.loads(file.read_text().splitlines()[0])["kind"] == "report"
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]


def test_without_a_session_and_with_settings_that_cannot_be_used(tmp_path: Path) -> None:
    Path(os.environ["BITNET_CHAT_CONFIG"]).write_text("nonsense = 1\n")
    done = run("report", "-o", "-", BITNET_CHAT_ENGINE=str(tmp_path / "missing"))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["session"] is None and lines[0]["words"] == "masked"
    assert "nonsense" in next(line for line in lines if line["kind"] == "settings")["problem"]
    findings = {line["name"]: line for line in lines if line["kind"] == "finding"}
    assert findings["found"]["status"] == findings["settings"]["status"] == "broken"
    assert run("report", "--session", "2", "-o", "-").returncode == 2


def test_the_one_before_the_last(session: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--engine", str(session), "say the second").returncode == 0
    assert len(recorder.sessions()) == 2
    for number, words in ((1, "say the second"), (2, "say something")):
        done = run("report", "--with-text", "--session", str(number), "-o", "-", BITNET_CHAT_ENGINE=str(session))
        assert words.encode() in bytes_in(done.stdout.decode())
    replay.run(["--speed", "0"])
    assert "> say the second\nthe second\n" in capsys.readouterr().out


def test_settings_are_told_without_what_is_said_in_them(session: Path) -> None:
    Path(os.environ["BITNET_CHAT_CONFIG"]).write_text(
        'system = "You are Moriarty"\nengine_args = ["--api-key", "hush", "-p", "Reichenbach"]\nctx = 512\n'
    )
    done = run("report", "-o", "-", BITNET_CHAT_ENGINE=str(session))
    settings = next(json.loads(line) for line in done.stdout.splitlines() if b'"settings"' in line)["settings"]
    assert settings["ctx"] == 512 and settings["system"] == "Xxx xxx Xxxxxxxx"
    assert settings["engine_args"] == ["--api-key", "<secret>", "-p", "Xxxxxxxxxxx"]
    assert not any(word in done.stdout for word in (b"Moriarty", b"hush", b"Reichenbach"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("-a", "merger/Zebrafink.pdf"),
        ("-amerger/Zebrafink.pdf",),
        ("--attachment=merger/Zebrafink.pdf",),
        ("-f", "Zebrafink.txt"),
        ("-fZebrafink.txt",),
        ("--input", "Zebrafink.jsonl", "--output=Zebrafink.jsonl"),
        ("--system", "Zebrafink"),
        ("--system=-Zebrafink",),
        ("-C", "Zebrafink"),
        ("-ia", "Zebrafink"),
        ("-p", "--", "-p", "Zebrafink"),
    ],
)
def test_names_of_files_and_words_on_the_command_line_are_masked(arguments: tuple[str, ...]) -> None:
    told = chat_arguments(["bitnet-chat", "-m", "model.gguf", "-c", "512", *arguments])
    assert told[:5] == ["bitnet-chat", "-m", "model.gguf", "-c", "512"]
    assert not any(word in " ".join(told) for word in ("Zebra", "fink", "merger"))
    assert all("x" in each.lower() or each.startswith("-") for each in told[5:])


def test_a_private_key_is_a_secret() -> None:
    lines = "MIIEvQIBADANBg/kqhkiG9w0+AQEFAASC\nBKcwggSj/AgEAAoIBAQDB\n"
    text = f"look: -----BEGIN RSA PRIVATE KEY-----\n{lines}-----END RSA PRIVATE KEY----- and more"
    assert "BKcw" not in Redactor().text(text) and Redactor().text(text).endswith(" and more")


def test_the_user_is_known_by_every_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitnet_chat.cli.report import of_this_user

    monkeypatch.setattr(getpass, "getuser", lambda: "babbage")
    monkeypatch.setattr(socket, "gethostname", lambda: "difference.engine.example")
    monkeypatch.setenv("SUDO_USER", "byron")
    told = of_this_user().text("babbage and byron on difference.engine.example, that is difference")
    assert told == "<user> and <user> on <host>, that is <host>"


def test_the_key_of_a_server_is_nowhere(session: Path, tmp_path: Path) -> None:
    """On the command line that was recorded, in the words that were said, in the settings, and in what is wrong."""
    given, filed, own = "correct-horse", "battery-staple", "opens-all-doors"
    asked = ("say", given, filed, own)
    flags = ("--engine", str(session), "--backend-key", given)
    assert run(*flags, " ".join(asked)).returncode == 0
    config, file = Path(os.environ["BITNET_CHAT_CONFIG"]), tmp_path / "report.jsonl"
    known = {"BITNET_CHAT_BACKEND_KEY": given, "BITNET_CHAT_API_KEY": own, "BITNET_CHAT_ENGINE": str(session)}
    for text in (f'backend_key = "{filed}"\n', f'backend_key = "{filed}"\nctx = "many"\n'):
        config.write_text(text)
        assert run("report", "--with-text", "--force", "-o", str(file), **known).returncode == 0
        content = file.read_text("utf-8")
        lines = [json.loads(line) for line in content.splitlines()]
        argv = next(line["argv"] for line in lines if line["kind"] == "about")
        assert argv[argv.index("--backend-key") + 1] == "<secret>"
        assert next(line for line in lines if line["kind"] == "settings")["settings"]["backend_key"] in ("", "<secret>")
        said = bytes_in(content)
        assert not [secret for secret in (given, filed, own) if secret.encode() in said]


def test_a_key_of_the_wrong_kind_is_not_told_either() -> None:
    Path(os.environ["BITNET_CHAT_CONFIG"]).write_text("backend_key = 1234567890123\n")
    environment = {"EDITOR": "true", "BITNET_CHAT_API_KEY": "opens-all-doors"}
    for command in (("config", "show"), ("config", "edit"), ("report", "-o", "-"), ("hello",)):
        done = run(*command, **environment)
        assert b"1234567890123" not in done.stdout + done.stderr, command
        assert b"opens-all-doors" not in done.stdout + done.stderr, command


def test_the_engine_and_the_model_of_the_session_are_examined(tmp_path: Path, model: Path) -> None:
    """Not those of the settings by the time that the report is written."""
    (tmp_path / "then").mkdir()
    then, now = tmp_path / "then", fake_engine(tmp_path)
    engine, other = fake_engine(then), then / "other.gguf"
    other.write_bytes(model.read_bytes())
    assert run("--engine", str(engine), "-m", str(other), "-c", "512", "say it").returncode == 0
    done = run("report", "-o", "-", BITNET_CHAT_ENGINE=str(now), BITNET_CHAT_MODEL=str(model))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = {(each["group"], each["name"]): each["facts"] for each in lines if each["kind"] == "finding"}
    assert found["engine", "found"]["path"] == str(engine)
    assert found["model", "file"]["path"] == str(other)
    (settings,) = [each["settings"] for each in lines if each["kind"] == "settings"]
    assert settings["model"] == str(model)  # these are those of now


def test_names_in_a_command_line_start_from_the_folder_of_the_session(tmp_path: Path) -> None:
    about = of_facts(0.0, TraceEntryKind.ABOUT, 0, {"folder": "/work/there"})
    argv = ["./engine", "--model", "m.gguf", "--ctx-size", "9", "--threads", "3"]
    spawn = of_facts(0.1, TraceEntryKind.SPAWN, 1, {"argv": argv})
    again = of_facts(0.2, TraceEntryKind.SPAWN, 2, {"argv": ["/opt/engine", "--model", "/m.gguf", "--ctx-size", "0"]})
    now = Settings(backend="ollama", attach="http://x", engine="now", model="now", threads=2, system="be brief")
    first = of_session(now, [about, spawn])
    assert (Path(first.engine), Path(first.model)) == (Path("/work/there/engine"), Path("/work/there/m.gguf"))
    assert (first.ctx, first.threads, first.backend, first.attach, first.system) == (9, 3, "engine", "", "be brief")
    last = of_session(now, [about, spawn, again])
    assert (Path(last.engine), Path(last.model), last.ctx, last.threads) == (Path("/opt/engine"), Path("/m.gguf"), 0, 2)
    assert of_session(now, [about]) == now and of_session(now, []) == now


@pytest.mark.parametrize("with_text", [False, True])
@pytest.mark.parametrize("front", ["user\n", "Customer of Acme asks: "])
def test_what_a_template_types_around_a_message_is_no_part_of_it(front: str, with_text: bool) -> None:
    argv = ["llama-cli", "--simple-io", "--in-prefix", "<|im_start|>", "--in-suffix", "<|im_end|>"]
    session = [
        of_facts(0.0, TraceEntryKind.SPAWN, 1, {"argv": argv, "around": [front, " (Acme)"]}),
        TraceEntry(0.1, TraceEntryKind.IN, 1, encode_lines(f"{front}Hello you (Acme)")),
    ]
    redacted = mask_session(session, Redactor(), with_text=with_text)
    text = "\n".join(format.to_lines(redacted))
    assert ("Acme" in text or b"Acme" in bytes_in(text)) == with_text
    shown = "".join(part for _, part in replay._FramePrinter().all(list(format.of_lines(text.split("\n"), "report"))))
    assert shown == f"[engine 1: llama-cli]\n> {'Hello you' if with_text else 'Xxxxx xxx'}\n"
