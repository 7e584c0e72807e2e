"""Environment variables that engines read as flags, and those that are not passed to an engine. Pure.

Since 2024 llama.cpp reads a flag that is not on the command line from ``LLAMA_ARG_…`` (``--help`` names the variables),
some versions of 2024 also from ``LLAMA_LOG_…``. :data:`TAKEN` lists the variables that are removed: those of flags that
bitnet-chat sets, and of flags that change behaviour it depends on. All others are passed: where and how a model is
computed (GPU layers, devices, memory mapping, flash attention, cache types, batch sizes), reasoning, drafts, rope
scaling, ``LLAMA_CACHE``, ``HF_TOKEN``, and variables that a later llama.cpp may add.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_ARG, _NO = "LLAMA_ARG_", "NO_"
_PREFIXES = ("LLAMA_", "GGML_", "HF_", "MTMD_")

_MODEL = "the model is that of --model"
_SETTING = "bitnet-chat has a setting for it, or it is a field of an API request"
_TEMPLATE = "the chat template is that of --chat-template or of the model"
_END = "the end of a reply and a full context window are recognised by it"
_LOG = "the log is separate from the reply and parsed for figures"
_SLOTS = "the context window and the slots are those of --ctx and serve --parallel"
_ADDRESS = "bitnet-chat chooses the address and the key of the server"
_SERVER = "the server is used for chats only"

_TAKEN = {
    _MODEL: "MODEL MODEL_URL HF_REPO HF_FILE DOCKER_REPO MODELS_DIR MODELS_PRESET MODELS_MAX MODELS_AUTOLOAD",
    _SETTING: "THREADS THREADS_BATCH TEMPERATURE TOP_K TOP_P MIN_P REPEAT_PENALTY PRESENCE_PENALTY"
    " FREQUENCY_PENALTY RPC",
    _TEMPLATE: "CHAT_TEMPLATE CHAT_TEMPLATE_FILE JINJA SKIP_CHAT_PARSING THINK PREFILL_ASSISTANT REASONING_PRESERVE",
    _END: "N_PREDICT CONTEXT_SHIFT SHOW_TIMINGS GRP_ATTN_N GRP_ATTN_W",
    _LOG: "LOG_JSONL LOG_FILE LOG_VERBOSITY LOG_COLORS LOG_PREFIX LOG_TIMESTAMPS",
    _SLOTS: "CTX_SIZE N_PARALLEL KV_UNIFIED KV_UNIFIED_PER_SLOT ENDPOINT_SLOTS CACHE_RAM",
    _ADDRESS: "HOST PORT REUSE_PORT API_KEY_FILE API_PREFIX SSL_KEY_FILE SSL_CERT_FILE TIMEOUT",
    _SERVER: "EMBEDDINGS RERANKING POOLING AGENT TOOLS TOOLS_RUNTIME MCP_SERVERS_CONFIG MCP_SERVERS_JSON STATIC_PATH"
    " UI UI_CONFIG UI_CONFIG_FILE UI_MCP_PROXY WEBUI WEBUI_CONFIG WEBUI_CONFIG_FILE WEBUI_MCP_PROXY",
}
_WHOLE = {
    "LLAMA_LOG_COLORS": _LOG,
    "LLAMA_LOG_PREFIX": _LOG,
    "LLAMA_LOG_TIMESTAMPS": _LOG,
    "LLAMA_LOG_VERBOSITY": _LOG,
    "LLAMA_API_KEY": _ADDRESS,
    "LLAMA_SERVER_ROUTER_PORT": _ADDRESS,
    "LLAMA_SERVER_CHILD_MODE": _SERVER,
}
TAKEN: Mapping[str, str] = {
    **{_ARG + name: reason for reason, names in _TAKEN.items() for name in names.split()},
    **_WHOLE,
}
"""The removed variables, with the reason. ``LLAMA_ARG_NO_X``, the opposite of ``LLAMA_ARG_X``, is removed with it."""
FIXED: Mapping[str, str] = {"GGML_NO_BACKTRACE": "1"}
"""Variables that are set. Without this one, an engine that aborts starts a debugger, whose output on its terminal would
be read as a reply.
"""


def reason(name: str) -> str:
    """Return the reason why a variable is removed; empty if it is passed to the engine."""
    name = name.upper()  # names are not case-sensitive on Windows
    return TAKEN.get(name) or TAKEN.get(name.replace(_ARG + _NO, _ARG, 1), "")


_WAIT_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
_SPIN_COUNT = "1000"
"""Number of iterations for which a thread of GNU OpenMP waits in a busy loop before it sleeps. With the default (some
milliseconds), 100 tokens of SmolLM2 took two threads beside two busy programs 37 to 74 s; with this value they take
4.7 s. Without other programs both take 1.8 s. (Measured on two cores.)
"""


def passed(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an engine: ``environment`` without removed variables, with the fixed ones."""
    kept = {name: value for name, value in environment.items() if not reason(name)}
    waits = {} if any(name in kept for name in _WAIT_VARIABLES) else {"GOMP_SPINCOUNT": _SPIN_COUNT}
    return kept | waits | dict(FIXED)


def of_engines(names: Iterable[str]) -> list[str]:
    """Return the variables in ``names`` that llama.cpp may read, by their prefixes, sorted."""
    return sorted(name for name in names if name.upper().startswith(_PREFIXES))
