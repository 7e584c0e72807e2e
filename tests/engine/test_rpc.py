"""A model whose layers lie on rpc-servers: real ones, on two ports in two network namespaces, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from program import TIMEOUT, command, environment, run

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.factory import open_factory
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.cli import engine_install, main
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine import rpc
from bitnet_chat.engine.binary import Dialect, EngineBinary, read_options
from bitnet_chat.engine.install import build, manifest
from bitnet_chat.engine.process import EngineProcess
from bitnet_chat.engine.protocols import EngineOptions, common_flags
from bitnet_chat.errors import EngineDiedError, EngineNotFoundError, FinishReason, UsageError
from bitnet_chat.events import Completed, Event, Failed, Notice, TextDelta


@pytest.fixture
def engine(built_engine: EngineBinary) -> EngineBinary:
    """What these tests are about is in the builds of our own."""
    return built_engine


# Addresses.


def test_addresses() -> None:
    assert rpc.servers("") == rpc.servers("  ") == ()
    assert rpc.servers("a:1, b.example:50052 ,10.0.0.1:65535") == ("a:1", "b.example:50052", "10.0.0.1:65535")
    assert rpc.servers("[::1]:50052") == ("[::1]:50052",)
    assert rpc.split("[::1]:50052") == ("::1", 50052)
    assert rpc.split("a:1") == ("a", 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("host", "host:port is needed"),
        ("host:", "host:port is needed"),
        (":50052", "host:port is needed"),
        ("a:1,", "host:port is needed"),
        ("a:1;b:2", "host:port is needed"),
        ("a:1 b:2", "host:port is needed"),
        ("http://a:1", "host:port is needed"),
        ("--mlock:1", "host:port is needed"),
        ("a\n:1", "host:port is needed"),
        ("höst:1", "host:port is needed"),
        ("::1:50052", "must be in brackets"),
        ("[::1]", "must be in brackets"),
        ("[a]:1", "no IPv6 address"),
        ("a:0", "between 1 and 65535"),
        ("a:65536", "between 1 and 65535"),
        ("a:1,a:1", "named twice"),
    ],
)
def test_what_is_no_address(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        rpc.servers(text)


# What an engine's log means.


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("ggml-rpc.cpp:547: Failed to connect to 10.0.0.9:50052", "10.0.0.9:50052 cannot be reached"),
        ("Cannot resolve host 'x'\nggml-rpc.cpp:547: Failed to connect to x:1", "finds no IPv4 address of that name"),
        ("RPC server version mismatch: 1.0.0\nRPC handshake failed for a:1", "a:1 has another version"),
        ("ggml-rpc.cpp:566: Remote RPC server crashed or returned malformed response", "ended, or is of another"),
        ('error while handling argument "--rpc": RPC not supported in this build', "built without RPC"),
    ],
)
def test_what_a_log_means(line: str, what: str) -> None:
    error = rpc.meaning(["loading", *line.splitlines(), "the end"], "engine")
    assert error is not None and what in error.what and error.remedy


def test_a_log_may_mean_nothing() -> None:
    assert rpc.meaning(["failed to load model", "out of memory"], "engine", -6) is None
    assert rpc.meaning([], "engine", -13) is not None  # SIGPIPE: it was writing to a server that had gone


# Engines that have no RPC.


def test_old_engines_are_told_to_put_layers_there(model: Path) -> None:
    rest = "--rpc SERVERS\n-ngl, --n-gpu-layers N"
    binary = EngineBinary(Path("x"), Dialect.CLASSIC, "1", read_options(f"--fit [on|off]\n{rest}"))
    options = EngineOptions(model, rpc=("a:1", "b:2"))
    flags = common_flags(binary, options)
    assert flags[flags.index("--rpc") + 1] == "a:1,b:2"
    assert "--n-gpu-layers" not in flags
    assert "--n-gpu-layers" in common_flags(replace(binary, options=read_options(rest)), options)
    assert "--rpc" not in common_flags(binary, EngineOptions(model))


def test_an_engine_that_was_built_without_it(tmp_path: Path, engine: EngineBinary, model: Path) -> None:
    """Seen in the manifest of an engine of ours, in the help of an old one, and else in the log."""
    with pytest.raises(EngineNotFoundError, match="without RPC") as caught:
        rpc.require(replace(engine, options=engine.options.without(["--rpc"])))
    assert "engine install --with rpc" in caught.value.remedy
    record = manifest.read(engine.path.parent)
    assert record is not None
    replace(record, files={name: size for name, size in record.files.items() if name != "rpc-server"}).write(tmp_path)
    (tmp_path / engine.path.name).symlink_to(engine.path)
    with pytest.raises(EngineNotFoundError, match="without RPC"):
        LocalEngineBackend(Settings(engine=str(tmp_path / engine.path.name), model=str(model), rpc="127.0.0.1:1"))


# The command.


def test_the_list_says_what_an_engine_was_built_with(
    engine: EngineBinary, program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engine", "list", "--engine", str(engine.path)]) == 0
    assert ", with rpc" in capsys.readouterr().out.splitlines()[0]
    assert main(["engine", "list", "--engine", str(engine.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["features"] == ["server", "cli", "rpc"]


def test_install_passes_on_what_is_wanted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wanted: list[list[str]] = []

    def install(name: str, *, features: list[str], on_progress: object) -> Path:
        wanted.append(features)
        return Path("there")

    monkeypatch.setattr(build, "install", install)
    monkeypatch.setattr(engine_install, "_check_known_answers", lambda folder: None)
    assert main(["engine", "install", "--with", "rpc"]) == main(["engine", "install", "--build"]) == 0
    assert wanted == [["rpc"], []]
    assert main(["engine", "install", "--with", "cuda"]) == 2
    assert "invalid choice: 'cuda'" in capsys.readouterr().err


def test_what_cannot_be_used_is_said_at_once(classic: EngineBinary, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--engine", str(classic.path), "--rpc", "nonsense", "hello"]) == 2
    assert "'nonsense' is not an address of an rpc-server" in capsys.readouterr().err


# Knocking.


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "PATIENCE", 0.2)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def address(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_lets_go_is_there(listener: socket.socket) -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert await reader.read() == b""
            writer.close()

        listener.setblocking(False)
        async with await asyncio.start_server(serve, sock=listener):
            await asyncio.to_thread(rpc.knock, [address(listener)])

    asyncio.run(main())


@pytest.mark.usefixtures("impatient")
def test_a_server_that_does_not_take_us_is_busy(listener: socket.socket) -> None:
    with pytest.raises(EngineDiedError, match="is busy: it serves one engine at a time"):
        rpc.knock([address(listener)])


def test_nobody_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and never listens
        with pytest.raises(EngineDiedError, match="cannot be reached: ") as caught:
            rpc.knock([address(unused)])
    assert "rpc-server --host" in caught.value.remedy
    with pytest.raises(EngineDiedError, match="cannot be reached: "):
        rpc.knock(["no-such-host.invalid:1"])


# Real servers.


class RpcServer:
    """An rpc-server with one thread on a free port of this computer."""

    def __init__(self, program: Path, log: Path, port: int = 0) -> None:
        self.process, self.port = self._started(program, log, port)
        self.address = f"127.0.0.1:{self.port}"

    @staticmethod
    def _started(program: Path, log: Path, wanted: int) -> tuple[subprocess.Popen[bytes], int]:
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            port = wanted
            if not port:
                with socket.socket() as free:
                    free.bind(("127.0.0.1", 0))
                    port = free.getsockname()[1]
            with log.open("ab") as file:
                process = subprocess.Popen(
                    [program, "--threads", "1", "--port", str(port)], stdin=subprocess.DEVNULL, stdout=file, stderr=file
                )
            while process.poll() is None and time.monotonic() < deadline:  # it ends where somebody took the port
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), TIMEOUT):
                    return process, port
                time.sleep(0.01)
            process.kill()
            process.wait()
        raise AssertionError(f"rpc-server does not start: {log.read_text()}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def program(classic: EngineBinary) -> Path:
    name = "rpc-server.exe" if sys.platform == "win32" else "rpc-server"
    program = classic.path.with_name(name)
    if not program.is_file():
        if sys.platform != "linux":
            pytest.skip("the engine was built without rpc-server")
        pytest.fail("the engine was built without rpc-server: bitnet-chat engine install --with rpc", pytrace=False)
    return program


@pytest.fixture
def servers(program: Path, tmp_path: Path) -> Iterator[list[RpcServer]]:
    started = [RpcServer(program, tmp_path / f"server{number}.log") for number in (1, 2)]
    yield started
    for server in started:
        server.kill()


class Log:
    """All that an engine writes to its log."""

    def __init__(self) -> None:
        self.text = b""

    def spawned(self, process: EngineProcess) -> None:
        process.trace_listener = self

    def logged(self, data: bytes) -> None:
        self.text += data

    def output(self, data: bytes) -> None: ...

    def wrote(self, data: bytes, *, command: bool) -> None: ...

    def signalled(self, name: str) -> None: ...

    def exited(self, code: int) -> None: ...


def settings(engine: EngineBinary, model: Path, **more: object) -> Settings:
    return Settings(engine=str(engine.path), model=str(model), temperature=0.0, journal=False, **more)  # type: ignore[arg-type]


def asked(question: str) -> Conversation:
    return Conversation().with_system("be brief").with_user(question)


async def said(backend: LocalEngineBackend, question: str, most: int | None = None) -> list[Event]:
    return [event async for event in backend.reply(asked(question), ReplyOptions(max_tokens=most))]


def text(events: list[Event]) -> str:
    assert isinstance(events[-1], Completed), events[-1]
    return events[-1].text


@pytest.mark.engine
def test_the_reply_is_that_of_one_computer(engine: EngineBinary, model: Path, servers: list[RpcServer]) -> None:
    log = Log()

    async def reply(**more: object) -> str:
        backend = LocalEngineBackend(settings(engine, model, **more), on_spawn=log.spawned if more else None)
        try:
            return text(await said(backend, "what can you do?"))
        finally:
            await backend.close()

    addresses = ",".join(server.address for server in servers)
    alone = asyncio.run(reply())
    spread_out = asyncio.run(reply(rpc=addresses, engine_args=("--verbosity", "4")))
    assert spread_out == alone != ""
    for server in servers:  # and the layers really lie there
        assert f"[{server.address}] model buffer size" in log.text.decode()
        assert f"[{server.address}] KV buffer size" in log.text.decode()


@pytest.mark.engine
def test_a_llama_server_spreads_its_model_as_well(
    classic: EngineBinary, model: Path, servers: list[RpcServer], program: Path, tmp_path: Path
) -> None:
    addresses = ",".join(server.address for server in servers)
    wanted = settings(classic, model, rpc=addresses, backend="llama-server")

    async def main() -> None:
        backend = open_factory(replace(wanted, engine=str(classic.path.parent)), "", parallel=2).backend()
        try:
            assert text([event async for event in backend.reply(asked("what can you do?"))]).startswith("I answer")
            servers[1].kill()
            failed = [event async for event in backend.reply(asked("what can you do?"))][-1]
            assert isinstance(failed, Failed) and "rpc-server" in str(failed.error)
        finally:
            await backend.close()

    asyncio.run(main())


@pytest.mark.engine
def test_a_batch_takes_one_engine_for_all_its_lines(
    classic: EngineBinary, model: Path, servers: list[RpcServer]
) -> None:
    history = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    lines = [{"prompt": "hello"}, {"messages": [*history, {"role": "user", "content": "thanks"}]}, {"prompt": "hello"}]
    done = run(
        *("--engine", str(classic.path.parent), "--rpc", servers[0].address, "--input", "-", "--temp", "0"),
        stdin="".join(json.dumps(line) + "\n" for line in lines),
    )
    assert done.returncode == 0, done.stderr
    assert all(json.loads(line)["reply"] for line in done.stdout.decode().splitlines())


def test_two_engines_at_one_server_are_refused(classic: EngineBinary, model: Path, program: Path) -> None:
    with pytest.raises(UsageError, match="--parallel 2 does not go with --rpc"):
        open_factory(settings(classic, model, rpc="127.0.0.1:1"), "", parallel=2)


@pytest.mark.engine
def test_a_server_that_dies_in_mid_reply(
    engine: EngineBinary, model: Path, servers: list[RpcServer], program: Path, tmp_path: Path
) -> None:
    async def main() -> None:
        addresses = ",".join(server.address for server in servers)
        backend = LocalEngineBackend(settings(engine, model, rpc=addresses, engine_args=("--ignore-eos",)))
        try:
            events: list[Event] = []
            async for event in backend.reply(asked("tell me a long story")):
                if isinstance(event, TextDelta):
                    servers[1].kill()
                events.append(event)
            assert isinstance(events[-1], Completed) and events[-1].reason is FinishReason.ENGINE_DIED
            assert events[-1].text.startswith("Once")
            assert "the engine lost an rpc-server" in "".join(e.text for e in events if isinstance(e, Notice))
            failed = (await said(backend, "what can you do?"))[-1]
            assert isinstance(failed, Failed)
            # The other server may end with its client, and is the first that is looked for.
            dead = [number for number, server in enumerate(servers) if server.process.poll() is not None]
            unreachable = [f"the rpc-server {servers[number].address} cannot be reached" for number in dead]
            assert 1 in dead and any(each in str(failed.error) for each in unreachable)
            assert "rpc-server --host" in failed.error.remedy
            for number in dead:
                servers[number] = RpcServer(program, tmp_path / f"again-{number}.log", servers[number].port)
            assert text(await said(backend, "what can you do?", 8)).startswith("I answer")  # as if nothing had been
        finally:
            await backend.close()

    asyncio.run(main())


@pytest.mark.engine
@pytest.mark.usefixtures("impatient")
def test_a_second_engine_is_told_that_the_first_is_there(
    classic: EngineBinary, model: Path, servers: list[RpcServer]
) -> None:
    async def main() -> None:
        first = LocalEngineBackend(settings(classic, model, rpc=servers[0].address, spare=True))
        second = LocalEngineBackend(settings(classic, model, rpc=servers[0].address))
        try:
            events = await said(first, "what can you do?")
            assert "--spare has no effect with --rpc" in "".join(e.text for e in events if isinstance(e, Notice))
            failed = (await said(second, "what can you do?"))[-1]
            assert isinstance(failed, Failed) and "is busy" in str(failed.error)
            assert text(await said(first, "what can you do?")) == text(events)
            await first.close()
            rpc.PATIENCE = TIMEOUT  # the fixture puts back what was there before it
            assert text(await said(second, "what can you do?")) == text(events)
        finally:
            await first.close()
            await second.close()

    asyncio.run(main())


@pytest.mark.engine
def test_the_engines_own_words_will_do(
    engine: EngineBinary, model: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is gone between our look at it and the engine's."""
    monkeypatch.setattr(rpc, "knock", lambda servers: None)

    async def main(address: str) -> None:
        backend = LocalEngineBackend(settings(engine, model, rpc=address))
        try:
            failed = (await said(backend, "hello"))[-1]
            assert isinstance(failed, Failed) and f"the rpc-server {address} cannot be reached" in str(failed.error)
        finally:
            await backend.close()

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        asyncio.run(main(address(unused)))


# Two computers, as far as the network can tell: a namespace for us and one for each server, all gone with the first
# process in them.
_COMPUTERS = r"""
ip link set lo up
for n in 1 2; do
    unshare --net sleep 600 &
    while [ "$(readlink /proc/$!/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do :; done
    other=$!
    ip link add here$n type veth peer name there$n netns $other
    ip addr add 10.213.$n.1/24 dev here$n
    ip link set here$n up
    nsenter --target $other --net ip addr add 10.213.$n.2/24 dev there$n
    nsenter --target $other --net ip link set there$n up
    [ -z "$RPC_SERVER" ] || nsenter --target $other --net "$RPC_SERVER" -t 1 -H 10.213.$n.2 -p 50052 >&2 &
done
"""


def in_namespaces(script: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    own_user = [] if os.geteuid() == 0 else ["--map-root-user"]
    unshare = ["unshare", *own_user, "--net", "--pid", "--mount-proc", "--fork", "--kill-child"]
    argv = [*unshare, "sh", "-euc", _COMPUTERS + script]
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, env=environment(RPC_SERVER="") | env
    )


@pytest.mark.engine
def test_two_servers_in_network_namespaces_of_their_own(classic: EngineBinary, model: Path, program: Path) -> None:
    if sys.platform != "linux" or not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        pytest.skip("needs unshare, nsenter and ip")
    if (trial := in_namespaces("exit 0")).returncode != 0:
        pytest.skip(f"network namespaces cannot be made here: {trial.stderr.decode(errors='replace').strip()}")
    addresses = [f"10.213.{number}.2" for number in (1, 2)]
    waits = "import socket, sys; [socket.create_connection((host, 50052)) for host in sys.argv[1:]]"
    asks = command(
        *("--engine", str(classic.path), "-m", str(model), "--temp", "0", "--no-journal"), "what can you do?"
    )
    rpc_flag = ",".join(f"{each}:50052" for each in addresses)
    done = in_namespaces(
        f'until "$PYTHON" -c "{waits}" {" ".join(addresses)} 2>/dev/null; do :; done\n'
        'exec "$@" --rpc "$SERVERS"'.replace('"$@"', " ".join(f"'{word}'" for word in asks)),
        PYTHON=sys.executable,
        RPC_SERVER=str(program),
        SERVERS=rpc_flag,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert "bitnet-chat" in done.stdout.decode()
    assert done.stderr.count(b"Accepted client connection") >= 4
