"""Private parts of uvicorn and sse-starlette that the server uses are there in the versions that setup.cfg allows."""

from __future__ import annotations

import inspect

import uvicorn
from sse_starlette import EventSourceResponse, ServerSentEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bitnet_chat.server.responses import EventStream
from bitnet_chat.server.uvicorn_server import _Protocol, _Server


def overridden(ours: type, theirs: type) -> set[str]:
    """Methods of ``theirs`` that ``ours`` replaces or extends."""
    return {
        name
        for name, value in vars(ours).items()
        if inspect.isfunction(value) and name in dir(theirs) and not hasattr(object, name)
    }


def test_the_server_of_uvicorn_has_what_is_replaced() -> None:
    assert overridden(_Server, uvicorn.Server) == {"startup", "main_loop", "capture_signals"}
    assert "sockets" in inspect.signature(uvicorn.Server.startup).parameters
    server = uvicorn.Server(uvicorn.Config(lambda: None))
    assert server.server_state.connections == set() and server.should_exit is False


def test_the_protocol_of_uvicorn_has_what_is_replaced() -> None:
    assert overridden(_Protocol, HttpToolsProtocol) == {
        "connection_made",
        "connection_lost",
        "data_received",
        "on_headers_complete",
        "on_message_complete",
        "on_response_complete",
    }
    source = inspect.getsource(HttpToolsProtocol)
    for name in ("self.cycle", "self.transport", "self.loop", "self.limit_concurrency"):
        assert name in source, name
    assert "response_complete" in inspect.getsource(inspect.getmodule(HttpToolsProtocol))  # type: ignore[arg-type]


def test_the_event_stream_of_sse_starlette_has_what_is_replaced() -> None:
    assert issubclass(EventStream, EventSourceResponse)
    assert overridden(EventStream, EventSourceResponse) == {"_listen_for_exit_signal_with_grace", "_send_with_timeout"}
    assert callable(EventSourceResponse._ping)
    assert ServerSentEvent("a", event="b", id="c", sep="\n").encode() == b"id: c\nevent: b\ndata: a\n\n"
