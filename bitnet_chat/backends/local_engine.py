"""The backend behind the chat: a resident engine on a pseudo-terminal or a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_chat import paths
from bitnet_chat.backend import BackendState, BackendStatus, EngineFacts, ReplyOptions, Sampling
from bitnet_chat.backends.pipeline import ReplyPipeline
from bitnet_chat.config import Settings
from bitnet_chat.context.token_count import TokenCount, by_length
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.engine import conversion, processors
from bitnet_chat.engine.binary import Dialect, EngineBinary
from bitnet_chat.engine.context_window import EngineContextWindow
from bitnet_chat.engine.install import packages
from bitnet_chat.engine.native.library import batch_size
from bitnet_chat.engine.probe import probe
from bitnet_chat.engine.process import EngineProcess, ProcessState
from bitnet_chat.engine.prompt_batch import sets_batch_size
from bitnet_chat.engine.protocols import EngineOptions, EngineProtocol
from bitnet_chat.engine.protocols.lazy_protocol import protocol_for
from bitnet_chat.engine.saved_states import EngineStates
from bitnet_chat.engine.selection import EngineRequest, judge, select
from bitnet_chat.engine.start_errors import OptionRetry
from bitnet_chat.engine.state_identity import identity_flags, identity_version
from bitnet_chat.engine.threads import TINY_MODEL, Sharing, threads
from bitnet_chat.engine.transport import pty_is_available
from bitnet_chat.engine.variants import VariantSession
from bitnet_chat.errors import BitnetChatError, ModelError, UnsupportedError, UsageError
from bitnet_chat.events import Event
from bitnet_chat.models.names import name_of
from bitnet_chat.prompt_cache.key import StateIdentity, text_digest
from bitnet_chat.prompt_cache.model_hash import when_hashed
from bitnet_chat.prompt_cache.store import open_state_store
from bitnet_chat.trace.recorder import TraceRecorder
from bitnet_chat.trace.recorder import folder as recordings
from bitnet_chat.util.resources import ProcessUsage

if TYPE_CHECKING:
    from bitnet_chat.backends.variants import JointReplies
    from bitnet_chat.backends.wrappers.tool_prompting import PromptToolAdapter
    from bitnet_chat.models.resolve import Judge
    from bitnet_chat.models.template_selection import PreparedTemplate
    from bitnet_chat.models.vocabulary import TokenCounter
    from bitnet_chat.templates.chat_template import ChatTemplate
    from bitnet_chat.util.progress import Progress


def model_path(
    settings: Settings, judge: Judge | None = None, notify: Callable[[str], None] = lambda line: None
) -> Path:
    """Return the model file to use: a file, an installed model by name, or, for ``auto`` or an empty setting, the best
    of those that ``judge`` accepts.

    ``notify`` gets one line with the reason where several were possible. Raises ModelError where none was found.
    """
    if settings.model and (path := paths.expand(settings.model)).is_file():  # the usual case, without an import
        return path
    from bitnet_chat.models.resolve import resolve

    found = resolve(settings.model, judge=judge, context=settings.ctx)
    if found.notice:
        notify(found.notice)
    return found.path


class LocalEngineBackend:
    """See :class:`bitnet_chat.backend.Backend`. Makes and starts nothing before it is asked to."""

    def __init__(
        self,
        settings: Settings,
        configured_engine: str = "",
        *,
        dialect: Dialect | None = None,
        on_spawn: Callable[[EngineProcess], None] | None = None,
        sharing: Sharing | None = None,
        name: str = "",
    ) -> None:
        """``sharing``: of the processors with other engines. ``name``: of the model, where it was given one.

        Raises EngineNotFoundError or ModelError for what can be seen to be missing without loading anything."""
        wish = engine_request(settings, configured_engine, dialect)
        wish.require()
        reasons: list[str] = []
        self._model = model_path(settings, lambda infos: judge(wish)(infos), reasons.append)
        # The header of a large model takes a tenth of a second; whether there is one at all can be told at once.
        with_magic(self._model)
        chosen = select(wish, self._model)
        self.binary: EngineBinary = chosen.contender.engine
        self._converts = chosen.contender.converts
        if chosen.reason:
            reasons.append(chosen.reason)
        self._settings, self._sharing = settings, sharing or Sharing()
        if self.binary.dialect is Dialect.NATIVE:
            _require_no_flags(settings)
        self._rpc = _rpc_servers(settings.rpc, self.binary)
        useless = _why_no_spares(self.binary, self._rpc) if settings.spare else ""
        if useless:
            reasons.append(useless)
        self._name = name or name_of(self._model)
        self._role_markers: tuple[str, ...] = ()
        self.notices: list[str] = []
        self._recorder = TraceRecorder(recordings()) if settings.journal else None
        self._on_spawn = on_spawn
        self._load = ProcessUsage()
        keeps = self.binary.dialect is Dialect.NATIVE or self.binary.has("--prompt-cache")
        self._store = open_state_store(settings) if keeps else None
        self._state_identity: StateIdentity | None = None
        self._session = VariantSession(
            self.protocol,
            EngineContextWindow(settings.overflow, lambda text: self.count(text) or by_length(text)),
            transport=settings.io,
            on_spawn=self._spawned,
            tokenizer=lambda: self._tokens().tokenizer(),
            affordable=self._load.leaves_room_for_another if settings.spare and not useless else None,
            refit=self._refitted,
            states=EngineStates(self._store, lambda: self._state_identity) if self._store is not None else None,
            repeats=lambda asked: asked.repeats(self._sampling),
        )
        # Programs in C and C++ buffer what they write to a pipe; the native one does not.
        has_terminal = settings.io != "pipe" and pty_is_available()
        self._is_buffered = self.binary.dialect is not Dialect.NATIVE and not has_terminal
        self._sampling = settings.sampling
        self._facts = EngineFacts(self.binary.version, takes_seeds=self.binary.dialect is Dialect.NATIVE)
        self._extra = settings.engine_args
        self._refit = OptionRetry(
            lambda binary: probe(binary.path, use_cache=False, limit=settings.probe_timeout),
            self._session.supervisor.notify,
        )
        self._counter: TokenCounter | None = None
        self._interpreter: PromptToolAdapter | None = None
        for reason in reasons:
            self._session.supervisor.notify(reason)

    @property
    def model(self) -> Path:
        return self._model

    @property
    def awaits_conversion(self) -> bool:
        """Whether :meth:`convert` has to convert the model."""
        return self._converts and conversion.present(self._model) is None

    def convert(self, on_progress: Callable[[Progress], None] = lambda progress: None) -> Path:
        """Return the file that is loaded: the model, or its conversion for the engine, made now if necessary. Blocks;
        may run in a thread. Raises ModelError."""
        if not self._converts:
            return self._model
        return conversion.obtain(self._model, self.binary, on_progress=on_progress)

    def start(self, conversation: Conversation | None = None) -> None:
        self.prepare(conversation or Conversation().with_system(self._settings.system))

    def reply(self, conversation: Conversation, options: ReplyOptions | None = None) -> AsyncGenerator[Event]:
        options = options or ReplyOptions()
        if (interpreter := self._interpreter_for(conversation, options.tools)) is not None:
            return interpreter.reply(conversation, options)
        return self._replies(conversation, options)

    def _replies(self, conversation: Conversation, options: ReplyOptions) -> AsyncGenerator[Event]:
        if options.joined is not None:
            return options.joined.events(conversation, options)
        return self._session.reply(conversation, options)

    def joint(self, conversation: Conversation, options: ReplyOptions, count: int) -> JointReplies | None:
        """See :class:`bitnet_chat.backends.variants.VariantsBackend`. The rest of a reply is generated alone."""
        if self.binary.dialect is not Dialect.NATIVE or not _asks(conversation):
            return None
        from bitnet_chat.backends.variants import JointReplies

        session = self._session
        return JointReplies(session.variants, session.reply, session.stop_variant, session.interrupt, count)

    def pipeline(self, conversation: Conversation, options: ReplyOptions) -> ReplyPipeline:
        """See :class:`bitnet_chat.backends.pipeline.PipelineBackend`."""
        if (interpreter := self._interpreter_for(conversation, options.tools)) is not None:
            return interpreter.pipeline(conversation, options)
        return ReplyPipeline(self._replies(conversation, options))

    async def refusal(self, conversation: Conversation, options: ReplyOptions) -> BitnetChatError | None:
        """See :func:`bitnet_chat.backend.refusal_of`."""
        try:
            if (interpreter := self._interpreter_for(conversation, options.tools)) is not None:
                conversation, options = await interpreter.plain(conversation, options)
            await self._session.check(conversation, options)
        except BitnetChatError as error:
            return error
        return None

    def prepare(self, history: Conversation) -> None:
        if (interpreter := self._interpreter_for(history)) is not None:
            interpreter.prepare(history, self._session.supervisor.prepare)
        else:
            self._session.supervisor.prepare(history)

    def expect(self, tools: Sequence[Tool]) -> None:
        """Set the tools of the replies to come, so that the prompt loaded before the first reply has them."""
        if (interpreter := self._interpreter_for(Conversation(), tools)) is not None:
            interpreter.tools = tuple(tools)

    def _interpreter_for(self, conversation: Conversation, tools: Sequence[Tool] = ()) -> PromptToolAdapter | None:
        """None until a request has tools."""
        if self._interpreter is None and (
            tools or any(message.role == "tool" or message.tool_calls for message in conversation.messages)
        ):
            from bitnet_chat.backends.wrappers.tool_prompting import PromptToolAdapter

            self._interpreter = PromptToolAdapter(
                self._template,
                self._replies,
                self._session.interrupt,
                continues=self.binary.dialect is not Dialect.MODERN,
            )
        return self._interpreter

    def count(self, text: str) -> TokenCount | None:
        return self._tokens().count(text)

    def _tokens(self) -> TokenCounter:
        if self._counter is None:
            from bitnet_chat.models.vocabulary import TokenCounter

            self._counter = TokenCounter(self._model)
        return self._counter

    def role_markers(self) -> tuple[str, ...]:
        """Role markers of the chat template in use; empty until the model's header has been read."""
        return self._role_markers

    def interrupt(self) -> None:
        if self._interpreter is not None:
            self._interpreter.interrupt()
        else:
            self._session.interrupt()

    def status(self) -> BackendStatus:
        process = self._session.process
        alive = process is not None and process.state is not ProcessState.DEAD
        memory, cpu = self._load.of(process.pid) if process is not None and alive else (None, None)
        standby = [
            size for pid in self._session.supervisor.spare_pids if (size := self._load.memory_of(pid)) is not None
        ]
        used = self._session.supervisor.context_used
        return BackendStatus(
            model=self._name,
            engine=f"{packages.name_of(self.binary)} ({self.binary.dialect.value})",
            engine_version=self.binary.version,
            sampling=self._sampling,
            state=self._state,
            context_used=used.count if used is not None else None,
            context_exact=used is None or not used.error,
            context_size=process.meter.context_size or self._session.supervisor.window.size if process else None,
            memory=memory,
            cpu=cpu,
            spare_memory=sum(standby) if standby else None,
            restarts=self._session.supervisor.budget.spent,
            state_saved=self._session.supervisor.is_saved,
            in_bursts=self._is_buffered,
            facts=self._facts,
        )

    @property
    def _state(self) -> BackendState:
        supervisor = self._session.supervisor
        return BackendState.IDLE if supervisor.is_saving else BackendState(self._session.state)

    async def close(self) -> None:
        if self._interpreter is not None:
            self._interpreter.cancel()
        await self._session.close()
        if self._recorder is not None:
            self._recorder.close()

    def _spawned(self, process: EngineProcess) -> None:
        process.wait_at_most(self._settings.stall_timeout)
        if self._counter is None:  # by the time of the first call the vocabulary has been read
            threading.Thread(target=self.count, args=("",), name="vocabulary", daemon=True).start()
        if self._recorder is not None:
            process.trace_listener = self._recorder.track(process.facts)
        if self._on_spawn is not None:
            self._on_spawn(process)

    def _refitted(self, process: EngineProcess) -> bool:
        """Runs in a thread."""
        extra = self._extra
        ours = process.argv[1 : len(process.argv) - len(extra)]
        binary = self._refit.without_refused(self.binary, ours, extra, process.log.lines())
        self.binary = binary or self.binary
        return binary is not None

    def protocol(self) -> EngineProtocol:
        """How this engine is started and prompted for this model. Reads the header and connects to rpc-servers: may
        run in a thread."""
        # Imported here: the REPL's prompt appears 12 ms earlier.
        from bitnet_chat.filters.role_markers import markers_of
        from bitnet_chat.filters.thinking import thinking_tags
        from bitnet_chat.models.memory import context_for

        settings = self._settings
        if self._rpc:
            from bitnet_chat.engine.rpc import knock

            knock(self._rpc)
        if self.awaits_conversion:
            self._session.supervisor.notify(conversion.announcement(self._model))
        prepared = self._prepared(self._session.supervisor.notify)
        header, template = prepared.header, prepared.template
        tiny = header.size < TINY_MODEL
        advised = advised_sampling(self._model)
        share = threads(settings.threads, settings.engine_args, processors.allowed(), tiny=tiny, sharing=self._sharing)
        self._sampling = settings.sampling.over(advised)
        self._extra = share.extra
        if share.notice:
            self._session.supervisor.notify(share.notice)
        options = EngineOptions(
            model=self.convert(),
            context_size=context_for(header.context_length, settings.ctx),
            threads=share.number,
            temperature=self._sampling.temperature,
            seed=self._sampling.seed,
            sampling=replace(advised, temperature=None),
            max_tokens=settings.max_tokens or None,
            batch_size=batch_size("", header.size, share.number or processors.usable())
            if sets_batch_size(self.binary.gpus, settings.engine_args, os.environ, sys.platform)
            else None,
            rpc=self._rpc,
            overrides=prepared.overrides,
            states=self._store.ready_folder() if self._store is not None else None,
            variants=header.shares_context,
            extra=share.extra,
        )
        self._facts = replace(
            self._facts, model_file=options.model, template=text_digest(template.source), threads=share.number
        )
        if self._store is not None:
            self._identify(options, template.source)
        with contextlib.suppress(ModelError):  # a classic engine reports it; a modern one has its own template parser
            marks = template.marks()
            self._role_markers = markers_of(marks.in_prefix, marks.in_suffix)
        return protocol_for(
            self.binary,
            options,
            lambda: template,
            control_tokens=header.control_tokens,
            strips_after_special=header.strips_after_special,
            overriding_template=prepared.replaces,
            thinking=thinking_tags(template.source, header.chat_template),
        )

    def _identify(self, options: EngineOptions, template: str) -> None:
        """Set the identity of the saved states, once the hash of the model is known."""

        def identify(model: str) -> None:
            self._state_identity = StateIdentity(
                model=model,
                engine=packages.name_of(self.binary),
                engine_version=identity_version(self.binary.version, self.binary.path),
                sequences=1,
                context=options.context_size,
                cache_type_k="f16",
                cache_type_v="f16",
                template=text_digest(template),
                flags=identity_flags(self._settings.engine_args, options.overrides, os.environ),
            )

        when_hashed(options.model, identify)

    def _template(self) -> ChatTemplate:
        """The chat template in use. Reads the header: may run in a thread."""
        return self._prepared(lambda line: None).template

    def _prepared(self, notify: Callable[[str], None]) -> PreparedTemplate:
        from bitnet_chat.models.known_faults import overridden
        from bitnet_chat.models.template_selection import prepare

        takes = self.binary.takes_overrides and not overridden(self._settings.engine_args)
        wanted = self._settings.chat_template
        return prepare(self.convert(), wanted, notify, engine=self.binary.path, takes_overrides=takes)


def _asks(conversation: Conversation) -> bool:
    """Whether the next reply is a new one."""
    return conversation.last is not None and conversation.last.role != "assistant"


def _require_no_flags(settings: Settings) -> None:
    """Raises UsageError for settings that a native engine has no flag for."""
    if settings.engine_args:
        raise UsageError(
            f"a native engine takes no flags of llama.cpp: {' '.join(settings.engine_args)}",
            remedy="leave out the flags behind --; --ctx, --threads and the sampling settings apply to it",
        )
    if settings.rpc:
        raise UnsupportedError("--rpc", "a native engine has no RPC", remedy="bitnet-chat engine install --with rpc")


def _why_no_spares(binary: EngineBinary, rpc: tuple[str, ...]) -> str:
    """A line for the user; empty where spare engines are of use."""
    if binary.dialect is Dialect.NATIVE:
        return "--spare has no effect with a native engine: it goes back to any turn by itself"
    return "--spare has no effect with --rpc: an rpc-server serves one engine at a time" if rpc else ""


def engine_request(settings: Settings, configured_engine: str = "", dialect: Dialect | None = None) -> EngineRequest:
    return EngineRequest(
        settings.engine,
        configured_engine,
        dialect,
        flags=bool(settings.engine_args or settings.rpc),
        limit=settings.probe_timeout,
    )


def advised_sampling(model: Path) -> Sampling:
    """The sampling that the card of an installed model recommends, where the registry has it."""
    from bitnet_chat.models.registry import entries

    if model.parent != paths.models_dir():
        return Sampling()
    try:
        entry = entries().get(model.stem)
    except UsageError:  # the user's own list is broken; commands that need it report it
        return Sampling()
    if entry is None:
        return Sampling()
    wanted: dict[str, Any] = {name: int(value) if name == "top_k" else value for name, value in entry.sampling.items()}
    return Sampling(**wanted)


def _rpc_servers(text: str, binary: EngineBinary) -> tuple[str, ...]:
    """Raises UsageError for an invalid list of addresses, EngineNotFoundError for an engine without RPC."""
    if not text:
        return ()
    from bitnet_chat.engine import rpc

    servers = rpc.servers(text)
    if servers:
        rpc.require(binary)
    return servers


def with_magic(path: Path) -> None:
    """Raises ModelError for a file that is missing or not a GGUF file."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError:
        magic = b""
    if magic != b"GGUF":
        from bitnet_chat.models.gguf import read_header

        read_header(path)  # raises with the reason
