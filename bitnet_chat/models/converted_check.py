"""Whether a converted file holds the weights of the one that it was made from, and is computed rightly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.native.client import Client, ClientError
from bitnet_chat.engine.native.command import command
from bitnet_chat.errors import ModelError
from bitnet_chat.models import ternary
from bitnet_chat.models.info import read_info
from bitnet_chat.models.reader import Tensor, opened

_BATCH = 48
"""Tokens: ik_llama.cpp computes some types wrongly from 32 on. Those of 2B4T's shape take 3 s one by one."""
_REPLY = 4
_TEXTS = (
    "one two three four five six seven eight nine ten and then",
    "def add(first, second): return first + second and then",
    "He opened the old door, a dog began to bark, and then",
)
"""They end alike: a model whose matrices count for nothing goes on with all of them in the same way."""
_LONG = "The capital of France is Paris, and the capital of Italy is Rome. "


def require(source: Path, converted: Path, engine: EngineBinary) -> None:
    """Raises ModelError."""
    if read_info(converted).is_cut_off:
        raise _wrong(source, "the file that it became is cut off")
    if different := next(_differences(source, converted), ""):
        raise _wrong(source, f"the weights of {different} changed")
    try:
        # One thread: seconds, and more of them nearly stand still where another program wants a processor.
        with Client(command(engine, converted, context_size=4 * _BATCH, threads=1, batch_size=128)) as client:
            _require_replies(client, source)
    except ClientError as error:
        raise _wrong(source, f"the engine does not run it: {error}") from error


def _wrong(source: Path, what: str) -> ModelError:
    return ModelError(
        f"{source} was not converted rightly: {what}",
        remedy="download the file again; or take a BitNet build as engine, which reads it as it is",
    )


def _require_replies(client: Client, source: Path) -> None:
    greedy = {"temperature": 0.0}
    replies = {client.complete(client.tokenize(text), max_tokens=_REPLY, sampling=greedy).tokens for text in _TEXTS}
    if len(replies) == 1:
        raise _wrong(source, "what stands before the last word does not count")
    prompt = client.tokenize(_LONG * _BATCH)[:_BATCH]
    at_once = client.complete(prompt, max_tokens=_REPLY, sampling=greedy).tokens
    for end in range(1, len(prompt)):
        client.complete(prompt[:end], max_tokens=1, sampling=greedy)
    # A prompt that is there whole is evaluated for its last token alone.
    if client.complete(prompt, max_tokens=_REPLY, sampling=greedy).tokens != at_once:
        raise _wrong(source, "it says one thing in one batch and another token by token")


def _differences(source: Path, converted: Path) -> Iterator[str]:
    """Names of matrices whose first or last row is not the same."""
    before, after = _matrices(source), _matrices(converted)
    for name, (tensor, at) in before.items():
        if tensor.kind != ternary.I2_S:
            continue
        columns, rows = tensor.shape
        other, there = after.get(name, (tensor, at))
        if other.kind != ternary.IQ2_BN or other.shape != tensor.shape:
            yield name
            continue
        size, new_size = (ternary.row_size(kind, columns) for kind in (ternary.I2_S, ternary.IQ2_BN))
        scale = ternary.scale(_read(source, at + rows * size, 4))
        for row in (0, rows - 1):
            old = ternary.codes(ternary.I2_S, _read(source, at + row * size, size))
            new = _read(converted, there + row * new_size, new_size)
            if old != ternary.codes(ternary.IQ2_BN, new) or abs(ternary.scale(new) - scale) > 1e-6 * abs(scale):
                yield name


def _matrices(path: Path) -> dict[str, tuple[Tensor, int]]:
    """By name, with the byte at which the weights begin."""
    with opened(path) as cursor:
        contents = cursor.contents()
        tensors = list(cursor.tensors(contents))
        alignment = int(contents.values.get("general.alignment", 32))
        start = -(-cursor.position // alignment) * alignment
    return {each.name.decode("utf-8", "replace"): (each, start + each.offset) for each in tensors}


def _read(path: Path, at: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(at)
        return file.read(size)
