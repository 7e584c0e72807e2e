"""The API says which chats an engine continues without reading them again."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from test_chats import Client, client, run

from bitnet_chat import paths
from bitnet_chat.journal import Journal
from bitnet_chat.prompt_cache import names
from bitnet_chat.prompt_cache.key import StateIdentity
from bitnet_chat.prompt_cache.store import StateStore
from bitnet_chat.server.chats import service

IDENTITY = StateIdentity("m", "e", "v", 1, 1, "f16", "f16", "t")


def keep(journal: Journal, *chats: int) -> StateStore:
    """Save a state of each chat, as an engine does."""
    store = StateStore(paths.states_dir(), 1 << 20)
    for chat in chats:
        pending = store.begin(IDENTITY, ("0" * 40, f"{chat:040x}"))
        assert pending is not None
        pending.path.write_bytes(b"x")
        assert store.commit(pending, tokens=1, owner=store.owner(journal.path, chat, 0))
    return store


async def marked(api: Client, query: str = "") -> list[int]:
    """The chats that are marked: in the list, and each by itself."""
    listed = (await api.call("GET", f"/chats{query}"))["chats"]
    for entry in listed:
        chat = await api.call("GET", f"/chats/{entry['id']}")
        assert chat["saved_state"] is entry["saved_state"]
    return [entry["id"] for entry in listed if entry["saved_state"]]


def test_chats_with_a_saved_state_are_marked_and_their_states_removed_with_them(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")

    async def main() -> None:
        async with client(journal=journal) as api:
            first, second = await api.new(title="one"), await api.new(title="two")
            assert await marked(api) == []
            store = keep(journal, first, second, second + 1)
            assert await marked(api) == [second, first] and await marked(api, "?q=one") == [first]
            await api.call("DELETE", f"/chats/{second}", status=204)
            assert store.heads(journal.path) == {(first, 0), (second + 1, 0)}
            store.clear()
            assert await marked(api) == []

    run(main)


def test_chats_in_memory_have_no_states() -> None:
    async def main() -> None:
        async with client() as api:
            keep(Journal(), await api.new())
            assert await marked(api) == []

    run(main)


def test_followers_hear_when_a_state_is_saved_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_LOOK", 0.02)
    journal = Journal(tmp_path / "journal.db")

    async def main() -> None:
        async with client(journal=journal) as api:
            chat, other = await api.new(), await api.new()
            follower = api.events(chat, "?follow=1").connect()
            assert (await anext(follower)).event == "chat"
            store = keep(journal, other, chat)
            told = await anext(follower)
            assert (told.event, told.data, told.id) == ("saved_state", {"id": chat, "saved_state": True}, "")
            store.clear()
            assert (await anext(follower)).data == {"id": chat, "saved_state": False}
            await follower.aclose()

    run(main)


def test_a_list_of_any_length_takes_one_look_at_the_folder_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal.db")
    store = StateStore(paths.states_dir(), 1 << 20)
    paths.states_dir().mkdir(parents=True)
    for number in range(1000):
        stem = names.stem(names.key("0" * 16, f"{number:040x}"), "1:1.00", number)
        for name in (names.state_name(stem), names.record_name(stem, store.owner(journal.path, number + 1, 0))):
            (paths.states_dir() / name).touch()
    looks, listdir, opened = list[int](), os.listdir, list[str]()

    def look(path: Path) -> Sequence[str]:
        if Path(path) == paths.states_dir():
            looks.append(threading.get_ident())
        return listdir(path)

    def refuse(self: Path, *arguments: object, **more: object) -> None:
        opened.append(self.name)

    async def main() -> None:
        async with client(journal=journal) as api:
            chats = [await api.new() for _ in range(3)]
            looks.clear()
            monkeypatch.setattr(os, "listdir", look)
            monkeypatch.setattr(Path, "open", refuse)
            entries = (await api.call("GET", "/chats"))["chats"]
            assert [entry["id"] for entry in entries if entry["saved_state"]] == chats[::-1]
            assert len(looks) == 1 and looks[0] != threading.get_ident() and opened == []

    run(main)
