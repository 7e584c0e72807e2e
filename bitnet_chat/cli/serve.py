"""``bitnet-chat serve``: flags, signals and log of the server in :mod:`bitnet_chat.server`."""

from __future__ import annotations

import argparse
import asyncio
import gc
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
    from bitnet_chat.backends.pool import BackendFactory
    from bitnet_chat.server.scheduler import ReplyScheduler
    from bitnet_chat.server.settings import ServeSettings

_NEEDED = ("starlette", "uvicorn", "httptools", "sse_starlette", "prometheus_client", "markdown_it", "nh3")
_COLLECTION = 50_000
"""Objects between two garbage collections; Python's default is 700. A request body has up to 100,000 values, and a
collection of this many takes about 5 ms."""
_TERMINAL_ONLY = "it applies to a terminal only"
REFUSED = {
    "attach": "it always uses an engine",
    "tools": "it passes tool calls to its clients, which bring their own tools",
    "markdown": _TERMINAL_ONLY,
    "thinking": _TERMINAL_ONLY,
    "typing_speed": _TERMINAL_ONLY,
}
"""Settings whose flags are refused, with the reason."""
_NAMED = re.compile(r"([^=/\\]+)=(.+)", re.DOTALL)


def parser(unlisted: Collection[str] = REFUSED.keys()) -> Parser:
    """See :data:`bitnet_chat.cli.VERBS`. ``unlisted``: settings that :func:`read` refuses; help does not list them."""
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
    """See :data:`bitnet_chat.cli.VERBS`. Raises UsageError, and the errors of :func:`open_server`."""
    flags, given = parse(arguments, parser())  # before require(), so that --help works without the packages
    require()
    serving, settings, configured, models = read(flags, given)
    if code := provide_all(settings, configured, models, may_ask=False):
        return code
    log_to_stderr(prompts=serving.log_prompts)
    return asyncio.run(_serve(serving, settings, configured, models))


def provide_all(settings: config.Settings, configured: str, models: Mapping[str, str], *, may_ask: bool) -> int:
    """Apply :func:`bitnet_chat.cli.first_run.provide` to each model. ``models``: files by name."""
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
    """Interpret the flags of :func:`parser`. Returns the settings of the server and of replies, the configured engine,
    and the model files by name, empty for a single model without a name. Raises UsageError.
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
    settings = replace(settings, attach="", tools="")  # values of the settings file apply to the terminal only
    return replace(ServeSettings(), **values).checked(), settings, configured, models


def _models(texts: Sequence[str]) -> dict[str, str]:
    """Return model files by name. A file without ``NAME=`` has the name "" if it is the only one, else that of its
    file. Raises UsageError if two have the same name.
    """
    found: dict[str, str] = {}
    for text in texts:
        named = None if Path(text).is_file() else _NAMED.fullmatch(text)
        name, file = (one_line(named[1]), named[2]) if named else ("" if len(texts) == 1 else _name(text), text)
        if name in found:
            raise UsageError(f"-m {text}: the name {name!r} is already in use", remedy="use -m NAME=FILE")
        found[name] = file
    return found


def _name(text: str) -> str:
    """Return the name of the model of ``-m``, which is a file or a name."""
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
    """A server that accepts connections at ``url``."""

    url: str
    scheduler: ReplyScheduler


@asynccontextmanager
async def open_server(
    serving: ServeSettings, settings: config.Settings, configured: str, models: Mapping[str, str] | None = None
) -> AsyncIterator[OpenServer]:
    """Run a server during the block, and load its default model. At the end of the block running replies have
    ``serving.grace`` seconds to end, or none after an exception. Handles no signals.

    ``models``: files by name; None or empty: the model of ``settings``. Raises UsageError, EngineNotFoundError or
    ModelError for faults that are found before loading.
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
        notices += [of_this.notice, _threads_notice(of_this.settings, serving.parallel)]
    for notice in dict.fromkeys(filter(None, notices)):  # on stderr, because replies cannot carry them
        _say(notice)
    more = partial(models_of, settings, configured, parallel=serving.parallel) if has_models(settings) else None
    if more is not None and not models:
        sources = dict(await more()) or sources
    model_manager = ModelManager(sources, queue=serving.queue, memory_limit=serving.memory_limit, more=more)
    if serving.memory_limit:
        await model_manager.check()
    cache = ReplyCache(settings.sampling) if serving.cache else None
    defaults = RequestDefaults(settings.system, settings.max_tokens or None, settings.timeout or None)
    scheduler = ReplyScheduler(model_manager, cache=cache, defaults=defaults, log_prompts=serving.log_prompts)
    async with running(scheduler, serving, open_local_journal(settings) if settings.journal else None) as url:
        yield OpenServer(url, scheduler)


def _threads_notice(settings: config.Settings, parallel: int) -> str:
    """Return a line if the number of threads exceeds the usable processors, else an empty text."""
    from bitnet_chat.engine import processors
    from bitnet_chat.engine.threads import Sharing, threads

    if settings.backend not in ("engine", "llama-server"):
        return ""
    sharing = Sharing(engines=parallel if settings.backend == "engine" else 1)
    return threads(settings.threads, settings.engine_args, processors.allowed(), sharing=sharing).notice


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
                # A garbage collection stops all threads. Reference counts free nearly all objects, so they are rare,
                # and look only at what requests have made.
                gc.freeze()
                gc.set_threshold(_COLLECTION, 10, 10)
                _say(f"listening on {server.url}")
                await ending.wait()
                if running := server.scheduler.running:
                    _say(f"shutting down: {running} running, {serving.grace:g} s at most; Ctrl-C again ends at once")
        except asyncio.CancelledError:
            if not ended_by:
                raise
    return 128 + ended_by[0]


def _say(line: str) -> None:
    with suppress(OSError):  # a closed stderr does not stop the server
        print(f"bitnet-chat: {line}", file=sys.stderr, flush=True)


@contextmanager
def _signals(end: Callable[[int], None]) -> Iterator[None]:
    """Call ``end`` with the number of each SIGINT, SIGTERM, SIGHUP and SIGBREAK during the block."""
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
    """Configure logging: one line on stderr for each request and each fault. ``prompts``: include prompts and
    replies.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogLine(prompts=prompts))
    levels = dict.fromkeys(("bitnet_chat.server", "bitnet_chat.prompt_cache"), logging.INFO)
    levels["uvicorn"] = logging.CRITICAL
    for name in ("bitnet_chat.server", "bitnet_chat.prompt_cache", "uvicorn", "sse_starlette", "asyncio"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(levels.get(name, logging.ERROR))
        logger.propagate = False


class LogLine(logging.Formatter):
    """Formats sanitized log lines. Without ``prompts`` tracebacks contain no exception messages, which may quote a
    conversation.
    """

    def __init__(self, *, prompts: bool) -> None:
        super().__init__()
        self._prompts = prompts

    def format(self, record: logging.LogRecord) -> str:
        from bitnet_chat.text.sanitize import visible

        record.exc_text = None  # the cached traceback of another formatter
        return visible(f"bitnet-chat: {super().format(record)}")

    def formatException(self, ei: Any) -> str:  # overrides a method of logging
        if self._prompts:
            return super().formatException(ei)
        kind, _, trace = ei
        return "".join(traceback.format_tb(trace)) + (kind.__name__ if kind is not None else "")
