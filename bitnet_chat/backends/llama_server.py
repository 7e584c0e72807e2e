"""The backend ``llama-server``: a managed server, with as many concurrent conversations as it has slots."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

from bitnet_chat.backend import EngineFacts
from bitnet_chat.backends.http.backend import RemoteBackend, sign_of_life
from bitnet_chat.backends.http.client import HTTPConnection, require_aiohttp
from bitnet_chat.backends.http.context_window import ServerContextWindow
from bitnet_chat.backends.http.endpoint import RequestTarget
from bitnet_chat.backends.http.openai_format import OpenAIFormat
from bitnet_chat.backends.local_engine import advised_sampling, model_path, with_magic
from bitnet_chat.backends.slot_states import SlotStates
from bitnet_chat.config import Settings
from bitnet_chat.context.token_count import TokenCount, by_length
from bitnet_chat.engine import processors, rpc
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.discovery import find_server
from bitnet_chat.engine.native.library import batch_size
from bitnet_chat.engine.probe import probe
from bitnet_chat.engine.prompt_batch import sets_batch_size
from bitnet_chat.engine.protocols import log_flags
from bitnet_chat.engine.saved_states import EngineStates
from bitnet_chat.engine.server_process import HOST, ManagedServer, ServerProcess, described
from bitnet_chat.engine.start_errors import OptionRetry
from bitnet_chat.engine.state_identity import identity_flags, identity_version
from bitnet_chat.engine.threads import TINY_MODEL, Sharing, threads
from bitnet_chat.errors import ConnectionLostError, HTTPStatusError, UsageError
from bitnet_chat.models.names import name_of
from bitnet_chat.prompt_cache.key import StateIdentity, text_digest
from bitnet_chat.prompt_cache.model_hash import when_hashed
from bitnet_chat.prompt_cache.store import open_state_store
from bitnet_chat.templates.special_tokens import SpecialTokens

if TYPE_CHECKING:
    from bitnet_chat.models.gguf import ModelHeader
    from bitnet_chat.models.vocabulary import TokenCounter

_OURS = """--host --port --reuse-port --api-key --api-key-file --api-prefix --ssl-key-file --ssl-cert-file --log-disable
--log-file -lv --verbosity --log-verbosity -v --verbose --log-verbose --embedding --embeddings --rerank --reranking -np
--parallel"""
_OUR_FLAGS = frozenset(_OURS.split())
_CACHE = "2048"
"""MiB of prompts that left their slots. The default of the server, 8192, is too much for a desktop computer."""
_STATES = "--slot-save-path"
_DYING = 2.0
"""Seconds between the end of a connection and the end of the process that has closed it."""
_DEAF = 5.0
"""Seconds for /health, which also responds during replies."""
_LOADING = 0.05, 1.0
"""Seconds between two polls of a loading server, shortest and longest."""


class LlamaServer:
    """The shared part of the backends of one server: the process, and the properties of it and its model."""

    def __init__(
        self,
        settings: Settings,
        configured_engine: str = "",
        *,
        parallel: int = 1,
        sharing: Sharing | None = None,
        name: str = "",
    ) -> None:
        """Starts nothing. ``sharing``: of the processors with other engines. ``name``: of the model; empty: that of its
        file.

        Raises EngineNotFoundError, ModelError or UsageError for missing or invalid parts, as far as they are known
        before the start."""
        require_aiohttp()
        self.binary: EngineBinary = find_server(
            settings.engine or None, configured_engine or None, limit=settings.probe_timeout
        )
        self.parallel = parallel
        self._rpc = rpc.servers(settings.rpc)
        if self._rpc:
            rpc.require(self.binary)
        for flag in settings.engine_args:
            if flag.partition("=")[0] in _OUR_FLAGS:
                raise UsageError(f"{flag} behind -- does not go with --backend llama-server, which sets it itself")
        self._settings, self._sharing = settings, sharing or Sharing()
        self.notices: list[str] = []
        from bitnet_chat.models.resolve import by_engine

        self.model = model_path(settings, by_engine(self.binary.path), self.notices.append)
        with_magic(self.model)
        self.label = name or name_of(self.model)
        """The model's name."""
        self.header: ModelHeader | None = None
        self._counter: TokenCounter | None = None
        self._reading = threading.Lock()
        self._extra = settings.engine_args
        self.server = ManagedServer(
            self.command,
            on_spawn=lambda pid: self._read_vocabulary(),
            stall_timeout=settings.stall_timeout,
            refit=self._refitted,
        )
        self._refit = OptionRetry(
            lambda binary: probe(binary.path, use_cache=False, limit=settings.probe_timeout), self.notices.append
        )
        self._store = open_state_store(settings) if self.binary.has(_STATES) and not self._rpc else None
        self._state_identity: StateIdentity | None = None
        self.facts = EngineFacts(self.binary.version, takes_seeds=True)
        self.slots: set[int] = set()
        """Numbers of the slots that are in use."""
        self._connection: HTTPConnection | None = None
        self._known: tuple[ServerProcess, RequestTarget] | None = None
        self.is_doubtful = False
        """Whether the server's health is checked before the next request."""

    def _refitted(self, process: ServerProcess) -> bool:
        extra, address = self._extra, self._address()
        ours = process.argv[1 : len(process.argv) - len(extra) - len(address)]
        binary = self._refit.without_refused(self.binary, [*ours, *address], extra, process.log.lines())
        self.binary = binary or self.binary
        return binary is not None

    def _address(self) -> list[str]:
        return [*self.binary.option("--host", HOST), *self.binary.option("--port", "0")]

    def command(self) -> list[str]:
        """The command that starts it. Reads the model's header and connects to rpc-servers: may run in a thread."""
        from bitnet_chat.models.known_faults import OVERRIDE, overridden
        from bitnet_chat.models.memory import context_for
        from bitnet_chat.models.template_selection import prepare

        settings = self._settings
        rpc.knock(self._rpc)
        takes = self.binary.has(OVERRIDE) and not overridden(settings.engine_args)
        prepared = prepare(
            self.model, settings.chat_template, self.notices.append, engine=self.binary.path, takes_overrides=takes
        )
        header = self.header = prepared.header
        context = context_for(header.context_length, settings.ctx)
        option = self.binary.option
        argv = [str(self.binary.path), *option("--model", self.model), *option("--parallel", self.parallel)]
        # The option is the total of all slots.
        argv += option("--ctx-size", context * self.parallel)
        tiny = header.size < TINY_MODEL
        share = threads(settings.threads, settings.engine_args, processors.allowed(), tiny=tiny, sharing=self._sharing)
        self.notices += [share.notice] if share.notice else []
        self._extra = share.extra
        argv += option("--threads", share.number)
        # A disconnect of a client is noticed between two batches. A batch has a token of each slot.
        if sets_batch_size(self.binary.gpus, settings.engine_args, os.environ, sys.platform):
            size = batch_size("", header.size, share.number or processors.usable())
            argv += option("--batch-size", max(size, 2 * self.parallel))
        argv += [*option("--jinja"), *option("--context-shift", "off"), *option("--slots"), *option("--ui", "off")]
        argv += [*option("--cache-ram", _CACHE), *log_flags(self.binary)]
        digest = text_digest(prepared.template.source)
        self.facts = replace(self.facts, model_file=self.model, template=digest, threads=share.number)
        if self._store is not None and (folder := self._store.ready_folder()) is not None:
            argv += option(_STATES, folder)
            self._identify(context, digest, prepared.overrides)
        argv += option("--rpc", ",".join(self._rpc)) if self._rpc else []
        argv += [word for each in prepared.overrides for word in option(OVERRIDE, each)]
        argv += option("--chat-template", prepared.replaces) if prepared.replaces else []
        return [*argv, *share.extra, *self._address()]

    def _identify(self, context: int, template: str, overrides: tuple[str, ...]) -> None:
        """Set the identity of the saved states, once the hash of the model is known."""

        def identify(model: str) -> None:
            self._state_identity = StateIdentity(
                model=model,
                engine="llama-server",
                engine_version=identity_version(self.binary.version, self.binary.path),
                sequences=self.parallel,
                context=context,
                cache_type_k="",
                cache_type_v="",
                template=template,
                flags=identity_flags(self._settings.engine_args, overrides, os.environ),
            )

        when_hashed(self.model, identify)

    def backend(self) -> RemoteBackend:
        """Make a backend for one more conversation. The process ends with the last of them."""
        settings = self._settings
        fit = ServerContextWindow(settings.overflow, lambda text: self.count(text) or by_length(text))
        sampling = settings.sampling.over(advised_sampling(self.model))
        slot = _ServerSlot(self)
        states = None
        if self._store is not None and slot.number < self.parallel:
            states = SlotStates(EngineStates(self._store, lambda: self._state_identity), slot.number)
        return RemoteBackend(
            slot,
            OpenAIFormat(llama=True, slot=slot.number if states is not None else None),
            fit,
            self.count,
            sampling=sampling,
            goes_on=True,
            sign_of_life=sign_of_life(settings),
            states=states,
            facts=lambda: self.facts,
        )

    @property
    def known(self) -> RequestTarget | None:
        """The target, if it is known and the process runs."""
        process = self.server.process
        return self._known[1] if self._known is not None and self._known[0] is process else None

    async def target(self) -> RequestTarget:
        """The target. Raises as :meth:`ManagedServer.running` does."""
        while True:
            process = await self.server.running()
            if self._known is not None and self._known[0] is process:
                target = self._known[1]
                if not self.is_doubtful or await self._answers(target.connection):
                    self.is_doubtful = False
                    return target
                process.kill()
                await process.gone()
                continue
            connection = HTTPConnection(process.url, process.key, is_ours=True)
            try:
                target = await self._loaded(process, connection)
            except (ConnectionLostError, HTTPStatusError):
                await connection.close()
                if process.is_alive:
                    process.kill()  # the process runs and does not answer
                await process.gone()
                continue
            except BaseException:
                await connection.close()
                raise
            if self._known is not None and self._known[0] is process:  # set by another task meanwhile
                await connection.close()
                return self._known[1]
            before, self._connection = self._connection, connection
            self._known = process, target
            if before is not None:
                await before.close()
            return target

    async def _answers(self, connection: HTTPConnection) -> bool:
        """Whether the server responds."""
        try:
            async with asyncio.timeout(_DEAF):
                await connection.get("/health")
        except (TimeoutError, ConnectionLostError):
            return False
        except HTTPStatusError:
            pass
        return True

    async def _loaded(self, process: ServerProcess, connection: HTTPConnection) -> RequestTarget:
        """Wait until the model is loaded: servers from before 2026 listen earlier."""
        delay, longest = _LOADING
        while True:
            try:
                await connection.get("/health")
                break
            except HTTPStatusError as error:
                if error.refusal.status != 503:
                    raise
            await asyncio.sleep(delay)
            delay = min(delay * 2, longest)
        props = await connection.get("/props")
        header = self.header
        process.has_loaded()
        return RequestTarget(
            connection,
            self.label,
            _window(props),
            knows_tools=_caps(props).get("supports_tools") is not False,
            specials=SpecialTokens(header.control_tokens if header is not None else ()),
            count=lambda body: _counted(connection, body),
        )

    async def leave(self) -> None:
        await self.server.leave()
        process = self.server.process
        if process is None and self._connection is not None:
            connection, self._connection, self._known = self._connection, None, None
            await connection.close()

    def count(self, text: str) -> TokenCount | None:
        return self._tokens().count(text)

    def _tokens(self) -> TokenCounter:
        with self._reading:
            if self._counter is None:
                from bitnet_chat.models.vocabulary import TokenCounter

                self._counter = TokenCounter(self.model)
            return self._counter

    def _read_vocabulary(self) -> None:
        """Read the vocabulary in a thread, before the first count needs it."""
        if self._counter is None:
            threading.Thread(target=self.count, args=("",), name="vocabulary", daemon=True).start()


class _ServerSlot:
    """One client of the server. See :class:`bitnet_chat.backends.http.endpoint.Endpoint`."""

    name = "llama-server"
    retries = 10  # more than the limit of restarts

    def __init__(self, shared: LlamaServer) -> None:
        self._shared = shared
        self.number = next(number for number in count() if number not in shared.slots)
        """The lowest that is free."""
        shared.slots.add(self.number)
        shared.server.join()

    @property
    def model(self) -> str:
        return self._shared.label

    @property
    def engine(self) -> str:
        return self._shared.binary.path.name

    @property
    def is_alive(self) -> bool:
        process = self._shared.server.process
        return process is not None and process.is_alive

    @property
    def pid(self) -> int | None:
        process = self._shared.server.process
        return process.pid if process is not None and process.is_alive else None

    @property
    def restarts(self) -> int:
        return self._shared.server.restarts

    @property
    def target(self) -> RequestTarget | None:
        return self._shared.known

    async def ready(self) -> RequestTarget:
        return await self._shared.target()

    async def models(self) -> list[str]:
        return [self.model]

    async def after_loss(self) -> str:
        process = self._shared.server.process
        if process is None:
            return ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DYING):
                await process.gone()
        return "" if process.is_alive else described(process)

    def after_stop(self) -> None:
        self._shared.is_doubtful = True

    def take_notices(self) -> list[str]:
        notices, self._shared.notices = self._shared.notices, []
        return notices

    async def close(self) -> None:
        self._shared.slots.discard(self.number)
        await self._shared.leave()


async def _counted(connection: HTTPConnection, body: dict[str, Any]) -> int | None:
    """The server's count of the prompt tokens of a request. Raises HTTPStatusError for a version that cannot count."""
    made = await connection.ask("/apply-template", body)
    prompt = made.get("prompt") if isinstance(made, dict) else None
    if not isinstance(prompt, str):
        return None
    found = await connection.ask("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})
    tokens = found.get("tokens") if isinstance(found, dict) else None
    return len(tokens) if isinstance(tokens, list) else None


def _window(props: Any) -> int | None:
    """Tokens of the context window of one slot; None: not reported."""
    defaults = props.get("default_generation_settings") if isinstance(props, dict) else None
    size = defaults.get("n_ctx") if isinstance(defaults, dict) else None
    return size if isinstance(size, int) and size > 0 else None


def _caps(props: Any) -> dict[str, Any]:
    caps = props.get("chat_template_caps") if isinstance(props, dict) else None
    return caps if isinstance(caps, dict) else {}
