"""What bin/bitnet-chat and bin/test share: the short cut past the steps of firstrun.py once they are done.

While the stamp of setup_state.py fits, nothing is imported but os, sys and that module.

The syntax is that of old Pythons, so that they can say that they are too old; firstrun.py needs 3.11.
"""

# ruff: noqa: PTH111, PTH116, PTH118, PTH123 -- importing pathlib takes longer than all that is done here

import os
import sys

from setup_state import FAILED, PYTHON, ROOT, SCRIPTS, WINDOWS, done, missing, read, without_python

TYPE_CHECKING = False  # that of typing, which takes longer to import than all that is done here
if TYPE_CHECKING:
    import typing

PROGRAM = os.path.join(SCRIPTS, "bitnet-chat.exe" if WINDOWS else "bitnet-chat")
OLDEST = (3, 11)

WITHOUT_ENGINE = ("completion", "config", "doctor", "engine", "history", "models", "replay", "report")


def chat(arguments: "list[str]") -> int:
    """Runs bitnet-chat with these arguments; sets up first what is missing."""
    needed = steps(arguments)
    if tells_only(arguments) and sys.version_info >= OLDEST:
        if "package" not in done():
            return tell(arguments)
        needed = ["package"]
    if missing(needed, done()):
        status = set_up(needed)
        if status:
            return status
    try:
        return run_program(arguments)
    except OSError:  # the Python that .venv was made with is gone
        return set_up(needed, anew=True) or run_program(arguments)


def run_program(arguments: "list[str]") -> int:
    """Runs bitnet-chat, which imports from .venv alone: -I leaves out the folder that the user is in, PYTHONPATH and
    all other variables of Python's own. They stay in the environment, for what bitnet-chat starts: an editor or an
    engine may be a Python program. -X utf8: arguments and file names are UTF-8 whatever the locale says.

    Raises OSError where it, or the Python that it was installed with, is missing."""
    if not WINDOWS:
        with open(PROGRAM, encoding="utf-8", errors="surrogateescape") as file:
            installed_with = file.readline()[2:].split()
        os.stat(installed_with[0] if installed_with else "")
    # On Windows the script is a program that starts the same module, with flags of its own.
    program = ["-m", "bitnet_chat"] if WINDOWS else [PROGRAM]
    return become(PYTHON, ["-I", "-X", "utf8", *program, *arguments])


def test(arguments: "list[str]") -> int:
    """Runs the test suite with pytest's arguments; sets up first what is missing.

    Engines and model are looked at each time: the tests use those in the data directory, which may have been removed.
    """
    status = set_up(["tests", "test-engines", "test-models"])
    if status:
        return status
    os.chdir(ROOT)
    # The whole suite waits for engines and terminals much of its time: two workers keep one processor busy.
    workers = str((os.cpu_count() or 1) * 2)
    pytest = ["-m", "pytest", *(arguments or ["--numprocesses", workers, "--dist", "worksteal"])]
    return become(PYTHON, pytest, without_python(os.environ))  # by variable: its workers know no flags of ours


def steps(arguments: "list[str]") -> "list[str]":
    """What is needed for a command line, in the order in which it is done."""
    verb = arguments[0] if arguments else ""
    if verb in WITHOUT_ENGINE:
        return ["package"]
    needed = ["package"]
    if setting("install", arguments) != "no":
        needed += [] if engine_is_given(arguments) else ["engine"]
        needed += [] if model_is_given(arguments) else ["model"]
    if verb in ("serve", "app"):
        needed.append("serve")
    if verb == "app":
        needed.append("app")
    backend, attach = setting("backend", arguments), setting("attach", arguments)
    if attach or backend not in ("", "engine"):
        needed.append("remote")
        if attach or backend != "llama-server":  # engine and model are elsewhere
            needed = [step for step in needed if step not in ("engine", "model")]
        # The prebuilt engine has no llama-server.
        needed = ["server" if step == "engine" else step for step in needed]
    return needed


def tells_only(arguments: "list[str]") -> bool:
    """Help and the version need nothing but the checkout: no package, no engine, no network."""
    ours = _ours(arguments)
    return "-h" in ours or "--help" in ours or arguments in (["-V"], ["--version"])


def tell(arguments: "list[str]") -> int:
    """Runs bitnet-chat in this Python, out of the checkout. It imports what others have made only when it works."""
    sys.path.insert(0, ROOT)
    from bitnet_chat.cli import main

    return main(arguments)


def setting(name: str, arguments: "list[str]") -> str:
    """What bitnet-chat will take for a setting that is a text: from a flag, the environment or config.toml.

    A guess that errs only for unusual TOML; then bitnet-chat reports what is missing.
    """
    ours = _ours(arguments)
    found = ""
    for at, argument in enumerate(ours):
        if argument == "--" + name:
            found = ours[at + 1] if at + 1 < len(ours) else "yes"
        elif argument.startswith("--" + name + "="):
            found = argument[len(name) + 3 :]
    if found:
        return found
    given = os.environ.get("BITNET_CHAT_" + name.upper())
    if given:
        return given
    for line in read(config_file()).splitlines():
        key, _, value = line.partition("=")
        if key.strip() == name:
            return value.partition("#")[0].strip().strip("\"'")
    return ""


def config_file() -> str:
    """As ``bitnet_chat.paths`` has it, which needs a package that may not be there yet."""
    chosen = os.environ.get("BITNET_CHAT_CONFIG")
    if chosen:
        return os.path.expanduser(chosen)
    folder = os.environ.get("BITNET_CHAT_CONFIG_DIR")
    if not folder:
        if WINDOWS:
            base = os.environ.get("LOCALAPPDATA", "")
        else:
            usual = "~/Library/Application Support" if sys.platform == "darwin" else "~/.config"
            base = os.environ.get("XDG_CONFIG_HOME", "").strip() or usual
        folder = os.path.join(base, "bitnet-chat")
    return os.path.join(os.path.expanduser(folder), "config.toml")


def engine_is_given(arguments: "list[str]") -> bool:
    """Whether the user names an engine, so that the set-up installs none."""
    if os.environ.get("BITNET_CHAT_ENGINE"):
        return True
    return any(argument == "--engine" or argument.startswith("--engine=") for argument in _ours(arguments))


def model_is_given(arguments: "list[str]") -> bool:
    """Whether the user names a model, so that the set-up fetches none."""
    short = any(argument.startswith("-m") for argument in _ours(arguments))
    return short or bool(setting("model", arguments))


def _ours(arguments: "list[str]") -> "list[str]":
    """Without those of the engine."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def become(program: str, arguments: "list[str]", environment: "typing.Mapping[str, str]" = os.environ) -> int:
    """Runs a program instead of this one."""
    if not WINDOWS:
        os.execve(program, [program, *arguments], environment)
    # Windows has no exec that keeps the console and the exit status together.
    import signal
    import subprocess

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the program's business
    return subprocess.call([program, *arguments], env=environment)


def set_up(needed: "list[str]", anew: bool = False) -> int:
    """Returns the exit status: 0 when all that is needed is done."""
    if sys.version_info < OLDEST:
        return _too_old()
    sys.path.insert(0, ROOT)
    import firstrun

    return firstrun.run(needed, anew)


def _too_old() -> int:
    import shutil

    wanted = ".".join(map(str, OLDEST))
    found = ".".join(map(str, sys.version_info[:2]))
    print(f"bitnet-chat needs Python {wanted} or newer; {sys.executable} is {found}.", file=sys.stderr)
    newer = [name for name in (f"python3.{minor}" for minor in range(20, 10, -1)) if shutil.which(name)]
    if newer:
        print(f"  Run `{newer[0]} {sys.argv[0]}`: that one is here.", file=sys.stderr)
    else:
        print("  Install one (Debian 12 and Ubuntu 24.04 have it as python3) and try again.", file=sys.stderr)
    return FAILED
