"""Files become text in a message: encodings, PDF, everything that is not text, mentions, stdin."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from program import TIMEOUT, command, environment, fake_engine, run
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from bitnet_chat.attachments import Attachment, mentions, reading, rough_count, typed, with_attachments
from bitnet_chat.attachments import pdf as pdf_module
from bitnet_chat.attachments.attachment import unfinished
from bitnet_chat.attachments.reading import attach, attach_all, mentioned, missing
from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.errors import UsageError

NAMES = st.text(min_size=1, max_size=20)
TEXTS = st.text(alphabet=st.sampled_from("ab`~\n []:File.\x1b数"), max_size=60)


# The form


def test_a_file_stands_before_the_question_and_cannot_end_its_own_block() -> None:
    file = Attachment("a/notes.MD", "one\n```\ninner\n```\nend", 21)
    assert with_attachments("What?", [file]) == ("[File: a/notes.MD]\n````md\none\n```\ninner\n```\nend\n````\n\nWhat?")
    assert with_attachments("What?", []) == "What?"
    assert Attachment("x.txt", "a\n", 2).block == "[File: x.txt]\n```\na\n```\n"


def test_the_name_of_a_file_is_one_line_that_a_terminal_can_show() -> None:
    file = Attachment("a\n```\x1b[2J\u202e.py", "x", 1)
    assert file.block == "[File: a ```␛[2J<U+202E>.py]\n```py\nx\n```\n"
    assert file.described() == "a ```␛[2J<U+202E>.py: 1 byte, ~25 tokens (±51 %)"


@given(st.lists(st.tuples(NAMES, TEXTS.filter(bool)), max_size=3), TEXTS.filter(lambda text: "[File" not in text))
@settings(max_examples=100, deadline=None)
def test_what_was_typed_comes_off_again(files: list[tuple[str, str]], message: str) -> None:
    whole = with_attachments(message, [Attachment(name, text, 1) for name, text in files])
    assert typed(whole) == message


def test_what_is_said_of_it_before_it_is_sent() -> None:
    file = Attachment("notes.md", "x" * 12_400, 12_400)
    assert file.described(TokenCount(3100, 0.1)) == "notes.md: 12.4 kB, ~3100 tokens (±10 %)"
    assert file.described(TokenCount(1024), 2048) == "notes.md: 12.4 kB, 1024 tokens, 50 % of the window"
    assert file.described(TokenCount(3100, 0.1), 2048).endswith("more than the context window of 2048 tokens")
    assert file.described(TokenCount(2100, 0.1), 2048).endswith("103 % of the window"), "it may fit"
    assert "~4230 tokens (±50 %)" in file.described(), "an estimate where nobody counts"
    paper = Attachment("p.pdf", "x", 2_345_678, kind="pdf", pages=3, remark="1 without text")
    assert paper.described(TokenCount(9)) == "p.pdf: 2 MB, 3 pages, 1 without text, 9 tokens"
    assert "shift-jis" in Attachment("j", "x", 999_600, encoding="shift-jis").described()
    for size, words in ((999, "999 bytes"), (1000, "1.0 kB"), (99_960, "100 kB"), (4_000_000, "4 MB")):
        assert words in Attachment("j", "x", size).described()


def test_a_rough_count_is_within_what_it_says_for_plain_texts() -> None:
    # As the vocabularies that it was measured with have it: the least and the most of them.
    for text, least, most in (("word " * 100, 100, 101), ("数据" * 30, 30, 120), ("1,2;" * 50, 150, 200)):
        count = rough_count(text)
        assert count.at_least <= least and most <= count.at_most, text
    assert rough_count("") == TokenCount(0, 0.5)


# Encodings

GERMAN = "Die Straße ist schön, und die Bäume blühen. Größe und Maß.\n"
JAPANESE = "これは日本語の文章です。テストのために書きました。\n"


@pytest.mark.parametrize(
    ("text", "written", "named"),
    [
        ("plain ASCII\n", "ascii", "utf-8"),
        (GERMAN + JAPANESE + "👩‍💻\n", "utf-8", "utf-8"),
        (GERMAN, "utf-8-sig", "utf-8"),
        (GERMAN + JAPANESE, "utf-16", "utf-16"),
        (GERMAN + JAPANESE, "utf-32", "utf-32"),
        ("Hello, how are you?\n", "utf-16-le", "utf-16-le"),
        ("Hello, how are you?\n", "utf-16-be", "utf-16-be"),
        (JAPANESE, "shift_jis", "shift-jis"),
        (JAPANESE, "euc_jp", "euc-jp"),
        (JAPANESE, "iso2022_jp", "iso2022-jp"),
        ("这是一个用于测试的中文文件，包含一些常见的汉字。", "gb18030", "gb18030"),
        ("這是一個用於測試的中文文件，包含一些常見的漢字。", "big5", "big5"),
        ("이것은 테스트를 위한 한국어 문장입니다.", "euc_kr", "euc-kr"),
        ("Это русский текст для проверки кодировки файла.", "cp1251", "windows-1251"),
        ("Это русский текст для проверки кодировки файла.", "koi8_r", "koi8-r"),
        ("Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.", "cp1254", "windows-1254"),
        ("L'été dernier, nous avons mangé des crêpes. Ça coûte 5 €.", "cp1252", "windows-1252"),
    ],
)
def test_text_in_any_encoding(tmp_path: Path, text: str, written: str, named: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(text.encode(written))
    found = attach(str(file))
    assert (found.text, found.encoding, found.size) == (text, named, file.stat().st_size)


@pytest.mark.parametrize(
    "text", ["Grüße", GERMAN, "BMW für größte Ansprüche", "# 5 µm\n" + "x = 1\n" * 20_000 + "# Ü\n"]
)
def test_western_texts_of_any_length(tmp_path: Path, text: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(text.encode("latin-1"))
    assert attach(str(file)).text == text


def test_an_encoding_is_found_far_into_a_large_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    text = "plain\n" * 300_000 + JAPANESE * 3_000
    file.write_bytes(text.encode("shift_jis"))
    assert attach(str(file)).text == text


def test_utf_8_stays_as_it_is_but_for_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes("a\r\nb\rc\td\x1b[0m\f\u2028e\ufeff".encode())
    assert attach(str(file)).text == "a\nb\rc\td\x1b[0m\f\u2028e\ufeff"


@given(st.binary(min_size=1, max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_text_or_refused(data: bytes) -> None:
    try:
        found = reading.from_bytes("x", data)
    except UsageError as error:
        assert str(error).startswith(("x is not a text file: it seems to be", "x is a damaged PDF"))
    else:
        found.text.encode()


# What cannot be attached


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG picture"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG picture"),
        (b"PK\x03\x04\x14\0", "a ZIP archive or an office document"),
        (b"\x7fELF\x02\x01\x01\0", "a program"),
        (b"GGUF\x03\0\0\0", "a model (GGUF)"),
        (b"\0\0\0\x20ftypisom", "video"),
        (b"\x1f\x8b\x08\x00", "a gzip archive"),
        (b"BM\x36\0\0\0", "a BMP picture"),
        (bytes(range(256)) * 4, "binary data"),
        (b"\x01\x02\x03\x04\xff" * 50, "binary data"),
        (b"a\0b\0\0c", "binary data"),
    ],
)
def test_what_is_no_text_is_refused_with_what_it_seems_to_be(tmp_path: Path, data: bytes, words: str) -> None:
    file = tmp_path / "file.txt"
    file.write_bytes(data)
    with pytest.raises(UsageError, match=r"not a text file: it seems to be") as caught:
        attach(str(file))
    assert words in str(caught.value)


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)
        server.bind("socket")
        for name, words in (
            ("nothing", "No such file"),
            ("dangling", "No such file"),
            ("loop", "symbolic links"),
            ("empty", "is empty"),
            (".", "is a folder"),
            ("pipe", "is a named pipe"),
            ("socket", "is a socket"),
            ("/dev/zero", "is a device"),
            ("/dev/tty", "is a device"),
            ("~nobody-of-this-name/x", "cannot be read"),
            ("a\0b", "cannot be read"),
            ("x" * 300, "too long"),
        ):
            with pytest.raises(UsageError) as caught:
                attach(name)
            assert words in str(caught.value), name


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret"
    file.write_text("x")

    def refuse(*_: object) -> int:  # root may read what nobody may
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UsageError, match="secret cannot be read: Permission denied"):
        attach(str(file))


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    for name, head, limit in (("a.txt", b"text", "4 MB"), ("a.pdf", b"%PDF-1.7", "64 MB")):
        file = tmp_path / name
        with file.open("wb") as stream:
            stream.write(head)
            stream.truncate(10**12)  # takes no room
        with pytest.raises(UsageError, match=f"too large: 1000000.0 MB or more, and the limit is {limit}"):
            attach(str(file))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_file_that_says_it_holds_nothing_and_does() -> None:
    assert "Pid:" in attach("/proc/self/status").text


def test_each_file_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    assert [each.text for each in attach_all([str(tmp_path / "a")] * 2)] == ["x"]


# PDF


def pdf(*pages: str, password: str | None = None, open_to_all: bool = False) -> bytes:
    """A PDF whose pages show these texts; an empty one shows nothing."""
    writer = PdfWriter()
    font = DictionaryObject(
        {NameObject("/Type"): NameObject("/Font"), NameObject("/Subtype"): NameObject("/Type1")}
        | {NameObject("/BaseFont"): NameObject("/Helvetica")}
    )
    for text in pages:
        page = writer.add_blank_page(200, 200)
        if text:
            page[NameObject("/Resources")] = DictionaryObject(
                {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
            )
            stream = DecodedStreamObject()
            stream.set_data(f"BT /F1 12 Tf 10 100 Td ({text}) Tj ET".encode("latin-1"))
            page[NameObject("/Contents")] = writer._add_object(stream)
    if password is not None:
        writer.encrypt("" if open_to_all else password, owner_password=password, algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader without a process of its own, which takes a quarter of a second each time."""
    import json

    def run(command: list[str], *, input: bytes, **_: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, 0, json.dumps(pdf_module._extracted(input)).encode())

    monkeypatch.setattr(pdf_module.subprocess, "run", run)


def test_a_pdf_from_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "paper.pdf"
    file.write_bytes(pdf("Hello from page one.", "", "And from three."))
    (tmp_path / "pypdf.py").write_text("raise SystemExit('the folder of the user became a place of modules')")
    monkeypatch.chdir(tmp_path)
    found = attach("paper.pdf")
    assert found.text == "Hello from page one.\n\nAnd from three.\n"
    assert (found.kind, found.pages, found.remark) == ("pdf", 3, "1 without text")
    assert found.block.startswith("[File: paper.pdf]\n```\nHello")


@pytest.mark.usefixtures("in_this_process")
def test_pdfs_that_cannot_be_attached(tmp_path: Path) -> None:
    whole = pdf("Hello.")
    for name, data, words in (
        ("locked", pdf("Hello.", password="secret"), "locked is encrypted"),
        ("scan", pdf("", ""), "scan contains images of pages and no text"),
        ("cut", whole[: len(whole) // 3], "cut is a damaged PDF"),
        ("head", b"%PDF-1.7\n", "head is a damaged PDF"),
        ("long", pdf(*[""] * 501), "long has more than 500 pages"),
    ):
        with pytest.raises(UsageError) as caught:
            reading.from_bytes(name, data)
        assert words in str(caught.value)
        assert caught.value.remedy
    assert reading.from_bytes("x", pdf("Hello.", password="secret", open_to_all=True)).text == "Hello.\n"


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_broken_pdf_is_an_error_and_nothing_else(data: st.DataObject) -> None:
    raw = bytearray(pdf("Hello."))
    for _ in range(data.draw(st.integers(1, 20))):
        raw[data.draw(st.integers(8, len(raw) - 1))] = data.draw(st.integers(0, 255))
    answer = pdf_module._extracted(bytes(raw))
    assert "problem" in answer or isinstance(answer["text"], str)


def test_a_pdf_that_never_ends_or_wants_all_memory_dies_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper, eater = tmp_path / "sleeper.py", tmp_path / "eater.py"
    sleeper.write_text("import signal; signal.pause()")
    source = Path(pdf_module.__file__).read_text("utf-8")
    eater.write_text(source.replace("from pypdf import PdfReader", "bytearray(3_000_000_000)"))
    monkeypatch.setattr(pdf_module, "SECONDS", 0.3)
    for script in (sleeper, eater):
        monkeypatch.setattr(pdf_module, "__file__", str(script))
        if script is eater:
            monkeypatch.setattr(pdf_module, "SECONDS", 60)
        with pytest.raises(UsageError, match="cannot be read within"):
            reading.from_bytes("x", b"%PDF-")


# Mentions


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("", []),
        ("@a.py", [("a.py",)]),
        ("see @a.py, and\n@b/c.txt.", [("a.py,", "a.py"), ("b/c.txt.", "b/c.txt")]),
        ("mail me@example.org or a@b", []),
        ("(@a)", []),
        ('@"my file.txt", yes', [("my file.txt",)]),
        (r'@"a \"b\" c:\d\\e"', [(r'a "b" c:\d\e',)]),
        ('@"open', []),
        ("@", []),
        ("@ a", []),
        ("@...", [("...",)]),
        ("@~/x @/y", [("~/x",), ("/y",)]),
        ("\u3000@数据.txt。", [("数据.txt。", "数据.txt")]),
    ],
)
def test_mentions(text: str, paths: list[tuple[str, ...]]) -> None:
    found = mentions(text)
    assert [each.paths for each in found] == paths
    assert all(text[each.start] == "@" for each in found)


@given(st.text(alphabet='@"\\ ab\n.', max_size=30))
def test_any_text_can_be_searched_for_mentions(text: str) -> None:
    for each in mentions(text):
        assert text[each.start] == "@" and each.paths[0]


def test_what_is_being_typed() -> None:
    for text, path, in_quotes in (
        ("see @", "", False),
        ("@a/b", "a/b", False),
        ('see @"my fi', "my fi", True),
        ('@"', "", True),
    ):
        found = unfinished(text)
        assert found is not None and (found.path, found.in_quotes) == (path, in_quotes)
        assert text[found.start] == "@"
    for text in ("a@b", "@a ", '@"a b" ', "plain", ""):
        assert unfinished(text) is None, text
    last = unfinished('a "b c" "d e', "")
    assert last is not None and (last.path, last.in_quotes, last.start) == ("d e", True, 8)


def test_only_what_is_a_file_is_attached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.py", "b.py,", "my file.txt"):
        Path(name).write_text("x")
    Path("folder").mkdir()
    text = 'Compare @a.py, @a.py and @b.py, with @"my file.txt"; ask @folder @nobody me@a.py \\@a.py'
    assert mentioned(text) == ["a.py", "b.py,", "my file.txt"]
    text = 'In @a.py, @c.py: @"no file" @./d, @~/e and (@folder.d) @folder, @folder.d @notes.md.'
    assert missing(text) == ["c.py", "no file", "./d", "~/e", "folder.d", "notes.md"]
    assert missing('@app.route("/") @app.get("/") @jack.bsky.social @x.com @2.5 @a@b.de @types/node @nobody.') == []


# The command line


@pytest.fixture
def fake(tmp_path: Path) -> str:
    return str(fake_engine(tmp_path))


def test_files_and_stdin_go_with_a_question(fake: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("print(1)\n")
    name = str(tmp_path / "a.py")
    done = run("--engine", fake, "-a", name, "-a", name, "what is this?", stdin="from the pipe\n")
    assert done.returncode == 0
    words = done.stdout.decode()
    assert f"[File: {name}]\n```py\nprint(1)\n```\n\n[File: stdin]\n```\nfrom the pipe\n```\n\nwhat is this?" in words
    (tmp_path / "question").write_text("and this?")
    done = run("--engine", fake, "-f", str(tmp_path / "question"), stdin="piped")
    assert "[File: stdin]\n```\npiped\n```\n\nand this?" in done.stdout.decode()


def test_what_is_said_of_them(fake: str, tmp_path: Path) -> None:
    name = str(tmp_path / "a.py")
    Path(name).write_text("print(1)\n")
    done = run("--engine", fake, "-a", name, "what is this?", stdin="from the pipe\n")
    first, second = done.stderr.decode().splitlines()
    assert first.startswith(f"bitnet-chat: {name}: 9 bytes, ~") and second.startswith("bitnet-chat: stdin: 14 bytes, ~")


def test_a_mention_in_a_question_or_a_batch_is_said_to_be_text(fake: str, tmp_path: Path) -> None:
    name, gone = str(tmp_path / "a.py"), str(tmp_path / "gone.md")
    Path(name).write_text("print(1)\n")
    done = run("--engine", fake, "-a", name, f"compare @{name} with @{gone}")
    assert f"bitnet-chat: @{gone} is sent as text, without a file: -a {gone} attaches one\n" in done.stderr.decode()
    assert done.returncode == 0 and f"@{name} is sent" not in done.stderr.decode()
    prompts = ("hi", f"@{name}", f"@{gone}")
    (tmp_path / "in").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))
    done = run("--engine", fake, "--input", str(tmp_path / "in"))
    told = f"line 2: @{name} is sent as text, without a file, and so are those in 1 more line: prompts"
    assert told in done.stderr.decode() and done.returncode == 0


def test_stdin_that_is_a_file(fake: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(GERMAN.encode("latin-1"))
    with (tmp_path / "data").open("rb") as stdin:
        done = subprocess.run(
            command("--engine", fake, "say what?"),
            stdin=stdin,
            capture_output=True,
            env=environment(),
            timeout=TIMEOUT,
        )
    assert GERMAN in done.stdout.decode() and b"windows-125" in done.stderr


def test_stdin_that_nobody_meant(fake: str) -> None:
    ours, theirs = socket.socketpair()  # stays open and says nothing, as under ssh and service managers
    with ours, theirs, Path("/dev/null").open("rb") as null:
        for stdin in (theirs, null, subprocess.PIPE):
            done = subprocess.run(
                command("--engine", fake, "say it"),
                **({"input": b""} if stdin == subprocess.PIPE else {"stdin": stdin}),  # type: ignore[arg-type]
                capture_output=True,
                env=environment(),
                timeout=TIMEOUT,
            )
            assert (done.returncode, done.stdout, done.stderr) == (0, b"it\n", b"")


def test_a_pipe_that_is_slow_is_waited_for(fake: str) -> None:
    with subprocess.Popen(
        command("--engine", fake, "say it"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as program:
        assert program.stdin is not None and program.stderr is not None
        assert b"waiting for stdin" in program.stderr.readline()
        program.stdin.write(b"late")
        program.stdin.close()
        assert b"stdin: 4 bytes" in program.stderr.readline()
        assert program.wait(TIMEOUT) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-a", "/no/such/file", "hello"), "/no/such/file cannot be read: No such file"),
        (("-a", "/", "hello"), "/ is a folder and cannot be attached"),
        (("-a", sys.executable, "hello"), "is"),
        (("-a", "-", "hello"), "stdin is empty"),
        (("-a", "-"), "-a - attaches stdin, which already holds the question"),
    ],
)
def test_an_attachment_that_cannot_be_used_stops_before_the_engine(arguments: tuple[str, ...], words: str) -> None:
    done = run("--engine", "/no/engine", *arguments, stdin="hello" if arguments == ("-a", "-") else "")
    assert (done.returncode, done.stdout) == (2, b"") and words in done.stderr.decode()
