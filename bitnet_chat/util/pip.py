"""pip as a downloader: it uses the configured index, proxy and certificates, and this program names no server."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitnet_chat.errors import BuildError
from bitnet_chat.util import file_lock, subprocess_errors, subprocess_log

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Pin:
    """One file of the package index, a wheel or an sdist, identified by its bytes."""

    project: str
    version: str
    file: str
    """Its name there, which for a wheel contains the Python and platform."""
    sha256: str
    size: int
    """In bytes: for the progress of a download."""
    backend: str = ""
    """Of an sdist: the module in ``build-backend`` of its ``pyproject.toml``."""


def run(
    arguments: Sequence[str],
    *,
    purpose: str,
    log: Path,
    folder: Path,
    on_tick: Callable[[], None] = lambda: None,
    variables: Mapping[str, str] | None = None,
    offline: str = subprocess_errors.OFFLINE,
) -> None:
    """``pip ARGUMENTS`` with ``folder`` as its working and temporary directory; ``purpose`` completes "cannot …".

    ``variables`` are added to its environment; ``offline`` is the remedy if the index cannot be reached.

    :raises BuildError: pip is missing or fails, the network is unavailable, or the disk is full.
    """
    # PYTHONPATH could put another pip in its place, and PYTHONINSPECT makes a failure a success.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # pip unpacks what it downloads in the temporary directory, 180 MB here: keep that where the space was checked.
    env |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    # A user's rules for installing packages, with which pip refuses --target; and what hides why it failed.
    env |= {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "PIP_QUIET": "0"}
    argv = [*command(), "--disable-pip-version-check", "--no-input", *arguments]
    offset = subprocess_log.size(log)
    if subprocess_log.run(argv, log=log, cwd=folder, env=env | dict(variables or {}), on_tick=on_tick) != 0:
        raise subprocess_errors.of_pip(
            subprocess_log.text_since(log, offset), purpose=purpose, log=log, python=sys.executable, offline=offline
        )


def command() -> list[str]:
    """The command line of pip: of this Python, or if it has none, as in the environments of uv, of the copy that Python
    contains for virtual environments. Debian removes that: then the missing pip is the error.
    """
    if importlib.util.find_spec("pip") is None and (found := importlib.util.find_spec("ensurepip")) and found.origin:
        carried = sorted((Path(found.origin).parent / "_bundled").glob("pip-*.whl"))
        if carried:
            return [sys.executable, str(carried[-1] / "pip")]
    return [sys.executable, "-m", "pip"]


def fetch(
    pin: Pin,
    folder: Path,
    *,
    purpose: str,
    log: Path,
    on_bytes: Callable[[int], None] = lambda count: None,
    offline: str = subprocess_errors.OFFLINE,
) -> Path:
    """The checked file in ``folder``: an existing one, or a new download. It may be for another computer.

    ``purpose`` completes "cannot …"; ``on_bytes`` is called about twice per second with the number of received bytes of
    ``pin.size``; ``log`` receives the output of pip; ``offline`` is the remedy if the index cannot be reached.

    :raises BuildError: the download failed, or is not the pinned file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / pin.file
    scratch = folder / f".{pin.file}.part"
    with file_lock.held(folder / f".{pin.file}.lock", lambda holder: on_bytes(0)):
        if target.is_file() and sha256(target) == pin.sha256:
            return target
        shutil.rmtree(scratch, ignore_errors=True)  # of a download that was killed: pip does not go on with it
        try:
            scratch.mkdir()
            came = download(pin, scratch, purpose=purpose, log=log, on_bytes=on_bytes, offline=offline)
            came.replace(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def download(
    pin: Pin, scratch: Path, *, purpose: str, log: Path, on_bytes: Callable[[int], None], offline: str
) -> Path:
    """As :func:`fetch`, of a missing file, below ``scratch``."""
    variables: dict[str, str] = {}
    if pin.backend:
        # pip asks the build backend of an sdist for the name and version even where it is to be downloaded only. The
        # backend would need further packages and run code of the archive, so pip finds this one in its place.
        package, module = pin.backend.split(".")
        (scratch / "backend" / package).mkdir(parents=True)
        (scratch / "backend" / package / "__init__.py").touch()  # a folder without it yields to an installed package
        stub = _BACKEND.format(name=pin.project.replace("-", "_"), project=pin.project, version=pin.version)
        (scratch / "backend" / package / f"{module}.py").write_text(stub, "utf-8")
        variables["PYTHONPATH"] = str(scratch / "backend")
        rules = ["--no-binary", pin.project, "--no-build-isolation"]
    else:
        rules = ["--only-binary", ":all:", *_tags(pin.file)]
    requirement = scratch / "pinned.txt"
    requirement.write_text(f"{pin.project}=={pin.version} --hash=sha256:{pin.sha256}\n", encoding="utf-8")
    came = scratch / "came"
    run(
        ["download", "--no-deps", *rules, "--require-hashes", f"--dest={came}", f"--requirement={requirement}"],
        purpose=purpose,
        log=log,
        folder=scratch,
        on_tick=lambda: on_bytes(min(_arrived(scratch, pin.file), pin.size)),
        variables=variables,
        offline=offline,
    )
    verify(came / pin.file, pin)
    on_bytes(pin.size)
    return came / pin.file


_BACKEND = """
import os


def get_requires_for_build_wheel(config_settings=None):
    return []


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    name = "{name}-{version}.dist-info"
    os.mkdir(os.path.join(metadata_directory, name))
    with open(os.path.join(metadata_directory, name, "METADATA"), "w", encoding="utf-8") as file:
        file.write("Metadata-Version: 2.1\\nName: {project}\\nVersion: {version}\\n")
    return name
"""


def _tags(wheel: str) -> list[str]:
    """Options with which pip selects the wheel of this name on any computer. A wheel for all needs none."""
    python, abi, platforms = wheel.removesuffix(".whl").split("-")[-3:]
    if platforms == "any":
        return []
    digits = python.removeprefix("cp")
    wanted = {"implementation": "cp", "python-version": f"{digits[0]}.{digits[1:]}", "abi": abi}
    return [*(f"--{name}={value}" for name, value in wanted.items()), f"--platform={platforms.split('.')[0]}"]


def _arrived(scratch: Path, name: str) -> int:
    """Received bytes of an unfinished download: pip writes it under its final name in a temporary folder."""
    sizes = []
    for path in scratch.glob(f"pip-*/{name}"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # pip has just moved it
            continue
    return max(sizes, default=0)


def verify(path: Path, pin: Pin) -> None:
    """Check the hash. pip has compared it already; this also covers a pip with that check disabled, or a replaced one.

    :raises BuildError: the file is missing or is not the pinned one.
    """
    if not path.is_file():
        raise BuildError(
            f"pip reported success but left no {pin.file}.", remedy="Check pip's settings (`pip config list`)."
        )
    found = sha256(path)
    if found != pin.sha256:
        raise subprocess_errors.wrong_archive(pin.file, found, pin.sha256)


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
