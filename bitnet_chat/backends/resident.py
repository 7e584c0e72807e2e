"""The backend behind the chat: a resident engine on a pseudo-terminal or a pipe."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_chat import paths
from bitnet_chat.backends import BackendStatus, ReplyOptions
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import Dialect, EngineBinary
from bitnet_chat.engine.dialects import EngineOptions, Talk, talk_for
from bitnet_chat.engine.find import find
from bitnet_chat.engine.process import EngineProcess, State
from bitnet_chat.engine.session import Session
from bitnet_chat.errors import ModelError
from bitnet_chat.events import Event
from bitnet_chat.prompt.builtin import DEFAULT, TEMPLATES
from bitnet_chat.prompt.tokens import TokenCount

if TYPE_CHECKING:
    from bitnet_chat.models.gguf import ModelHeader

_CONTEXT_LIMIT = 8192  # models promise windows whose memory no laptop has; --ctx asks for more

# Bytes. Threads wait for one another at each layer, and here there is hardly anything to share: on two processors a
# second one made the bundled model at most 1.5 times faster, and 10 times slower where another program wanted one.
_TINY_MODEL = 16_000_000


def model_path(settings: Settings) -> Path:
    """The model file to use. Raises ModelError where there is none."""
    if settings.model:
        return Path(settings.model).expanduser()
    bundled = paths.bundled_model()
    if bundled is None:
        raise ModelError("no model was given and the bundled one is not installed", remedy="give a GGUF file with -m")
    return bundled


class ResidentBackend:
    """See :class:`bitnet_chat.backends.Backend`. Makes nothing and starts nothing until it is told to."""

    def __init__(
        self,
        settings: Settings,
        configured_engine: str = "",
        *,
        dialect: Dialect | None = None,
        on_spawn: Callable[[EngineProcess], None] | None = None,
    ) -> None:
        """Raises EngineNotFound or ModelError for what can be seen to be missing without loading anything."""
        self.binary: EngineBinary = find(settings.engine or None, configured_engine or None, dialect=dialect)
        self._settings = settings
        self._model = model_path(settings)
        # The header of a large model takes a tenth of a second; whether there is one at all can be told at once.
        with_magic(self._model)
        self._header: ModelHeader | None = None
        self.notices: list[str] = []
        self._session = Session(self.talk, transport=settings.io, on_spawn=on_spawn)
        self._load = _Load()

    @property
    def model(self) -> Path:
        return self._model

    def start(self, conversation: Conversation | None = None) -> None:
        self._session.keeper.start(conversation or Conversation().with_system(self._settings.system))

    def reply(self, conversation: Conversation, options: ReplyOptions | None = None) -> AsyncIterator[Event]:
        return self._session.reply(conversation, options or ReplyOptions())

    def prepare(self, history: Conversation) -> None:
        self._session.keeper.start(history)

    def count(self, text: str) -> TokenCount | None:
        return None

    def interrupt(self) -> None:
        self._session.interrupt()

    def status(self) -> BackendStatus:
        process = self._session.process
        alive = process is not None and process.state is not State.DEAD
        memory, cpu = self._load.of(process.pid) if process is not None and alive else (None, None)
        return BackendStatus(
            model=self._header.label if self._header else self._model.stem,
            engine=f"{self.binary.path.name} ({self.binary.dialect.value})",
            state=self._session.state.value,
            context_used=process.meter.context_used if process else None,
            context_size=process.meter.context_size if process else None,
            memory=memory,
            cpu=cpu,
        )

    async def close(self) -> None:
        await self._session.close()

    def talk(self) -> Talk:
        """How this engine is started and addressed for this model. Reads the header: may run in a thread."""
        # Here and not above: a prompt is on the screen 12 ms earlier.
        from bitnet_chat.models.gguf import read_header
        from bitnet_chat.prompt.template import ChatTemplate

        settings = self._settings
        header = self._header = read_header(self._model)
        context = settings.ctx or min(header.context_length or _CONTEXT_LIMIT, _CONTEXT_LIMIT)
        options = EngineOptions(
            model=self._model,
            context_size=context,
            threads=settings.threads or (1 if header.size < _TINY_MODEL else None),
            temperature=None if settings.temperature < 0 else settings.temperature,
            seed=None if settings.seed < 0 else settings.seed,
            max_tokens=settings.max_tokens or None,
            extra=settings.engine_args,
        )
        source, name = self._template_source(header)
        return talk_for(
            self.binary,
            options,
            lambda: ChatTemplate(source, name=name, bos=header.bos, eos=header.eos, adds_bos=header.adds_bos),
            control_tokens=header.control_tokens,
            overriding_template=source if settings.chat_template or not header.chat_template else "",
        )

    def _template_source(self, header: ModelHeader) -> tuple[str, str]:
        wanted = self._settings.chat_template
        if wanted in TEMPLATES:
            return TEMPLATES[wanted], wanted
        if wanted and ("{{" in wanted or "{%" in wanted):
            return wanted, "of --chat-template"
        if wanted:
            try:
                return Path(wanted).expanduser().read_text("utf-8"), wanted
            except (OSError, UnicodeDecodeError) as error:
                raise ModelError(
                    f"the chat template {wanted} is no name and no file that can be read ({error})",
                    remedy=f"names are: {', '.join(sorted(TEMPLATES))}",
                ) from None
        if header.chat_template:
            return header.chat_template, f"of {header.label}"
        self._session.keeper.notify(
            f"{header.label} brings no chat template: using {DEFAULT}; --chat-template NAME takes another"
        )
        return TEMPLATES[DEFAULT], DEFAULT


def with_magic(path: Path) -> None:
    """Raises ModelError for a file that is missing or no GGUF."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError:
        magic = b""
    if magic != b"GGUF":
        from bitnet_chat.models.gguf import read_header

        read_header(path)  # which says what is wrong


class _Load:
    """Memory and CPU of a process, through psutil where that works."""

    def __init__(self) -> None:
        self._process: object | None = None
        self._pid = 0

    def of(self, pid: int) -> tuple[int | None, float | None]:
        try:
            import psutil
        except ImportError:  # it wants modules that some platforms do not have
            return None, None
        try:
            if self._pid != pid or not isinstance(self._process, psutil.Process):
                self._process, self._pid = psutil.Process(pid), pid
            return int(self._process.memory_info().rss), float(self._process.cpu_percent())
        except psutil.Error:
            return None, None
