from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.text.utf8 import TextBuffer


@given(st.lists(st.text(max_size=9), max_size=200))
def test_nothing_is_lost_and_looking_changes_nothing(pieces: list[str]) -> None:
    gathering = TextBuffer()
    for number, piece in enumerate(pieces):
        gathering.add(piece)
        if number % 50 == 7:
            assert gathering.text == "".join(pieces[: number + 1])
    assert gathering.text == "".join(pieces)
