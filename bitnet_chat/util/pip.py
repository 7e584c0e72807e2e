"""Downloads with pip, which uses the index, proxy and certificates that are configured for it."""

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
    """A file of the package index (wheel or sdist) with its hash."""

    project: str
    version: str
    file: str
    """Name of the file, which for a wheel contains Python version and platform."""
    sha256: str
    size: int
    """Bytes, for the progress of the download."""
    backend: str = ""
    """For an sdist: the module in ``build-backend`` of its ``pyproject.toml``."""


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
    """Run ``pip ARGUMENTS`` with ``folder`` as working and temporary directory.

    ``purpose`` completes "cannot …" in errors; output is appended to ``log``; ``variables`` are added to the
    environment; ``offline`` is the remedy if the index cannot be reached. Raises BuildError if pip is missing or fails,
    the network is unavailable, or the disk is full.
    """
    # PYTHONPATH could select another pip, and PYTHONINSPECT turns a failure into a success.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # pip unpacks downloads (180 MB) in the temporary directory: use a directory whose free space was checked.
    env |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    # Settings of the user with which pip refuses --target, or hides the reason of a failure.
    env |= {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "PIP_QUIET": "0"}
    argv = [*command(), "--disable-pip-version-check", "--no-input", *arguments]
    offset = subprocess_log.size(log)
    if subprocess_log.run(argv, log=log, cwd=folder, env=env | dict(variables or {}), on_tick=on_tick) != 0:
        raise subprocess_errors.of_pip(
            subprocess_log.text_since(log, offset), purpose=purpose, log=log, python=sys.executable, offline=offline
        )


def command() -> list[str]:
    """Return the command line of pip.

    It is the pip of this Python or, if that has none (environments of uv), the copy in ``ensurepip``. Debian removes
    that copy; running the command then reports the missing pip.
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
    """Return the file of ``pin`` in ``folder``, downloaded if it is missing. The file may be for another platform.

    ``purpose``, ``log`` and ``offline``: see :func:`run`. ``on_bytes`` is called about twice per second with the number
    of bytes received, at most ``pin.size``. Raises BuildError if the download fails or the hash differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / pin.file
    scratch = folder / f".{pin.file}.part"
    with file_lock.held(folder / f".{pin.file}.lock", lambda holder: on_bytes(0)):
        if target.is_file() and sha256(target) == pin.sha256:
            return target
        shutil.rmtree(scratch, ignore_errors=True)  # of a killed download, which pip cannot resume
        try:
            scratch.mkdir()
            downloaded = download(pin, scratch, purpose=purpose, log=log, on_bytes=on_bytes, offline=offline)
            downloaded.replace(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def download(
    pin: Pin, scratch: Path, *, purpose: str, log: Path, on_bytes: Callable[[int], None], offline: str
) -> Path:
    """Download the file of ``pin`` below ``scratch``, see :func:`fetch`."""
    variables: dict[str, str] = {}
    if pin.backend:
        # pip asks the build backend of an sdist for name and version even for a download only. The backend would need
        # further packages and run code of the archive, so a stub takes its place.
        package, module = pin.backend.split(".")
        (scratch / "backend" / package).mkdir(parents=True)
        (scratch / "backend" / package / "__init__.py").touch()  # without it, an installed package has priority
        stub = _BACKEND.format(name=pin.project.replace("-", "_"), project=pin.project, version=pin.version)
        (scratch / "backend" / package / f"{module}.py").write_text(stub, "utf-8")
        variables["PYTHONPATH"] = str(scratch / "backend")
        rules = ["--no-binary", pin.project, "--no-build-isolation"]
    else:
        rules = ["--only-binary", ":all:", *_tags(pin.file)]
    requirement = scratch / "pinned.txt"
    requirement.write_text(f"{pin.project}=={pin.version} --hash=sha256:{pin.sha256}\n", encoding="utf-8")
    downloaded = scratch / "came"
    run(
        ["download", "--no-deps", *rules, "--require-hashes", f"--dest={downloaded}", f"--requirement={requirement}"],
        purpose=purpose,
        log=log,
        folder=scratch,
        on_tick=lambda: on_bytes(min(_received(scratch, pin.file), pin.size)),
        variables=variables,
        offline=offline,
    )
    verify(downloaded / pin.file, pin)
    on_bytes(pin.size)
    return downloaded / pin.file


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
    """Return the options with which pip selects this wheel on any platform; empty for a wheel for all platforms."""
    python, abi, platforms = wheel.removesuffix(".whl").split("-")[-3:]
    if platforms == "any":
        return []
    digits = python.removeprefix("cp")
    wanted = {"implementation": "cp", "python-version": f"{digits[0]}.{digits[1:]}", "abi": abi}
    return [*(f"--{name}={value}" for name, value in wanted.items()), f"--platform={platforms.split('.')[0]}"]


def _received(scratch: Path, name: str) -> int:
    """Bytes received so far. pip writes the file under its final name in a temporary directory."""
    sizes = []
    for path in scratch.glob(f"pip-*/{name}"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # pip has moved it in the meantime
            continue
    return max(sizes, default=0)


def verify(path: Path, pin: Pin) -> None:
    """Check the hash of a downloaded file. pip has checked it too, unless that is disabled or pip was replaced.

    Raises BuildError if the file is missing or the hash differs.
    """
    if not path.is_file():
        raise BuildError(
            f"pip reported success, but {pin.file} is missing.", remedy="Check pip's settings (`pip config list`)."
        )
    found = sha256(path)
    if found != pin.sha256:
        raise subprocess_errors.wrong_archive(pin.file, found, pin.sha256)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
