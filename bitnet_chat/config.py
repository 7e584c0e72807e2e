"""One frozen :class:`Settings`: defaults < ``config.toml`` < persona < environment < flags."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from bitnet_chat import paths
from bitnet_chat.errors import UsageError
from bitnet_chat.util.progress import parse_size

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from bitnet_chat.backend import Sampling

ENVIRONMENT_PREFIX = "BITNET_CHAT_"


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of the program. The field names are the keys of ``config.toml`` and, in capitals behind
    ``BITNET_CHAT_``, the variables of the environment."""

    engine: str = ""
    """A program, a folder that holds one, or the name of a prebuilt engine."""
    model: str = ""
    """A GGUF file, or the name of an installed model. Empty: the largest installed one that fits, or the toy."""
    install: Literal["ask", "yes", "no"] = "ask"
    """Whether a missing engine or model is installed: after a question on a terminal, at once, or never."""
    chat_template: str = ""
    """A name, a file or a Jinja text. Empty: the model's own."""
    system: str = ""
    """System prompt."""
    ctx: int = 0
    """Tokens of the context window. 0: what the model was trained for, at most 8192."""
    threads: int = 0
    """Threads of the engine, at most the number of usable processors. 0: one for each physical core of these."""
    temperature: float = -1.0
    """Negative: the engine's default."""
    seed: int = -1
    """Negative: a new one each time."""
    max_tokens: int = 0
    """Tokens of one reply. 0: no limit."""
    timeout: float = 0.0
    """Seconds for one reply, loading included. 0: no limit."""
    persona: str = ""
    """A persona: system prompt, model and sampling under one name."""
    overflow: Literal["drop-oldest", "summarize", "stop"] = "drop-oldest"
    """The policy for a conversation that is longer than the context window."""
    spare: bool = False
    """Keep spare engine processes loaded, so that /clear, /regen and /edit need not wait."""
    guard: bool = True
    """Stop replies in which the model speaks as the user or repeats itself."""
    repeat_limit: int = 12
    """Repetitions of its end at which a reply is stopped. 0: no limit."""
    stall_timeout: float = 120.0
    """Seconds without a token after which a reply is stopped, and without any work after which a loading engine process
    is ended; ten times as long before the first token. 0: no limit."""
    probe_timeout: float = 5.0
    """Time limit, in seconds, for the probe of an engine program. 0: no limit."""
    journal: bool = True
    """Keep conversations in the journal."""
    state_limit: str = ""
    """Disk space of the saved engine states of conversations, such as 2G. 0: none is kept. Empty: a tenth of the free
    space, at most 8 GB. None is kept without the journal."""
    markdown: Literal["auto", "on", "off"] = "auto"
    """Whether replies are styled. auto: on a terminal with colours."""
    thinking: Literal["show", "fold", "hide"] = "show"
    """The part of a model's thinking that is shown."""
    io: Literal["auto", "pty", "pipe"] = "auto"
    """How the engine is connected."""
    typing_speed: float = 60.0
    """Characters shown per second where the engine is connected by a pipe. 0: all at once."""
    backend: Literal["engine", "llama-server", "openai", "ollama"] = "engine"
    """The backend: a resident engine, a managed llama-server, a server with the OpenAI API, or a running Ollama."""
    base_url: str = ""
    """The base URL of the server of ``openai`` or ``ollama``, such as http://127.0.0.1:8000/v1."""
    backend_key: str = ""
    """The API key of this server. Secret: never shown."""
    rpc: str = ""
    """host:port,… of the rpc-servers that share the model's layers (llama.cpp built with RPC)."""
    tools: str = ""
    """A Python file whose functions the model may call."""
    attach: str = ""
    """The address of a running ``bitnet-chat serve`` whose engine answers."""
    engine_args: tuple[str, ...] = ()
    """More flags for the engine."""

    @property
    def sampling(self) -> Sampling:
        """Sampling of replies without options of their own."""
        from bitnet_chat.backend import Sampling

        return Sampling(
            temperature=None if self.temperature < 0 else self.temperature, seed=None if self.seed < 0 else self.seed
        )


SECRET = frozenset({"backend_key"})
"""Settings that are never shown."""
_TYPES: dict[str, Any] = get_type_hints(Settings)
_NOT_NEGATIVE = (
    "ctx",
    "threads",
    "max_tokens",
    "timeout",
    "typing_speed",
    "repeat_limit",
    "stall_timeout",
    "probe_timeout",
)
_TOML_LIMIT = 1_000_000
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_ELSEWHERE = ("DATA", "CACHE", "CONFIG", "CONFIG_DIR", "BUILD", "API_KEY")
"""Variables with the prefix ``BITNET_CHAT_`` that are not settings: paths (``paths``), the build that tests use, and
the key of a server (``cli.serve``), which should not be in a file."""


@dataclass(frozen=True, slots=True)
class SettingValue:
    """A value and its source: ``default``, a file, ``persona NAME``, ``$VARIABLE`` or a flag."""

    value: Any
    origin: str


def load(
    flags: Mapping[str, Any],
    environment: Mapping[str, str] = os.environ,
    *,
    written: Callable[[str, Any], str] | None = None,
) -> tuple[Settings, str]:
    """Return the settings, and the engine that the config file or the persona names (it has a separate place in the
    search order).

    ``flags``: values from the command line, by field name. ``written``: the name of such a setting in an error;
    :func:`flag` unless given. Raises UsageError naming source and key.
    """
    layers = _layers(flags, environment, written or flag)
    configured = str((layers.file | layers.persona).get("engine", SettingValue("", "")).value)
    merged = layers.file | layers.persona | {"engine": SettingValue("", "")} | layers.environment | layers.flags
    return replace(Settings(), **{name: each.value for name, each in merged.items()}), configured


def sourced(flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> dict[str, SettingValue]:
    """Return each setting with its source, in the order of :class:`Settings`. Raises as :func:`load` does."""
    layers = _layers(flags, environment, flag)
    merged = layers.file | layers.persona | layers.environment
    if environment.get(ENVIRONMENT_PREFIX + "ENGINE"):
        merged["engine"] = SettingValue(environment[ENVIRONMENT_PREFIX + "ENGINE"], f"${ENVIRONMENT_PREFIX}ENGINE")
    merged |= layers.flags
    defaults = Settings()
    return {name: merged.get(name, SettingValue(getattr(defaults, name), "default")) for name in _TYPES}


def from_keywords(settings: Settings | None, keywords: Mapping[str, object]) -> tuple[Settings, str]:
    """Return the settings of a library call, and the configured engine as in :func:`load`. ``settings``: used as they
    are, without the config file and the environment; None: both are read, and keywords take precedence. A path may be
    given for a text. The journal is off and nothing is installed unless a keyword says otherwise.

    Raises UsageError for a name or a value that cannot be used."""
    for key in keywords:
        if key not in _TYPES:
            raise UsageError(f"setting {key!r} does not exist{did_you_mean(key, _TYPES)}")
    given: dict[str, object] = {"journal": False, "install": "no"}
    given |= {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in keywords.items()}
    if settings is not None:
        return replace(settings, **{key: checked(key, value, "settings: ") for key, value in given.items()}), ""
    return load(given, written=lambda name, value: "settings")


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return variables with the prefix of settings that name none: typing errors, or settings of another version.

    Not an error: a newer version's variable in a login script must not keep an older one from starting.
    """
    known = {ENVIRONMENT_PREFIX + name for name in (*map(str.upper, _TYPES), *_ELSEWHERE)}
    given = [name for name, value in environment.items() if value and name.startswith(ENVIRONMENT_PREFIX)]
    return sorted(set(given) - known)


@dataclass(frozen=True, slots=True)
class _Layers:
    file: dict[str, SettingValue]
    persona: dict[str, SettingValue]
    environment: dict[str, SettingValue]
    flags: dict[str, SettingValue]


def _layers(flags: Mapping[str, Any], environment: Mapping[str, str], written: Callable[[str, Any], str]) -> _Layers:
    path = paths.config_file()
    from_file = {key: SettingValue(value, str(path)) for key, value in read(path).items()}
    from_environment = {
        name: SettingValue(_parsed(name, environment[variable], f"${variable}: "), f"${variable}")
        for name in _TYPES
        # The engine's variable has a separate place in the search order and is read there.
        # An empty variable counts as unset: scripts use this to disable a variable for one command.
        if name != "engine" and environment.get(variable := ENVIRONMENT_PREFIX + name.upper())
    }
    from_flags = {
        key: SettingValue(checked(key, value, f"{written(key, value)}: "), written(key, value))
        for key, value in flags.items()
    }
    name = (from_file | from_environment | from_flags).get("persona", SettingValue("", "")).value
    from_persona = {}
    if name:
        from_persona = {key: SettingValue(value, f"persona {name}") for key, value in find(name).values.items()}
    return _Layers(from_file, from_persona, from_environment, from_flags)


def flag(name: str, value: Any = None) -> str:
    """The command-line flag of a setting."""
    if name == "engine_args":
        return "--"
    word = {"temperature": "temp"}.get(name, name.replace("_", "-"))
    return f"--no-{word}" if value is False else f"--{word}"


def read(path: Traversable, *, beside: Sequence[str] = (), but: Sequence[str] = ()) -> dict[str, Any]:
    """Return the checked settings of a TOML file; empty if the file does not exist.

    ``beside``: other allowed keys, with texts as values. ``but``: settings that are not allowed. Raises UsageError.
    """
    try:
        content = toml(path)
    except FileNotFoundError:
        return {}
    known = {*_TYPES, *beside} - {*but}
    for key in content:
        if key not in known:
            raise UsageError(
                f"{path}: setting {key!r} does not exist{did_you_mean(key, known)}",
                remedy=f"known are: {', '.join(sorted(known))}",
            )
    return {key: checked(key, value, f"{path}: ") for key, value in content.items()}


def toml(path: Traversable) -> dict[str, Any]:
    """Return the content of a file of settings, a persona or a list of models. Raises UsageError for a file that cannot
    be used, FileNotFoundError where it does not exist."""
    import tomllib  # imported late: most users have no such file

    try:
        with path.open("rb") as file:
            data = file.read(_TOML_LIMIT + 1)
        if len(data) > _TOML_LIMIT:  # or something without an end, such as /dev/zero
            raise ValueError(f"it holds more than {_TOML_LIMIT} bytes")
        return tomllib.loads(data.decode("utf-8-sig"))
    except FileNotFoundError:
        raise
    # ValueError: not TOML, not UTF-8, or a number with more digits than Python reads.
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {error}", remedy="correct it or move it away") from None


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """Return the suffix of an error: ``; did you mean 'ctx'?``, or an empty text."""
    from difflib import get_close_matches  # imported late: only an unknown name needs it

    close = get_close_matches(key, sorted(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _parsed(name: str, text: str, source: str) -> Any:
    kind = _TYPES[name]
    try:
        if kind in (int, float):
            return checked(name, kind(text), source)
    except ValueError:
        raise UsageError(f"{source}{text!r} is not a number") from None
    if kind is bool:
        if text.lower() not in _TRUE + _FALSE:
            raise UsageError(f"{source}{text!r} is neither of {', '.join(_TRUE)} nor of {', '.join(_FALSE)}")
        return text.lower() in _TRUE
    if kind not in (str, int, float) and get_args(kind)[1:2] != (...,):
        return checked(name, text, source)
    if kind is not str:
        import shlex

        try:
            return tuple(shlex.split(text))
        except ValueError as error:
            raise UsageError(f"{source}{error}") from None
    return text


def checked(name: str, value: Any, source: str) -> Any:
    """Return ``value`` with the type of the setting. Raises UsageError, whose text begins with ``source``."""
    kind = _TYPES.get(name, str)
    if name == "state_limit":
        return _checked_size(name, value, source)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is bool:
        if not isinstance(value, bool):
            raise UsageError(f"{source}{name} must be true or false, not {value!r}")
    elif kind in (str, int, float):
        if not isinstance(value, kind) or isinstance(value, bool):
            found = "(secret)" if name in SECRET else repr(value)
            raise UsageError(f"{source}{name} must be {_WORDS[kind]}, not {found}")
    elif name == "engine_args":
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
            raise UsageError(f"{source}{name} must be a list of texts, not {value!r}")
        value = tuple(value)
    elif value not in get_args(kind):
        raise UsageError(f"{source}{name} is one of {', '.join(get_args(kind))}, not {value!r}")
    if (name in _NOT_NEGATIVE and not 0 <= value < 1e9) or (kind in (int, float) and not -(1 << 63) < value < 1 << 63):
        raise UsageError(f"{source}{name} cannot be {value}")
    return value


def _checked_size(name: str, value: Any, source: str) -> str:
    """The text of a size; a whole number is one in bytes. Raises UsageError."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        raise UsageError(f"{source}{name} must be a size such as 2G, not {value!r}")
    try:
        if text:
            parse_size(text)
    except ValueError as error:
        raise UsageError(f"{source}{name}: {error}") from None
    return text


_WORDS = {str: "a text", int: "a whole number", float: "a number"}


# Personas: system prompt, model and sampling under one name.
#
# A persona is a TOML file ``NAME.toml`` with a ``description`` and any settings but ``persona``. Those in the folder
# ``personas`` beside ``config.toml`` take precedence over those of the program.

_NAME = re.compile(r"\w[\w.-]*")  # not a path: a persona is read from its folder only


@dataclass(frozen=True, slots=True)
class Persona:
    name: str
    description: str
    values: Mapping[str, Any]
    """Settings by their names, checked."""
    source: Traversable
    """Its file. One of the program may be within a zip."""
    shipped: bool


def folder() -> Path:
    """The folder of the user's personas."""
    return paths.config_file().parent / "personas"


def find(name: str) -> Persona:
    """Return the persona of that name. Raises UsageError where it does not exist or its file cannot be used."""
    own, shipped = _files(folder()), _files(_shipped())
    source = own.get(name) or shipped.get(name)
    if source is None:
        raise UsageError(
            f"persona {name!r} does not exist{did_you_mean(name, names())}",
            remedy=f"known are: {', '.join(names())}; yours go into {folder()}",
        )
    values = read(source, beside=("description",), but=("persona",))
    return Persona(name, values.pop("description", ""), values, source, name not in own)


def names() -> list[str]:
    """The names of all personas, those with broken files included."""
    return sorted({*_files(_shipped()), *_files(folder())})


def _shipped() -> Traversable:
    """The folder of the personas of the program; within a zip if the package is."""
    from importlib.resources import files  # imported late: most commands need no persona

    return files("bitnet_chat") / "personas"


def _files(place: Traversable) -> dict[str, Traversable]:
    """The files of a folder by the names of their personas."""
    try:
        found = {file.name.removesuffix(".toml"): file for file in place.iterdir() if file.name.endswith(".toml")}
    except OSError:  # a folder that is missing or cannot be read has no usable personas
        return {}
    return {name: file for name, file in found.items() if _NAME.fullmatch(name)}
