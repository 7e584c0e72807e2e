"""How far a build is: read from ninja, estimated, shown."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.progress import Progress, ProgressLine, duration, estimate, line, ninja_counter


@pytest.mark.parametrize(
    ("text", "counter"),
    [
        ("[12/216] Building CXX object src/CMakeFiles/llama.dir/llama.cpp.o", (12, 216)),
        ("[0/1] Re-running CMake...", (0, 1)),
        ("ninja: Entering directory `/tmp/x'", None),
        ("warning: [12/216] is no counter here", None),
        ("[12/216", None),
        ("-- [1/2]", None),
        ("", None),
    ],
)
def test_ninja_counter(text: str, counter: tuple[int, int] | None) -> None:
    assert ninja_counter(text) == counter


@given(st.text())
def test_no_line_upsets_the_counter(text: str) -> None:
    assert ninja_counter(text) is None or text.startswith("[")


def test_estimate() -> None:
    assert estimate(3, 216, 10.0) is None  # too early
    assert estimate(54, 216, 60.0) == pytest.approx(180.0)
    assert estimate(216, 216, 60.0) == 0.0
    assert estimate(2, 4, 1.0) is None
    assert estimate(0, 0, 5.0) is None
    assert estimate(10, 0, 5.0) is None


def test_duration() -> None:
    assert [duration(x) for x in (0, 59.4, 60, 287, 3725)] == ["0 s", "59 s", "1 min 00 s", "4 min 47 s", "1 h 02 min"]


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 200), st.one_of(st.none(), st.floats(0, 1e6)))
def test_a_progress_line_fits(done: int, total: int, width: int, eta: float | None) -> None:
    text = line(Progress("Compiling llama.cpp", done, total, 12.0, eta), width)
    assert len(text) <= max(1, width - 1)
    assert text.isprintable()


def moments() -> list[Progress]:
    compiling = [Progress("Compiling", n, 216, float(n), 216.0 - n) for n in range(217)]
    return [Progress("Downloading", 0, 0, 0.0, None), Progress("Downloading", 0, 0, 1.0, None), *compiling]


def test_without_a_terminal_there_are_plain_lines_for_steps_and_tenths() -> None:
    stream = io.StringIO()
    show = ProgressLine(stream)
    for moment in moments():
        show(moment)
    show.close()
    text = stream.getvalue()
    assert text.replace("\n", "").isprintable()
    lines = text.splitlines()
    assert lines[0] == "Downloading … 0 s"
    assert len(lines) == 1 + 11
    assert "100 %" in lines[-1]


def test_on_a_terminal_one_line_is_redrawn_and_ended() -> None:
    stream = io.StringIO()
    show = ProgressLine(stream, terminal=True)
    for moment in moments():
        show(moment)
    show.close()
    show.close()
    text = stream.getvalue()
    assert "\x1b" not in text
    assert text.count("\n") == 2  # one for each step
    assert text.endswith("\n")
    assert "100 %" in text.rsplit("\r", 1)[1]


def test_a_stream_that_cannot_say_everything_gets_the_rest() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    ProgressLine(stream)(Progress("Downloading", 0, 0, 0.0, None))
    assert raw.getvalue().startswith(b"Downloading ? 0 s")
