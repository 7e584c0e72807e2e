"""How many threads an engine gets: never more than may be used, and what that is taken from."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path, PurePosixPath

import pytest
from program import command, environment, fake_engine, run

from bitnet_chat.backends.factory import open_factory
from bitnet_chat.config import Settings
from bitnet_chat.doctor.benchmark import given
from bitnet_chat.engine import processors
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.threads import Processors, Sharing, threads

EIGHT = Processors(machine=8, affinity=8, cores=4)


# What is taken


@pytest.mark.parametrize(
    ("has", "count", "default", "origin"),
    [
        (Processors(8, 8), 8, 8, "the machine has 8"),
        (EIGHT, 8, 4, "the machine has 8"),
        (Processors(8, 2, cores=2), 2, 2, "the affinity of this process is 2 of 8"),
        (Processors(8, 2, cores=1), 2, 1, "the affinity of this process is 2 of 8"),
        (Processors(8, 8, quota=2.5, cores=4), 2, 2, "a control group allows 2.5 of 8 (cpu.max)"),
        (Processors(8, 8, quota=0.5, cores=4), 1, 1, "a control group allows 0.5 of 8 (cpu.max)"),
        (Processors(8, 2, quota=4.0), 2, 2, "the affinity of this process is 2 of 8"),
        (Processors(2, 2, quota=16.0), 2, 2, "the machine has 2"),
    ],
)
def test_what_may_be_used(has: Processors, count: int, default: int, origin: str) -> None:
    assert (has.count, has.default, has.origin) == (count, default, origin)


def test_a_number_of_the_users_own_is_kept_up_to_what_may_be_used() -> None:
    assert threads(0, (), EIGHT).number == 4
    assert threads(0, (), EIGHT, tiny=True).number == 1
    for asked in (1, 6, 8):
        assert threads(asked, (), EIGHT, tiny=True) == threads(asked, (), EIGHT)
        assert (threads(asked, (), EIGHT).number, threads(asked, (), EIGHT).notice) == (asked, "")
    share = threads(9, (), EIGHT)
    assert share.number == 8
    assert share.notice == "the engine gets 8 instead of 9 threads: 8 processors may be used (the machine has 8)"
    one = threads(2, (), Processors(2, 1))
    assert (one.number, "1 processor may be used (the affinity of this process is 1 of 2)" in one.notice) == (1, True)


@pytest.mark.parametrize("flag", ["-t", "--threads", "-tb", "--threads-batch", "-td", "--threads-draft"])
@pytest.mark.parametrize(("value", "left"), [("9", "8"), ("8", "8"), ("-1", "8"), ("0", "8"), ("x", "x")])
def test_flags_behind_the_dashes_too(flag: str, value: str, left: str) -> None:
    share = threads(2, ("--top-k", "9", flag, value, "--mlock"), EIGHT)
    assert share.extra == ("--top-k", "9", flag, left, "--mlock")
    assert bool(share.notice) == (left != value)
    assert threads(0, (flag,), EIGHT).extra == (flag,)


def test_engines_that_are_loaded_side_by_side_share() -> None:
    assert threads(0, (), EIGHT, sharing=Sharing(engines=2)).number == 2
    assert threads(0, (), EIGHT, sharing=Sharing(engines=2, models=2)).number == 1
    assert threads(0, (), EIGHT, sharing=Sharing(engines=16)).number == 1
    # The user's own number: for the engines of one model, which answer at the same time for sure.
    assert threads(4, (), EIGHT, sharing=Sharing(engines=2, models=4)).number == 4
    share = threads(5, ("-tb", "8"), EIGHT, sharing=Sharing(engines=2))
    assert (share.number, share.extra) == (4, ("-tb", "4"))
    assert "4 instead of 8 threads: 8 processors may be used by 2 engines" in share.notice


# Where it is known from

_V2 = "25 24 0:22 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
_V1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
_OTHER = "24 1 8:1 / / rw - ext4 /dev/root rw\n33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def folders(memberships: str, mounts: str) -> list[str]:
    return [f"{group.version} {group.folder}" for group in processors.groups(memberships, mounts)]


def test_the_groups_of_a_process_and_those_above() -> None:
    nested = ["2 /sys/fs/cgroup/user.slice/app.scope", "2 /sys/fs/cgroup/user.slice", "2 /sys/fs/cgroup"]
    assert folders("0::/user.slice/app.scope\n", _OTHER + _V2) == nested
    assert folders("0::/\n", _V2) == ["2 /sys/fs/cgroup"]
    first = ["1 /sys/fs/cgroup/cpu,cpuacct/a", "1 /sys/fs/cgroup/cpu,cpuacct"]
    assert folders("4:memory:/x\n3:cpu,cpuacct:/a\n", _OTHER + _V1) == first
    assert sorted(folders("3:cpu,cpuacct:/a\n0::/\n", _V1 + _V2)) == sorted([*first, "2 /sys/fs/cgroup"])
    assert folders("", _V2) == folders("0::/a\n", "") == folders("nonsense", "nonsense - a b c") == []


def test_the_folder_that_a_container_has_is_its_own_group() -> None:
    docker = "32 31 0:29 /docker/4f /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n"
    assert folders("3:cpu:/docker/4f\n", docker) == ["1 /sys/fs/cgroup/cpu"]
    assert folders("3:cpu:/docker/4f/inner\n", docker) == ["1 /sys/fs/cgroup/cpu/inner", "1 /sys/fs/cgroup/cpu"]
    assert folders("3:cpu:/other\n", docker) == ["1 /sys/fs/cgroup/cpu"]
    assert folders("0::/../../outside\n", _V2) == ["2 /sys/fs/cgroup"]
    odd = _V2.replace("/sys/fs/cgroup rw", "/a\\040place rw")
    assert folders("0::/x\n", odd) == ["2 /a place/x", "2 /a place"]


@pytest.mark.parametrize(
    ("version", "texts", "expected"),
    [
        (2, {"cpu.max": "150000 100000\n"}, 1.5),
        (2, {"cpu.max": "max 100000\n"}, None),
        (2, {"cpu.max": "50000\n"}, None),
        (2, {"cpu.max": ""}, None),
        (2, {}, None),
        (1, {"cpu.cfs_quota_us": "200000\n", "cpu.cfs_period_us": "100000\n"}, 2.0),
        (1, {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, None),
        (1, {"cpu.cfs_quota_us": "5\n", "cpu.cfs_period_us": "0\n"}, None),
    ],
)
def test_a_quota(version: int, texts: dict[str, str], expected: float | None) -> None:
    assert processors.quota(processors.CgroupQuota(PurePosixPath("/"), version), texts) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are those of Linux")
def test_the_tightest_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "groups" / "pod" / "container"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("400000 100000\n")
    (inner.parent / "cpu.max").write_text("300000 100000\n")
    (tmp_path / "cgroup").write_text("0::/pod/container\n")
    (tmp_path / "mountinfo").write_text(f"25 24 0:22 / {tmp_path / 'groups'} rw - cgroup2 cgroup2 rw\n")
    monkeypatch.setattr(processors, "_PROC", tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(32)))
    assert processors.allowed().quota == 3.0
    assert processors.usable() == 3
    (tmp_path / "cgroup").unlink()
    assert processors.usable() == 32


@pytest.mark.skipif(sys.platform != "linux", reason="read from files of Linux")
def test_cores_and_not_their_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8):  # four cores of two threads
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{number % 4},{number % 4 + 4}\n")
    monkeypatch.setattr(processors, "_CPUS", tmp_path)
    monkeypatch.setattr(processors, "_FAST", tmp_path / "none")
    monkeypatch.setattr(processors, "_PROC", tmp_path)
    for numbers, cores in ((range(8), 4), ((0, 4), 1), ((0, 1, 5), 2), ((9,), None)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, numbers=numbers: set(numbers))
        assert processors.allowed().cores == cores
    # Of a processor with cores of two kinds the fast ones.
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    (tmp_path / "cpus").write_text("0-1,4-5\n")
    monkeypatch.setattr(processors, "_FAST", tmp_path / "cpus")
    assert processors.allowed().cores == 2


# What engines get


def flags(argv: list[str]) -> Mapping[str, str]:
    return {flag: value for flag, value in pairwise(argv) if flag.startswith("-t") or "thread" in flag}


def started(tmp_path: Path, *arguments: str) -> tuple[Mapping[str, str], str]:
    """The flags of threads that an engine was started with, and what the user was told."""
    record = tmp_path / "record"
    done = run("--engine", str(fake_engine(tmp_path)), *arguments, FAKE_ENGINE_RECORD=str(record))
    assert done.returncode == 0, done.stderr
    return flags(json.loads(record.read_text())["argv"]), done.stderr.decode()


@pytest.fixture
def large(tmp_path: Path, model: Path) -> Path:
    """The bundled model, so long that it is none of the tiny ones."""
    path = tmp_path / "large.gguf"
    path.write_bytes(model.read_bytes())
    os.truncate(path, 17_000_000)
    return path


def test_the_number_is_always_given(tmp_path: Path, large: Path) -> None:
    got, told = started(tmp_path, "-m", str(large), "say it")
    assert got == {"--threads": str(processors.allowed().default)} and not told


def test_more_than_there_are_is_capped_with_one_notice(tmp_path: Path) -> None:
    most = str(processors.usable())
    got, told = started(tmp_path, "-t", "5000", "say it", "--", "-tb", "6000")
    assert got == {"--threads": most, "-tb": most}
    assert told.count("\n") == 1 and f"the engine gets {most} instead of 6000 threads" in told


@pytest.mark.engine
@pytest.mark.skipif(sys.platform != "linux", reason="sets an affinity")
def test_an_engine_on_one_processor_answers(engine: EngineBinary, large: Path) -> None:
    """On two processors with one that may be used, llama.cpp's own number gave no token in 100 s."""
    import subprocess

    one = min(os.sched_getaffinity(0))
    done = subprocess.run(
        command("--engine", str(engine.path), "-m", str(large), "--temp", "0", "how do I leave?"),
        capture_output=True,
        timeout=60,
        env=environment(),
        preexec_fn=lambda: os.sched_setaffinity(0, {one}),
    )
    assert done.returncode == 0 and b"/exit" in done.stdout, done.stderr


def test_serve_shares_them_among_its_engines(tmp_path: Path, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "allowed", lambda: EIGHT)
    settings = Settings(engine=str(fake_engine(tmp_path)), model=str(large), journal=False)

    def number(settings: Settings, parallel: int, models: int) -> str:
        backend = open_factory(settings, "", parallel=parallel, models=models).backend()
        protocol = backend.inner.protocol()  # type: ignore[attr-defined]
        from bitnet_chat.conversation import Conversation

        return flags(list(protocol.launch(Conversation()).argv))["--threads"]

    assert number(settings, 1, 1) == "4"
    assert number(settings, 2, 1) == "2"
    assert number(settings, 2, 2) == "1"
    assert number(replace(settings, threads=8), 4, 1) == "2"


def test_serve_tells_at_its_start_of_a_number_that_is_capped() -> None:
    from bitnet_chat.cli.serve import _threads_notice

    most = processors.usable()
    assert f"the engine gets {most} instead of 5000 threads" in _threads_notice(Settings(threads=5000), 1)
    assert "by 4 engines" in _threads_notice(Settings(threads=5000), 4)
    assert "by 4 engines" not in _threads_notice(Settings(threads=5000, backend="llama-server"), 4)
    assert _threads_notice(Settings(threads=5000, backend="ollama"), 4) == _threads_notice(Settings(), 4) == ""


def test_a_server_of_one_process_has_them_for_all_slots(classic: EngineBinary, large: Path) -> None:
    server = classic.path.with_name(classic.path.name.replace("completion", "server"))
    settings = Settings(engine=str(server), backend="llama-server", model=str(large))
    from bitnet_chat.backends.llama_server import LlamaServer

    assert flags(LlamaServer(settings, parallel=4).command()) == {"--threads": str(processors.allowed().default)}


def test_doctor_names_the_figure_and_its_origin() -> None:
    finding = given(threads(0, (), Processors(8, 8, quota=2.0)), Processors(8, 8, quota=2.0))
    assert finding.seen == "an engine gets 2 threads; 2 processors may be used: a control group allows 2 of 8 (cpu.max)"
    assert finding.facts["quota"] == 2.0 and finding.status == "ok"
    assert given(threads(9, (), EIGHT), EIGHT).status == "warn"


@pytest.mark.engine
def test_doctor_tells_it_without_the_sweep(classic: EngineBinary) -> None:
    done = run("doctor", "--quick", "--json", "--engine", str(classic.path))
    (finding,) = [each for each in json.loads(done.stdout)["findings"] if each["group"] == "threads"]
    assert finding["facts"]["given"] == 1 and "may be used: " in finding["seen"]  # the bundled model is tiny
