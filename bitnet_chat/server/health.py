"""``/health`` and ``/metrics``, for monitoring."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from bitnet_chat.backend import BackendState, BackendStatus
from bitnet_chat.server.responses import json_response
from bitnet_chat.server.routing import route
from bitnet_chat.server.scheduler import ReplyScheduler
from bitnet_chat.version import __version__

_READY = frozenset({BackendState.IDLE, BackendState.GENERATING, BackendState.INTERRUPTING})


def routes(scheduler: ReplyScheduler) -> list[BaseRoute]:
    async def health(request: Request) -> Response:
        status, facts = health_of(scheduler)
        headers = {} if status == 200 else {"retry-after": "1"}
        return json_response(json.dumps(facts).encode(), status, headers)

    async def metrics(request: Request) -> Response:
        text, kind = scheduler.metrics.render(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": kind})

    return [route("/health", GET=health), route("/metrics", GET=metrics)]


def health_of(scheduler: ReplyScheduler) -> tuple[int, dict[str, object]]:
    """Return the HTTP status (200 if an engine is ready, else 503) and the body."""
    pools = scheduler.model_manager.pools
    statuses = [backend.status() for pool in pools.values() for backend in pool.backends]
    shown = max(statuses, key=_readiness, default=None)
    state: str = shown.state if shown is not None else BackendState.STARTING
    if scheduler.ending.is_set():
        state = "ending"
    elif shown is None and scheduler.has_answered:
        state = "unloaded"  # by request; the next request loads the model again
    ready = state in _READY or state == "unloaded"
    return (200 if ready else 503), {
        "status": "ok" if ready else "unavailable",
        "model": shown.model if shown is not None else scheduler.model_manager.names[0],
        "engine": shown.engine if shown is not None else "",
        "state": state,
        "models": scheduler.model_manager.names,
        "parallel": sum(pool.source.parallel for pool in pools.values()),
        "busy": sum(pool.busy for pool in pools.values()),
        "waiting": sum(pool.waiting for pool in pools.values()),
        "context_size": shown.context_size if shown is not None else None,
        "version": __version__,
    }


def _readiness(status: BackendStatus) -> int:
    return 2 if status.state in _READY else 1 if status.state is BackendState.STARTING else 0
