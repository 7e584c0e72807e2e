"""The logits of a model as an engine computes them: a llama.cpp server, or ik_llama.cpp in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from bare_server import BareServer
from numpy.typing import NDArray

Array = NDArray[np.float64]

_IK = """
import ctypes, json, sys
from pathlib import Path
from bitnet_chat.engine.native import ik_api
from bitnet_chat.engine.native.ik_context import BatchPart, IkContext
from bitnet_chat.engine.native.ik_model import IkModel
from bitnet_chat.engine.native.library import LibrarySettings

site, prompt, models = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
library, result = ik_api.load(site), []
for model in models:
    loaded = IkModel(library, LibrarySettings(site, Path(model)), lambda done: None)
    context = IkContext(loaded, size=1024, batch=512, sequences=1, threads=1)
    for first in (0, len(prompt) - 1):
        context.remove(0, 0)
        for at in range(first):
            context.evaluate([BatchPart(0, at, prompt[at : at + 1], 1)])
        (place,) = context.evaluate([BatchPart(0, first, prompt[first:], 1)])
        result.append(list((ctypes.c_float * loaded.size).from_address(context.logits(place))))
print(json.dumps(result))
"""


def of_server(server: BareServer, prompt: Sequence[int], vocabulary: int) -> Array:
    """The logarithms of the probabilities of all tokens after a prompt."""
    body = {"prompt": list(prompt), "n_predict": 1, "n_probs": vocabulary, "temperature": 0, "cache_prompt": False}
    (first,) = server.completion(body)["completion_probabilities"]
    logarithms = np.full(vocabulary, -np.inf)
    for each in first["top_logprobs"]:
        logarithms[each["id"]] = each["logprob"]
    return logarithms


def of_ik(package: Path, models: Sequence[Path], prompt: Sequence[int]) -> list[tuple[Array, Array]]:
    """The logits of each model after a prompt, evaluated in one batch and token by token."""
    arguments = [str(package / "site"), json.dumps(list(prompt)), *map(str, models)]
    done = subprocess.run([sys.executable, "-c", _IK, *arguments], capture_output=True, check=True)
    found = [np.asarray(each) for each in json.loads(done.stdout)]
    return list(zip(found[::2], found[1::2], strict=True))


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))
