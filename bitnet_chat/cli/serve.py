"""``bitnet-chat serve``: the same conversations for programs and browsers."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

from bitnet_chat import config
from bitnet_chat.cli.parser import Parser, add_settings, parse
from bitnet_chat.errors import UsageError

_NEEDED = ("starlette", "uvicorn", "sse_starlette", "prometheus_client", "markdown_it", "nh3")


def parser() -> Parser:
    parser = Parser(
        prog="bitnet-chat serve",
        description="OpenAI, Ollama and chat APIs, and a web page, over one engine.",
        epilog="Flags behind -- go to the engine.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    server = parser.add_argument_group("server")
    server.add_argument("--host", metavar="HOST", help="address to listen on (default: 127.0.0.1)")
    server.add_argument("--port", type=int, metavar="N", help="port; 0: any that is free (default: 8033)")
    server.add_argument("--api-key", metavar="KEY", help="what clients must bring (better: $BITNET_CHAT_API_KEY)")
    server.add_argument("--cors", action="append", metavar="ORIGIN", help="a page elsewhere that may use the APIs")
    server.add_argument(
        "--parallel", type=int, metavar="N", help="conversations that are answered at once (default: 1)"
    )
    server.add_argument("--queue", type=int, metavar="N", help="requests that may wait (default: 64)")
    server.add_argument("--cache", action="store_true", help="answer again from memory what is repeatable")
    server.add_argument("--log-prompts", action="store_true", help="what is said goes into the log")
    add_settings(parser)
    return parser


def run(arguments: Sequence[str]) -> int:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"serve needs packages that are not installed: {', '.join(missing)}",
            remedy='pip install "bitnet-chat[serve]"',
        )
    flags, given = parse(arguments, parser())
    settings, configured = config.load(given)
    return asyncio.run(_serve(flags, settings, configured))


async def _serve(flags: argparse.Namespace, settings: config.Settings, configured: str) -> int:
    import uvicorn

    from bitnet_chat.cli.backend import open_source
    from bitnet_chat.journal import Journal
    from bitnet_chat.serve.app import application
    from bitnet_chat.serve.catalogue import Catalogue
    from bitnet_chat.serve.desk import Desk
    from bitnet_chat.serve.settings import ServeSettings

    names = ("host", "port", "api_key", "queue", "cache", "log_prompts")
    serving = replace(ServeSettings(), **{name: getattr(flags, name) for name in names if hasattr(flags, name)})
    source = open_source(settings, configured, parallel=getattr(flags, "parallel", 1))
    desk = Desk(Catalogue({source.name: source}, queue=serving.queue))
    app = application(desk, serving, Journal() if settings.journal else None)
    server = uvicorn.Server(uvicorn.Config(app, host=serving.host, port=serving.port, log_level="warning"))
    print(f"bitnet-chat: listening on http://{serving.host}:{serving.port}", file=sys.stderr)
    await server.serve()
    return 0
