"""Words are found where they stand, in any script, and nothing in them is an operator."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import FinishReason, UsageError
from bitnet_chat.journal import Journal, JournalRecorder, search
from bitnet_chat.journal.codec import contains_all, searchable, snippet
from bitnet_chat.journal.damaged_file import open_file

TEXTS = {
    1: "The quick brown fox doesn't jump over C++ code at 3.14 km/h; see utf-8 and foo_bar.",
    2: "数据和模型都在本地运行，不需要网络。",
    3: "東京タワーへ行きました。とても高かったです。",
    4: "서울에서 부산까지 기차로 갔습니다.",
    5: "สวัสดีครับ ภาษาไทยไม่มีช่องว่าง",
    6: "Crème brûlée, Ångström and Straße. 🎉 party 👩‍💻",
    7: "tail \udcf0 raw byte, nul \0 after",
}


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Journal:
    """Conversation N has text N as its reply."""
    journal = Journal(tmp_path_factory.mktemp("journal") / "journal.db")

    async def talk() -> None:
        recorder = JournalRecorder(journal, pytest.fail)
        for number, text in TEXTS.items():
            recorder.start_new()
            recorder.begin_reply(Conversation().with_user(f"Question number {number}: tell"))
            recorder.end_reply(FinishReason.STOP, text=text)
        recorder.start_new()
        recorder.rename("A title of its own")
        recorder.begin_reply(Conversation().with_user("Question"))
        recorder.end_reply(FinishReason.STOP, text="plain")
        await recorder.close()

    asyncio.run(talk())
    return journal


FOUND = [
    ("fox", [1]),
    ("FOX quick", [1]),
    ("qui", [1]),
    ("uick", [1]),
    ("fox 数据", []),
    ("doesn't", [1]),
    ("c++", [1]),
    ("c#", []),
    ("3.14", [1]),
    ("km/h", [1]),
    ("utf-8", [1]),
    ("foo_bar", [1]),
    ("fox;", [1]),
    ("数", [2]),
    ("据和", [2]),
    ("数据 网络", [2]),
    ("本地运行，不", [2]),
    ("タワー", [3]),
    ("高かった", [3]),
    ("부산", [4]),
    ("산까지", [4]),
    ("ภาษา", [5]),
    ("ไทย", [5]),
    ("creme brulee", [6]),
    ("ångström", [6]),
    ("strasse", [6]),
    ("STRASSE", [6]),
    ("🎉", [6]),
    ("party 🎉", [6]),
    ("party ✨", []),
    ("after", [7]),
    ("raw byte", [7]),
    ("title own", [8]),
    ("its own plain", []),
    ("question", [8, 7, 6, 5, 4, 3, 2, 1]),
    ("nothing-like-this", []),
]


@pytest.mark.parametrize(("words", "numbers"), FOUND, ids=[words for words, _ in FOUND])
def test_what_is_found(journal: Journal, words: str, numbers: list[int]) -> None:
    assert [hit.entry.id for hit in journal.search(words)] == numbers


@pytest.mark.parametrize(
    "words",
    ['"', '""', '"fox', "fox AND", "NOT", "OR", "NEAR(", "*", "fo*x", "^", "content:fox", "-fox", "(", "{a b}", "\0",
     "\udcff", "%", "_", "+", "'", "a" * 10_000, "\u0e31", "\u3000\u2003"],
)  # fmt: skip
def test_no_word_is_an_operator(journal: Journal, words: str) -> None:
    if words.split():
        journal.search(words)
    else:
        with pytest.raises(UsageError):
            journal.search(words)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(words=st.text(st.characters(codec=None, categories=None), max_size=30))
def test_any_words(journal: Journal, words: str) -> None:
    if words.split():
        journal.search(words)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(number=st.sampled_from([2, 3, 4]), data=st.data())
def test_any_part_of_a_text_without_blanks_is_found(journal: Journal, number: int, data: st.DataObject) -> None:
    text = TEXTS[number].split()[0].strip("，。")
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    assert number in [hit.entry.id for hit in journal.search(text[start:end])]


def test_the_index_gives_the_same_as_reading(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SQLite was built without FTS5."""
    exact = [(words, numbers) for words, numbers in FOUND if words not in ("creme brulee", "fox;")]
    monkeypatch.setattr(search, "_TABLE", "CREATE VIRTUAL TABLE other USING fts_that_is_not_there (content)")
    for words, numbers in exact:
        assert [hit.entry.id for hit in journal.search(words)] == numbers


def test_snippets(journal: Journal) -> None:
    [hit] = journal.search("jump")
    assert "doesn't jump over" in hit.snippet and hit.count == 1
    [hit] = journal.search("title own")
    assert (hit.snippet, hit.count) == ("", 0)
    long = "a " * 500 + "needle" + " b" * 500
    cut = snippet(long, ["NEEDLE"])
    assert "needle" in cut and len(cut) <= 102 and cut.startswith("…") and cut.endswith("…")
    assert snippet("x\ny\n", ["y"]) == "x y"


def test_new_messages_are_found_and_nothing_is_indexed_twice(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    for number in range(3):

        async def talk(number: int = number) -> None:
            recorder = JournalRecorder(journal, pytest.fail)
            recorder.begin_reply(Conversation().with_user(f"word{number} same"))
            recorder.end_reply(FinishReason.STOP, text="reply")
            await recorder.close()

        asyncio.run(talk())
        assert len(journal.search(f"word{number}")) == 1
        assert len(journal.search("same")) == number + 1
    connection, _ = open_file(journal.path)
    connection.execute("INSERT INTO words (words) VALUES ('integrity-check')")
    assert connection.execute("SELECT count(*) FROM words WHERE words MATCH 'same'").fetchone() == (3,)
    connection.close()


def test_a_damaged_index_is_made_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")

    async def talk() -> None:
        recorder = JournalRecorder(journal, pytest.fail)
        recorder.begin_reply(Conversation().with_user("needle"))
        recorder.end_reply(FinishReason.STOP, text="reply")
        await recorder.close()

    asyncio.run(talk())
    for broken in range(2):
        assert journal.search("needle")
        connection = sqlite3.connect(journal.path)
        connection.execute("UPDATE words_data SET block = zeroblob(40)")
        connection.commit()
        connection.close()
        if not broken:
            assert journal.search("needle"), "by reading the texts"
    assert journal.remove([1])
    assert journal.list() == [] and journal.search("needle") == []
    assert [path.name for path in tmp_path.iterdir()] == ["journal.db"], "nothing was set aside"


def test_what_is_indexed_never_changes_for_a_text() -> None:
    """An entry can be taken out only with what was put in: another result needs a migration that indexes anew."""
    assert [searchable(text) for text in ("plain", "a数据b", "\udcff\0x")] == ["plain", "a 数  据 b", "  x"]


def test_words_are_prepared_once_and_not_for_each_text() -> None:
    """A search for something long reads every message where the index has none of it."""
    asked: list[str] = []

    class Word(str):
        def casefold(self) -> str:
            asked.append(self)
            return super().casefold()

    holds = contains_all([Word("Straße"), Word("NAÏVE")])
    assert holds("naïve strasse") and not holds("naive STRASSE") and not holds("")
    assert asked == ["Straße", "NAÏVE"]
