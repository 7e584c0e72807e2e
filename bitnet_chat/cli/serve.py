"""``bitnet-chat serve``: the server."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_chat import config
from bitnet_chat.cli.conversion import convert
from bitnet_chat.cli.first_run import provide
from bitnet_chat.cli.parser import Parser, add_settings, parse
from bitnet_chat.errors import UsageError
from bitnet_chat.text.sanitize import one_line
from bitnet_chat.util.progress import parse_size

if TYPE_CHECKING:
    from bitnet_chat.backend import Sampling
    from bitnet_chat.backends.pool import BackendFactory
    from bitnet_chat.server.scheduler import ReplyScheduler
    from bitnet_chat.server.settings import ServeSettings

_NEEDED = ("starlette", "uvicorn", "httptools", "sse_starlette", "prometheus_client", "markdown_it", "nh3")
_SEEN = "it applies to a terminal only"
REFUSED = {
    "attach": "it always uses an engine",
    "tools": "it passes tool calls to its clients, which bring their own tools",
    "markdown": _SEEN,
    "thinking": _SEEN,
    "typing_speed": _SEEN,
}
"""Settings that have no flag here, and why."""
_NAMED = re.compile(r"([^=/\\]+)=(.+)", re.DOTALL)


def parser(unlisted: Collection[str] = REFUSED.keys()) -> Parser:
    """``unlisted``: settings that :func:`read` refuses."""
    parser = Parser(
        prog="bitnet-chat serve",
        description="Server with the APIs of OpenAI and Ollama, a chat API and a web page.",
        epilog="Flags after -- are passed to the engine.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        conflict_handler="resolve",
    )
    server = parser.add_argument_group("server")
    server.add_argument("--host", metavar="HOST", help="address to listen on (default: 127.0.0.1)")
    server.add_argument("--port", type=int, metavar="N", help="port; 0: any free port (default: 8033)")
    server.add_argument(
        "--api-key", metavar="KEY", help="API key that clients must send (better: $BITNET_CHAT_API_KEY)"
    )
    server.add_argument(
        "--cors",
        action="append",
        metavar="ORIGIN",
        help="origins of web pages that may use the APIs: http://host:*, app://, none",
    )
    server.add_argument(
        "--allow-host",
        action="append",
        metavar="NAME",
        help="additional host name of this server; .NAME: all names below it",
    )
    server.add_argument("--parallel", type=int, metavar="N", help="number of parallel requests (default: 1)")
    server.add_argument("--queue", type=int, metavar="N", help="maximum number of waiting requests (default: 64)")
    server.add_argument("--cache", action="store_true", help="cache of deterministic replies")
    server.add_argument(
        "--memory-limit",
        type=_size,
        metavar="SIZE",
        help="memory of all loaded models, such as 12G (default: no limit)",
    )
    server.add_argument(
        "--linger",
        type=float,
        metavar="SECONDS",
        help="time that a reply continues after the last client disconnects (default: 30)",
    )
    server.add_argument(
        "--strict", action="store_true", help="refusal of unsupported fields of a request instead of a notice"
    )
    server.add_argument("--log-prompts", action="store_true", help="log of prompts and replies")
    add_settings(parser, unlisted)
    parser.add_argument(
        "-m",
        "--model",
        dest="models",
        action="append",
        metavar="[NAME=]FILE",
        help="GGUF file; repeatable, each under its name (default: the bundled demo model)",
    )
    return parser


def run(arguments: Sequence[str]) -> int:
    flags, given = parse(arguments, parser())  # first: --help needs no packages
    require()
    serving, settings, configured, models = read(flags, given)
    if code := provide_all(settings, configured, models, may_ask=False):
        return code
    log_to_stderr(prompts=serving.log_prompts)
    return asyncio.run(_serve(serving, settings, configured, models))


def provide_all(settings: config.Settings, configured: str, models: Mapping[str, str], *, may_ask: bool) -> int:
    """Apply :func:`bitnet_chat.cli.first_run.provide` to each model."""
    wanted = [replace(settings, model=file) for file in models.values()] or [settings]
    return next((code for each in wanted if (code := provide(each, configured, may_ask=may_ask))), 0)


def require() -> None:
    """Raise UsageError if packages are missing."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"serve requires packages that are not installed: {', '.join(missing)}",
            remedy='pip install "bitnet-chat[serve]"',
        )


def read(
    flags: argparse.Namespace, given: Mapping[str, object], environment: Mapping[str, str] = os.environ
) -> tuple[ServeSettings, config.Settings, str, Mapping[str, str]]:
    """The meaning of the flags of :func:`parser`: server settings, reply settings, the configured engine, and the files
    of the models by name, if there are several. Raises UsageError.
    """
    from bitnet_chat.server.origins import tidy
    from bitnet_chat.server.settings import ServeSettings

    values = {each.name: getattr(flags, each.name) for each in fields(ServeSettings) if hasattr(flags, each.name)}
    values.setdefault("api_key", environment.get("BITNET_CHAT_API_KEY", ""))
    values["cors"] = tuple(map(tidy, values.get("cors", ())))
    values["allow_host"] = tuple(values.get("allow_host", ()))
    models = _models(getattr(flags, "models", []))
    if list(models) == [""]:
        given = {**given, "model": models.pop("")}
    for name, why in REFUSED.items():
        if name in given:
            raise UsageError(f"{config.flag(name)} cannot be used with serve: {why}")
    settings, configured = config.load(given, environment)
    sources = config.sourced(given, environment)
    if sources["overflow"].origin != "default":
        values["overflow"] = settings.overflow
    values["any_backend"] = sources["backend"].origin == "default"
    settings = replace(settings, attach="", tools="")  # of the config file, where they are meant for the terminal
    return replace(ServeSettings(), **values).checked(), settings, configured, models


def _models(texts: Sequence[str]) -> dict[str, str]:
    """Files by name; one without a name has the name "" if it is the only one, else that of its file."""
    found: dict[str, str] = {}
    for text in texts:
        named = None if Path(text).is_file() else _NAMED.fullmatch(text)
        name, file = (one_line(named[1]), named[2]) if named else ("" if len(texts) == 1 else _name(text), text)
        if name in found:
            raise UsageError(f"-m {text}: the name {name!r} is already in use", remedy="use -m NAME=FILE")
        found[name] = file
    return found


def _name(text: str) -> str:
    """The name of the model of ``-m``, a file or a name."""
    from bitnet_chat.models.names import name_of
    from bitnet_chat.models.resolve import find

    installed = None if Path(text).is_file() else find(text)
    return installed.name if installed is not None else name_of(Path(text))


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


@dataclass(frozen=True, slots=True)
class OpenServer:
    """A listening server. ``url``: its address."""

    url: str
    scheduler: ReplyScheduler


@asynccontextmanager
async def open_server(
    serving: ServeSettings, settings: config.Settings, configured: str, models: Mapping[str, str] | None = None
) -> AsyncIterator[OpenServer]:
    """Run a server during the block, and load its default model. At the end of the block running replies have
    ``serving.grace`` seconds, or none after an exception. Handles no signals.

    ``models``: files by name, for several. Raises UsageError, EngineNotFoundError or ModelError for faults that are
    found before loading.
    """
    from bitnet_chat.backends.factory import open_factory, open_local_journal
    from bitnet_chat.cli.server_engine import has_models, models_of, preferred
    from bitnet_chat.server.app import running
    from bitnet_chat.server.model_manager import ModelManager
    from bitnet_chat.server.reply_cache import ReplyCache
    from bitnet_chat.server.scheduler import ReplyScheduler, RequestDefaults

    sources: dict[str, BackendFactory] = {}
    notices: list[str] = []
    served = models or {"": ""}
    for name, file in served.items():
        of_this = preferred(
            replace(settings, model=file) if file else settings,
            configured,
            parallel=serving.parallel,
            any_backend=serving.any_backend,
        )
        source = open_factory(
            of_this.settings,
            configured,
            parallel=serving.parallel,
            models=len(served),
            name=name,
            dialect=of_this.dialect,
            convert=convert,
        )
        sources[name or source.name] = source
        notices += [of_this.notice, _of_threads(of_this.settings, serving.parallel)]
    for notice in dict.fromkeys(filter(None, notices)):  # requests have no place for it
        _say(notice)
    more = partial(models_of, settings, configured, parallel=serving.parallel) if has_models(settings) else None
    if more is not None and not models:
        sources = dict(await more()) or sources
    model_manager = ModelManager(sources, queue=serving.queue, memory_limit=serving.memory_limit, more=more)
    if serving.memory_limit:
        await model_manager.check()
    cache = ReplyCache(_sampling(settings)) if serving.cache else None
    defaults = RequestDefaults(settings.system, settings.max_tokens or None, settings.timeout or None)
    scheduler = ReplyScheduler(model_manager, cache=cache, defaults=defaults, log_prompts=serving.log_prompts)
    async with running(scheduler, serving, open_local_journal(settings) if settings.journal else None) as url:
        yield OpenServer(url, scheduler)


def _of_threads(settings: config.Settings, parallel: int) -> str:
    """A line about a number of threads above the usable processors."""
    from bitnet_chat.engine import processors
    from bitnet_chat.engine.threads import Sharing, threads

    if settings.backend not in ("engine", "llama-server"):
        return ""
    sharing = Sharing(engines=parallel if settings.backend == "engine" else 1)
    return threads(settings.threads, settings.engine_args, processors.allowed(), sharing=sharing).notice


def _sampling(settings: config.Settings) -> Sampling:
    """The default sampling of a model."""
    from bitnet_chat.backend import Sampling

    return Sampling(
        temperature=settings.temperature if settings.temperature >= 0 else None,
        seed=settings.seed if settings.seed >= 0 else None,
    )


async def _serve(serving: ServeSettings, settings: config.Settings, configured: str, models: Mapping[str, str]) -> int:
    task, ending = asyncio.current_task(), asyncio.Event()
    assert task is not None
    ended_by: list[int] = []

    def end(number: int) -> None:
        ended_by.append(number)
        if len(ended_by) == 1:
            ending.set()
        else:
            task.cancel()

    with _signals(end):
        try:
            async with open_server(serving, settings, configured, models) as server:
                _say(f"listening on {server.url}")
                await ending.wait()
                if running := server.scheduler.running:
                    _say(f"shutting down: {running} running, {serving.grace:g} s at most; Ctrl-C again ends at once")
        except asyncio.CancelledError:
            if not ended_by:
                raise
    return 128 + ended_by[0]


def _say(line: str) -> None:
    with suppress(OSError):  # stderr is closed, which does not stop the server
        print(f"bitnet-chat: {line}", file=sys.stderr, flush=True)


@contextmanager
def _signals(end: Callable[[int], None]) -> Iterator[None]:
    """Call ``end`` on Ctrl-C, SIGTERM and SIGHUP during the block."""
    loop = asyncio.get_running_loop()
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        try:
            loop.add_signal_handler(number, end, int(number))
        except (NotImplementedError, RuntimeError):  # Windows
            signal.signal(number, lambda number, frame: loop.call_soon_threadsafe(end, number) and None)
    try:
        yield
    finally:
        for number in numbers:
            with suppress(NotImplementedError, RuntimeError):
                loop.remove_signal_handler(number)
            signal.signal(number, before[number])


def log_to_stderr(*, prompts: bool) -> None:
    """Log one line for each request and each fault. ``prompts``: include prompts and replies."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogLine(prompts=prompts))
    levels = {"bitnet_chat.server": logging.INFO, "uvicorn": logging.CRITICAL}
    for name in ("bitnet_chat.server", "uvicorn", "sse_starlette", "asyncio"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(levels.get(name, logging.ERROR))
        logger.propagate = False


class LogLine(logging.Formatter):
    """A log line, sanitized. A traceback is reduced to places and kinds, since its message may quote a conversation."""

    def __init__(self, *, prompts: bool) -> None:
        super().__init__()
        self._prompts = prompts

    def format(self, record: logging.LogRecord) -> str:
        from bitnet_chat.text.sanitize import visible

        record.exc_text = None  # what another formatter made of it
        return visible(f"bitnet-chat: {super().format(record)}")

    def formatException(self, ei: Any) -> str:  # the name is logging's
        if self._prompts:
            return super().formatException(ei)
        kind, _, trace = ei
        return "".join(traceback.format_tb(trace)) + (kind.__name__ if kind is not None else "")
