"""A store of states with its log, whose conversations are texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitnet_chat.conversation import Message
from bitnet_chat.prompt_cache import names
from bitnet_chat.prompt_cache.key import StateIdentity, prefix_digests
from bitnet_chat.prompt_cache.record import PendingState, SavedState
from bitnet_chat.prompt_cache.store import StateStore

IDENTITY = StateIdentity("a" * 64, "llama.cpp", "b1", 1, 4096, "f16", "q8_0", "t", ("--lora \udcff", ""))


def digests(text: str) -> tuple[str, ...]:
    """Those of a conversation with a message for each character, so that texts are branches."""
    return prefix_digests("system", (), [Message("user", sign) for sign in text])


class Rig:
    """A store with its log."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.lines: list[str] = []
        self.store = StateStore(folder / "states", limit, self.lines.append)
        self.folder, self.journal = self.store.folder, folder / "journal.db"
        self._texts: dict[str, str] = {}

    def begin(self, text: str, identity: StateIdentity = IDENTITY) -> PendingState:
        self._texts[digests(text)[-1]] = text
        pending = self.store.begin(identity, digests(text))
        assert pending is not None
        return pending

    def keep(
        self, text: str, conversation: int = 0, content: bytes = b"state", identity: StateIdentity = IDENTITY
    ) -> SavedState:
        """Save a state of ``text``, which belongs to a conversation and its last message; 0: to none."""
        pending = self.begin(text, identity)
        pending.path.write_bytes(content)
        owner = self.store.owner(self.journal, conversation, len(text)) if conversation else None
        state = self.store.commit(pending, tokens=100, seconds=1.5, owner=owner)
        assert state is not None
        return state

    def find(self, text: str, identity: StateIdentity = IDENTITY) -> tuple[str, int] | None:
        """The text of the found state, and the number of messages that it shares with ``text``."""
        found = self.store.find(identity, digests(text))
        return None if found is None else (self._texts[found[0].digests[-1]], found[1])

    def kept(self) -> set[str]:
        """The texts of all states."""
        return {self._texts[names.digest_of(name)] for name in self.files() if name.endswith(".state")}

    def owners(self) -> set[tuple[int, int]]:
        return self.store.heads(self.journal)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, 1000)
