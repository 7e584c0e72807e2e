"""ctypes declarations of the library of ik_llama.cpp, for exactly the version that is pinned in
:mod:`bitnet_chat.engine.install.packages`.

The structures carry no version. To detect another version, the default values that the library reports are compared
with the expected ones.
"""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import (
    POINTER,
    Structure,
    Union,
    c_bool,
    c_char_p,
    c_double,
    c_float,
    c_int8,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_void_p,
)
from pathlib import Path
from typing import Any

from bitnet_chat.errors import NativeLoadError

ProgressCallback = ctypes.CFUNCTYPE(c_bool, c_float, c_void_p)
LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)
ERROR_LEVEL = 4
KEY_SIZE = 128


class OverrideValue(Union):
    """Value of ``llama_model_kv_override``."""

    _fields_ = (
        ("int", c_int64),
        ("float", c_double),
        ("bool", c_bool),
        ("str", ctypes.c_char * KEY_SIZE),
    )


class Override(Structure):
    """``llama_model_kv_override``."""

    _fields_ = (("tag", ctypes.c_int), ("key", ctypes.c_char * KEY_SIZE), ("value", OverrideValue))


def _named(kind: Any, names: str) -> tuple[tuple[str, Any], ...]:
    return tuple((name, kind) for name in names.split())


class ModelParameters(Structure):
    """``llama_model_params``."""

    _fields_ = (
        *_named(c_void_p, "devices"),
        *_named(c_int32, "n_gpu_layers mla split_mode main_gpu max_gpu ncmoe type_k type_v"),
        *_named(c_int32, "max_ctx_size n_seq_max n_ubatch amb fit_margin"),
        *_named(c_bool, "fit"),
        *_named(c_int32, "worst_graph_tokens type_k_first type_k_last type_v_first type_v_last"),
        *_named(c_int32, "n_k_first n_k_last n_v_first n_v_last"),
        *_named(c_void_p, "tensor_split rpc_servers"),
        ("progress_callback", ProgressCallback),
        *_named(c_void_p, "progress_callback_user_data"),
        ("kv_overrides", POINTER(Override)),
        *_named(c_void_p, "tensor_buft_overrides"),
        *_named(c_bool, "vocab_only use_mmap use_mlock check_tensors repack_tensors use_thp validate_quants"),
        *_named(c_bool, "merge_qkv merge_up_gate_exps mtp dry_run flash_attn"),
    )


class ContextParameters(Structure):
    """``llama_context_params``."""

    _fields_ = (
        *_named(c_uint32, "seed n_ctx n_batch n_ubatch n_seq_max n_threads n_threads_batch"),
        *_named(c_int32, "max_extra_alloc worst_case_tokens rope_scaling_type pooling_type attention_type"),
        *_named(c_float, "rope_freq_base rope_freq_scale yarn_ext_factor yarn_attn_factor yarn_beta_fast"),
        *_named(c_float, "yarn_beta_slow"),
        *_named(c_uint32, "yarn_orig_ctx"),
        *_named(c_float, "defrag_thold"),
        *_named(c_void_p, "cb_eval cb_eval_user_data"),
        *_named(c_int32, "type_k type_v type_reduce type_k_first type_k_last type_v_first type_v_last"),
        *_named(c_int32, "n_k_first n_k_last n_v_first n_v_last"),
        *_named(c_bool, "logits_all embeddings offload_kqv flash_attn"),
        *_named(c_int32, "mla_attn attn_max_batch"),
        *_named(c_bool, "fused_moe_up_gate grouped_expert_routing fused_up_gate fused_mmad rope_cache graph_reuse"),
        *_named(c_int32, "min_experts"),
        *_named(c_float, "thresh_experts"),
        *_named(c_bool, "only_active_experts k_cache_hadamard v_cache_hadamard split_mode_graph_scheduling"),
        *_named(c_bool, "scheduler_async mtp"),
        *_named(c_int32, "mtp_op_type"),
        *_named(c_void_p, "abort_callback abort_callback_data offload_policy cuda_params"),
    )


class Batch(Structure):
    """``llama_batch``."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
        *_named(c_int32, "all_pos_0 all_pos_1 all_seq_id"),
    )


class Candidates(Structure):
    """``llama_token_data_array``. ``data``: entries of :data:`CANDIDATE_SIZE` bytes: token (int32), logit and
    probability (float32).
    """

    _fields_ = (("data", c_void_p), ("size", c_size_t), ("selected", c_int64), ("sorted", c_bool))


CANDIDATE_SIZE = 12

_TOKENS = POINTER(c_int32)
_CANDIDATES = POINTER(Candidates)
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_model_default_params": (ModelParameters, ()),
    "llama_context_default_params": (ContextParameters, ()),
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (c_void_p, c_void_p)),
    "llama_model_load_from_file": (c_void_p, (c_char_p, ModelParameters)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_n_ctx_train": (c_int32, (c_void_p,)),
    "llama_n_vocab": (c_int32, (c_void_p,)),
    "llama_model_n_embd": (c_int32, (c_void_p,)),
    "llama_init_from_model": (c_void_p, (c_void_p, ContextParameters)),
    "llama_n_ctx": (c_uint32, (c_void_p,)),
    "llama_pooling_type": (ctypes.c_int, (c_void_p,)),
    "llama_set_abort_callback": (None, (c_void_p, c_void_p, c_void_p)),
    # These three take the model, not the vocabulary.
    "llama_tokenize": (c_int32, (c_void_p, c_char_p, c_int32, _TOKENS, c_int32, c_bool, c_bool)),
    "llama_token_to_piece": (c_int32, (c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool)),
    "llama_token_is_eog": (c_bool, (c_void_p, c_int32)),
    "llama_decode": (c_int32, (c_void_p, Batch)),
    "llama_get_logits_ith": (c_void_p, (c_void_p, c_int32)),
    "llama_get_embeddings_ith": (POINTER(c_float), (c_void_p, c_int32)),
    "llama_get_embeddings_seq": (POINTER(c_float), (c_void_p, c_int32)),
    "llama_kv_cache_clear": (None, (c_void_p,)),
    "llama_kv_cache_seq_rm": (c_bool, (c_void_p, c_int32, c_int32, c_int32)),
    "llama_kv_cache_defrag": (None, (c_void_p,)),
    "llama_kv_cache_update": (c_int32, (c_void_p,)),
    "llama_kv_cache_seq_cp": (None, (c_void_p, c_int32, c_int32, c_int32, c_int32)),
    "llama_state_seq_save_file": (c_size_t, (c_void_p, c_char_p, c_int32, _TOKENS, c_size_t)),
    "llama_state_seq_load_file": (c_size_t, (c_void_p, c_char_p, c_int32, _TOKENS, c_size_t, POINTER(c_size_t))),
    "llama_sample_repetition_penalties": (
        None,
        (c_void_p, _CANDIDATES, _TOKENS, c_size_t, c_float, c_float, c_float),
    ),
    "llama_sample_top_k": (None, (c_void_p, _CANDIDATES, c_int32, c_size_t)),
    "llama_sample_top_p": (None, (c_void_p, _CANDIDATES, c_float, c_size_t)),
    "llama_sample_min_p": (None, (c_void_p, _CANDIDATES, c_float, c_size_t)),
    "llama_sample_temp": (None, (c_void_p, _CANDIDATES, c_float)),
    "llama_sample_softmax": (None, (c_void_p, _CANDIDATES)),
    "llama_sample_token_greedy": (c_int32, (c_void_p, _CANDIDATES)),
    "llama_sampler_init_grammar": (c_void_p, (c_void_p, c_char_p, c_char_p)),
    "llama_grammar_free": (None, (c_void_p,)),
    "llama_grammar_sample": (None, (c_void_p, c_void_p, _CANDIDATES)),
    "llama_grammar_accept_token": (None, (c_void_p, c_void_p, c_int32)),
}

_DEFAULTS: dict[str, dict[str, object]] = {
    "llama_model_default_params": {
        "split_mode": 1,
        "n_seq_max": 1,
        "n_ubatch": 512,
        "n_k_first": -1,
        "n_v_last": -1,
        "tensor_split": None,
        "vocab_only": False,
        "use_mmap": True,
        "use_mlock": False,
        "dry_run": False,
        "flash_attn": True,
    },
    "llama_context_default_params": {
        "seed": 0xFFFFFFFF,
        "n_ctx": 512,
        "n_batch": 2048,
        "n_ubatch": 512,
        "n_seq_max": 1,
        "pooling_type": -1,
        "rope_scaling_type": -1,
        "yarn_beta_slow": -1.0,
        "defrag_thold": -1.0,
        "type_k": 1,
        "type_v_last": 1,
        "n_k_first": -1,
        "n_v_last": -1,
        "embeddings": False,
        "offload_kqv": True,
        "mla_attn": 3,
        "mtp": False,
        "graph_reuse": True,
        "min_experts": -1,
        "abort_callback": None,
        "cuda_params": None,
    },
}
_NAMES = {"win32": "llama.dll", "darwin": "libllama.dylib"}


def load(site: Path) -> Any:
    """Load the library from the folder of its unpacked wheel. Raises NativeLoadError if it is missing or of another
    version.
    """
    path = site / "ik_llama_cpp" / "lib" / _NAMES.get(sys.platform, "libllama.so")
    try:
        if sys.platform == "win32":
            os.add_dll_directory(str(path.parent))  # for the libraries on which it depends
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise NativeLoadError(f"the library {path} cannot be used: {error}", "failed") from None
    if wrong := unexpected(library):
        raise NativeLoadError(f"the library {path} is of another version than expected: {wrong}", "failed")
    return library


def unexpected(library: Any) -> str:
    """Return the default values that differ from the expected ones, as text; empty if all are equal."""
    found = {name: getattr(library, name)() for name in _DEFAULTS}
    return ", ".join(
        f"{field} is {value}"
        for name, fields in _DEFAULTS.items()
        for field, expected in fields.items()
        if (value := getattr(found[name], field)) != expected
    )


def overrides(words: tuple[str, ...]) -> Any:
    """Convert texts ``KEY=TYPE:VALUE`` to an array of :class:`Override`. Raises NativeLoadError for an invalid one."""
    entries = (Override * (len(words) + 1))()  # an empty entry ends the array
    for entry, word in zip(entries, words, strict=False):
        key, _, rest = word.partition("=")
        kind, _, value = rest.partition(":")
        try:
            entry.tag, read = _KINDS[kind]
            entry.key = key.encode("ascii")
            setattr(entry.value, kind, read(value))
            if not key or len(key) >= KEY_SIZE or len(value.encode()) >= KEY_SIZE:
                raise ValueError
        except (KeyError, ValueError):
            message = (
                f"{word!r} is not KEY=TYPE:VALUE with int, float, bool or str as TYPE and less than {KEY_SIZE} bytes"
            )
            raise NativeLoadError(message, "usage") from None
    return entries


_KINDS: dict[str, tuple[int, Any]] = {
    "int": (0, int),
    "float": (1, float),
    "bool": (2, {"true": True, "false": False}.__getitem__),
    "str": (3, str.encode),
}
