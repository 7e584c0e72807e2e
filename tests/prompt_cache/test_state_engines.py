"""States that real engines write into the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bitnet_chat import paths
from bitnet_chat.conversation import Message
from bitnet_chat.engine.binary import EngineVariant
from bitnet_chat.engine.install import packages
from bitnet_chat.engine.native.client import LIBRARIES, NativeClient, command
from bitnet_chat.errors import NativeClientError
from bitnet_chat.prompt_cache.key import StateIdentity, prefix_digests
from bitnet_chat.prompt_cache.model_hash import compute_hash
from bitnet_chat.prompt_cache.store import StateStore

pytestmark = pytest.mark.engine
ENGINES = {each.make: each for each in packages.installed()}


@pytest.mark.parametrize("variant", LIBRARIES, ids=LIBRARIES.values())
def test_a_conversation_continues_in_another_process(
    variant: EngineVariant, dequantized: Callable[[], Path], tmp_path: Path
) -> None:
    if variant not in ENGINES:
        pytest.skip("not installed")
    model = dequantized() if variant is EngineVariant.IK else paths.bundled_model()
    assert model is not None
    store = StateStore(tmp_path / "states", 100_000_000, pytest.fail)
    identity = StateIdentity(compute_hash(model), variant.value, "1", 1, 512, "f16", "f16", "")
    digests = prefix_digests("", (), [Message("user", "300 tokens")])
    tokens = [5 + at % 400 for at in range(300)]
    pending = store.begin(identity, digests)
    assert pending is not None

    def start() -> NativeClient:
        words = command(ENGINES[variant], model, context_size=512, threads=1, state_folder=store.folder)
        return NativeClient(words, timeout=60)

    with start() as child:
        beginning = child.complete(tokens[:200], max_tokens=8, sampling={"temperature": 0})
        expected = child.complete(tokens, max_tokens=8, sampling={"temperature": 0})
        saved = child.save(pending.path.name)
    state = store.commit(pending, tokens=saved, seconds=1)
    assert state is not None and state.bytes > 100_000
    assert store.find(identity, digests) == (state, 1) and store.verify(state)
    with start() as child:
        assert child.restore(state.path.name) == state.tokens
        again = child.complete(tokens, max_tokens=8, sampling={"temperature": 0})
        assert (again.tokens, again.ended.prompt_tokens) == (expected.tokens, 1)
        again = child.complete(tokens[:200], max_tokens=8, sampling={"temperature": 0})
        assert (again.tokens, again.ended.prompt_tokens) == (beginning.tokens, 1), "an earlier point of the branch"
        state.path.unlink()
        with pytest.raises(NativeClientError):
            child.restore(state.path.name)
