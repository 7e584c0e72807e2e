"""The bar fits its width and shows what matters most."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.backend import BackendState, BackendStatus
from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.events import Stats
from bitnet_chat.repl.status_bar import WARNING, context, rate, seconds, tokens
from bitnet_chat.repl.status_bar import bar as fragments
from bitnet_chat.text.cell_width import clip, width
from bitnet_chat.util.progress import size

STATUS = BackendStatus("demo.gguf", "llama", BackendState.IDLE, 512, 2048, 812_400_000, 199.7)
LAST = Stats(tokens=11, time_to_first_token=0.5, seconds=1.5)


def bar(status: BackendStatus, last: Stats | None, columns: int) -> str:
    return "".join(text for _, text in fragments(status, last, columns))


def test_all_of_it() -> None:
    assert bar(STATUS, LAST, 80) == " demo.gguf · ctx 512/2048 (25 %) · 10.0 tok/s · 812 MB 200 % CPU"


def test_less_and_less_of_it() -> None:
    """The name goes before the context, and is cut before it goes."""
    assert bar(STATUS, LAST, 50) == " demo.gguf · ctx 512/2048 (25 %) · 10.0 tok/s"
    assert bar(STATUS, LAST, 40) == " demo.gguf · ctx 512/2048 (25 %)"
    assert bar(STATUS, LAST, 31) == " demo.gg… · ctx 512/2048 (25 %)"
    assert bar(STATUS, LAST, 30) == " ctx 512/2048 (25 %)"
    shown = "".join(text for _, text in fragments(STATUS, LAST, 60, variant="< 2/3 >"))
    assert shown == " demo.gguf · ctx 512/2048 (25 %) · < 2/3 > · 10.0 tok/s"
    assert "".join(text for _, text in fragments(STATUS, LAST, 33, variant="< 2/3 >")).startswith(" demo.gguf · ctx")
    assert bar(STATUS, LAST, 10) == " ctx 512/…"


def test_little_is_known() -> None:
    assert bar(BackendStatus("m", "e", BackendState.STARTING), None, 80) == " m · loading"
    assert bar(BackendStatus("m", "e", BackendState.IDLE, 0, 4), None, 80) == " m · ctx 0/4 (0 %)"


@pytest.mark.parametrize("state", [BackendState.IDLE, BackendState.STARTING])
def test_what_the_last_reply_used_says_nothing_of_another_conversation(state: BackendState) -> None:
    """After /clear, /undo or /resume, until the engine has told what is in its window now."""
    line = bar(BackendStatus("m", "e", state), Stats(context_used=511, context_size=512), 80)
    assert line.endswith(" · ctx ?/512")


FULL = BackendStatus("demo.gguf", "llama", BackendState.IDLE, 820, 1024, 812_400_000, spare_memory=400_000_000)


@pytest.mark.parametrize(
    ("overflow", "shown"),
    [
        ("drop-oldest", "the oldest turns will be dropped"),
        ("summarize", "the oldest turns will be summarized"),
        ("stop", "the conversation will end"),
    ],
)
def test_a_context_that_is_nearly_full(overflow: str, shown: str) -> None:
    line = fragments(FULL, None, 120, overflow)
    assert (WARNING, "! ctx 820/1024 (80 %)") in line and (WARNING, shown) in line
    assert WARNING not in {
        look for look, _ in fragments(BackendStatus("m", "e", BackendState.IDLE, 819, 1024), None, 120, overflow)
    }


def test_what_is_left_of_a_warning() -> None:
    assert bar(FULL, None, 80) == " demo.gguf · ! ctx 820/1024 (80 %) · the oldest turns will be dropped · 812 MB"
    assert bar(FULL, None, 70) == " demo.gguf · ! ctx 820/1024 (80 %) · the oldest turns will be dropped"
    assert bar(FULL, None, 58) == " ! ctx 820/1024 (80 %) · the oldest turns will be dropped"
    assert bar(FULL, None, 40) == " ! ctx 820/1024 (80 %)"


def test_a_spare_engine_costs_memory() -> None:
    assert bar(FULL, None, 120).endswith(" · 812 MB · spare 400 MB")


def test_a_saved_state_is_shown_where_it_fits() -> None:
    saved = BackendStatus("m", "e", BackendState.IDLE, 1, 4, state_saved=True)
    assert bar(saved, None, 80) == " m · ctx 1/4 (25 %) · state saved"
    assert bar(saved, None, 25) == " m · ctx 1/4 (25 %)"


def test_a_name_is_data() -> None:
    assert bar(BackendStatus("a\x1b[2Jb\nc", "e", BackendState.IDLE), None, 80) == " a␛[2Jb c"


@given(st.text(), st.integers(1, 120))
def test_it_never_wraps(name: str, columns: int) -> None:
    line = bar(BackendStatus(name, "e", BackendState.STARTING, 1, 2, 3, 4.0), LAST, columns)
    assert width(line) <= columns and "\n" not in line


def test_clip_keeps_clusters_whole() -> None:
    assert clip("数据模型", 6) == "数据…"
    assert clip("a👩‍💻b", 3) == "a…"
    assert clip("abc", 3) == "abc"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (size(999), "1 kB"),
        (size(44_600_000), "45 MB"),
        (size(999_400_000), "999 MB"),
        (size(999_600_000), "1.0 GB"),
        (size(12_340_000_000), "12.3 GB"),
        (rate(18.34), "18.3 tok/s"),
        (rate(2345.6), "2346 tok/s"),
        (seconds(0.346), "0.35 s"),
        (seconds(4.24), "4.2 s"),
        (seconds(75.4), "75 s"),
        (tokens(1), "1 token"),
        (tokens(42, exact=False), "~42 tokens"),
        (context(0, 100), "ctx 0/100 (0 %)"),
        (context(None, 100), "ctx ?/100"),
        (context(5, None), ""),
    ],
)
def test_figures(text: str, shown: str) -> None:
    assert text == shown


def test_the_cost_of_the_message_that_is_being_written() -> None:
    def line(draft: TokenCount | None) -> dict[str, str]:
        return {text: look for look, text in fragments(STATUS, LAST, 120, draft=draft)}

    assert not any("message" in text for text in line(None))
    assert line(TokenCount(700, 0.03))["message ~700 tokens (±3 %)"] == ""
    assert line(TokenCount(1600))["message 1600 tokens"] == WARNING
    assert line(TokenCount(1600, 0.2))["message ~1600 tokens (±20 %)"] == ""
