"""Pulling models from a server on this computer: cuts, changed files, lies, full disks, kills, two at once."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model_server import COMMIT, ModelServer, serving

from bitnet_chat import paths
from bitnet_chat.errors import ModelError, UsageError
from bitnet_chat.models import file_download, hugging_face, store
from bitnet_chat.models.model_download import PulledModel, pull
from bitnet_chat.models.registry import ModelSource, RegistryEntry, parse

KNOWN = {
    "tiny": RegistryEntry("tiny", repo="user/Tiny-GGUF", file="tiny.gguf", size=7, sha256="ab" * 32, license="MIT"),
    "other": RegistryEntry("other", url="https://example.org/x/other.gguf"),
}


@pytest.fixture
def content(model: Path) -> bytes:
    return model.read_bytes()


@pytest.fixture
def server(content: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(file_download.Download.__init__, "__kwdefaults__", {"pause": lambda s: None, "silence": 20.0})
    with serving(content) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.base)
        yield server


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fetch(server: ModelServer, **known: Any) -> PulledModel:
    return pull(ModelSource("tiny", url=f"{server.base}/tiny.gguf", **known))


def part() -> Path:
    return paths.models_dir() / "tiny.gguf.part"


def folder() -> set[str]:
    return {each.name for each in paths.models_dir().iterdir()}


# What a user writes.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tiny", ModelSource("tiny", "user/Tiny-GGUF", "tiny.gguf", size=7, sha256="ab" * 32, license="MIT")),
        ("other", ModelSource("other", url="https://example.org/x/other.gguf")),
        ("hf:u/r/f.gguf", ModelSource("f", "u/r", "f.gguf")),
        ("hf:u/r/a/f.gguf@refs/pr/1", ModelSource("f", "u/r", "a/f.gguf", "refs/pr/1")),
        ("hf:u/Falcon-GGUF/ggml-model-i2_s.gguf", ModelSource("Falcon", "u/Falcon-GGUF", "ggml-model-i2_s.gguf")),
        (f"hf:u/r/f.gguf#sha256={'AB' * 32}", ModelSource("f", "u/r", "f.gguf", sha256="ab" * 32)),
        ("http://h/a%20b.gguf?key=1", ModelSource("a-b", url="http://h/a%20b.gguf?key=1")),
        (
            "https://huggingface.co/u/F-gguf/blob/main/model.gguf",
            ModelSource("F", url="https://huggingface.co/u/F-gguf/resolve/main/model.gguf"),
        ),
        ("hf:u/r", ModelSource("", "u/r")),
        ("https://hf.co/u/r/", ModelSource("", "u/r")),
        ("hf:u/r:q4_k_m@v1", ModelSource("", "u/r", revision="v1", quantization="q4_k_m")),
        ("hf:u/r/Q4/f-00001-of-00003.gguf", ModelSource("f", "u/r", "Q4/f-00001-of-00003.gguf")),
        ("http://h/f-00001-of-00002.gguf?key=1", ModelSource("f", url="http://h/f-00001-of-00002.gguf?key=1")),
    ],
)
def test_what_can_be_pulled(text: str, expected: ModelSource) -> None:
    assert parse(text, KNOWN) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "unknown model ''"),
        ("tin", "did you mean tiny"),
        ("hf:u/f.gguf", "is not a location"),
        ("hf:u/../f.gguf", "is not a location"),
        ("hf:u/r/f.bin", "is not a .gguf file"),
        ("hf:u/r/f.gguf:Q4_0", "is invalid"),
        ("hf:u/r:", "is invalid"),
        ("https://", "has no host"),
        ("https://[::1/f.gguf", "not a URL"),
        ("https://user:secret@h/f.gguf", "a user or a password"),
        ("https://h/f.gguf#md5=1", "#md5=1 is invalid"),
        ("hf:u/r/f-00002-of-00003.gguf", "is part 2 of 3 of a model"),
        (f"hf:u/r/f-00001-of-00003.gguf#sha256={'ab' * 32}", "in 3 parts; sha256 is the hash of one"),
        ("file:///etc/passwd", "unknown model"),
    ],
)
def test_what_cannot(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("?", r"\?")) as caught:
        parse(text, KNOWN)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["../x", ".x", "a/b", "x.gguf", "auto", "x.json", "a b", "x\x1b"])
def test_names_that_would_lie_elsewhere(name: str) -> None:
    with pytest.raises(UsageError, match="is not a valid name for a model"):
        parse("hf:u/r/f.gguf", KNOWN, name)


# An address.


def test_a_file_comes_whole_and_is_recorded(server: ModelServer, content: bytes) -> None:
    heard: list[tuple[int, int]] = []
    source = ModelSource("tiny", url=f"{server.base}/tiny.gguf?key=secret", license="MIT")
    pulled = pull(source, on_bytes=lambda done, total: heard.append((done, total)))
    assert pulled.model.path.read_bytes() == content
    assert heard[-1] == (len(content), len(content))
    record = pulled.model.record
    assert record is not None
    assert (record.sha256, record.size, record.license) == (sha256(content), len(content), "MIT")
    assert record.origin == f"{server.base}/tiny.gguf"
    assert folder() == {"tiny.gguf", "tiny.json"}
    again = pull(source)
    assert again.was_here
    assert len(server.gets) == 1
    with pytest.raises(UsageError, match="another model is already called tiny"):
        pull(ModelSource("tiny", url=f"{server.base}/another.gguf"))


@pytest.mark.parametrize("known", [True, False], ids=["hash", "etag"])
def test_cuts_in_the_middle_are_gone_on_from(server: ModelServer, content: bytes, known: bool) -> None:
    server.behaviour.cuts = [700_000, 0, 400_000]
    fetched = fetch(server, sha256=sha256(content) if known else "")
    assert fetched.model.path.read_bytes() == content
    ranges = [each.headers.get("Range") for each in server.gets]
    assert ranges == [None, "bytes=700000-", "bytes=700000-", "bytes=1100000-"]
    assert {each.headers.get("If-Range") for each in server.gets[1:]} == {None if known else '"one"'}


def test_a_server_that_always_cuts_ends_in_an_error_and_the_part_stays(server: ModelServer, content: bytes) -> None:
    server.behaviour.cuts = [100_000, *[1] * 50]
    with pytest.raises(ModelError, match="was interrupted too often") as caught:
        fetch(server)
    assert "to resume" in str(caught.value)
    assert part().stat().st_size > 100_000
    server.behaviour.cuts = []
    assert fetch(server).model.path.read_bytes() == content
    assert server.gets[-1].headers["Range"].startswith("bytes=10000")


@pytest.mark.parametrize("validator", ["etag", "weak", "modified", "none"])
def test_a_file_that_changed_meanwhile_is_not_glued_together(
    server: ModelServer, content: bytes, validator: str
) -> None:
    tags = {"etag": ('"one"', '"two"'), "weak": ('W/"one"', 'W/"two"')}.get(validator, ("", ""))
    dates = ("Mon, 01 Jan 2024", "Tue, 02 Jan 2024") if validator == "modified" else ("", "")
    server.behaviour.etag, server.behaviour.modified = tags[0], dates[0]
    server.behaviour.cuts = [700_000, *[0] * 20]
    with pytest.raises(ModelError):
        fetch(server)
    changed = bytearray(content)
    changed[1_000_000] ^= 1
    server.behaviour.content, server.behaviour.cuts = bytes(changed), []
    server.behaviour.etag, server.behaviour.modified = tags[1], dates[1]
    assert fetch(server).model.path.read_bytes() == bytes(changed)


def test_a_part_of_another_file_is_not_gone_on_with(server: ModelServer, content: bytes) -> None:
    server.behaviour.cuts = [700_000, *[0] * 20]
    with pytest.raises(ModelError):
        fetch(server)
    server.behaviour.cuts = []
    server.seen.clear()
    assert pull(ModelSource("tiny", url=f"{server.base}/elsewhere.gguf")).model.path.read_bytes() == content
    assert "Range" not in server.gets[0].headers


def test_a_server_without_ranges_begins_anew(server: ModelServer, content: bytes) -> None:
    server.behaviour.ranges = False
    server.behaviour.cuts = [700_000]
    assert fetch(server, sha256=sha256(content)).model.path.read_bytes() == content


def test_a_range_that_begins_elsewhere_is_not_believed(server: ModelServer, content: bytes) -> None:
    server.behaviour.shift = 5
    server.behaviour.cuts = [700_000]
    assert fetch(server, sha256=sha256(content)).model.path.read_bytes() == content


def test_a_part_that_is_already_whole_needs_no_byte_more(server: ModelServer, content: bytes) -> None:
    server.behaviour.cuts = [len(content) - 1, *[0] * 20]
    with pytest.raises(ModelError):
        fetch(server)
    with part().open("ab") as file:
        file.write(content[-1:])  # as if we had been killed behind the last byte
    server.behaviour.cuts = []
    assert fetch(server).model.path.read_bytes() == content
    assert server.gets[-1].headers["Range"] == f"bytes={len(content)}-"


def test_a_server_that_promises_less_than_it_has(server: ModelServer, content: bytes) -> None:
    server.behaviour.length = len(content) - 1000
    with pytest.raises(ModelError, match="is not a complete model and was deleted"):
        fetch(server)
    assert folder() == set()


def test_a_server_that_promises_more_than_it_has(server: ModelServer, content: bytes) -> None:
    server.behaviour.length = len(content) + 1000
    assert fetch(server).model.path.read_bytes() == content  # its answer to the next range is the truth


def test_no_length_at_all(server: ModelServer, content: bytes) -> None:
    server.behaviour.chunked = True
    assert fetch(server).model.path.read_bytes() == content
    store.remove("tiny")
    server.behaviour.cuts = [500_000, 100_000]
    assert fetch(server).model.path.read_bytes() == content


def test_a_wrong_hash_deletes_what_came(server: ModelServer, content: bytes) -> None:
    with pytest.raises(ModelError, match="is not the expected one, and was deleted") as caught:
        fetch(server, sha256="ab" * 32)
    assert sha256(content) in str(caught.value)
    assert folder() == set()


def test_a_size_that_was_expected_otherwise(server: ModelServer) -> None:
    with pytest.raises(ModelError, match="were expected: it is a different file"):
        fetch(server, size=1_000_000)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (b"<!DOCTYPE html><title>A model</title>", "is not a GGUF model"),
        (b"GG", "not a complete model"),
        (b"", "complete"),
    ],
)
def test_a_page_instead_of_a_model(server: ModelServer, page: bytes, words: str) -> None:
    server.behaviour.content = page
    with pytest.raises(ModelError, match=words):
        fetch(server)
    assert folder() == set()


def test_a_model_whose_weights_are_not_all_there(server: ModelServer, content: bytes) -> None:
    server.behaviour.content = content[:-1]
    with pytest.raises(ModelError, match="not a complete model and was deleted: its weights end at byte"):
        fetch(server)
    pulled = fetch(server, sha256=sha256(content[:-1]))  # whoever gives a hash means this file
    assert "cannot be used" in pulled.warning


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, r"tiny.gguf does not exist \(HTTP 404\)"),
        (403, "requires authorization"),
        (401, "requires authorization"),
        (400, "cannot be fetched: HTTP 400"),
        (503, r"was interrupted too often \(HTTP 503\)"),
    ],
)
def test_refusals(server: ModelServer, status: int, words: str) -> None:
    server.behaviour.statuses = [status] * 20
    with pytest.raises(ModelError, match=words):
        fetch(server)
    server.behaviour.statuses = [503, 429]
    assert not fetch(server).was_here


@pytest.mark.parametrize("told", ["\xb2", "9" * 5000, "-1", "", "x"])
def test_a_length_that_is_no_number(
    server: ModelServer, content: bytes, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a part that the server says is whole: it begins anew."""
    part().parent.mkdir(parents=True)
    part().write_bytes(content)
    store.state_path(part().with_suffix("")).write_text(
        '{"origin": "%s/tiny.gguf", "etag": "\\"one\\""}' % server.base  # noqa: UP031
    )
    server.behaviour.whole = told
    assert fetch(server).model.path.read_bytes() == content


def test_nobody_there() -> None:
    with pytest.raises(ModelError, match="cannot be reached"):
        pull(ModelSource("tiny", url="http://127.0.0.1:9/tiny.gguf"))


def test_a_file_that_comes_packed_is_refused(server: ModelServer) -> None:
    server.behaviour.encoding = "gzip"
    with pytest.raises(ModelError, match="sends the file compressed"):
        fetch(server)


def test_a_connection_that_falls_silent_counts_as_cut(
    server: ModelServer, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_download.Download.__init__, "__kwdefaults__", {"pause": lambda s: None, "silence": 0.3})
    server.behaviour.hold = threading.Event()
    server.behaviour.cuts = [700_000]
    assert fetch(server).model.path.read_bytes() == content


# Disks and programs.


def test_too_little_room_is_told_before_anything_is_fetched(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 40_000_000, 40_000_000)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ModelError, match=r"needs 2 MB more on the disk of .*, which has 40 MB free"):
        fetch(server)
    assert not part().exists()


RUN = [sys.executable, "-m", "bitnet_chat", "models", "pull"]


def test_a_disk_that_fills_up_keeps_the_part(server: ModelServer, content: bytes) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))

    url = f"{server.base}/tiny.gguf"
    run = subprocess.run([*RUN, url], preexec_fn=limit, capture_output=True, text=True, timeout=60)
    assert run.returncode == 4
    assert "is full" in run.stderr
    assert "run the same command to resume" in run.stderr
    assert part().stat().st_size == 1_000_000
    assert fetch(server).model.path.read_bytes() == content
    assert server.gets[-1].headers["Range"] == "bytes=1000000-"


def test_no_space_left(server: ModelServer, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = file_download.Download._write

    def full(self: file_download.Download, file: Any, chunk: bytes) -> None:
        if file.tell() > 500_000:
            with self._on_disk():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(self, file, chunk)

    monkeypatch.setattr(file_download.Download, "_write", full)
    with pytest.raises(ModelError, match=r"is full \(No space left"):
        fetch(server)
    monkeypatch.setattr(file_download.Download, "_write", whole)
    assert fetch(server).model.path.read_bytes() == content
    assert "Range" in server.gets[-1].headers


@pytest.mark.parametrize("end", ["SIGKILL", "SIGINT"])
def test_a_pull_that_is_ended_goes_on_the_next_time(server: ModelServer, content: bytes, end: str) -> None:
    server.behaviour.cuts = [700_000]
    server.behaviour.hold = threading.Event()
    process = subprocess.Popen([*RUN, f"{server.base}/tiny.gguf"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (part().exists() and part().stat().st_size == 700_000):
        assert process.poll() is None and time.monotonic() < deadline
        threading.Event().wait(0.01)
    process.send_signal(getattr(signal, end))
    _, said = process.communicate(timeout=60)
    if end == "SIGINT":
        assert process.returncode == 130
        assert "stopped; run the same command to resume" in said
    assert list(store.unfinished()) == [("tiny", 700_000)]
    server.behaviour.hold.set()
    assert fetch(server).model.path.read_bytes() == content
    assert server.gets[-1].headers["Range"] == "bytes=700000-"


def test_two_pulls_at_once_fetch_once(server: ModelServer, content: bytes) -> None:
    server.behaviour.cuts = [700_000]
    server.behaviour.hold = threading.Event()
    waiting = threading.Event()
    results: list[PulledModel] = []

    def run() -> None:
        results.append(pull(ModelSource("tiny", url=f"{server.base}/tiny.gguf"), on_wait=lambda holder: waiting.set()))

    both = [threading.Thread(target=run) for _ in range(2)]
    for each in both:
        each.start()
    assert waiting.wait(60)
    server.behaviour.hold.set()
    for each in both:
        each.join(60)
    assert sorted(each.was_here for each in results) == [False, True]
    assert results[0].model.path.read_bytes() == content
    assert len(server.gets) == 2  # the whole, and the rest of it after the cut


def test_a_folder_that_cannot_be_made(server: ModelServer, home: Path) -> None:
    (home / "data").write_text("a file where the folder should be")
    with pytest.raises(ModelError, match="cannot be written"):
        fetch(server)


# The hub.


def test_the_hub_tells_size_hash_and_commit(server: ModelServer, content: bytes) -> None:
    pulled = pull(parse("hf:user/repo/tiny.gguf@main", {}))
    assert pulled.model.path.read_bytes() == content
    record = pulled.model.record
    assert record is not None
    assert (record.origin, record.revision) == ("hf:user/repo/tiny.gguf@main", COMMIT)
    assert [each.path for each in server.gets] == ["/user/repo/resolve/main/tiny.gguf"]


def test_a_cut_is_gone_on_from_by_the_hash_of_the_hub(server: ModelServer, content: bytes) -> None:
    server.behaviour.cuts = [700_000, *[0] * 20]
    with pytest.raises(ModelError):
        pull(parse("hf:user/repo/tiny.gguf", {}))
    server.behaviour.cuts, server.behaviour.etag = [], '"of another mirror"'
    server.seen.clear()
    assert pull(parse("hf:user/repo/tiny.gguf", {})).model.path.read_bytes() == content
    assert server.gets[0].headers["Range"] == "bytes=700000-"


def test_a_token_goes_to_the_hub_and_not_where_it_redirects_to(
    server: ModelServer, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving(content) as elsewhere:
        server.behaviour.redirect = f"{elsewhere.base}/cdn/tiny.gguf"
        assert pull(parse("hf:user/repo/tiny.gguf", {})).model.path.read_bytes() == content
        assert server.gets[0].headers["Authorization"] == "Bearer hf_secret"
        assert not any("hf_secret" in str(each) for each in elsewhere.seen)
        assert len(elsewhere.gets) == 1


def test_a_redirect_away_from_the_web_is_not_followed(server: ModelServer) -> None:
    for address in ("ftp://127.0.0.1:1/tiny.gguf", "file:///dev/null"):
        server.behaviour.redirect = address
        with pytest.raises(ModelError, match=r"redirects to|cannot be fetched"):
            fetch(server)
    assert not store.installed()


def test_a_redirect_from_a_safe_address_to_an_unsafe_one_is_not_followed() -> None:
    request = urllib.request.Request("https://example.org/tiny.gguf?key=hush")
    go = file_download._Redirects().redirect_request
    with pytest.raises(ModelError, match="a URL of the scheme 'http'") as caught:
        go(request, io.BytesIO(), 302, "Found", {}, "http://example.org/tiny.gguf")
    assert "hush" not in str(caught.value)
    assert go(request, io.BytesIO(), 302, "Found", {}, "https://elsewhere.example/tiny.gguf") is not None


def test_an_address_of_the_registry_that_is_not_of_the_web() -> None:
    with pytest.raises(UsageError, match="is not a web URL"):
        parse("near", {"near": RegistryEntry("near", url="file://localhost/tmp/near.gguf")})


def test_a_hub_that_has_another_file_than_the_registry_knows(server: ModelServer) -> None:
    with pytest.raises(ModelError, match="has changed: the hub has another file"):
        pull(parse("tiny", KNOWN))
    assert not server.gets


def test_the_hub_has_no_such_file(server: ModelServer) -> None:
    with pytest.raises(ModelError, match=r"the hub has no hf:user/repo/missing\.gguf"):
        pull(parse("hf:user/repo/missing.gguf", {}))


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((403, "GatedRepo"), "requires acceptance of its licence"),
        ((401, "RepoNotFound"), r"the hub has no hf:user/repo/tiny\.gguf \(RepoNotFound\)"),
        ((404, ""), r"the hub has no .* \(HTTP 404\)"),
        ((500, ""), r"the request to the hub for .* failed \(HTTP 500\)"),
    ],
)
def test_what_the_hub_refuses(server: ModelServer, refusal: tuple[int, str], words: str) -> None:
    server.behaviour.refusal = refusal
    for text in ("hf:user/repo/tiny.gguf", "hf:user/repo"):
        source = parse(text, {})
        with pytest.raises(ModelError, match=words if source.file else words.replace("/tiny\\.gguf", "")):
            hugging_face.locate(source) if source.file else hugging_face.files(source)


def test_a_repository_that_was_renamed(server: ModelServer, content: bytes) -> None:
    server.behaviour.renamed = "old/name"
    assert pull(parse("hf:old/name/tiny.gguf", {})).model.path.read_bytes() == content
    assert [each.path for each in server.gets] == ["/user/repo/resolve/main/tiny.gguf"]


def test_the_token_is_for_the_hub_alone(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever an answer of the hub points to: an address without a scheme, the next page of a list."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving(b"GGUF") as elsewhere:
        server.behaviour.elsewhere = elsewhere.base.removeprefix("http://")
        server.behaviour.files = dict.fromkeys(("a.gguf", "b.gguf", "c.gguf"), b"GGUF")
        (remote,) = hugging_face.locate(parse("hf:user/repo/a.gguf", {})).remotes
        assert remote.url.startswith(server.base) and remote.size == 0
        assert len(hugging_face.files(parse("hf:user/repo", {}))) == 2
        assert not elsewhere.seen


def test_the_stored_token_is_used(server: ModelServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(home))
    (home / "token").write_text("hf_stored\n")
    pull(parse("hf:user/repo/tiny.gguf", {}))
    assert {each.headers["Authorization"] for each in server.seen} == {"Bearer hf_stored"}


def test_the_hub_is_looked_for_through_the_proxy(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    assert not hugging_face.answers()
    monkeypatch.setenv("http_proxy", server.base)
    assert hugging_face.answers()
    assert server.seen[-1].path.startswith("http://hub.invalid")


def test_a_hub_that_is_silent_is_not_waited_for(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert not hugging_face.answers(timeout=0.2)


def test_a_hub_that_the_user_forbade_or_that_is_away(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hugging_face.answers()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert not hugging_face.answers()
    with pytest.raises(ModelError, match="the request to the hub for"):
        pull(parse("hf:user/repo/tiny.gguf", {}))
    monkeypatch.setenv("HF_ENDPOINT", server.base)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    server.seen.clear()
    assert not hugging_face.answers()
    for text in ("hf:user/repo/tiny.gguf", "hf:user/repo"):
        with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
            hugging_face.locate(parse(text, {})) if "gguf" in text else hugging_face.files(parse(text, {}))
    assert not server.seen
