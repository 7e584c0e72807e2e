"""What is measured: the engine and model that bitnet-chat itself would use, and its two commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bitnet_chat import paths
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.engine.protocols import EngineProtocol

ROOT = Path(__file__).resolve().parent.parent
INSTALLED = Path(sys.executable).with_name("bitnet-chat")
"""The console script of the environment that runs this."""
CHECKOUT = ROOT / "bin" / "bitnet-chat"

QUESTION = "tell me a long story"
# Without an end-of-turn token the reply goes on until the context window is full: always the same length.
_ENDLESS = ("--ignore-eos",)
# Such a reply repeats itself: the guard looks at all of it, and lets it.
_REPEAT_LIMIT = 999_999
_MODEL, _CONTEXT = "BENCH_MODEL", "BENCH_CONTEXT"


def model_flags() -> list[str]:
    """The model and the window that :func:`choose` has set; nothing: the bundled model with its own window."""
    model = os.environ.get(_MODEL)
    return ["--model", model, "--ctx", os.environ.get(_CONTEXT, "0")] if model else []


def choose(model: Path, context: int) -> None:
    """Have ``model`` measured, with a window of ``context`` tokens, by this process and those that it starts."""
    os.environ[_MODEL], os.environ[_CONTEXT] = str(model.absolute()), str(context)


def endless(threads: int = 0) -> Settings:
    """Settings under which a reply fills the whole context window, the same at each run."""
    model, context = os.environ.get(_MODEL, ""), int(os.environ.get(_CONTEXT, "0"))
    return Settings(
        model=model,
        ctx=context,
        temperature=0.0,
        seed=1,
        threads=threads,
        repeat_limit=_REPEAT_LIMIT,
        engine_args=_ENDLESS,
    )


def endless_flags(threads: int = 0) -> list[str]:
    """The same for the command line."""
    flags = [*model_flags(), "--temp", "0", "--seed", "1", "--repeat-limit", str(_REPEAT_LIMIT)]
    if threads:
        flags += ["--threads", str(threads)]
    return [*flags, "--", *_ENDLESS]


def talk_of(settings: Settings) -> EngineProtocol:
    """The dialect bound as bitnet-chat binds it: the bare engine gets the very same command line."""
    return LocalEngineBackend(settings).protocol()


@contextmanager
def home() -> Iterator[Mapping[str, str]]:
    """An environment without the user's settings and history, but with the engine that is installed."""
    with TemporaryDirectory(prefix="bitnet-chat-bench-") as folder:
        data = Path(folder) / "data"
        data.mkdir()
        if paths.engine_home().is_dir():
            (data / "engine").symlink_to(paths.engine_home())
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BITNET_CHAT_")}
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            environment.pop(name, None)
        environment |= {
            "TERM": "xterm-256color",
            "BITNET_CHAT_DATA": str(data),
            "BITNET_CHAT_CACHE": str(paths.cache_dir()),
            "BITNET_CHAT_CONFIG": str(Path(folder) / "config.toml"),
            "BITNET_CHAT_INSTALL": "no",  # or the first start without a model asks whether to fetch one
        }
        if "BITNET_CHAT_ENGINE" in os.environ:
            environment["BITNET_CHAT_ENGINE"] = os.environ["BITNET_CHAT_ENGINE"]
        yield environment
